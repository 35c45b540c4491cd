"""Where caches and clusters live: outside the repository, so that a fresh clone finds what an earlier one built.

Concept: one root, `$FLEETPACK_CACHE` or `$XDG_CACHE_HOME/fleetpack` or `~/.cache/fleetpack`; under it `bin/` for built
programs, `toolchain/` for Go and `clusters/NAME/` for the state of one cluster.
Boundary: paths and locks only. Failure: a lock held elsewhere is waited for, and said once.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane.progress import say


def cache_root() -> Path:
    """Return the root folder of everything that outlives a clone."""
    if chosen := os.environ.get("FLEETPACK_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "fleetpack"


def cluster_folder(name: str) -> Path:
    """Return the default state folder of the cluster called `name`."""
    return cache_root() / "clusters" / name


@contextmanager
def exclusive_lock(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the holder dies, so no lock is ever left behind.

    The holder may remove the file. Whoever waited for the removed file then holds a lock that nobody else sees:
    hence the comparison with what is at the path now, and the next try.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process: {waiting_for}")
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same_file(path, file.fileno()):
                continue
            yield
            return


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

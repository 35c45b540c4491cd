"""The part of requirements.lock that one image needs.

Concept: uv resolves an image's requirements with requirements.lock as the only versions allowed; versions and hashes are then taken
from requirements.lock word for word, so an image never holds what the lock does not.
Boundary: text in, text out. Failure: a package that the lock does not have is an `ImagesError` (run `make lock`).
"""

import re
from collections.abc import Iterable

from images_build.progress import ImagesError

_ENTRY_START = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")


def entries(lock: str) -> dict[str, tuple[str, ...]]:
    """Return each package's entries (version and hashes) by its name: more than one where Pythons differ."""
    found: dict[str, list[list[str]]] = {}
    current: list[str] = []
    for line in lock.splitlines():
        if match := _ENTRY_START.match(line):
            current = []
            found.setdefault(normalized(match["name"]), []).append(current)
        if line.strip() and not line.lstrip().startswith("#"):
            current.append(line)
    return {name: tuple("\n".join(lines) + "\n" for lines in blocks) for name, blocks in found.items()}


def names(resolved: str) -> tuple[str, ...]:
    """Return the packages that uv resolved, in order."""
    return tuple(normalized(match["name"]) for line in resolved.splitlines() if (match := _ENTRY_START.match(line)))


def subset(lock: str, wanted: Iterable[str]) -> str:
    """Return the lock of the wanted packages alone; markers are dropped, since they were decided in resolving."""
    known = entries(lock)
    missing = sorted(name for name in wanted if name not in known)
    if missing:
        raise ImagesError(f"requirements.lock has no {', '.join(missing)}: run `make lock`")
    forked = sorted(name for name in wanted if len(known[name]) > 1)
    if forked:
        raise ImagesError(
            f"requirements.lock has several versions of {', '.join(forked)}, for different Pythons; images need one"
        )
    return "".join(_without_marker(known[name][0]) for name in sorted(wanted))


def normalized(name: str) -> str:
    """Return a package's name as indexes write it (PyPA, name normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _without_marker(entry: str) -> str:
    first, _, rest = entry.partition("\n")
    return re.sub(r"\s*;.*?(\s*\\)?$", r"\1", first) + "\n" + rest

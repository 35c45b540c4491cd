"""A browser for tests of pages: one that is there, or Debian's chromium-headless-shell unpacked into the cache.

Concept: `FLEETPACK_BROWSER` names a program; else the first Chromium on PATH; else apt downloads Debian's smallest one (100 MB, once)
with what this machine lacks for it. It is unpacked, not installed: that needs no root and changes nothing of the system, so apt gets
lists and archives of its own. Boundary: finds or fetches a program, and the environment that it needs; starting it is `browser`.
Failure: `NoBrowserError` where apt knows no such package (on other systems): tests skip; a download that breaks off raises, so that a
machine that could have it never leaves the pages unlooked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.folders import cache_root, exclusive_lock
from control_plane.progress import say

_PACKAGE = "chromium-headless-shell"
_ON_PATH = (_PACKAGE, "chromium", "chromium-browser", "google-chrome")


class NoBrowserError(Exception):
    """This system has no browser, and apt knows none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserProgram:
    """A program and what has to be in its environment."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def starts(self) -> bool:
        """Whether it and all its libraries are there."""
        if not self.path.exists():
            return False
        command = [str(self.path), "--version"]
        return (
            subprocess.run(command, env=os.environ | self.environment, capture_output=True, check=False).returncode == 0
        )


def find_browser() -> BrowserProgram:
    """Return a browser; fetch one the first time."""
    named = os.environ.get("FLEETPACK_BROWSER")
    found = named or next((path for name in _ON_PATH if (path := shutil.which(name))), None)
    if found:
        return BrowserProgram(path=Path(found))
    folder = cache_root() / "browser"
    with exclusive_lock(folder.with_suffix(".lock"), waiting_for="the browser of the page tests"):
        # Libraries that came from the system then may be gone now.
        if not _unpacked(folder).starts:
            _fetch(folder)
    return _unpacked(folder)


def _unpacked(folder: Path) -> BrowserProgram:
    # Some libraries load others from folders below the usual one.
    libraries = sorted({file.parent for file in folder.glob("usr/lib/**/*.so*")})
    return BrowserProgram(
        path=folder / "usr" / "lib" / "chromium" / _PACKAGE,
        environment={"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))},
    )


def _fetch(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoBrowserError(
            f"no Chromium on PATH and no apt to fetch {_PACKAGE} with; install one, or set FLEETPACK_BROWSER"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="browser-") as made:
        work = Path(made)
        for own in ("lists/partial", "archives/partial", "system"):
            (work / own).mkdir(parents=True)
        options = [
            f"--option=Dir::State::lists={work / 'lists'}",
            f"--option=Dir::Cache={work}",
            "--option=Debug::NoLocking=1",
            "--option=APT::Sandbox::User=",
        ]
        say(f"fetching {_PACKAGE} and its libraries with apt: 100 MB, once")
        _run(["apt-get", *options, "--quiet=2", "update"])
        if not _is_known(options):
            raise NoBrowserError(
                f"no Chromium on PATH, and apt knows no {_PACKAGE}; install one, or set FLEETPACK_BROWSER"
            )
        flags = ["--quiet=2", "--yes", "--download-only", "--no-install-recommends"]
        _run(["apt-get", *options, *flags, "install", _PACKAGE])
        for package in sorted((work / "archives").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(work / "system")])
        shutil.rmtree(folder, ignore_errors=True)
        (work / "system").rename(folder)
    if not _unpacked(folder).starts:
        raise RuntimeError(f"{_unpacked(folder).path} was fetched and does not start")


def _is_known(options: list[str]) -> bool:
    command = ["apt-cache", *options, "show", _PACKAGE]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:1] + command[-2:])} failed: {(done.stderr or done.stdout).strip()[-600:]}"
        )

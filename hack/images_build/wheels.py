"""The wheels that images are made of: locked libraries from the package index, and the project's own.

Concept: two caches. Libraries are keyed by the lock, what the images ask for, and the machine type; the project's own wheel by its
sources. Both are made in a temporary folder and renamed, so a folder that is there is complete.
Boundary: the one place that reaches the package index (through uv and pip); `assemble` copies what a build needs into one folder.
Failure: a package without a wheel for the base image's Python is pip's own message; nothing is compiled.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from control_plane.folders import cache_root, exclusive_lock
from images_build import locks
from images_build.images import (
    IMAGES,
    PYTHON_VERSION,
    REPOSITORY,
    Image,
    digest_of_files,
    digest_of_texts,
    project_version,
    source_files,
)
from images_build.progress import run, say

INSTALLER_LOCK = Path(__file__).with_name("installer.lock")
# Debian bookworm has glibc 2.36; wheels for any earlier one run on it (PEP 600).
_GLIBC_MINORS = (36, 35, 34, 31, 28, 27, 26, 24, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """Where the wheels are, each folder under the key of its contents."""

    libraries: Path
    """`libraries/`, `installer/` and a lock for each image's target."""
    program: Path


def prepare(machine: str) -> Wheels:
    """Return the wheels for a machine type (`x86_64`, `aarch64`), fetched or built where they are not there yet."""
    return Wheels(libraries=_libraries(machine), program=_program())


def assemble(wheels: Wheels, folder: Path) -> None:
    """Copy the wheels to `folder`, as the Dockerfile wants to find them."""
    shutil.copytree(wheels.libraries, folder, dirs_exist_ok=True)
    shutil.copytree(wheels.program, folder / "program", dirs_exist_ok=True)


def lock_of(wheels: Wheels, image: Image) -> str:
    """Return the lock from which an image's libraries are installed."""
    return (wheels.libraries / f"{image.target}.lock").read_text()


def _libraries(machine: str) -> Path:
    lock = (REPOSITORY / "requirements.lock").read_text()
    project = (REPOSITORY / "pyproject.toml").read_text()
    key = digest_of_texts(lock, project, INSTALLER_LOCK.read_text(), repr(IMAGES), machine, PYTHON_VERSION)

    def make(folder: Path) -> None:
        say("fetching the locked wheels")
        for image in IMAGES:
            wanted = locks.names(_resolve(image, machine))
            (folder / f"{image.target}.lock").write_text(locks.subset(lock, wanted))
            _download(folder / f"{image.target}.lock", folder / "libraries", machine)
        _download(INSTALLER_LOCK, folder / "installer", machine)
        count = len(list((folder / "libraries").iterdir()))
        say(f"{count} wheels are there")

    return _once(f"libraries-{key[:20]}", make)


def _program() -> Path:
    key = digest_of_files(source_files(), relative_to=REPOSITORY)

    def make(folder: Path) -> None:
        command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        command += ["--directory", folder]
        run(f"building the wheel of fleetpack {project_version()}", command, folder=REPOSITORY)

    return _once(f"program-{key[:20]}", make)


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached folder of that name, made first when it is not there."""
    folder = cache_root() / "images" / name
    with exclusive_lock(folder.with_name("lock"), waiting_for="wheels are being fetched"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


def _resolve(image: Image, machine: str) -> str:
    command: list[str | Path] = [
        Path(sys.prefix) / "bin" / "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
    ]
    command += ["--constraint", REPOSITORY / "requirements.lock", "--python-version", PYTHON_VERSION]
    command += ["--python-platform", f"{machine}-manylinux_2_28"]
    if not image.requirements:
        command += ["--extra", image.extra] if image.extra else []
        return run(f"resolving {image.name}", [*command, REPOSITORY / "pyproject.toml"])
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.in"
        requirements.write_text("\n".join(image.requirements) + "\n")
        return run(f"resolving {image.name}", [*command, requirements])


def _download(lock: Path, folder: Path, machine: str) -> None:
    command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--no-deps", "--require-hashes", "--implementation", "cp"]
    command += ["--python-version", PYTHON_VERSION]
    for minor in _GLIBC_MINORS:
        command += ["--platform", f"manylinux_2_{minor}_{machine}"]
    command += ["--platform", f"manylinux2014_{machine}", "--dest", folder, "--requirement", lock]
    run(f"downloading the wheels of {lock.name}", command)

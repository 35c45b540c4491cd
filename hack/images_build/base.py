"""The base image: an official one that is pulled, or one of the same content that is made here.

Concept: what BASE_IMAGE names is used; without it the Dockerfile's own, where the engine has it or can pull it; without that, Debian
with its own Python is unpacked by debootstrap and imported. Both are Debian bookworm with Python 3.11, and the build takes out of
either what a service does not need. The unpacked system is cached as one file, so that the next engine has it in seconds.
Boundary: needs root, `debootstrap` and a Debian mirror (DEBIAN_MIRROR, else the one that apt uses) only when a base is made.
Failure: what is missing is named; a system half unpacked is removed.
"""

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from control_plane.folders import cache_root, exclusive_lock
from images_build import engine
from images_build.images import INPUTS_LABEL, default_base, digest_of_texts
from images_build.progress import ImagesError, run, say

OWN_BASE = "fleetpack-base:python3.11-bookworm"
SUITE = "bookworm"
PACKAGES = ("python3.11", "ca-certificates")
DEFAULT_MIRROR = "http://deb.debian.org/debian"
_LEFT_OUT = (
    *("./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*", "./dev/*", "./proc/*", "./sys/*"),
    *("./usr/share/locale/*", "./usr/share/man/*", "./usr/share/info/*", "./etc/resolv.conf", "./etc/hostname"),
)
_SOURCE_LINE = re.compile(r"^(?:deb +(?:\[[^\]]*\] +)?|URIs: *)(https?://\S+/debian)/?(?:\s|$)", re.MULTILINE)


def choose() -> engine.EngineImage:
    """Return the base image to build on, which the engine has when this returns."""
    if chosen := os.environ.get("BASE_IMAGE"):
        found = engine.inspect(chosen) or (engine.pull(chosen) and engine.inspect(chosen)) or None
        if found is None:
            raise ImagesError(f"BASE_IMAGE={chosen}: the engine neither has this image nor can pull it")
        return found
    official = default_base()
    if (found := engine.inspect(official) or engine.inspect(OWN_BASE)) is not None:
        return found
    say(f"pulling {official}")
    if engine.pull(official) and (found := engine.inspect(official)) is not None:
        return found
    say(f"{official} cannot be pulled here: making {OWN_BASE} instead")
    return make()


def make() -> engine.EngineImage:
    """Return the base image of our own, made and imported where the engine lacks it or has another one."""
    key = digest_of_texts(SUITE, *PACKAGES, *_LEFT_OUT, engine.machine())
    found = engine.inspect(OWN_BASE)
    if found is None or found.labels.get(INPUTS_LABEL) != key:
        engine.import_root(_root_tarball(key), OWN_BASE, labels={INPUTS_LABEL: key})
        found = engine.inspect(OWN_BASE)
        assert found is not None, f"docker import of {OWN_BASE} succeeded, but the engine does not have it"
    return found


def apt_mirror(sources: str) -> str:
    """Return the first Debian mirror in the text of apt's source lists, else Debian's own."""
    match = _SOURCE_LINE.search(sources)
    return match[1] if match else DEFAULT_MIRROR


def _root_tarball(key: str) -> Path:
    tarball = cache_root() / "images" / f"base-{key[:20]}.tar"
    with exclusive_lock(tarball.with_name("base.lock"), waiting_for="a base image is being made"):
        if not tarball.exists():
            _require_means()
            with tempfile.TemporaryDirectory(prefix=".making-", dir=tarball.parent) as temporary:
                made = Path(temporary) / "root.tar"
                _unpack(Path(temporary) / "root", made)
                made.rename(tarball)
    return tarball


def _require_means() -> None:
    missing = []
    if os.geteuid() != 0:
        missing.append("debootstrap needs root")
    if shutil.which("debootstrap") is None:
        missing.append("the program `debootstrap` is not on PATH (Debian's package of that name)")
    if platform.machine() != engine.machine():
        missing.append(f"this machine is {platform.machine()} and the engine {engine.machine()}")
    if missing:
        raise ImagesError(
            f"no base image can be made here: {'; '.join(missing)}. Load {default_base()} into the engine, or set BASE_IMAGE "
            f"to an image that it has: Debian {SUITE} with Python 3.11"
        )


def _unpack(root: Path, tarball: Path) -> None:
    folder = Path("/etc/apt")
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    mirror = os.environ.get("DEBIAN_MIRROR") or apt_mirror(
        "\n".join(path.read_text() for path in lists if path.is_file())
    )
    command: list[str | Path] = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        root,
        mirror,
    ]
    run(f"unpacking Debian {SUITE} with Python 3.11 (about a minute)", command, environment={"LC_ALL": "C.UTF-8"})
    # Debian's minimal Python comes without the plain name that everything calls.
    (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3.11")
    excluded = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    run(
        "packing the base",
        ["tar", "--create", "--numeric-owner", *excluded, f"--file={tarball}", f"--directory={root}", "."],
    )

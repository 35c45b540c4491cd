"""Which images there are, for which Python, and the key by which one is known to be up to date.

Concept: an image is a target of the Dockerfile and the libraries that its programs need; the project's own wheel goes into each.
Boundary: values and files of the repository; nothing is run. Failure: none but a file that is missing.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
BUILD_FILES = ("Dockerfile", ".dockerignore", "hack/images_build/slim.sh")
"""What the build reads beside the wheels."""

PYTHON_VERSION = "3.11"
"""The base image's Python: wheels with compiled code are for one minor version."""

INPUTS_LABEL = "dev.fleetpack.inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: its name, its target in the Dockerfile, and what is installed into it beside the project itself."""

    name: str
    target: str
    extra: str | None = None
    """An extra of pyproject.toml whose requirements come on top of the project's own."""
    requirements: tuple[str, ...] = ()
    """Where not empty: these packages instead of all that the project requires."""
    size_limit_mb: int
    """Megabytes, unpacked, that it may have: a tenth above what docs/install.md says, for other bases. A build beyond it fails."""


FLEETPACK = Image(name="fleetpack", target="fleetpack", extra="device-plugin", size_limit_mb=143)
"""The operator and the device plugin: they share their libraries but for gRPC, and so one image, one digest to pin."""

SIMULATED_ENGINE = Image(
    name="fleetpack-simulated-engine",
    target="simulated-engine",
    # What `fleetpack-sim serve` and `load --address` import; the Kubernetes client and the solver stay out.
    requirements=("aiohttp", "click", "pydantic", "pyyaml", "rich"),
    size_limit_mb=118,
)

IMAGES = (FLEETPACK, SIMULATED_ENGINE)


def project_version() -> str:
    """Return the version in pyproject.toml, which is the tag of every image."""
    version: str = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    return version


def default_base() -> str:
    """Return the base image that the Dockerfile names."""
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("ARG BASE_IMAGE="):
            return line.removeprefix("ARG BASE_IMAGE=").strip()
    raise AssertionError(f"{DOCKERFILE} has no line `ARG BASE_IMAGE=...`")


def source_files() -> Iterator[Path]:
    """Yield the files that the project's wheel is made of, in a stable order."""
    yield from (REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE"))
    for folder in ("operator/fleetpack", "simulator/fleetpack_simulator"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def digest_of_files(files: Iterable[Path], *, relative_to: Path) -> str:
    """Return a digest over names and contents."""
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(relative_to)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def digest_of_texts(*texts: str) -> str:
    """Return a digest over texts, none of which can run into the next."""
    return hashlib.sha256("".join(f"{len(text)}\0{text}" for text in texts).encode()).hexdigest()

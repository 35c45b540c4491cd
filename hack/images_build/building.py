"""Building the images: wheels, base, one `docker build` for each that is not up to date.

Concept: `build` is the whole of it, a step a line. The key of an image is everything that goes into it (Dockerfile, base, lock,
sources); the image carries it as a label, and the same key means nothing to do.
Boundary: the engine's work and the index's are elsewhere. Failure: the first step that fails, or an image beyond its size, ends it;
earlier images stay.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images_build import base, engine, wheels
from images_build.images import (
    BUILD_FILES,
    INPUTS_LABEL,
    REPOSITORY,
    Image,
    digest_of_files,
    digest_of_texts,
    project_version,
)
from images_build.progress import ImagesError, say


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """One image that the engine has now."""

    image: str
    """Name and tag."""
    identity: str
    size_mb: int
    """Megabytes, unpacked, the layer that both images share included."""
    was_built: bool
    """False: it was up to date."""
    seconds: float


def build(images: Sequence[Image]) -> tuple[BuiltImage, ...]:
    """Bring images up to date in the engine."""
    machine = engine.machine()
    prepared = wheels.prepare(machine)
    on = base.choose()
    say(f"base image {on.reference}")
    return tuple(_build_one(image, prepared, on) for image in images)


def _build_one(image: Image, prepared: wheels.Wheels, on: engine.EngineImage) -> BuiltImage:
    start = time.monotonic()
    reference = f"{image.name}:{project_version()}"
    key = inputs_key(image, prepared, on.identity)
    found = engine.inspect(reference)
    was_built = found is None or found.labels.get(INPUTS_LABEL) != key
    if was_built:
        _docker_build(image, prepared, on=on, reference=reference, key=key)
        found = engine.inspect(reference)
    assert found is not None, f"docker build of {reference} succeeded, but the engine does not have it"
    seconds = round(time.monotonic() - start, 1)
    size_mb = round(found.size_bytes / 1e6)
    say(f"{reference} {f'built in {seconds:.0f} s' if was_built else 'is up to date'}, {size_mb} MB")
    require_small(image, size_mb)
    return BuiltImage(image=reference, identity=found.identity, size_mb=size_mb, was_built=was_built, seconds=seconds)


def require_small(image: Image, size_mb: int) -> None:
    """Raise `ImagesError` where an image has grown beyond its limit."""
    if size_mb > image.size_limit_mb:
        raise ImagesError(
            f"{image.name} has {size_mb} MB, more than its limit of {image.size_limit_mb} MB: find out what came into it "
            "(`docker history`), or raise the limit in hack/images_build/images.py and the number in docs/install.md"
        )


def inputs_key(image: Image, prepared: wheels.Wheels, base_identity: str) -> str:
    """Return the key of everything that an image is made of."""
    files = digest_of_files((REPOSITORY / name for name in BUILD_FILES), relative_to=REPOSITORY)
    return digest_of_texts(
        image.target, project_version(), files, base_identity, wheels.lock_of(prepared, image), prepared.program.name
    )


def _docker_build(image: Image, prepared: wheels.Wheels, *, on: engine.EngineImage, reference: str, key: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fleetpack-image-") as temporary:
        context = Path(temporary)
        for name in BUILD_FILES:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, context / name)
        wheels.assemble(prepared, context / "wheels")
        engine.build(
            context,
            target=image.target,
            reference=reference,
            arguments={"BASE_IMAGE": on.reference},
            labels={INPUTS_LABEL: key, "org.opencontainers.image.version": project_version()},
        )

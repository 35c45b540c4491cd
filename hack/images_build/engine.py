"""The container engine and kind, through their own programs.

Concept: `docker` finds the engine by itself (DOCKER_HOST, contexts); the classic builder is used where buildx is not installed.
Boundary: one function for each thing that is asked or done. Failure: a program or an engine that is not there is named, with
the variable that says where it is.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images_build.progress import ImagesError, run, say

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "x86_64": "x86_64", "aarch64": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineImage:
    """An image as the engine has it."""

    reference: str
    identity: str
    size_bytes: int
    labels: dict[str, str]


def machine() -> str:
    """Return the engine's machine type, in the words of Python wheels."""
    if shutil.which("docker") is None:
        raise ImagesError("the program `docker` is not on PATH; install a Docker engine's command line")
    answer = _ask("docker", "version", "--format", "{{.Server.Arch}}")
    architecture = answer.stdout.strip()
    if answer.returncode != 0 or not architecture:
        lines = answer.stderr.strip().splitlines()
        raise ImagesError(
            f"no Docker engine answers ({lines[-1] if lines else 'docker version says nothing'}); start one, or set DOCKER_HOST"
        )
    if architecture not in _MACHINES:
        raise ImagesError(
            f"the engine's machine type is {architecture}; images are made for {', '.join(sorted(_MACHINES))}"
        )
    return _MACHINES[architecture]


def inspect(reference: str) -> EngineImage | None:
    """Return an image of the engine; None when it has none of that name."""
    answer = _ask("docker", "image", "inspect", reference)
    if answer.returncode != 0:
        return None
    found = json.loads(answer.stdout)[0]
    return EngineImage(
        reference=reference,
        identity=found["Id"],
        size_bytes=found["Size"],
        labels=found["Config"].get("Labels") or {},
    )


def pull(reference: str) -> bool:
    """Pull an image; tell whether that worked."""
    return _ask("docker", "pull", "--quiet", reference).returncode == 0


def import_root(tarball: Path, reference: str, *, labels: dict[str, str]) -> None:
    """Make an image of one layer from a root file system."""
    changes = [f"--change=LABEL {name}={value}" for name, value in labels.items()]
    run(f"importing {reference}", ["docker", "import", *changes, tarball, reference])


def build(folder: Path, *, target: str, reference: str, arguments: dict[str, str], labels: dict[str, str]) -> None:
    """Build one target of the Dockerfile in `folder` under a name; what runs meanwhile has no network."""
    command: list[str | Path] = ["docker", "build", "--network=none", "--target", target, "--tag", reference]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, value in labels.items():
        command += ["--label", f"{name}={value}"]
    run(f"building {reference}", [*command, folder], environment=_builder())


def load_into_kind(references: Sequence[str], cluster: str) -> None:
    """Put images on every node of a kind cluster; kind leaves out what a node has."""
    kind = os.environ.get("KIND") or shutil.which("kind")
    if kind is None:
        raise ImagesError("the program `kind` is not on PATH; install it, or set KIND to its path")
    if cluster not in _ask(kind, "get", "clusters").stdout.split():
        raise ImagesError(f"--load {cluster}: kind knows no cluster of this name (`kind get clusters`)")
    run(f"loading into the nodes of {cluster}", [kind, "load", "docker-image", *references, "--name", cluster])


def _builder() -> dict[str, str]:
    if "DOCKER_BUILDKIT" in os.environ or _ask("docker", "buildx", "version").returncode == 0:
        return {}
    say("docker has no buildx: the classic builder is used")
    return {"DOCKER_BUILDKIT": "0"}


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)

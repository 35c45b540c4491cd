"""Container images written without an engine: one layer out of a folder, as an OCI archive.

Concept: the OCI image layout (image-spec v1) in a tar file, as `kind load image-archive` and `ctr images import` read it. The same
folder gives the same bytes: names sorted, times zero, everything owned by root.
Boundary: files, links and modes; no devices, no owners but root. Failure: what cannot be read raises the `OSError` it is.
"""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The machine's own word for its kind of processor, and Go's, which images use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfiguration:
    """What an image says of how it runs."""

    reference: str
    """Name and tag under which it is found: `registry.k8s.io/pause:3.10`."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def write_archive(destination: Path, root: Path, configuration: ImageConfiguration) -> None:
    """Write an image of everything below `root` to the file `destination`."""
    layer = _layer(root)
    blobs = [gzip.compress(layer, compresslevel=1, mtime=0)]
    blobs.append(_json(_image(layer, configuration)))
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", blobs[1]),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blobs[0])],
    }
    blobs.append(_json(manifest))
    listed = _descriptor(manifest["mediaType"], blobs[2]) | {
        "annotations": {
            "io.containerd.image.name": configuration.reference,
            "org.opencontainers.image.ref.name": configuration.reference.rpartition(":")[2],
        },
        "platform": {"architecture": architecture(), "os": "linux"},
    }
    index = {"schemaVersion": 2, "manifests": [listed]}
    with tarfile.open(destination, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json(index))
        for blob in blobs:
            _add(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)


def architecture() -> str:
    """Return this machine's processor as images name it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def _layer(root: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            layer.add(path, str(path.relative_to(root)), recursive=False, filter=_anonymous)
    return content.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = 0
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _image(layer: bytes, configuration: ImageConfiguration) -> dict[str, Any]:
    running: dict[str, Any] = {"Env": [f"PATH={DEFAULT_PATH}"]}
    if configuration.entrypoint:
        running["Entrypoint"] = list(configuration.entrypoint)
    if configuration.command:
        running["Cmd"] = list(configuration.command)
    return {
        "architecture": architecture(),
        "os": "linux",
        "config": running,
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }


def _descriptor(media_type: Any, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(content))

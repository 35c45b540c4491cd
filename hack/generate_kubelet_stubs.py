"""Generates the Python code for the kubelet's gRPC APIs, from the kubelet's own definitions.

The definitions (`api.proto`) are copied from the Go module k8s.io/kubelet in the version below and checked in beside the code
that protoc makes of them, so that nobody needs Go to check or to build. Every definition upstream is called `api.proto`; protobuf
knows a file by its path, so they are compiled from the source root and keep their places apart. `--copy` takes the
definitions from the module cache (`go mod download k8s.io/kubelet@VERSION` fills it) before generating.

Boundary: copies, compiles, compares. `--check` writes nothing: it fails when the code differs from what the pinned grpcio-tools
makes, or, where the module is in the cache, when a definition differs from upstream, and names the files and the way out. Where the
module is not there it says that nothing was compared with upstream.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

KUBELET_VERSION = "v0.36.1"
"""Of the module k8s.io/kubelet; both APIs are stable and newer kubelets serve them too."""
APIS = ("deviceplugin/v1beta1", "podresources/v1")

_ROOT = Path(__file__).resolve().parents[1]
_SOURCE_ROOT = _ROOT / "operator"
_PACKAGE = Path("fleetpack/device_plugin/kubelet_api")
_GENERATED = ("api_pb2.py", "api_pb2.pyi", "api_pb2_grpc.py")

_LICENSE = """\
Copyright The Kubernetes Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
"""


def upstream_path(api: str) -> Path:
    """Return where the Go module cache has the definition, whether it is there or not."""
    cache = os.environ.get("GOMODCACHE")
    root = Path(cache) if cache else Path(os.environ.get("GOPATH") or Path.home() / "go") / "pkg" / "mod"
    return root / f"k8s.io/kubelet@{KUBELET_VERSION}" / "pkg" / "apis" / api / "api.proto"


def checked_in_proto(api: str, upstream: str) -> str:
    """Return a definition as it is checked in: the licence and where it is from, then the text as it is."""
    notice = f"{_LICENSE}\nUnchanged below this notice: k8s.io/kubelet@{KUBELET_VERSION}/pkg/apis/{api}/api.proto\n"
    return _commented(notice, "//") + "\n" + upstream


def generate(source_root: Path) -> dict[str, str]:
    """Compile the definitions under a source root and return path (relative to it) to text of what comes out."""
    generated: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        protos = [str(source_root / _PACKAGE / api / "api.proto") for api in APIS]
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source_root}", *outputs, *protos]
        subprocess.run(command, check=True)
        for api in APIS:
            for file_name in _GENERATED:
                relative = _PACKAGE / api / file_name
                generated[relative.as_posix()] = (
                    _commented(_LICENSE, "#") + "\n" + (Path(folder) / relative).read_text()
                )
    return generated


def stale_files() -> tuple[str, ...]:
    """Return the files that are missing or differ from what they are made of."""
    stale = [
        path
        for path, text in generate(_SOURCE_ROOT).items()
        if not (_SOURCE_ROOT / path).exists() or (_SOURCE_ROOT / path).read_text() != text
    ]
    for api in APIS:
        upstream, own = upstream_path(api), _SOURCE_ROOT / _PACKAGE / api / "api.proto"
        if upstream.exists() and own.read_text() != checked_in_proto(api, upstream.read_text()):
            stale.append((_PACKAGE / api / "api.proto").as_posix())
    return tuple(sorted(stale))


def not_compared() -> tuple[Path, ...]:
    """Return the definitions of upstream that are not there, and with which nothing could be compared."""
    return tuple(path for api in APIS if not (path := upstream_path(api)).exists())


def copy_definitions() -> None:
    """Take the definitions from the module cache; raises `FileNotFoundError` where the module is not there."""
    for api in APIS:
        target = _SOURCE_ROOT / _PACKAGE / api / "api.proto"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(checked_in_proto(api, upstream_path(api).read_text()))


def _commented(text: str, mark: str) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in text.splitlines())


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Generate the code for the kubelet's gRPC APIs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    parser.add_argument("--copy", action="store_true", help="first copy the definitions from the Go module cache")
    arguments = parser.parse_args()
    if arguments.check:
        stale = stale_files()
        if not_compared():
            print(
                f"kubelet stubs: the definitions were NOT compared with k8s.io/kubelet@{KUBELET_VERSION}, which is not in Go's module "
                f"cache; `go mod download k8s.io/kubelet@{KUBELET_VERSION}` brings it",
                file=sys.stderr,
            )
        if stale:
            print(
                f"kubelet stubs are not up to date: {', '.join(stale)}. Run: .venv/bin/python hack/generate_kubelet_stubs.py",
                file=sys.stderr,
            )
        return 1 if stale else 0
    if arguments.copy:
        copy_definitions()
    for path, text in generate(_SOURCE_ROOT).items():
        (_SOURCE_ROOT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

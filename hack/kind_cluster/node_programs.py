"""The programs inside the node image: which versions, and how each one is built.

Concept: the versions that kind's own node image of this release has, as its images/base/Dockerfile and kubeadm's constants state
them, locked like the control plane's programs. Nothing found on the machine is used: what runs in a node must not need the
machine's libraries. Boundary: data; building is `control_plane/binaries.py`.
Failure: a source of ours that changes gives a program another version, and so another place in the cache.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from control_plane.programs import (
    KUBE_APISERVER,
    KUBE_CONTROLLER_MANAGER,
    KUBE_PROXY,
    KUBE_SCHEDULER,
    KUBEADM,
    KUBECTL,
    KUBELET,
    Program,
)

MODULES_FOLDER = Path(__file__).resolve().parent / "go"

CONTAINERD_VERSION = "2.3.4"
RUNC_VERSION = "1.4.3"
NETWORK_PLUGINS_VERSION = "1.9.1"
CRICTL_VERSION = "1.36.0"
# kubeadm 1.36's own: cmd/kubeadm/app/constants (DefaultEtcdVersion, CoreDNSVersion).
ETCD_VERSION = "3.6.8"
COREDNS_VERSION = "1.14.2"


def folder_digest(folder: Path) -> str:
    """Return a digest of every file in a folder, by name and content."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _program(
    name: str, *, version: str, module: str, package: str, build_core_seconds: int, variables: str = ""
) -> Program:
    return Program(
        name=name,
        version=version,
        accepted_minors=(),
        version_arguments=(),
        module_folder=module,
        package=package,
        linker_flags=f"-s -w{variables}",
        build_core_seconds=build_core_seconds,
        modules_folder=MODULES_FOLDER,
    )


def _containerd(name: str, build_core_seconds: int) -> Program:
    module = "github.com/containerd/containerd/v2"
    program = _program(
        name,
        version=CONTAINERD_VERSION,
        module="containerd",
        package=f"{module}/cmd/{name}",
        build_core_seconds=build_core_seconds,
        variables=f" -X {module}/version.Version=v{CONTAINERD_VERSION}",
    )
    return replace(program, build_tags="no_aufs,no_zfs,no_btrfs,no_devmapper")


def _network_plugin(name: str, folder: str) -> Program:
    return _program(
        name,
        version=NETWORK_PLUGINS_VERSION,
        module="network_plugins",
        package=f"github.com/containernetworking/plugins/plugins/{folder}/{name}",
        build_core_seconds=5,
    )


def _own(name: str, version: str, build_core_seconds: int) -> Program:
    """Return a program whose `main` is a file of this repository; the version says which file it was."""
    stated = f"{version}-{folder_digest(MODULES_FOLDER / name)[:8]}"
    return _program(name, version=stated, module=name, package=".", build_core_seconds=build_core_seconds)


CONTAINERD = tuple(
    _containerd(name, seconds) for name, seconds in (("containerd", 100), ("containerd-shim-runc-v2", 15), ("ctr", 20))
)
RUNC = replace(
    _program(
        "runc",
        version=RUNC_VERSION,
        module="runc",
        package="github.com/opencontainers/runc",
        build_core_seconds=25,
        variables=" -extldflags -static",
    ),
    build_tags="seccomp,netgo,osusergo",
    needs_c_compiler=True,
)
NETWORK_PLUGINS = tuple(
    _network_plugin(name, folder)
    for name, folder in (("host-local", "ipam"), ("loopback", "main"), ("ptp", "main"), ("portmap", "meta"))
)
CRICTL = _program(
    "crictl",
    version=CRICTL_VERSION,
    module="crictl",
    package="sigs.k8s.io/cri-tools/cmd/crictl",
    build_core_seconds=50,
)
ETCD = _program("etcd", version=ETCD_VERSION, module="etcd", package="go.etcd.io/etcd/server/v3", build_core_seconds=60)
COREDNS = _own("coredns", COREDNS_VERSION, 150)
KINDNET = _own("kindnet", "2", 115)
KUBERNETES = tuple(
    replace(program, accepted_minors=())
    for program in (KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBE_SCHEDULER, KUBE_PROXY, KUBELET, KUBEADM, KUBECTL)
)

NODE_PROGRAMS = (*KUBERNETES, *CONTAINERD, RUNC, *NETWORK_PLUGINS, CRICTL, ETCD, COREDNS, KINDNET)

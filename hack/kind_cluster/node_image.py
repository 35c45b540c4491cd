"""The node image for the own engine: what kind's `build node-image` makes, where no image can be pulled.

Concept: Debian with kind's own files (out of kind's module, locked like everything else) and Kubernetes' programs; the images that
kubeadm and kind's manifests ask for, under the names they ask for, already in the node's containerd. The image's tag is a digest of all
that goes into it: nothing is built twice, and no change goes unnoticed.
Boundary: the Pod network is our `go/kindnet`; there is no StorageClass. Everything else is the real thing.
Failure: a step that fails names itself; the image appears only when it is whole.
"""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from control_plane.binaries import cached_path, ensure
from control_plane.errors import ControlPlaneError
from control_plane.folders import exclusive_lock
from control_plane.golang import find_go
from control_plane.programs import KIND, KUBE_PROXY, KUBERNETES_VERSION, Program
from control_plane.progress import say
from kind_cluster import own_engine, root_filesystem
from kind_cluster.commands import run
from kind_cluster.folders import kind_folder
from kind_cluster.node_programs import (
    CONTAINERD,
    COREDNS,
    COREDNS_VERSION,
    CRICTL,
    ETCD,
    ETCD_VERSION,
    KINDNET,
    KUBERNETES,
    MODULES_FOLDER,
    NETWORK_PLUGINS,
    NODE_PROGRAMS,
    RUNC,
    folder_digest,
)
from kind_cluster.oci_archive import DEFAULT_PATH, ImageConfiguration, write_archive

REPOSITORY = "fleetpack/kind-node"
ON_NODES = ("kubeadm", "kubelet", "kubectl")
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
# Units that kind's Dockerfile takes out: a container has neither disks nor consoles of its own.
REMOVED_UNITS = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "etc/systemd/system/*.wants/*",
    "etc/systemd/system/containerd-fuse-overlayfs.service",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
)
ENABLED_UNITS = ("kubelet.service", "containerd.service", "undo-mount-hacks.service")

# What kind's Dockerfile and `build node-image` run inside: the specification that containers start from, and the images, imported
# but not unpacked (each node unpacks into a file system of its own).
PREPARATION = """\
set -e
ctr oci spec | jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
  > /etc/containerd/cri-base.json
containerd > /tmp/containerd.log 2>&1 &
for attempt in $(seq 100); do ctr version > /dev/null 2>&1 && break; sleep 0.1; done
for archive in /mnt/*.tar; do
  ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests "$archive"
done
kill %1
wait || true
rm -f /tmp/containerd.log
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSources:
    """The parts of kind's module that a node image consists of."""

    files: Path
    """images/base/files: systemd units, containerd's configuration, the entry point."""
    network_manifest: str
    network_image: str
    pause_image: str


def image_tag() -> str:
    """Return the image's name, which changes with anything that goes into it."""
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for program in NODE_PROGRAMS:
        digest.update(f"{program.key}\n".encode())
    digest.update(folder_digest(MODULES_FOLDER).encode())
    for name in ("node_image.py", "root_filesystem.py", "oci_archive.py", "node_programs.py"):
        digest.update((here / name).read_bytes())
    return f"{REPOSITORY}:v{KUBERNETES_VERSION}-{digest.hexdigest()[:12]}"


def ensure_node_image() -> str:
    """Return the name of the node image in the own engine, building it where it is missing."""
    tag = image_tag()
    with exclusive_lock(kind_folder() / "node-image.lock", waiting_for="the node image is being built"):
        if _has_image(tag):
            return tag
        say("building the node image, once")
        ensure(NODE_PROGRAMS)
        debian = root_filesystem.ensure_root()
        sources = read_kind_sources(_kind_module())
        with tempfile.TemporaryDirectory(prefix=".building-", dir=kind_folder()) as temporary:
            folder = Path(temporary)
            say("packing the images that nodes run")
            (folder / "images").mkdir()
            _write_images(folder, debian, sources)
            say("putting the node together")
            _assemble(folder / "node", debian, sources)
            _import(folder, tag)
        _remove_others(tag)
        say(f"built the node image {tag}")
    return tag


def read_kind_sources(module: Path) -> KindSources:
    """Return what a node image needs out of kind's module."""
    source = (module / "pkg/build/nodeimage/const_cni.go").read_text()
    files = module / "images/base/files"
    return KindSources(
        files=files,
        network_manifest=go_text(source, "defaultCNIManifest"),
        network_image=go_text(source, "kindnetdImage"),
        pause_image=pause_image((files / "etc/containerd/config.toml").read_text()),
    )


def go_text(source: str, name: str) -> str:
    """Return the value of a string constant in Go source, constants that are joined into it filled in."""
    constants: dict[str, str] = dict(re.findall(r'^const (\w+) = "(.*)"$', source, re.MULTILINE))
    if name in constants:
        return constants[name]
    match = re.search(rf"^const {name} = `(.*?)`$", _filled_in(source, constants), re.MULTILINE | re.DOTALL)
    if match is None:
        raise ControlPlaneError(f"kind {KIND.version} has no constant {name} where it was: its node image has changed")
    return match[1]


def pause_image(containerd_configuration: str) -> str:
    """Return the image that containerd holds Pods open with."""
    match = re.search(r'^\s*sandbox_image = "(.+)"$', containerd_configuration, re.MULTILINE)
    if match is None:
        raise ControlPlaneError(f"kind {KIND.version}: containerd's configuration names no sandbox_image")
    return match[1]


def _filled_in(source: str, constants: dict[str, str]) -> str:
    for name, value in constants.items():
        source = source.replace(f"` + {name} + `", value)
    return source


def _kind_module() -> Path:
    """Return the folder of kind's module, checked against go.sum by Go."""
    go = find_go()
    module = KIND.modules_folder / KIND.module_folder
    answer = run((go.path, "-C", module, "mod", "download", "-json", "sigs.k8s.io/kind"), what="fetching kind's module")
    return Path(json.loads(answer)["Dir"])


def _write_images(folder: Path, debian: Path, sources: KindSources) -> None:
    """Write an archive of each image that kubeadm and kind's manifests name."""
    registry = "registry.k8s.io"
    by_name = {program.name: program for program in KUBERNETES}
    for name in SERVERS:
        with _image(folder, debian, f"{registry}/{name}:v{KUBERNETES_VERSION}", f"/usr/local/bin/{name}") as root:
            _install((by_name[name],), root / "usr/local/bin")
    with _image(folder, debian, f"{registry}/etcd:{ETCD_VERSION}-0", "") as root:
        _install((ETCD,), root / "usr/local/bin")
    with _image(folder, debian, f"{registry}/coredns/coredns:v{COREDNS_VERSION}", "/coredns") as root:
        _install((COREDNS,), root)
    proxy = f"{registry}/kube-proxy:v{KUBERNETES_VERSION}"
    with _image(folder, debian, proxy, "/usr/local/bin/kube-proxy") as root:
        root_filesystem.add_network_tools(root, debian)
        _install((by_name[KUBE_PROXY.name],), root / "usr/local/bin")
    with _image(folder, debian, sources.network_image, "/bin/kindnet") as root:
        root_filesystem.add_network_tools(root, debian)
        _install((KINDNET,), root / "bin")
    with _image(folder, debian, sources.pause_image, "/pause") as root:
        source = MODULES_FOLDER / "pause" / "pause.c"
        run(("gcc", "-Os", "-static", "-s", "-Wall", "-o", root / "pause", source), what="building pause")


@contextlib.contextmanager
def _image(folder: Path, debian: Path, reference: str, entrypoint: str) -> Iterator[Path]:
    """Give a root to fill, then write it as an archive; without an entry point, the user names the command."""
    root = folder / "image"
    root.mkdir()
    root_filesystem.add_accounts(root, debian)
    yield root
    configuration = ImageConfiguration(reference=reference, entrypoint=(entrypoint,) if entrypoint else ())
    write_archive(folder / "images" / f"{re.sub(r'[^a-z0-9]+', '-', reference)}.tar", root, configuration)
    shutil.rmtree(root)


def _assemble(node: Path, debian: Path, sources: KindSources) -> None:
    """Put Debian, kind's files and the programs together, as kind's Dockerfile does."""
    run(("cp", "-a", debian, node), what="copying Debian")
    _copy_kind_files(sources.files, node)
    for pattern in REMOVED_UNITS:
        for unit in node.glob(pattern):
            unit.unlink()
    with (node / "etc/systemd/journald.conf").open("a") as configuration:
        configuration.write("ReadKMsg=no\n")
    (node / "sbin/init").unlink(missing_ok=True)
    (node / "sbin/init").symlink_to("/usr/lib/systemd/systemd")
    _install((*CONTAINERD, CRICTL), node / "usr/local/bin")
    _install((RUNC,), node / "usr/local/sbin")
    _install(NETWORK_PLUGINS, node / "opt/cni/bin")
    _install(tuple(program for program in KUBERNETES if program.name in ON_NODES), node / "usr/bin")
    _allow_for_missing_capability(node)
    for folder in ("etc/kubernetes/manifests", "etc/cni/net.d", "kind/manifests"):
        (node / folder).mkdir(parents=True, exist_ok=True)
    (node / "kind/version").write_text(f"v{KUBERNETES_VERSION}")
    (node / "kind/manifests/default-cni.yaml").write_text(sources.network_manifest)
    # kind applies this file on every cluster: something that is there already.
    nothing = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    (node / "kind/manifests/default-storage.yaml").write_text(json.dumps(nothing))
    run(("chroot", node, "systemctl", "enable", *ENABLED_UNITS), what="enabling units")
    run(("chroot", node, "systemctl", "mask", "systemd-binfmt.service"), what="masking a unit")
    for name in ("etc/resolv.conf", "etc/hostname"):
        (node / name).unlink(missing_ok=True)


def _copy_kind_files(files: Path, node: Path) -> None:
    """Copy kind's files; what lies in the module's cache is read-only, and its modes are lost there."""
    for file in sorted(path for path in files.rglob("*") if path.is_file()):
        destination = node / file.relative_to(files)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, destination)
        destination.chmod(0o755 if file.parent.name == "bin" else 0o644)


def _allow_for_missing_capability(node: Path) -> None:
    """Ask for nothing that needs CAP_SYS_RESOURCE: some machines cannot give it, and nobody here misses it."""
    unit = node / "etc/systemd/system/containerd.service"
    unit.write_text(re.sub(r"^OOMScoreAdjust=.*\n", "", unit.read_text(), flags=re.MULTILINE))
    configuration = node / "etc/containerd/config.toml"
    text = configuration.read_text()
    if "restrict_oom_score_adj = false" not in text:
        raise ControlPlaneError(
            f"kind {KIND.version}: containerd's configuration has no restrict_oom_score_adj any more"
        )
    configuration.write_text(text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true"))


def _install(programs: tuple[Program, ...], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        shutil.copyfile(cached_path(program), folder / program.name)
        (folder / program.name).chmod(0o755)


def _import(folder: Path, tag: str) -> None:
    """Bring the node into the engine and let it prepare itself in a container, as kind does."""
    base, builder = f"{REPOSITORY}:base", "fleetpack-kind-node-builder"
    _docker("rm", "--force", "--volumes", builder, may_fail=True)
    _import_folder(folder / "node", base)
    try:
        _docker(
            "run", "--detach", f"--name={builder}", "--entrypoint=sleep", "--security-opt=seccomp=unconfined",
            # What a container is run with, its image keeps: systemd ends on this signal, and looks for this variable.
            "--stop-signal=SIGRTMIN+3", "--env=container=docker",
            f"--volume={folder / 'images'}:/mnt:ro", base, "infinity",
        )  # fmt: skip
        _docker("exec", builder, "bash", "-c", PREPARATION)
        entry = '--change=ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
        _docker("commit", entry, "--change=CMD []", builder, tag)
    finally:
        _docker("rm", "--force", "--volumes", builder, may_fail=True)
        _docker("rmi", "--no-prune", base, may_fail=True)


def _import_folder(node: Path, reference: str) -> None:
    pack = ("tar", "-C", str(node), "--numeric-owner", "-c", ".")
    take = ("docker", "import", f"--change=ENV PATH={DEFAULT_PATH}", "-", reference)
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        answer = subprocess.run(
            take, stdin=packing.stdout, env=own_engine.environment(), capture_output=True, text=True, check=False
        )
    if answer.returncode != 0 or packing.returncode != 0:
        raise ControlPlaneError(f"docker import of the node failed: {answer.stderr.strip()}")


def _has_image(tag: str) -> bool:
    return bool(_docker("image", "ls", "--quiet", tag).strip())


def _remove_others(tag: str) -> None:
    """Remove earlier node images, which nothing will ask for again; one that a cluster still uses stays."""
    for reference in _docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", REPOSITORY).split():
        if reference != tag:
            _docker("rmi", reference, may_fail=True)


def _docker(*arguments: str, may_fail: bool = False) -> str:
    try:
        return run(("docker", *arguments), environment=own_engine.environment())
    except ControlPlaneError:
        if may_fail:
            return ""
        raise

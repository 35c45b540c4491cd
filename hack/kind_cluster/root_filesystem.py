"""The Debian that nodes begin with, and small roots around single programs for the images that nodes run.

Concept: debootstrap makes what kind's images/base/Dockerfile installs, once per list of packages, kept in the cache. Images that need
tools (iptables for kube-proxy) get them out of it, each with the libraries that it links to.
Boundary: folders only; needs root. Failure: an interrupted debootstrap leaves nothing behind that looks finished.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from control_plane.folders import exclusive_lock
from control_plane.progress import Ticker, say
from kind_cluster.commands import run
from kind_cluster.folders import kind_folder
from kind_cluster.packages import debian_mirror

# The last Debian whose systemd (252) starts on cgroup v1 without a switch of the kernel's.
SUITE = "bookworm"
# kind's list without what network disks and user namespaces need; then tools that are missed when something goes wrong.
PACKAGES = (
    *("systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
    *("libseccomp2", "pigz", "e2fsprogs", "bash", "ca-certificates", "curl", "jq", "procps"),
    *("socat", "ebtables", "iputils-ping", "busybox-static", "netbase"),
)
NOT_NEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
)
TABLES = ("iptables", "ip6tables")


def ensure_root() -> Path:
    """Return the folder with the nodes' Debian, making it where it is missing."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    folder = kind_folder() / f"root-{key}"
    with exclusive_lock(folder.with_name(f"{folder.name}.lock"), waiting_for="the nodes' Debian is being made"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
                target = Path(temporary) / "root"
                _debootstrap(target)
                target.rename(folder)
    return folder


def _debootstrap(target: Path) -> None:
    say(f"making the nodes' Debian {SUITE} with debootstrap, once: about a minute")
    command = ("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE)
    with Ticker(lambda seconds: f"debootstrap: {seconds:.0f} s of about 50 s"):
        run((*command, target, debian_mirror()), what="debootstrap")
    for name in NOT_NEEDED:
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).mkdir(parents=True)


def add_accounts(target: Path, debian: Path) -> None:
    """Write what programs expect of any machine: names for users, certificates, a folder for temporary files."""
    for folder in ("etc/ssl/certs", "tmp"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    (target / "tmp").chmod(0o1777)
    (target / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (target / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (target / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    shutil.copy(debian / "etc/ssl/certs/ca-certificates.crt", target / "etc/ssl/certs")


def add_network_tools(target: Path, debian: Path) -> None:
    """Add iptables, nft and conntrack, with a shell."""
    extensions = sorted(path for path in debian.glob("usr/lib/*/xtables/*.so"))
    tools = [debian / "usr/sbin" / name for name in ("xtables-nft-multi", "xtables-legacy-multi", "nft", "conntrack")]
    _copy_with_libraries((*tools, debian / "usr/bin/kmod", *extensions), target, debian)
    sbin = target / "usr/sbin"
    for table in TABLES:
        for action in ("", "-save", "-restore"):
            (sbin / f"{table}{action}").symlink_to("xtables-nft-multi")
            (sbin / f"{table}-nft{action}").symlink_to("xtables-nft-multi")
            (sbin / f"{table}-legacy{action}").symlink_to("xtables-legacy-multi")
    (target / "run").mkdir(exist_ok=True)
    add_shell(target, debian)


def add_shell(target: Path, debian: Path) -> None:
    """Add busybox, linked to nothing, as `sh` and what a look around needs."""
    (target / "bin").mkdir(exist_ok=True)
    shutil.copy(debian / "bin/busybox", target / "bin/busybox")
    for name in ("sh", "ls", "cat", "ip"):
        (target / "bin" / name).symlink_to("busybox")


def _copy_with_libraries(files: Iterable[Path], target: Path, debian: Path) -> None:
    """Copy programs and every library that they are linked to, each to its place."""
    inside = [f"/{file.relative_to(debian)}" for file in files]
    # `ldd` ends with an error for the ones that are linked to nothing; what it prints of the others counts.
    script = 'for file in "$@"; do ldd "$file" || true; done'
    linked = run(("chroot", debian, "sh", "-c", script, "sh", *inside), what="ldd")
    libraries = set(re.findall(r"(/\S+\.so\S*) \(0x", linked))
    for name in (*inside, *sorted(libraries)):
        destination = target / name.lstrip("/")
        destination.parent.mkdir(parents=True, exist_ok=True)
        if not destination.exists():
            shutil.copy(debian / name.lstrip("/"), destination)

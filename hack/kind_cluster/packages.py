"""Debian packages of the machine that the own engine needs.

Concept: what is installed is left alone; what is missing comes through apt, and no service is started by it (policy-rc.d, as Debian's
policy provides for). Boundary: installs, never removes. Failure: on another system, or without root, an error says what would be
needed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.progress import Ticker, say
from kind_cluster.commands import run

# The program that shows that a package is there, and the package.
NEEDED = {
    "dockerd": "docker.io",
    "docker": "docker-cli",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "sysctl": "procps",
    "mount": "mount",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
}
# What only a compiler can show.
NEEDED_FILES = {
    Path("/usr/include/seccomp.h"): "libseccomp-dev",
    Path("/usr/include/stdlib.h"): "libc6-dev",
}
POLICY = Path("/usr/sbin/policy-rc.d")
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages() -> tuple[str, ...]:
    """Return the packages that the own engine needs and this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"
    missing = [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]
    missing += [package for file, package in NEEDED_FILES.items() if not file.exists()]
    return tuple(missing)


def install_missing() -> None:
    """Install what the own engine needs."""
    if not (missing := missing_packages()):
        return
    if shutil.which("apt-get") is None:
        raise ControlPlaneError(
            f"an own Docker engine needs {', '.join(missing)}, and this is not Debian: install Docker instead"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say(f"installing {', '.join(missing)} with apt")
    with _no_service_starts(), Ticker(lambda seconds: f"installing packages: {seconds:.0f} s of about 40 s"):
        run(["apt-get", "update", "-qq"], environment=environment, what="apt-get update")
        known = tuple(package for package in missing if _is_known(package))
        run(
            ["apt-get", "install", "--yes", "-qq", "--no-install-recommends", *known],
            environment=environment,
            what=f"installing {', '.join(known)}",
        )
    if still := missing_packages():
        raise ControlPlaneError(f"apt installed everything it knows, but {', '.join(still)} is still missing")


def debian_mirror() -> str:
    """Return the address of the Debian mirror that apt uses."""
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]).split()
    for site in sites:
        if "security" not in site:
            return site
    raise ControlPlaneError("apt knows no Debian mirror: see /etc/apt/sources.list")


def _is_known(package: str) -> bool:
    """Tell whether apt can install it: Debian 12 has the `docker` command in docker.io, later ones in docker-cli."""
    return "Candidate: (none)" not in (answer := run(["apt-cache", "policy", package])) and bool(answer.strip())


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)

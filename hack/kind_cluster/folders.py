"""Where kind's clusters, the own engine and what is built for it live: below `kind/` in the cache.

Concept: `engine/` is the own engine with its images, `clusters/NAME/` one cluster's record and kubeconfig, `root-KEY/` the Debian
that nodes begin with. Boundary: paths only. Failure: a socket path that the kernel would cut is an error before anything starts.
"""

from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.folders import cache_root

# sockaddr_un holds 108 bytes, the last one zero (unix(7)).
LONGEST_SOCKET_PATH = 107


def kind_folder() -> Path:
    """Return the root of everything that `hack/kind` keeps."""
    return cache_root() / "kind"


def engine_folder() -> Path:
    """Return the folder of the own engine."""
    return kind_folder() / "engine"


def engine_socket() -> Path:
    """Return the own engine's socket."""
    socket = engine_folder() / "docker.sock"
    if len(str(socket)) > LONGEST_SOCKET_PATH:
        raise ControlPlaneError(f"{socket} is too long for a socket: set FLEETPACK_CACHE to a shorter path")
    return socket


def clusters_folder() -> Path:
    """Return the folder of all clusters' records."""
    return kind_folder() / "clusters"

"""Free TCP ports on loopback for a new cluster.

Concept: ports are drawn below the range from which the kernel serves outgoing connections, so that none is taken by
chance between our look and the program's start. Boundary: a look, not a reservation: the start is retried with other
ports when one was taken in between. Failure: no free ports is an error with the range searched.
"""

import random
import socket
from collections.abc import Sequence

from control_plane.errors import ControlPlaneError

# Below 32768, where Linux's ephemeral range starts, and above the ports of common services.
PORT_RANGE = range(20000, 32000)


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """Return a free port of 127.0.0.1 for each name, all different."""
    candidates = random.sample(PORT_RANGE, k=len(PORT_RANGE))
    chosen: dict[str, int] = {}
    for port in candidates:
        if len(chosen) == len(names):
            break
        if is_free(port):
            chosen[names[len(chosen)]] = port
    if len(chosen) < len(names):
        raise ControlPlaneError(f"fewer than {len(names)} free ports in {PORT_RANGE.start}-{PORT_RANGE.stop - 1}")
    return chosen


def is_free(port: int) -> bool:
    """Tell whether a program could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this, a port whose last connections are still in TIME_WAIT would look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

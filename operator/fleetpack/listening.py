"""Where servers listen: one socket for a host and a port, on every address of this machine where no host is named.

Concept: a cluster may give Pods IPv4 addresses, IPv6 ones or both, and the kubelet's probes come to any of them. So a server without a
host listens on one socket for both families. `::` as a host would not do: asyncio keeps such a socket from IPv4 (IPV6_V6ONLY).
Boundary: makes sockets; who serves on them closes them. Failure: a port that is taken, or an address that this machine does not have,
raises `OSError`; a machine without IPv6 listens on IPv4 alone.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

EVERY_ADDRESS = ""
"""As a host: every address that this machine has, of both families."""

_WITHOUT_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""What binding to `::` answers where the kernel, or the container's network, has no IPv6."""


def listening_socket(port: int) -> socket.socket:
    """Return a socket that listens on every address; 0 takes a port that is free in both families."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _WITHOUT_IPV6:
                raise
    return socket.create_server(("", port), family=socket.AF_INET)


def plain_address(address: str) -> str:
    """Return an address as its owner writes it: a socket for both families calls 10.0.0.7 `::ffff:10.0.0.7`."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def place_of(host: str, port: int) -> str:
    """Return where a server listens, in words for people."""
    return f"{host}:{port}" if host else f"port {port} of every address"

"""Keeps the plugin registered with a kubelet that may restart at any time.

The plugin serves first and registers then, because the kubelet calls back while it registers. A kubelet that starts removes every
socket of its folder and makes its own anew, so a new inode or time of `kubelet.sock`, or the loss of one of ours, means: serve
again and register again; until then the node's capacity is 0. So does a kubelet that has stopped listening without any such sign, and
one that counts other devices than ours: another plugin has registered the same resource after us, and took the calls with it while
our stream goes on (handler.go and manager.go in the kubelet's devicemanager).
The socket is looked at four times a second: cheaper than it sounds, and it works on every file system. It is worth it: a kubelet
that starts admits Pods at once, and fails those that want cores while nobody has registered any.

Boundary: knows nothing of devices. Failure: whatever goes wrong is logged once, tried again with growing pauses, and seen by
`readiness`. A kubelet that starts makes a new socket, and a new socket is tried at once. Where nothing helps for five minutes
`liveness` fails: the folder may have been removed and made anew, or renamed, while the container keeps the old one mounted for
ever, and only a new container sees the new one. A kubelet that is stopped asks for no liveness.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from fleetpack.device_plugin.kubelet_server import ResourceServer, options
from fleetpack.device_plugin.metrics import PluginMetrics

_logger = logging.getLogger(__name__)

API_VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
POLL_SECONDS = 0.25
REGISTER_SECONDS = 15.0
"""The kubelet dials back for up to 10 s inside the call (devicemanager/plugin/v1beta1/client.go)."""
SILENCE_SECONDS = 15.0
"""A kubelet that registered us and does not listen for this long has forgotten us; one that counts other devices so long has others."""
LONGEST_PAUSE_SECONDS = 10.0
"""Between tries on one and the same socket: nobody may listen there for as long as a kubelet is stopped."""
REMOUNT_SECONDS = 300.0
"""Without a kubelet for this long the folder is mounted again: far longer than a kubelet takes to start, and often enough for a mistake
that is rare."""
COMPARE_SECONDS = 5.0
"""How often the kubelet is asked which devices it counts."""

# The service classes are generated without annotations.
_services: Any = api_pb2_grpc


Counted = Mapping[str, frozenset[str]]
"""The healthy devices of each resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often to look, and how long to wait before registering again without a clear sign."""

    poll_seconds: float = POLL_SECONDS
    compare_seconds: float = COMPARE_SECONDS
    silence_seconds: float = SILENCE_SECONDS
    longest_pause_seconds: float = LONGEST_PAUSE_SECONDS
    remount_seconds: float = REMOUNT_SECONDS


@dataclass(frozen=True, slots=True)
class SocketIdentity:
    """Tells one life of a socket from the next; inodes alone are used again at once on some file systems."""

    device: int
    inode: int
    changed_at_nanoseconds: int


def socket_identity(path: Path) -> SocketIdentity | None:
    """Return which socket this is; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return SocketIdentity(status.st_dev, status.st_ino, status.st_ctime_ns)


class Registrar:
    """Serves and registers, again and again; start `run` as a task, cancel it to stop, then `stop_serving`."""

    def __init__(
        self,
        servers: tuple[ResourceServer, ...],
        folder: Path,
        metrics: PluginMetrics,
        counted: Callable[[], Awaitable[Counted | None]],
        patience: Patience | None = None,
    ) -> None:
        self._servers = servers
        self._kubelet_socket = folder / KUBELET_SOCKET
        self._metrics = metrics
        self._counted = counted
        self._patience = patience or Patience()
        self._registered_with: SocketIdentity | None = None
        self._tried: SocketIdentity | None = None
        self._failures_in_a_row = 0
        self._try_at = 0.0
        self._problem = "not registered yet"
        self._looked_at = time.monotonic()
        self._unregistered_since: float | None = time.monotonic()
        self._socket_since: float | None = None
        self._compare_at = 0.0
        self._differs_since: float | None = None

    def readiness(self) -> tuple[bool, str]:
        """Whether the kubelet knows all resources."""
        return not self._problem, self._problem or "registered with the kubelet"

    def liveness(self) -> tuple[bool, str]:
        """Whether somebody still looks after the registration, and not in vain for minutes."""
        now = time.monotonic()
        seconds = now - self._looked_at
        unregistered_seconds = 0.0 if self._unregistered_since is None else now - self._unregistered_since
        if unregistered_seconds > self._patience.remount_seconds:
            return False, (
                f"{self._problem}, for {unregistered_seconds:.0f} s: a folder that was made anew is seen only when it is "
                "remounted, by a restart of this container"
            )
        return seconds < 4 * REGISTER_SECONDS, f"looked at the kubelet's socket {seconds:.0f} s ago"

    @property
    def seconds_with_kubelet(self) -> float:
        """How long the kubelet's socket has been there; 0 while it is not."""
        return 0.0 if self._socket_since is None else time.monotonic() - self._socket_since

    def glance(self) -> SocketIdentity | None:
        """Look whether the kubelet's socket is there, without registering."""
        self._looked_at = time.monotonic()
        identity = socket_identity(self._kubelet_socket)
        if identity is None:
            self._socket_since = None
        elif self._socket_since is None:
            self._socket_since = self._looked_at
        return identity

    async def run(self) -> None:
        """Look at the kubelet's socket until cancelled."""
        while True:
            try:
                await self._look()
            except (OSError, grpc.aio.AioRpcError) as error:
                self._lose_registration()
                self._pause()
                reason = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else error
                self._note_problem(f"cannot register with {self._kubelet_socket}: {reason}")
            await asyncio.sleep(self._patience.poll_seconds)

    async def stop_serving(self) -> None:
        """End all servers; the kubelet then counts the devices as unhealthy."""
        await asyncio.gather(*(server.stop() for server in self._servers))

    async def _look(self) -> None:
        identity = self.glance()
        if identity != self._tried:
            self._tried, self._failures_in_a_row, self._try_at = identity, 0, 0.0
        if identity is None:
            self._lose_registration()
            self._note_problem(f"no kubelet: {self._kubelet_socket} does not exist")
            return
        await self._compare()
        why = self._reason_to_register(identity)
        if why is None or time.monotonic() < self._try_at:
            return
        _logger.info("registering with the kubelet: %s", why)
        await self.stop_serving()
        for server in self._servers:
            await server.start()
        for server in self._servers:
            await self._register(server)
        self._registered_with, self._unregistered_since = identity, None
        self._problem = ""
        self._failures_in_a_row = 0
        self._compare_at, self._differs_since = time.monotonic() + self._patience.compare_seconds, None

    def _lose_registration(self) -> None:
        self._registered_with = None
        if self._unregistered_since is None:
            self._unregistered_since = time.monotonic()

    def _pause(self) -> None:
        """Wait longer after each failure with the same socket."""
        doubled_seconds = self._patience.poll_seconds * 2.0 ** min(self._failures_in_a_row, 16)
        self._failures_in_a_row += 1
        self._try_at = time.monotonic() + min(self._patience.longest_pause_seconds, doubled_seconds)

    def _reason_to_register(self, identity: SocketIdentity) -> str | None:
        if self._registered_with is None:
            return "not registered"
        if identity != self._registered_with:
            return "the kubelet has restarted"
        lost = [server.socket.name for server in self._servers if not server.is_serving]
        if lost:
            return f"{', '.join(lost)} is gone"
        if any(server.seconds_without_stream > self._patience.silence_seconds for server in self._servers):
            return "the kubelet has stopped listening"
        differs_since = self._differs_since
        if differs_since is not None and time.monotonic() - differs_since > self._patience.silence_seconds:
            return "the kubelet counts other devices than ours: another plugin has registered them"
        return None

    async def _compare(self) -> None:
        """Note since when the kubelet has counted other devices than ours."""
        now = time.monotonic()
        if self._registered_with is None or now < self._compare_at:
            return
        self._compare_at = now + self._patience.compare_seconds
        ours = self._healthy_ids()
        counted = await self._counted()
        if counted is None or counted == ours or self._healthy_ids() != ours:
            # Not told, the same, or just changed.
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now

    def _healthy_ids(self) -> Counted:
        return {server.resource.value: server.healthy_ids for server in self._servers}

    async def _register(self, server: ResourceServer) -> None:
        request = api_pb2.RegisterRequest(
            version=API_VERSION,
            endpoint=server.socket.name,
            resource_name=server.resource.value,
            options=options(),
        )
        try:
            async with grpc.aio.insecure_channel(f"unix://{self._kubelet_socket}") as channel:
                await _services.RegistrationStub(channel).Register(request, timeout=REGISTER_SECONDS)
        except grpc.aio.AioRpcError:
            self._metrics.count_registration(server.resource, "failed")
            raise
        self._metrics.count_registration(server.resource, "ok")
        _logger.info("registered %s", server.resource.value)

    def _note_problem(self, problem: str) -> None:
        if problem != self._problem:
            _logger.warning("%s; trying again", problem)
        self._problem = problem

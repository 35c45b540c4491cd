"""The gRPC side that the kubelet calls: one server on one unix socket for each resource.

A call carries no name of a resource, so each resource has a socket of its own. ListAndWatch sends the whole list at once and again
whenever it changes, and nothing while it does not. A refusal becomes a gRPC status whose text the kubelet puts into the Pod's
status.

Boundary: translates messages, decides nothing. Failure: a socket that cannot be bound raises `OSError`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, assert_never

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from fleetpack.device_plugin.plugin import Allocation, DevicePlugin, RequestRefusedError
from fleetpack.device_plugin.silicon import DeviceState, NeuronResource, RefusalReason

_logger = logging.getLogger(__name__)

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"
STOP_SECONDS = 0.5
"""Calls on their way may end; the streams never would."""
SOCKET_PREFIX = "fleetpack-"

# The service classes are generated without annotations.
_services: Any = api_pb2_grpc


class ResourceServer:
    """Serves one resource; `start` may be called again after `stop`."""

    def __init__(self, plugin: DevicePlugin, resource: NeuronResource, folder: Path) -> None:
        self.resource = resource
        self.socket = folder / f"{SOCKET_PREFIX}{resource.value.rpartition('/')[2]}.sock"
        self._plugin = plugin
        self._servicer = _Servicer(plugin, resource)
        self._server: grpc.aio.Server | None = None

    @property
    def is_serving(self) -> bool:
        """Whether the socket is where the kubelet looks for it."""
        return self._server is not None and self.socket.is_socket()

    @property
    def seconds_without_stream(self) -> float:
        """How long the kubelet has not listened to this server; 0 while it does."""
        return self._servicer.seconds_without_stream()

    @property
    def healthy_ids(self) -> frozenset[str]:
        """The devices that the kubelet is told are healthy."""
        return frozenset(state.device_id for state in self._plugin.device_states(self.resource) if state.healthy)

    async def start(self) -> None:
        """Listen on the socket."""
        server = grpc.aio.server()
        _services.add_DevicePluginServicer_to_server(self._servicer, server)
        try:
            server.add_insecure_port(f"unix://{self.socket}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.socket}: {error}; is the folder mounted and writable?") from error
        await server.start()
        self._servicer.without_stream_since = time.monotonic()
        self._server = server

    async def stop(self) -> None:
        """Stop listening, end the streams, remove the socket."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_SECONDS)
            self.socket.unlink(missing_ok=True)


class _Servicer:
    """What the kubelet calls, by the names of the protocol."""

    def __init__(self, plugin: DevicePlugin, resource: NeuronResource) -> None:
        self._plugin = plugin
        self._resource = resource
        self._streams = 0
        self.without_stream_since = time.monotonic()

    def seconds_without_stream(self) -> float:
        return 0.0 if self._streams else time.monotonic() - self.without_stream_since

    async def GetDevicePluginOptions(  # noqa: N802 (the protocol's name)
        self, request: api_pb2.Empty, context: Any
    ) -> api_pb2.DevicePluginOptions:
        del request, context
        return options()

    async def ListAndWatch(  # noqa: N802 (the protocol's name)
        self, request: api_pb2.Empty, context: Any
    ) -> AsyncIterator[api_pb2.ListAndWatchResponse]:
        del request, context
        self._streams += 1
        self._plugin.forget_questions()
        sent: tuple[DeviceState, ...] | None = None
        try:
            while True:
                ring = self._plugin.changed.next_ring()
                states = self._plugin.device_states(self._resource)
                if states != sent:
                    sent = states
                    yield _device_list(states)
                await ring.wait()
        finally:
            self._streams -= 1
            self.without_stream_since = time.monotonic()

    async def GetPreferredAllocation(  # noqa: N802 (the protocol's name)
        self, request: api_pb2.PreferredAllocationRequest, context: Any
    ) -> api_pb2.PreferredAllocationResponse:
        answers = []
        for one in request.container_requests:
            try:
                ids = await self._plugin.prefer(
                    self._resource, one.available_deviceIDs, one.must_include_deviceIDs, one.allocation_size
                )
            except RequestRefusedError as refused:
                await context.abort(_status_code(refused.reason), str(refused))
            answers.append(api_pb2.ContainerPreferredAllocationResponse(deviceIDs=ids))
        return api_pb2.PreferredAllocationResponse(container_responses=answers)

    async def Allocate(  # noqa: N802 (the protocol's name)
        self, request: api_pb2.AllocateRequest, context: Any
    ) -> api_pb2.AllocateResponse:
        containers = tuple(tuple(one.devices_ids) for one in request.container_requests)
        try:
            allocations = await self._plugin.allocate(self._resource, containers)
        except RequestRefusedError as refused:
            await context.abort(_status_code(refused.reason), str(refused))
        return api_pb2.AllocateResponse(container_responses=[_container_response(one) for one in allocations])

    async def PreStartContainer(  # noqa: N802 (the protocol's name)
        self, request: api_pb2.PreStartContainerRequest, context: Any
    ) -> api_pb2.PreStartContainerResponse:
        # Not asked for in the options; a kubelet that calls it all the same is content with this.
        del request, context
        return api_pb2.PreStartContainerResponse()


def options() -> api_pb2.DevicePluginOptions:
    """Return what the plugin wants to be asked."""
    return api_pb2.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)


def _device_list(states: tuple[DeviceState, ...]) -> api_pb2.ListAndWatchResponse:
    return api_pb2.ListAndWatchResponse(
        devices=[
            api_pb2.Device(
                ID=state.device_id,
                health=HEALTHY if state.healthy else UNHEALTHY,
                topology=None
                if state.numa_node is None
                else api_pb2.TopologyInfo(nodes=[api_pb2.NUMANode(ID=state.numa_node)]),
            )
            for state in states
        ]
    )


def _container_response(allocation: Allocation) -> api_pb2.ContainerAllocateResponse:
    return api_pb2.ContainerAllocateResponse(
        envs=dict(allocation.environment),
        devices=[
            api_pb2.DeviceSpec(
                container_path=device.container_path, host_path=device.host_path, permissions=device.permissions
            )
            for device in allocation.devices
        ],
    )


def _status_code(reason: RefusalReason) -> grpc.StatusCode:
    match reason:
        case RefusalReason.UNKNOWN_DEVICE:
            return grpc.StatusCode.NOT_FOUND
        case RefusalReason.UNSUPPORTED_SIZE | RefusalReason.BOTH_RESOURCES:
            return grpc.StatusCode.INVALID_ARGUMENT
        case RefusalReason.ILLEGAL_SET | RefusalReason.UNHEALTHY | RefusalReason.HELD_BY_ANOTHER_PLUGIN:
            return grpc.StatusCode.FAILED_PRECONDITION
        case (
            RefusalReason.HELD_BY_OTHER_RESOURCE
            | RefusalReason.HELD_BY_ANOTHER_POD
            | RefusalReason.NO_FREE_RANGE
            | RefusalReason.PLANNED_FOR_OTHERS
        ):
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case _:
            assert_never(reason)

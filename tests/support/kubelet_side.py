"""The kubelet's side of a device plugin, over real gRPC on unix sockets in a folder of the test.

Concept: registers plugins, listens to their lists, and gives devices out as the kubelet's device manager does: healthy and free ones,
preferred ones first, others in no order at all; it keeps the account in memory (the checkpoint) and lists it as PodResources.
Boundary: the protocol and the accounting only; no containers, no API server, no TopologyManager, no init containers. It is no
kubelet, and what passes here has still to pass there. Failure: a refused admission raises `AdmissionError` with the plugin's text.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from fleetpack.device_plugin.kubelet_api.podresources.v1 import api_pb2 as resources_pb2
from fleetpack.device_plugin.kubelet_api.podresources.v1 import api_pb2_grpc as resources_pb2_grpc

_device_services: Any = api_pb2_grpc
_resource_services: Any = resources_pb2_grpc

CORE = "aws.amazon.com/neuroncore"
DEVICE = "aws.amazon.com/neuron"


class AdmissionError(Exception):
    """A Pod that the kubelet would fail with UnexpectedAdmissionError."""


@dataclass(kw_only=True)
class Endpoint:
    """A registered plugin of one resource."""

    channel: Any
    listener: asyncio.Task[None]
    devices: dict[str, str] = field(default_factory=dict)
    numa: dict[str, int] = field(default_factory=dict)
    lists: int = 0
    first: frozenset[str] | None = None
    """The healthy devices of its first list."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What a Pod's container got."""

    ids: frozenset[str]
    environment: dict[str, str]
    devices: dict[str, str]
    """Path in the container to path on the host."""


class KubeletSide:
    """One kubelet; `start` and `stop` may be called again and again, as in restarts."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.socket = folder / "kubelet.sock"
        self.pod_resources_socket = folder / "pod-resources.sock"
        self.endpoints: dict[str, Endpoint] = {}
        self.held: dict[tuple[str, str], Admitted] = {}
        """(`namespace/name`, resource) to what is held: survives restarts, as the checkpoint does."""
        self.registrations: list[str] = []
        self.knows_its_pods = True
        """False for a kubelet that has just started: it lists nobody."""
        self._random = random.Random(seed)
        self._servers: list[Any] = []

    async def start(self) -> None:
        """Start as a kubelet does: first remove every socket of the folder."""
        for path in self.folder.glob("*.sock"):
            path.unlink()
        registration, resources = grpc.aio.server(), grpc.aio.server()
        _device_services.add_RegistrationServicer_to_server(self, registration)
        _resource_services.add_PodResourcesListerServicer_to_server(self, resources)
        registration.add_insecure_port(f"unix://{self.socket}")
        resources.add_insecure_port(f"unix://{self.pod_resources_socket}")
        self._servers = [registration, resources]
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        """Stop: plugins lose their listener."""
        for resource in list(self.endpoints):
            await self._forget(resource)
        for server in self._servers:
            await server.stop(None)
        self._servers = []

    async def restart(self) -> None:
        """Stop and start; what was given out stays so."""
        await self.stop()
        await self.start()

    async def Register(self, request: api_pb2.RegisterRequest, context: Any) -> api_pb2.Empty:  # noqa: N802 (the protocol's name)
        """Take a plugin in, dialling it back inside the call."""
        if request.version != "v1beta1":
            await context.abort(grpc.StatusCode.UNKNOWN, f"requested API version {request.version!r} is not supported")
        await self._forget(request.resource_name)
        channel = grpc.aio.insecure_channel(f"unix://{self.folder / request.endpoint}")
        await asyncio.wait_for(channel.channel_ready(), 60.0)
        options = await _device_services.DevicePluginStub(channel).GetDevicePluginOptions(api_pb2.Empty())
        assert options.get_preferred_allocation_available
        endpoint = Endpoint(channel=channel, listener=asyncio.create_task(asyncio.sleep(0)))
        endpoint.listener = asyncio.create_task(self._listen(endpoint))
        self.endpoints[request.resource_name] = endpoint
        self.registrations.append(request.resource_name)
        return api_pb2.Empty()

    async def List(self, request: Any, context: Any) -> resources_pb2.ListPodResourcesResponse:  # noqa: N802 (the protocol's name)
        """List who holds what."""
        del request, context
        if not self.knows_its_pods:
            return resources_pb2.ListPodResourcesResponse()
        return resources_pb2.ListPodResourcesResponse(
            pod_resources=[
                resources_pb2.PodResources(
                    namespace=pod.partition("/")[0],
                    name=pod.partition("/")[2],
                    containers=[
                        resources_pb2.ContainerResources(
                            name="server",
                            devices=[
                                resources_pb2.ContainerDevices(resource_name=resource, device_ids=sorted(admitted.ids))
                            ],
                        )
                    ],
                )
                for (pod, resource), admitted in self.held.items()
            ]
        )

    async def GetAllocatableResources(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        """List the healthy devices."""
        del request, context
        return resources_pb2.AllocatableResourcesResponse(
            devices=[
                resources_pb2.ContainerDevices(resource_name=resource, device_ids=sorted(self.healthy(resource)))
                for resource in self.endpoints
            ]
        )

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        """Not asked for by the plugin."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")

    def count_devices_of_another(self, *ids: str, resource: str = CORE) -> None:
        """Be as a kubelet is when another plugin has registered the resource too: its devices count, and our stream goes on."""
        self.endpoints[resource].devices = dict.fromkeys(ids, "Healthy")

    def capacity(self, resource: str = CORE) -> int:
        """Devices, healthy or not; 0 while nobody is registered."""
        return len(self.endpoints[resource].devices) if resource in self.endpoints else 0

    def allocatable(self, resource: str = CORE) -> int:
        """Healthy devices."""
        return len(self.healthy(resource))

    def healthy(self, resource: str = CORE) -> set[str]:
        """Names of the healthy devices."""
        endpoint = self.endpoints.get(resource)
        return {name for name, health in endpoint.devices.items() if health == "Healthy"} if endpoint else set()

    async def admit(self, pod: str, count: int, resource: str = CORE) -> Admitted:
        """Give a Pod devices as the device manager does; a Pod that holds some keeps them."""
        if (pod, resource) in self.held:
            return self.held[(pod, resource)]
        taken = {name for (_, one), admitted in self.held.items() if one == resource for name in admitted.ids}
        available = sorted(self.healthy(resource) - taken)
        if len(available) < count:
            raise AdmissionError(
                f"requested number of devices unavailable for {resource}. Requested: {count}, Available: {len(available)}"
            )
        self._random.shuffle(available)
        preferred = await self.prefer(available, count, resource)
        others = [name for name in available if name not in preferred]
        ids = ([name for name in preferred if name in available] + others)[:count]
        return await self.allocate(pod, ids, resource)

    async def prefer(self, available: list[str], count: int, resource: str = CORE) -> list[str]:
        """Ask the plugin which devices to take."""
        request = api_pb2.PreferredAllocationRequest(
            container_requests=[
                api_pb2.ContainerPreferredAllocationRequest(available_deviceIDs=available, allocation_size=count)
            ]
        )
        try:
            answer = await self._stub(resource).GetPreferredAllocation(request)
        except grpc.aio.AioRpcError as error:
            raise AdmissionError(f"{error.code().name}: {error.details()}") from error
        return list(answer.container_responses[0].deviceIDs)

    async def allocate(self, pod: str, ids: list[str], resource: str = CORE) -> Admitted:
        """Call Allocate for these devices and write down who has them."""
        self._random.shuffle(ids)
        request = api_pb2.AllocateRequest(container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=ids)])
        try:
            answer = await self._stub(resource).Allocate(request)
        except grpc.aio.AioRpcError as error:
            raise AdmissionError(f"{error.code().name}: {error.details()}") from error
        container = answer.container_responses[0]
        self.held[(pod, resource)] = Admitted(
            ids=frozenset(ids),
            environment=dict(container.envs),
            devices={device.container_path: device.host_path for device in container.devices},
        )
        return self.held[(pod, resource)]

    def end(self, pod: str) -> None:
        """Free what a Pod holds."""
        for key in [key for key in self.held if key[0] == pod]:
            del self.held[key]

    def _stub(self, resource: str) -> Any:
        if resource not in self.endpoints:
            raise AdmissionError(f"cannot allocate unregistered device {resource}")
        return _device_services.DevicePluginStub(self.endpoints[resource].channel)

    async def _listen(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for answer in _device_services.DevicePluginStub(endpoint.channel).ListAndWatch(api_pb2.Empty()):
                endpoint.devices = {device.ID: device.health for device in answer.devices}
                endpoint.numa = {
                    device.ID: device.topology.nodes[0].ID for device in answer.devices if device.topology.nodes
                }
                endpoint.lists += 1
                if endpoint.first is None:
                    endpoint.first = frozenset(name for name, health in endpoint.devices.items() if health == "Healthy")
        # A stream that ends takes every device out; the capacity stays.
        endpoint.devices = dict.fromkeys(endpoint.devices, "Unhealthy")

    async def _forget(self, resource: str) -> None:
        endpoint = self.endpoints.pop(resource, None)
        if endpoint is not None:
            endpoint.listener.cancel()
            await asyncio.gather(endpoint.listener, return_exceptions=True)
            await endpoint.channel.close()

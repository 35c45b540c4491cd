"""The kubelet's own list of who holds which devices, and which devices there are (PodResources v1).

One connection for each question: the kubelet may restart between two of them, and a unix socket costs nothing. Containers of other
resources and Pods without devices are left out. Device names that this node does not have (another plugin's, or from before a change of
the instance type) are kept as they are, and said once: the kubelet tells devices apart by their names only, so to it all of ours are
free, while such a Pod goes on using some of the same silicon.

Failure: `ReadingUnavailableError`, with the socket and what to mount.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from fleetpack.catalog import InstanceType
from fleetpack.device_plugin.accounts import ForeignDevice, Holding, Reading
from fleetpack.device_plugin.kubelet_api.podresources.v1 import api_pb2, api_pb2_grpc
from fleetpack.device_plugin.plugin import ReadingUnavailableError
from fleetpack.device_plugin.silicon import (
    FOREIGN_RESOURCES,
    NeuronResource,
    Refusal,
    RefusalReason,
    mask_of_ids,
)

_logger = logging.getLogger(__name__)

READ_SECONDS = 5.0
LIST_BYTES = 16 * 2**20
"""The kubelet's own limit for its answers (pkg/kubelet/apis/podresources/constants.go); gRPC's default is 4 MiB."""

_RESOURCES = {
    **{resource.value: resource for resource in NeuronResource},
    **dict.fromkeys(FOREIGN_RESOURCES, NeuronResource.DEVICE),
}

# The service classes are generated without annotations.
_services: Any = api_pb2_grpc


class PodResources:
    """Asks the kubelet of this node."""

    def __init__(
        self,
        socket: Path,
        instance_type: InstanceType,
        clock: Callable[[], float],
        offered: tuple[NeuronResource, ...] = (NeuronResource.CORE,),
    ) -> None:
        self._socket = socket
        self._offered = tuple(resource.value for resource in offered)
        self._instance_type = instance_type
        self._clock = clock
        self._complained: set[str] = set()

    async def read(self) -> Reading:
        """Return what is given out now; raises `ReadingUnavailableError`."""
        started_at = self._clock()
        try:
            async with self._stub() as stub:
                answer: api_pb2.ListPodResourcesResponse = await stub.List(
                    api_pb2.ListPodResourcesRequest(), timeout=READ_SECONDS
                )
        except grpc.aio.AioRpcError as error:
            raise ReadingUnavailableError(
                f"cannot read who holds which devices from {self._socket}: {error.code().name}: {error.details()}; "
                f"the kubelet's pod-resources folder must be mounted"
            ) from error
        names = Counter(f"{pod.namespace}/{pod.name}" for pod in answer.pod_resources)
        return Reading(
            started_at=started_at,
            holdings=self._holdings(answer),
            ambiguous=frozenset(name for name, count in names.items() if count > 1),
        )

    async def counted(self) -> dict[str, frozenset[str]] | None:
        """Return the healthy devices of each resource as the kubelet counts them; None: it does not tell.

        Other than `read` this asks for no account of who holds what, and so changes none.
        """
        try:
            async with self._stub() as stub:
                answer: api_pb2.AllocatableResourcesResponse = await stub.GetAllocatableResources(
                    api_pb2.AllocatableResourcesRequest(), timeout=READ_SECONDS
                )
        except grpc.aio.AioRpcError:
            return None
        found: dict[str, frozenset[str]] = {resource: frozenset() for resource in self._offered}
        for devices in answer.devices:
            if devices.resource_name in found:
                found[devices.resource_name] |= frozenset(devices.device_ids)
        return found

    @contextlib.asynccontextmanager
    async def _stub(self) -> AsyncIterator[Any]:
        options = [("grpc.max_receive_message_length", LIST_BYTES)]
        async with grpc.aio.insecure_channel(f"unix://{self._socket}", options=options) as channel:
            yield _services.PodResourcesListerStub(channel)

    def _holdings(self, answer: api_pb2.ListPodResourcesResponse) -> tuple[Holding, ...]:
        found: dict[tuple[str, str, NeuronResource], tuple[int, tuple[ForeignDevice, ...]]] = {}
        for pod in answer.pod_resources:
            for container in pod.containers:
                for devices in container.devices:
                    if devices.resource_name not in _RESOURCES:
                        continue
                    key = (f"{pod.namespace}/{pod.name}", container.name, _RESOURCES[devices.resource_name])
                    # With NUMA nodes told, one container has an entry for each of them.
                    cores, foreign = found.get(key, (0, ()))
                    more_cores, more_foreign = self._told_apart(devices.resource_name, tuple(devices.device_ids))
                    found[key] = (cores | more_cores, (*foreign, *more_foreign))
        return tuple(
            Holding(pod=pod, container=container, resource=resource, cores=cores, foreign=foreign)
            for (pod, container, resource), (cores, foreign) in sorted(found.items())
            if cores or foreign
        )

    def _told_apart(self, resource_name: str, ids: tuple[str, ...]) -> tuple[int, tuple[ForeignDevice, ...]]:
        """Return the cores under names of ours, and the devices under others, by name."""
        cores, foreign = 0, []
        for device_id in sorted(ids):
            mask = self._mask(resource_name, device_id)
            if not isinstance(mask, Refusal):
                cores |= mask
                continue
            foreign.append(ForeignDevice(resource=resource_name, device_id=device_id))
            if device_id not in self._complained:
                self._complained.add(device_id)
                _logger.warning("in the kubelet's list: %s", mask.message)
        return cores, tuple(foreign)

    def _mask(self, resource_name: str, device_id: str) -> int | Refusal:
        if resource_name in FOREIGN_RESOURCES:
            message = f"{resource_name}: device {device_id!r} is of a resource that this plugin never gives"
            return Refusal(reason=RefusalReason.UNKNOWN_DEVICE, message=message)
        return mask_of_ids(self._instance_type, NeuronResource(resource_name), (device_id,))

"""What the plugin keeps of the Pods of its node, and which of them wait for cores.

A Pod waits from when it is bound until it holds cores. One that is ending, has ended or runs waits for nothing. A plan of
another size than the Pod asks for counts as none: such an annotation cannot have come from a plan. An annotation that cannot be
read counts as none, so that nobody's typing error can hide a Pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetpack.catalog import InstanceType
from fleetpack.cluster import names
from fleetpack.cluster.projections import timestamp_seconds
from fleetpack.core.cores import parse_cores
from fleetpack.device_plugin.accounts import Holding, LivePods
from fleetpack.device_plugin.choosing import WaitingPod
from fleetpack.device_plugin.comparison import PlannedPod
from fleetpack.device_plugin.silicon import FOREIGN_RESOURCES, NeuronResource, unit_cores

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """What one container asks for of one resource."""

    container: str
    resource: NeuronResource
    units: int
    units_of_other_resource: int = 0
    """What the same container asks for of the other resource; 0: nothing, as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePod:
    """A Pod of this node."""

    namespace: str
    name: str
    uid: str
    created_at: float
    planned: int
    """Mask of the planned cores; 0: no plan."""
    written: str | None
    """The annotation with the allocated cores; None: there is none."""
    phase: str
    terminating: bool
    requests: tuple[ContainerRequest, ...]
    """What its containers ask for, each in units of the resource; init containers that end are not among them."""
    init_requests: bool
    """Whether an init container that ends asks for any."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def project_node_pod(raw: Mapping[str, Any]) -> NodePod | None:
    """Return the row of a Pod; None for one that asks for no Neuron cores."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    init_containers = spec.get("initContainers") or ()
    sidecars = [container for container in init_containers if container.get("restartPolicy") == "Always"]
    requests = _requests([*sidecars, *(spec.get("containers") or ())])
    init_requests = _requests(
        [container for container in init_containers if container.get("restartPolicy") != "Always"]
    )
    if (
        not requests
        and not init_requests
        and not _asks_another_plugin([*init_containers, *(spec.get("containers") or ())])
    ):
        return None
    annotations = metadata.get("annotations") or {}
    return NodePod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        created_at=timestamp_seconds(metadata["creationTimestamp"]),
        planned=_cores_or_none(annotations.get(names.CORES_ANNOTATION)),
        written=annotations.get(names.ALLOCATED_CORES_ANNOTATION),
        phase=status.get("phase") or "Pending",
        terminating="deletionTimestamp" in metadata,
        requests=requests,
        init_requests=bool(init_requests),
    )


def waiting_pods(
    instance_type: InstanceType,
    pods: tuple[NodePod, ...],
    held: Mapping[str, int],
    asked: frozenset[str] = frozenset(),
) -> tuple[WaitingPod, ...]:
    """Return each container for which the kubelet has still to ask.

    `held` are the cores of each Pod that has some, `asked` those questions that seem to have come already.
    """
    plans = {pod.key: pod.planned for pod in pods}
    waiting = []
    for pod in pods:
        if pod.phase != "Pending" or pod.terminating or pod.key in held:
            continue
        planned_index = _planned_index(instance_type, pod)
        for index, request in enumerate(pod.requests):
            question = f"{pod.key}/{pod.uid}/{index}"
            one = WaitingPod(
                name=pod.key,
                question=question,
                created_at=pod.created_at,
                resource=request.resource,
                size=request.units * unit_cores(instance_type, request.resource),
                planned=_plan_after_swaps(pod.planned, plans, held) if index == planned_index else 0,
                asked=question in asked,
                contradiction=_contradiction(pod, request),
            )
            waiting.append(one)
    return tuple(waiting)


def planned_pods(pods: tuple[NodePod, ...]) -> tuple[PlannedPod, ...]:
    """Return what a comparison with the kubelet needs of the Pods that have not ended."""
    return tuple(
        PlannedPod(namespace=pod.namespace, name=pod.name, uid=pod.uid, planned=pod.planned, written=pod.written)
        for pod in pods
        if pod.phase not in _ENDED
    )


def live_pods(pods: tuple[NodePod, ...]) -> LivePods:
    """Return which Pods may hold cores."""
    live = [pod for pod in pods if pod.phase not in _ENDED]
    return LivePods(
        names=frozenset(pod.key for pod in live),
        uids={pod.key: pod.uid for pod in live},
        any_init_requests=any(pod.init_requests for pod in live),
    )


def remembered_holdings(pods: tuple[NodePod, ...]) -> tuple[Holding, ...]:
    """Return what the annotations say that live Pods hold, for a plugin that has just started.

    A Pod that asks for both resources counts for both: which cores came through which is not written down.
    """
    return tuple(
        Holding(pod=pod.key, container="", resource=resource, cores=cores)
        for pod in pods
        if pod.phase not in _ENDED and (cores := _cores_or_none(pod.written))
        for resource in sorted({request.resource for request in pod.requests})
    )


def _plan_after_swaps(planned: int, plans: Mapping[str, int], held: Mapping[str, int]) -> int:
    """Return the plan of whoever has taken this plan's cores, so that the swap comes out even; this plan where nobody has."""
    holders = {mask: pod for pod, mask in held.items()}
    swapped = planned
    for _ in held:
        if swapped not in holders:
            return swapped
        others = plans.get(holders[swapped], 0)
        if others.bit_count() != planned.bit_count():
            break
        swapped = others
    return swapped if swapped not in holders else planned


def _planned_index(instance_type: InstanceType, pod: NodePod) -> int | None:
    """Return which request the plan is for; None: for none, or there is no plan."""
    for index, request in enumerate(pod.requests):
        if pod.planned and request.units * unit_cores(instance_type, request.resource) == pod.planned.bit_count():
            return index
    return None


def _requests(containers: list[Mapping[str, Any]]) -> tuple[ContainerRequest, ...]:
    requests: list[ContainerRequest] = []
    for container in containers:
        limits = (container.get("resources") or {}).get("limits") or {}
        # Extended resources are whole numbers, and their limits equal their requests.
        units = {resource: int(limits.get(resource) or 0) for resource in NeuronResource}
        requests.extend(
            ContainerRequest(
                container=str(container.get("name", "")),
                resource=resource,
                units=count,
                units_of_other_resource=sum(units.values()) - count,
            )
            for resource, count in units.items()
            if count
        )
    return tuple(requests)


def _contradiction(pod: NodePod, request: ContainerRequest) -> str:
    """Return why this container can be given no cores at all; empty: it can.

    The kubelet puts the devices of both resources into the container and keeps one `NEURON_RT_VISIBLE_CORES` of two, whichever comes
    first in a map without order (deviceRunContainerOptions in devicemanager/pod_devices.go). That value counts cores over other devices
    than the container has, so it may name a core of another Pod.
    """
    if not request.units_of_other_resource:
        return ""
    core, device = NeuronResource.CORE, NeuronResource.DEVICE
    units = {request.resource: request.units}
    cores = units.get(core, request.units_of_other_resource)
    devices = units.get(device, request.units_of_other_resource)
    return (
        f"Pod {pod.key}: container {request.container} asks for both {core}: {cores} and {device}: {devices}, and could see cores "
        "of other Pods; ask for one of them, or use two containers"
    )


def _asks_another_plugin(containers: list[Mapping[str, Any]]) -> bool:
    """Whether a Pod may hold devices under names that are none of ours: it has to be known while it lives."""
    limits = [(container.get("resources") or {}).get("limits") or {} for container in containers]
    return any(int(limit.get(resource) or 0) for limit in limits for resource in FOREIGN_RESOURCES)


def _cores_or_none(text: str | None) -> int:
    try:
        return parse_cores(text or "")
    except ValueError:
        return 0

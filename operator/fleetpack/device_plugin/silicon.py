"""The cores of one node as the kubelet knows them: names of single cores and of whole devices.

Two resources may be announced over the same silicon. `aws.amazon.com/neuroncore` counts cores (`neuroncore-7`) and
`aws.amazon.com/neuron` whole devices (`neuron-3`, which stands for all cores of device 3). Inside the plugin everything is a mask of
cores; this module is the only one that reads and writes the names. A name that the node does not have is a `Refusal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fleetpack.catalog import InstanceType
from fleetpack.cluster.names import NEURON_CORE_RESOURCE
from fleetpack.core.cores import core_ids, range_mask


class NeuronResource(StrEnum):
    """What Pods can ask for."""

    CORE = NEURON_CORE_RESOURCE
    """Single cores."""
    DEVICE = "aws.amazon.com/neuron"
    """Whole devices."""


FOREIGN_RESOURCES = ("aws.amazon.com/neurondevice",)
"""Other names of the same silicon, which AWS's plugin announces beside these two and ours never does
(docs.cast.ai/docs/neuron, "Neuron node resources")."""

_PREFIX = {NeuronResource.CORE: "neuroncore-", NeuronResource.DEVICE: "neuron-"}


class RefusalReason(StrEnum):
    """Why a request of the kubelet is refused; label of a metric."""

    UNKNOWN_DEVICE = "UnknownDevice"
    """The kubelet names a device that this node does not have, usually from before a change of the instance type."""
    UNSUPPORTED_SIZE = "UnsupportedSize"
    """No set of that many cores may serve one replica on this machine."""
    ILLEGAL_SET = "IllegalSet"
    """The size is possible, the set is not: not contiguous, or not aligned."""
    UNHEALTHY = "Unhealthy"
    """A device went out between the kubelet's choice and its call."""
    HELD_BY_OTHER_RESOURCE = "HeldByOtherResource"
    """The silicon is given out through the other resource."""
    NO_FREE_RANGE = "NoFreeRange"
    """Enough cores are free, and no legal set of them is."""
    PLANNED_FOR_OTHERS = "PlannedForOthers"
    """Every free legal set is planned for Pods that wait on this node."""
    BOTH_RESOURCES = "BothResources"
    """One container asks for cores and for whole devices."""
    HELD_BY_ANOTHER_POD = "HeldByAnotherPod"
    """The kubelet gives out again what its own list has with a Pod."""
    HELD_BY_ANOTHER_PLUGIN = "HeldByAnotherPlugin"
    """A Pod holds devices that another plugin gave: which cores it uses cannot be told, so none is given out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No, and why; the message ends up in the status of the Pod that the kubelet then fails."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One entry of the list that the kubelet gets."""

    device_id: str
    healthy: bool
    numa_node: int | None = None
    """None: not known, or not to be told."""


def device_mask(instance_type: InstanceType, devices: Iterable[int]) -> int:
    """Return all cores of these devices."""
    per_device = instance_type.cores_per_device
    mask = 0
    for device in devices:
        mask |= range_mask(device * per_device, per_device)
    return mask


def devices_of(instance_type: InstanceType, mask: int) -> tuple[int, ...]:
    """Return the devices that have at least one of these cores, ascending."""
    return tuple(sorted({core // instance_type.cores_per_device for core in core_ids(mask)}))


def widened(instance_type: InstanceType, mask: int) -> int:
    """Return all cores of every device that has one of these."""
    return device_mask(instance_type, devices_of(instance_type, mask))


def unit_cores(instance_type: InstanceType, resource: NeuronResource) -> int:
    """Return how many cores one unit of the resource has."""
    return 1 if resource is NeuronResource.CORE else instance_type.cores_per_device


def unit_count(instance_type: InstanceType, resource: NeuronResource) -> int:
    """Return how many units of the resource the node has."""
    return instance_type.cores // unit_cores(instance_type, resource)


def ids_of(instance_type: InstanceType, resource: NeuronResource, mask: int) -> tuple[str, ...]:
    """Return the kubelet's names for these cores; whole devices only, where devices are the unit."""
    units = core_ids(mask) if resource is NeuronResource.CORE else devices_of(instance_type, mask)
    return tuple(f"{_PREFIX[resource]}{unit}" for unit in units)


def mask_of_ids(instance_type: InstanceType, resource: NeuronResource, ids: Iterable[str]) -> int | Refusal:
    """Return the cores that the kubelet names."""
    per_unit = unit_cores(instance_type, resource)
    mask = 0
    for device_id in ids:
        unit = unit_of_id(resource, device_id)
        if unit is None or unit >= unit_count(instance_type, resource):
            last = unit_count(instance_type, resource) - 1
            message = (
                f"{resource}: device {device_id!r} is not on this node ({instance_type.name} has "
                f"{_PREFIX[resource]}0 to {_PREFIX[resource]}{last})"
            )
            return Refusal(reason=RefusalReason.UNKNOWN_DEVICE, message=message)
        mask |= range_mask(unit * per_unit, per_unit)
    return mask


def unit_of_id(resource: NeuronResource, device_id: str) -> int | None:
    """Return the number in a name of this resource; None where it is no such name."""
    prefix = _PREFIX[resource]
    number = device_id[len(prefix) :]
    # Leading zeros and other digits would give one core several names.
    valid = device_id.startswith(prefix) and number.isascii() and number.isdecimal() and str(int(number)) == number
    return int(number) if valid else None


def device_states(
    instance_type: InstanceType, resource: NeuronResource, unavailable: int, *, with_numa: bool
) -> tuple[DeviceState, ...]:
    """Return the whole list for the kubelet: a unit is healthy while none of its cores is in `unavailable`."""
    per_unit = unit_cores(instance_type, resource)
    numa_node = {device: node.node for node in instance_type.numa_nodes for device in node.devices} if with_numa else {}
    return tuple(
        DeviceState(
            device_id=f"{_PREFIX[resource]}{unit}",
            healthy=not range_mask(unit * per_unit, per_unit) & unavailable,
            numa_node=numa_node.get(unit * per_unit // instance_type.cores_per_device),
        )
        for unit in range(unit_count(instance_type, resource))
    )

"""Which sets of cores of one machine may serve one replica.

A replica that fits one device may take any contiguous window inside one device. A larger one spans devices: on rings any
window of contiguous devices, on tori whole devices in the counts that the vendor names, aligned to their count. Windows never
wrap around: the last device of a ring is linked with the first, but the runtime wants ascending core ids.

Rules: the Neuron scheduler extension (aws-neuron-sdk, deploy/infrastructure/scheduler.rst) for rings and tori; cores inside
one device, and cores beyond one device on rings, as in its example of 9 cores on inf1.6xlarge. The counts are the catalog's.
What no rule allows is a `Misfit` whose message says what may be asked for instead; nothing here raises.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fleetpack.api.conditions import Reason
from fleetpack.catalog import AllocationPolicy, InstanceType
from fleetpack.core.cores import range_mask


@dataclass(frozen=True, slots=True)
class Misfit:
    """A size that an instance type does not offer; `reason` is a constant of `api.conditions`."""

    reason: str
    message: str


class Shape(NamedTuple):
    """What decides which sets of cores are legal: equal shapes have equal rules."""

    devices: int
    cores_per_device: int
    policy: AllocationPolicy
    allowed_device_counts: tuple[int, ...]

    @property
    def cores(self) -> int:
        """Cores of the whole machine; devices, where those are counted."""
        return self.devices * self.cores_per_device


def shape_of(instance_type: InstanceType) -> Shape:
    """Return the part of an instance type that decides which sets of its cores are legal."""
    return Shape(
        devices=instance_type.devices,
        cores_per_device=instance_type.cores_per_device,
        policy=instance_type.allocation_policy,
        allowed_device_counts=instance_type.allowed_device_counts,
    )


def counted(instance_type: InstanceType) -> bool:
    """Whether its devices have no ids that anybody could choose: they are only counted (GPUs)."""
    return instance_type.allocation_policy is AllocationPolicy.COUNT


def cores_needed(instance_type: InstanceType, cores: int, devices: int) -> int | Misfit:
    """Return how many cores a replica takes that asks for `cores` or for `devices` (exactly one is above 0).

    A size that no legal set of this machine has is a `Misfit`, in the unit that was asked for.
    """
    needed = cores or devices * instance_type.cores_per_device
    if masks_of(shape_of(instance_type), needed):
        return needed
    return _misfit(instance_type, cores, devices)


def legal_masks(instance_type: InstanceType, cores: int) -> tuple[int, ...] | Misfit:
    """Return every set of `cores` cores that may serve one replica, by ascending start.

    Where devices are counted there is one set, of the lowest pseudo-ids: it says how many, not which.
    """
    return masks_of(shape_of(instance_type), cores) or _misfit(instance_type, cores, 0)


@functools.cache
def masks_of(shape: Shape, cores: int) -> tuple[int, ...]:
    """Return the legal sets of `cores` cores by ascending start; empty where no rule allows that many."""
    if not 0 < cores <= shape.cores or not shape.allowed_device_counts:
        return ()
    per_device = shape.cores_per_device
    spanned = -(-cores // per_device)
    if spanned not in shape.allowed_device_counts:
        return ()
    if shape.policy is AllocationPolicy.COUNT:
        return (range_mask(0, cores),)
    if spanned == 1:
        starts: Iterable[int] = (
            device * per_device + offset for device in range(shape.devices) for offset in range(per_device - cores + 1)
        )
    elif shape.policy is AllocationPolicy.CONTIGUOUS_WINDOW:
        starts = range(0, (shape.devices - spanned) * per_device + 1, per_device)
    elif shape.policy is AllocationPolicy.ALIGNED and cores == spanned * per_device:
        starts = range(0, shape.cores - cores + 1, cores)
    else:
        return ()
    return tuple(range_mask(start, cores) for start in starts)


def free_sets(shape: Shape, free: int, cores: int) -> tuple[int, ...]:
    """Return the legal sets of `cores` cores inside the mask `free`, by ascending start."""
    if shape.policy is AllocationPolicy.COUNT:
        fits = masks_of(shape, cores) and cores <= free.bit_count()
        return (lowest_bits(free, cores),) if fits else ()
    return tuple(mask for mask in masks_of(shape, cores) if mask & free == mask)


def lowest_bits(mask: int, count: int) -> int:
    """Return the lowest `count` cores of `mask`, or all where there are fewer."""
    taken = 0
    for _ in range(min(count, mask.bit_count())):
        lowest = mask & -mask
        taken |= lowest
        mask ^= lowest
    return taken


def _misfit(instance_type: InstanceType, cores: int, devices: int) -> Misfit:
    shape = shape_of(instance_type)
    unit = "device" if devices or counted(instance_type) else "core"
    count = devices or cores
    reason = Reason.UNSUPPORTED_DEVICE_COUNT if unit == "device" else Reason.UNSUPPORTED_CORE_COUNT
    if not shape.allowed_device_counts:
        message = f"Instance type {instance_type.name} has no published allocation rule; nothing can be placed on it"
        return Misfit(reason=reason, message=message)
    if unit == "device":
        offered = shape.allowed_device_counts
    else:
        offered = tuple(size for size in range(1, shape.cores + 1) if masks_of(shape, size))
    plural = "" if count == 1 else "s"
    message = f"Instance type {instance_type.name} does not support requests for {count} {unit}{plural}; ask for "
    return Misfit(reason=reason, message=message + _enumerated(offered))


def _enumerated(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers for people: `1, 4, 8 or 16`, and three or more in a row as `1 to 12`."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    parts: list[str] = []
    for first, last in runs:
        parts.extend([f"{first} to {last}"] if last - first > 1 else [str(number) for number in range(first, last + 1)])
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"

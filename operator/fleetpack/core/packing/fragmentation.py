"""What taking some cores of a node costs the replicas that come later.

The loss of a choice is the room that it takes from each replica size: how many disjoint legal sets of that size the node can
host before, minus after, times the size, summed over sizes. Counted in cores, so that losing the one place for a large
replica weighs as much as losing the many places for small ones that it could have been. Sizes that somebody asks for now
come first; the sizes that models are usually compiled for break ties. A heuristic: it sees one node, and no future.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from fleetpack.catalog import AllocationPolicy
from fleetpack.core.packing.topology import Shape, free_sets, masks_of

_REMEMBERED = 1 << 16
"""Entries kept of each memo below: more than the distinct masks of a thousand nodes, some 20 MB; older ones are made anew."""


class Choice(NamedTuple):
    """The best set of cores on one node; smaller is better, from left to right."""

    loss: int
    """Room taken from the sizes in play, in cores."""
    usual_loss: int
    """Room taken from the usual sizes of the machine, in cores."""
    mask: int


@functools.lru_cache(maxsize=_REMEMBERED)
def places(shape: Shape, free: int, cores: int) -> int:
    """Return how many replicas of `cores` cores the mask `free` can host at once."""
    if shape.policy is AllocationPolicy.COUNT:
        return free.bit_count() // cores if masks_of(shape, cores) else 0
    found = 0
    # All sets of one size are windows of one length, so taking each that still fits, from the lowest, gives the most.
    for mask in masks_of(shape, cores):
        if mask & free == mask:
            free ^= mask
            found += 1
    return found


@functools.cache
def usual_sizes(shape: Shape) -> tuple[int, ...]:
    """Return the legal sizes that models are mostly compiled for: whole devices, and powers of two inside one device."""
    inside = (1 << exponent for exponent in range(shape.cores_per_device.bit_length()))
    whole = (devices * shape.cores_per_device for devices in shape.allowed_device_counts)
    return tuple(size for size in sorted({*inside, *whole}) if masks_of(shape, size))


@functools.lru_cache(maxsize=_REMEMBERED)
def room_in_cores(shape: Shape, free: int, sizes: tuple[int, ...]) -> int:
    """Return the room that `free` offers to replicas of each of `sizes`, summed up in cores."""
    return sum(size * places(shape, free, size) for size in sizes)


@functools.lru_cache(maxsize=_REMEMBERED)
def best_choice(shape: Shape, free: int, cores: int, sizes_in_play: tuple[int, ...]) -> Choice | None:
    """Return the set of `cores` cores in `free` that costs the future least, the lowest start on ties; None: there is none."""
    usual = usual_sizes(shape)
    before, usual_before = room_in_cores(shape, free, sizes_in_play), room_in_cores(shape, free, usual)
    return min(
        (
            Choice(
                loss=before - room_in_cores(shape, free ^ mask, sizes_in_play),
                usual_loss=usual_before - room_in_cores(shape, free ^ mask, usual),
                mask=mask,
            )
            for mask in free_sets(shape, free, cores)
        ),
        default=None,
    )

"""Which nodes are no longer needed: those of pools that we launch ourselves which have been empty for long enough.

A node is empty when no replica, seen or on its way, and no foreign Pod with accelerators is on it; Pods that every node runs
(DaemonSets) hold no accelerators and do not keep it. What a pool has to keep free as headroom stays. The dearest goes first.
Nodes that are neither ready nor booting are left alone: they are on their way out, or somebody is looking at them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleetpack.core.fleet import Pool, PoolProvider
from fleetpack.core.packing.fit import Room
from fleetpack.core.packing.placement import Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRemoval:
    """A node to give back, and why in words."""

    node: str
    pool: str
    reason: str


def removable_nodes(
    rooms: Sequence[Room],
    pools: Iterable[Pool],
    empty_since: Mapping[str, float],
    now: float,
    assigned: Iterable[Assignment] = (),
) -> tuple[NodeRemoval, ...]:
    """Return the nodes to give back, the dearest first.

    `assigned` is what the same planning pass places: it takes its nodes and their room for headroom with it.
    """
    assigned = tuple(assigned)
    promised = {assignment.node for assignment in assigned}
    removals: list[NodeRemoval] = []
    for pool in sorted(pools, key=lambda pool: pool.name):
        if pool.provider is not PoolProvider.SIMULATED:
            continue
        members = [room for room in rooms if room.node.pool == pool.name and room.open]
        free_cores = sum(room.free_cores for room in members)
        free_cores -= sum(assignment.cores_count for assignment in assigned if assignment.pool == pool.name)
        for room in sorted(members, key=_dearest_first):
            node = room.node.name
            if room.occupants or node in promised or node not in empty_since:
                continue
            empty_seconds = now - empty_since[node]
            if empty_seconds < pool.consolidate_after_seconds or free_cores - room.free_cores < pool.headroom_cores:
                continue
            free_cores -= room.free_cores
            reason = f"empty for {empty_seconds:.0f} s, consolidateAfter is {pool.consolidate_after_seconds:.0f} s"
            removals.append(NodeRemoval(node=node, pool=pool.name, reason=reason))
    return tuple(removals)


def _dearest_first(room: Room) -> tuple[float, str]:
    price = room.node.price_usd_per_hour
    # A node whose price nobody knows saves an unknown sum: it goes last.
    return (1.0 if price is None else -price, room.node.name)

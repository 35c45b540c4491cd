"""The search for the best place: an index of the fleet that stays right while replicas are placed.

For each distinct need the nodes that could ever serve it stand in heaps, one per price of a replica there, the best place on
top. A placement changes one node; each heap learns of it when it is asked next, and entries of older states of a node are
dropped when they surface. The order of preference is total: ready before booting, and of booting nodes the oldest, least USD
per hour, the deployment's own preference, least loss of future room, fullest node, node name, lowest start.

One exception spreads for nothing: where all replicas of a deployment would be on one node, the next takes the best place of the same
price and loss on another node that is there anyway, so that the loss of one node does not take all. From then on the order above
holds again. A node that could be given back is not kept for it: it is used only if somebody else is on it.

The oldest booting node comes first so that a new launch changes no promise made before it: a promise that moved to the new
node could take the room of the replica that the node was launched for, which would then launch another.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fleetpack.core.fleet import Pool, PoolProvider
from fleetpack.core.packing.fit import (
    EXCLUSION_RANK,
    Exclusion,
    Room,
    VariantNeed,
    affordable,
    candidates,
    never_fits,
    short_resource,
    unavailable,
)
from fleetpack.core.packing.fragmentation import best_choice
from fleetpack.core.packing.placement import Assignment, PlacementRequest
from fleetpack.core.packing.topology import Shape, counted, masks_of

PRICE_STEP_DIGITS = 4
"""Costs that differ by less than a hundredth of a cent per hour tie: list prices of one family are off by that through rounding."""


Sizes = Mapping[str, frozenset[tuple[int, int]]]
"""Replica sizes in play by accelerator, each as cores and devices, of which one is 0."""


def sizes_in_play(requests: Iterable[PlacementRequest], rooms: Iterable[Room]) -> Sizes:
    """Return every size that any of the requests would do with, and every size that the fleet holds.

    Deployments that want nothing now will grow again: knowing their sizes about halves how often a later replica finds no
    place that a clairvoyant packer would have kept for it (two nodes of inf2.24xlarge, random arrivals and departures).
    """
    sizes: dict[str, set[tuple[int, int]]] = {}
    for room in rooms:
        sizes.setdefault(room.node.instance_type.accelerator, set()).update((size, 0) for size in room.replica_sizes)
    for options in {request.options for request in requests}:
        for option in options:
            sizes.setdefault(option.accelerator, set()).add((option.cores, option.devices))
    return {accelerator: frozenset(found) for accelerator, found in sizes.items()}


class _Entry(NamedTuple):
    """One node in a heap; compared from left to right, and no two nodes have the same name."""

    loss: int
    usual_loss: int
    free_after: int
    node: str
    mask: int
    version: int
    position: int


class _Tier(NamedTuple):
    """What nodes of one heap have in common; ascending is better first."""

    booting_since: float
    """0 for ready nodes; infinite for a launch that the snapshot does not show yet."""
    rounded_usd_per_hour: float
    usd_per_hour: float
    """Infinite where nobody knows the price."""


@dataclass(slots=True)
class _Index:
    """All places for one need."""

    need: VariantNeed
    cores: dict[int, int]
    """Cores that a replica takes, by position of each node that could ever serve it."""
    heaps: dict[_Tier, list[_Entry]] = field(default_factory=dict)
    learned: int = 0
    """How many of the changes of the fleet it has seen."""


class Search:
    """Places requests one by one onto rooms; holds the state of one packing."""

    def __init__(
        self, rooms: Iterable[Room], pools: Iterable[Pool], sizes: Sizes, budgets: Mapping[str, float]
    ) -> None:
        """Start from `rooms`; `budgets` is what each deployment may still add, in USD per hour; absent: no ceiling."""
        self.rooms = sorted(rooms, key=lambda room: room.node.name)
        self.budgets = dict(budgets)
        self.sizes = sizes
        self._shape_sizes: dict[tuple[str, Shape], tuple[int, ...]] = {}
        self._pools = tuple(pools)
        self._open_pools: dict[str, frozenset[str]] = {}
        self._launched_pools = {pool.name for pool in self._pools if pool.provider is PoolProvider.SIMULATED}
        self._homes: dict[str, set[str]] = {}
        for room in self.rooms:
            for deployment in room.deployments:
                self._homes.setdefault(deployment, set()).add(room.node.name)
        self._indexes: dict[tuple[object, ...], _Index] = {}
        self._versions = [0] * len(self.rooms)
        self._changes: list[int] = []

    def place(self, request: PlacementRequest) -> Assignment | None:
        """Take the best place for a request; None: there is none."""
        budget = self.budgets.get(request.deployment)
        found: list[tuple[float, float, int, _Entry]] = []
        heaps: dict[tuple[int, _Entry], list[_Entry]] = {}
        for preference, option in enumerate(request.options):
            index = self._index(option, self._open_to(request.namespace))
            for tier, heap in index.heaps.items():
                usd_per_hour = None if math.isinf(tier.usd_per_hour) else tier.usd_per_hour
                if affordable(usd_per_hour, budget) and (best := self._best(heap)):
                    found.append((tier.booting_since, tier.rounded_usd_per_hour, preference, best))
                    heaps[preference, best] = heap
        if not found:
            return None
        _, _, preference, entry = min(found)
        if self._homes.get(request.deployment) == {entry.node}:
            entry = self._elsewhere(heaps[preference, entry], entry)
        return self._take(request, request.options[preference], entry)

    def _elsewhere(self, heap: list[_Entry], best: _Entry) -> _Entry:
        """Return the best entry on another node that costs no more than `best`; that itself where there is none."""
        others = (
            entry
            for entry in heap
            if entry.loss == best.loss
            and entry.node != best.node
            and entry.version == self._versions[entry.position]
            and self._stays(self.rooms[entry.position])
        )
        return min(others, default=best)

    def _stays(self, room: Room) -> bool:
        """Whether a node is paid for whether or not a replica comes to it."""
        return room.occupants > 0 or room.node.pool not in self._launched_pools

    def exclusions(self, request: PlacementRequest) -> tuple[tuple[Exclusion, int], ...]:
        """Count why each node refuses a request that found no place, for the variant that came furthest there."""
        budget, open_pools = self.budgets.get(request.deployment), self._open_to(request.namespace)
        counts: dict[Exclusion, int] = {}
        for room in self.rooms:
            reasons = []
            for option in request.options:
                reason = candidates(option, room, open_pools, budget)
                assert isinstance(reason, Exclusion), f"{request.deployment}: {room.node.name} has room and is unused"
                reasons.append(reason)
            if reasons:
                furthest = max(reasons, key=EXCLUSION_RANK.__getitem__)
                counts[furthest] = counts.get(furthest, 0) + 1
        return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0].value)))

    def _open_to(self, namespace: str) -> frozenset[str]:
        if namespace not in self._open_pools:
            self._open_pools[namespace] = frozenset(pool.name for pool in self._pools if pool.admits(namespace))
        return self._open_pools[namespace]

    def _index(self, need: VariantNeed, open_pools: frozenset[str]) -> _Index:
        """Return the index for a need, up to date."""
        # The name of the variant is left out: models that need the same share an index.
        size, where = (need.cores, need.devices, need.requests), (need.node_selector, need.set_aside_nodes)
        key = (need.accelerator, size, where, need.tolerations, open_pools)
        index = self._indexes.get(key)
        if index is None:
            could = ((position, never_fits(need, room, open_pools)) for position, room in enumerate(self.rooms))
            index = _Index(need=need, cores={at: cores for at, cores in could if not isinstance(cores, Exclusion)})
            self._indexes[key] = index
            changed = set(index.cores)
        else:
            changed = set(self._changes[index.learned :]) & index.cores.keys()
        index.learned = len(self._changes)
        for position in changed:
            self._enter(index, position)
        return index

    def _enter(self, index: _Index, position: int) -> None:
        """Put the best place on one node into its heap, if there is one."""
        room, cores = self.rooms[position], index.cores[position]
        if unavailable(index.need, room, cores) or short_resource(index.need.requests, room.remaining):
            return
        choice = best_choice(room.shape, room.free, cores, self._sizes_on(room))
        if choice is None:
            return
        usd_per_hour = room.usd_per_hour(cores)
        known = math.inf if usd_per_hour is None else usd_per_hour
        tier = _Tier(
            booting_since=(room.node.created_at or math.inf) if room.promised else 0.0,
            rounded_usd_per_hour=round(known, PRICE_STEP_DIGITS),
            usd_per_hour=known,
        )
        entry = _Entry(
            loss=choice.loss,
            usual_loss=choice.usual_loss,
            free_after=room.free_cores - cores,
            node=room.node.name,
            mask=choice.mask,
            version=self._versions[position],
            position=position,
        )
        heapq.heappush(index.heaps.setdefault(tier, []), entry)

    def _best(self, heap: list[_Entry]) -> _Entry | None:
        while heap and heap[0].version != self._versions[heap[0].position]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _sizes_on(self, room: Room) -> tuple[int, ...]:
        """Return the sizes in play that this machine could host, in cores."""
        accelerator, shape = room.node.instance_type.accelerator, room.shape
        if (accelerator, shape) not in self._shape_sizes:
            asked = self.sizes.get(accelerator, frozenset())
            sizes = {cores or devices * shape.cores_per_device for cores, devices in asked}
            self._shape_sizes[accelerator, shape] = tuple(size for size in sorted(sizes) if masks_of(shape, size))
        return self._shape_sizes[accelerator, shape]

    def _take(self, request: PlacementRequest, option: VariantNeed, entry: _Entry) -> Assignment:
        room = self.rooms[entry.position]
        cores_count = entry.mask.bit_count()
        usd_per_hour = room.usd_per_hour(cores_count)
        if request.deployment in self.budgets:
            assert usd_per_hour is not None, f"{request.deployment}: has a ceiling and was given a node without a price"
            self.budgets[request.deployment] -= usd_per_hour
        self._homes.setdefault(request.deployment, set()).add(room.node.name)
        self.rooms[entry.position] = room.taken(entry.mask, option.requests)
        self._versions[entry.position] += 1
        self._changes.append(entry.position)
        return Assignment(
            request=request,
            variant=option.variant,
            node=room.node.name,
            pool=room.node.pool,
            cores=0 if counted(room.node.instance_type) else entry.mask,
            cores_count=cores_count,
            usd_per_hour=usd_per_hour,
            promised=room.promised,
        )

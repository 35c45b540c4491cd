"""Which nodes to launch: for replicas without a place, and to keep a pool's headroom.

The most important waiting request comes first. Among the offerings that can serve it, within the limits of their pools, the one
with the least price per replica is launched, counting the waiting replicas that fit on such a node together with it. What fits
is then taken off the list. Nodes that are booting are room already, so no request launches twice. Headroom is filled last.

A pool without an offering that helps launches nothing; a price that nobody knows passes no ceiling, neither the pool's nor a
deployment's. Only pools whose nodes the operator makes itself (provider Simulated) are considered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fleetpack.core.cost import MONEY_TOLERANCE_USD_PER_HOUR
from fleetpack.core.fleet import FleetSnapshot, Offering, Pool, PoolProvider
from fleetpack.core.inflight import empty_node
from fleetpack.core.packing.fit import Room, rooms
from fleetpack.core.packing.placement import Launch, LaunchContext, PlacementRequest
from fleetpack.core.packing.search import Search


@dataclass(slots=True)
class _PoolUse:
    """How much of a pool's limits is used, launches of this pass included."""

    pool: Pool
    nodes: int
    usd_per_hour: float
    free_cores: int

    def allows(self, offering: Offering, context: LaunchContext) -> bool:
        """Whether one more node of an offering keeps to the limits and is not set aside."""
        if (self.pool.name, offering.instance_type.name) in context.blocked:
            return False
        if self.pool.maximum_nodes is not None and self.nodes >= self.pool.maximum_nodes:
            return False
        maximum, price = self.pool.maximum_usd_per_hour, offering.price_usd_per_hour
        if maximum is None:
            return True
        return price is not None and self.usd_per_hour + price <= maximum + MONEY_TOLERANCE_USD_PER_HOUR

    def launch(self, offering: Offering) -> Launch:
        """Count one more node."""
        self.nodes += 1
        self.usd_per_hour += offering.price_usd_per_hour or 0.0
        self.free_cores += offering.instance_type.cores
        return Launch(
            pool=self.pool.name,
            instance_type=offering.instance_type.name,
            price_usd_per_hour=offering.price_usd_per_hour,
        )


@dataclass(frozen=True, slots=True)
class _Trial:
    """What one launch would serve."""

    use: _PoolUse
    offering: Offering
    served: tuple[int, ...]
    """Positions of the requests that fit on the node together."""
    served_cores: int
    budgets: dict[str, float]

    @property
    def rank(self) -> tuple[float, float, str, str]:
        """The least price per replica first, then the least price, pool and type."""
        price = math.inf if self.offering.price_usd_per_hour is None else self.offering.price_usd_per_hour
        return (price / len(self.served), price, self.use.pool.name, self.offering.instance_type.name)


def plan_launches(
    waiting: Sequence[PlacementRequest], search: Search, pools: Iterable[Pool], context: LaunchContext
) -> tuple[tuple[Launch, ...], frozenset[int]]:
    """Return the nodes to launch, and the positions in `waiting` of the requests that they will serve."""
    uses = [
        _PoolUse(
            pool=pool,
            nodes=context.nodes.get(pool.name, 0),
            usd_per_hour=context.usd_per_hour.get(pool.name, 0.0),
            free_cores=sum(room.free_cores for room in search.rooms if room.open and room.node.pool == pool.name),
        )
        for pool in sorted(pools, key=lambda pool: pool.name)
        if pool.provider is PoolProvider.SIMULATED
    ]
    queue = _Queue(waiting)
    launches: list[Launch] = []
    served: set[int] = set()
    budgets = search.budgets
    while uses and queue.positions:
        offers = [(use, offering) for use in uses for offering in use.pool.offerings if use.allows(offering, context)]
        trials = [_trial(use, offering, queue, search, budgets) for use, offering in offers]
        useful = [trial for trial in trials if queue.positions[0] in trial.served]
        if not useful:
            queue.drop_kind_of_first()
            continue
        best = min(useful, key=lambda trial: trial.rank)
        launches.append(best.use.launch(best.offering))
        best.use.free_cores -= best.served_cores
        budgets = best.budgets
        served.update(best.served)
        queue.drop(best.served)
    launches.extend(launch for use in uses for launch in _headroom(use, context))
    return tuple(launches), frozenset(served)


class _Queue:
    """Waiting requests that no launch serves yet, the most important first."""

    def __init__(self, waiting: Sequence[PlacementRequest]) -> None:
        self.waiting = waiting
        self.positions = list(range(len(waiting)))
        numbers: dict[object, int] = {}
        # Requests of one kind differ in their index only: what serves none of them serves no other.
        self.kinds = [numbers.setdefault((one.deployment, one.options), len(numbers)) for one in waiting]

    def drop(self, positions: Iterable[int]) -> None:
        """Take requests off."""
        gone = set(positions)
        self.positions = [position for position in self.positions if position not in gone]

    def drop_kind_of_first(self) -> None:
        """Take off every request of the first one's kind."""
        kind = self.kinds[self.positions[0]]
        self.positions = [position for position in self.positions if self.kinds[position] != kind]


def _trial(use: _PoolUse, offering: Offering, queue: _Queue, fleet: Search, budgets: dict[str, float]) -> _Trial:
    """Pack the queue onto one empty node of an offering."""
    room = _empty_room(use.pool, offering)
    search = Search((room,) if room else (), (use.pool,), fleet.sizes, budgets)
    alive = {queue.kinds[position] for position in queue.positions}
    served: list[int] = []
    served_cores = 0
    for position in queue.positions:
        if queue.kinds[position] not in alive:
            continue
        place = search.place(queue.waiting[position])
        if place is not None:
            served.append(position)
            served_cores += place.cores_count
            continue
        alive.discard(queue.kinds[position])
        if not alive or not served:
            # Either nothing fits any more, or the first request does not fit and the trial is of no use.
            break
    return _Trial(use=use, offering=offering, served=tuple(served), served_cores=served_cores, budgets=search.budgets)


def _empty_room(pool: Pool, offering: Offering) -> Room | None:
    """Return what a new node of an offering would give."""
    node = empty_node("", offering.instance_type.name, pool)
    if node is None:
        return None
    node = replace(node, price_usd_per_hour=offering.price_usd_per_hour)
    return rooms(FleetSnapshot(nodes=(node,)))[0]


def _headroom(use: _PoolUse, context: LaunchContext) -> Iterator[Launch]:
    """Launch until the pool has its headroom: the cheapest node that covers what is missing, else the cheapest per core."""
    while (missing := use.pool.headroom_cores - use.free_cores) > 0:
        allowed = [
            (math.inf if offering.price_usd_per_hour is None else offering.price_usd_per_hour, offering)
            for offering in use.pool.offerings
            if offering.instance_type.allowed_device_counts and use.allows(offering, context)
        ]
        if not allowed:
            return
        covering = [(price, one) for price, one in allowed if one.instance_type.cores >= missing]
        if covering:
            _, chosen = min(covering, key=lambda entry: (entry[0], entry[1].instance_type.name))
        else:
            _, chosen = min(
                allowed, key=lambda entry: (entry[0] / entry[1].instance_type.cores, entry[1].instance_type.name)
            )
        yield use.launch(chosen)

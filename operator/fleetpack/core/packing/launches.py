"""Which nodes to launch: for replicas without a place, and to keep a pool's headroom.

Wanted is the set of nodes that serves all waiting requests together at the least price. Each step launches an offering that serves the
most important request still waiting, and takes everything off the list that fits on such a node with it. Taking the least price per
replica at each step is a good set but not always the cheapest: three replicas left, two on a node of 6 USD or three on one of 10. So
the last `SEARCHED_REQUESTS` requests are searched exactly, branch and bound, for at most `SEARCHED_TRIALS` trial packings; where the
search ends early the best set so far stands, and that is at least as good as the greedy one. An important request is never given up
for a cheaper set. Nodes that are booting are room already, so no request launches twice. Headroom is filled last.

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

SEARCHED_REQUESTS = 24
"""As many as one of the largest nodes takes: before, greedy steps fill whole nodes, and a full node wastes nothing."""
SEARCHED_TRIALS = 256
"""Some 50 ms of packing onto single empty nodes; typical searches of two or three offerings end within fifty."""


@dataclass(frozen=True, slots=True)
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

    def launched(self, offering: Offering, served_cores: int = 0) -> _PoolUse:
        """Return the use with one more node, of which `served_cores` are taken."""
        return replace(
            self,
            nodes=self.nodes + 1,
            usd_per_hour=self.usd_per_hour + (offering.price_usd_per_hour or 0.0),
            free_cores=self.free_cores + offering.instance_type.cores - served_cores,
        )

    def launch(self, offering: Offering) -> Launch:
        """Return the order for one more node."""
        return Launch(
            pool=self.pool.name,
            instance_type=offering.instance_type.name,
            price_usd_per_hour=offering.price_usd_per_hour,
        )


@dataclass(frozen=True, slots=True)
class _Trial:
    """What one launch would serve."""

    use: int
    """Position of the pool's use."""
    pool: str
    offering: Offering
    served: tuple[int, ...]
    """Positions of the requests that fit on the node together."""
    served_cores: int
    budgets: dict[str, float]

    @property
    def rank(self) -> tuple[float, float, str, str]:
        """The least price per replica first, then the least price, pool and type."""
        price = math.inf if self.offering.price_usd_per_hour is None else self.offering.price_usd_per_hour
        return (price / max(1, len(self.served)), price, self.pool, self.offering.instance_type.name)


@dataclass(frozen=True, slots=True)
class _Course:
    """Launches decided so far, and what is left after them."""

    uses: tuple[_PoolUse, ...]
    waiting: tuple[int, ...]
    """Positions of the requests that no launch serves yet, the most important first."""
    budgets: dict[str, float]
    launches: tuple[Launch, ...] = ()
    served: frozenset[int] = frozenset()
    hopeless: tuple[int, ...] = ()
    """Positions that nothing can serve any more."""

    @property
    def usd_per_hour(self) -> float:
        """What the launches cost together."""
        return sum(math.inf if one.price_usd_per_hour is None else one.price_usd_per_hour for one in self.launches)

    @property
    def rank(self) -> tuple[tuple[int, ...], float, int]:
        """The important served first, then the least price, the fewest nodes; of equal courses the first one found stays."""
        unserved = tuple(-position for position in sorted(self.hopeless))
        return (unserved, round(self.usd_per_hour, 6), len(self.launches))

    def after(self, trial: _Trial) -> _Course:
        """Return the course with one more launch."""
        use, gone = self.uses[trial.use], set(trial.served)
        grown = use.launched(trial.offering, trial.served_cores)
        return replace(
            self,
            uses=(*self.uses[: trial.use], grown, *self.uses[trial.use + 1 :]),
            waiting=tuple(position for position in self.waiting if position not in gone),
            budgets=trial.budgets,
            launches=(*self.launches, use.launch(trial.offering)),
            served=self.served | gone,
        )


def plan_launches(
    waiting: Sequence[PlacementRequest], search: Search, pools: Iterable[Pool], context: LaunchContext
) -> tuple[tuple[Launch, ...], frozenset[int]]:
    """Return the nodes to launch, and the positions in `waiting` of the requests that they will serve."""
    uses = tuple(
        _PoolUse(
            pool=pool,
            nodes=context.nodes.get(pool.name, 0),
            usd_per_hour=context.usd_per_hour.get(pool.name, 0.0),
            free_cores=sum(room.free_cores for room in search.rooms if room.open and room.node.pool == pool.name),
        )
        for pool in sorted(pools, key=lambda pool: pool.name)
        if pool.provider is PoolProvider.SIMULATED
    )
    course = _Course(uses=uses, waiting=tuple(range(len(waiting))), budgets=search.budgets)
    launching = _Launching(waiting, search, context)
    while uses and len(course.waiting) > SEARCHED_REQUESTS:
        course = launching.greedy_step(course)
    if uses and course.waiting:
        course = launching.cheapest(course)
    launches = list(course.launches)
    for use in course.uses:
        launches.extend(_headroom(use, context))
    return tuple(launches), course.served


class _Launching:
    """One search; remembers trial packings, which come back in every order of the same launches."""

    def __init__(self, waiting: Sequence[PlacementRequest], fleet: Search, context: LaunchContext) -> None:
        self.waiting = waiting
        self.fleet = fleet
        self.context = context
        numbers: dict[object, int] = {}
        # Requests of one kind differ in their index only: what serves none of them serves no other.
        self.kinds = [numbers.setdefault((one.deployment, one.options), len(numbers)) for one in waiting]
        self._trials: dict[tuple[object, ...], _Trial] = {}
        self._seen: dict[tuple[object, ...], float] = {}
        self._best: _Course | None = None
        self._steps = 0

    def greedy_step(self, course: _Course) -> _Course:
        """Launch what serves the first request at the least price per replica, or give its kind up."""
        useful = self.useful(course)
        return course.after(useful[0]) if useful else self.without_first_kind(course)

    def cheapest(self, course: _Course) -> _Course:
        """Return the best course that the search finds; the first one that it tries is the greedy one."""
        self._best, self._steps = None, 0
        self._explore(course)
        assert self._best is not None, "the first descent always ends in a course"
        return self._best

    def _explore(self, course: _Course) -> None:
        while course.waiting and not (useful := self.useful(course)):
            course = self.without_first_kind(course)
        if not course.waiting:
            if self._best is None or course.rank < self._best.rank:
                self._best = course
            return
        key = (course.waiting, course.hopeless, tuple((use.nodes, round(use.usd_per_hour, 9)) for use in course.uses))
        seen = self._seen.get(key, math.inf)
        if self._best is not None and (seen <= course.usd_per_hour or self._is_dearer(course)):
            return
        self._seen[key] = course.usd_per_hour
        for trial in useful:
            if self._best is not None and self._steps >= SEARCHED_TRIALS:
                return
            self._explore(course.after(trial))

    def _is_dearer(self, course: _Course) -> bool:
        """Whether a course costs already what the best one does that serves everybody."""
        assert self._best is not None
        return not self._best.hopeless and course.usd_per_hour >= self._best.usd_per_hour

    def useful(self, course: _Course) -> list[_Trial]:
        """Return what serves the first waiting request, the least price per replica first."""
        first = course.waiting[0]
        trials = [
            self._trial(course, position, offering)
            for position, use in enumerate(course.uses)
            for offering in use.pool.offerings
            if use.allows(offering, self.context)
        ]
        return sorted((trial for trial in trials if first in trial.served), key=lambda trial: trial.rank)

    def without_first_kind(self, course: _Course) -> _Course:
        """Give up every request of the first one's kind."""
        kind = self.kinds[course.waiting[0]]
        gone = tuple(position for position in course.waiting if self.kinds[position] == kind)
        left = tuple(position for position in course.waiting if self.kinds[position] != kind)
        return replace(course, waiting=left, hopeless=(*course.hopeless, *gone))

    def _trial(self, course: _Course, use: int, offering: Offering) -> _Trial:
        """Pack what waits onto one empty node of an offering."""
        key = (use, offering.instance_type.name, course.waiting, tuple(sorted(course.budgets.items())))
        if key not in self._trials:
            self._steps += 1
            self._trials[key] = self._packed(course, use, offering)
        return self._trials[key]

    def _packed(self, course: _Course, use: int, offering: Offering) -> _Trial:
        pool = course.uses[use].pool
        room = _empty_room(pool, offering)
        search = Search((room,) if room else (), (pool,), self.fleet.sizes, course.budgets)
        alive = {self.kinds[position] for position in course.waiting}
        served: list[int] = []
        served_cores = 0
        for position in course.waiting:
            if self.kinds[position] not in alive:
                continue
            place = search.place(self.waiting[position])
            if place is not None:
                served.append(position)
                served_cores += place.cores_count
                continue
            alive.discard(self.kinds[position])
            if not alive or not served:
                # Either nothing fits any more, or the first request does not fit and the trial is of no use.
                break
        return _Trial(
            use=use,
            pool=pool.name,
            offering=offering,
            served=tuple(served),
            served_cores=served_cores,
            budgets=search.budgets,
        )


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
        use = use.launched(chosen)

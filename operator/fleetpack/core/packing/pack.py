"""Step 7, packing: a place for each wanted replica, and the nodes to launch for those that have none.

`pack` goes through the requests in the order of their importance and gives each the best place that there is at that moment
(`search` states the order of preference). An important request is never moved for a later one, so the answer is greedy, fast,
and easy to explain; it may miss a packing that an all-knowing search would find. What remains without a place comes back
with the reasons counted, and drives `launches`. Neither the order of rooms and pools nor of any mapping matters.

An impossible request is not an error: it is an `Unplaced`. A failing assert here is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetpack.core.fleet import Pool
from fleetpack.core.packing.fit import Exclusion, Room, VariantNeed
from fleetpack.core.packing.launches import plan_launches
from fleetpack.core.packing.placement import (
    Assignment,
    Launch,
    LaunchContext,
    Placement,
    PlacementRequest,
    Unplaced,
)
from fleetpack.core.packing.search import Search, sizes_in_play

__all__ = [
    "Assignment",
    "Exclusion",
    "Launch",
    "LaunchContext",
    "Placement",
    "PlacementRequest",
    "Unplaced",
    "VariantNeed",
    "pack",
]


def pack(
    requests: Sequence[PlacementRequest],
    rooms: Sequence[Room],
    pools: Sequence[Pool],
    budgets: Mapping[str, float],
    launchable: LaunchContext,
) -> Placement:
    """Place `requests`, the most important first, onto `rooms`, and say which nodes to launch for the rest.

    `budgets` holds, in USD per hour, what each deployment may still add; one that is absent has no ceiling.
    """
    search = Search(rooms, pools, sizes_in_play(requests, rooms), budgets)
    assigned: list[Assignment] = []
    waiting: list[PlacementRequest] = []
    hopeless: set[tuple[str, tuple[VariantNeed, ...]]] = set()
    for request in requests:
        # Room and money only shrink: what had no place before has none now.
        kind = (request.deployment, request.options)
        place = None if kind in hopeless else search.place(request)
        if place is None:
            hopeless.add(kind)
            waiting.append(request)
        else:
            assigned.append(place)
    launches, served = plan_launches(waiting, search, pools, launchable)
    return Placement(assigned=tuple(assigned), unplaced=_unplaced(waiting, served, search), launches=launches)


def _unplaced(waiting: list[PlacementRequest], served: frozenset[int], search: Search) -> tuple[Unplaced, ...]:
    """Count for each waiting request why the nodes refuse it; `served` are positions of those that a launch will serve."""
    counted: dict[tuple[str, tuple[VariantNeed, ...]], tuple[tuple[Exclusion, int], ...]] = {}
    unplaced = []
    for position, request in enumerate(waiting):
        kind = (request.deployment, request.options)
        if kind not in counted:
            counted[kind] = search.exclusions(request)
        unplaced.append(Unplaced(request=request, exclusions=counted[kind], awaiting_launch=position in served))
    return tuple(unplaced)

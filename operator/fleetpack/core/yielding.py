"""Step 7 on a full fleet: a more important model takes room from less important ones.

A taker needs replicas that have no place, no node can be launched for them, and this has been so for `PATIENCE_SECONDS`. It takes
from models of strictly lower priority: first what these merely keep, then what they need above their `minReplicas`. Nothing is taken
from a model that people steer (Manual, Advisory, Paused), that is deleted or not understood, that holds because it hears nothing, or
that is in the midst of leaving its places or templates. A taker that waits for room which is already coming asks for no more.

Derived anew on each pass: what drains or terminates is room that is coming, it is promised to the takers in the order of their
importance, and those who left it want no more than they have until the takers have come. Only the time of waiting is remembered.
When nothing is without a place, nothing is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fleetpack.api.conditions import Reason
from fleetpack.core.assessment import Assessment, Concession
from fleetpack.core.demand import RATE_WINDOW_SECONDS
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import Replica, ReplicaPhase, Resources
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.packing.fit import Room, rooms
from fleetpack.core.packing.pack import Assignment, LaunchContext, Placement, PlacementRequest, pack
from fleetpack.core.packing.topology import counted, lowest_bits
from fleetpack.core.packing.vacating import Key, Owner, Tenant, Vacancy, Vacating, key_of, need_of
from fleetpack.core.placing import budgets
from fleetpack.core.rollout import Weights, choose_victims, missing_replicas, restorable
from fleetpack.core.state import State

PATIENCE_SECONDS = RATE_WINDOW_SECONDS
"""How long a model has had no place before it takes one: a need that lasts less than the window of its rate may be chance, and giving
way costs the other one a cold start."""


def concede(
    assessments: tuple[Assessment, ...], placement: Placement, fleet: FleetIndex, state: State, now: float
) -> tuple[tuple[Assessment, ...], Placement, State]:
    """Return the assessments with what each concedes, the placement as it is then, and since when who waits."""
    if not placement.unplaced and not state.unplaced_since:
        return assessments, placement, state
    by_key = {found.deployment.key: found for found in assessments}
    waiting = _waiting(by_key, placement)
    before = dict(state.unplaced_since)
    since = {key: before.get(key, now) for key in waiting}
    state = replace(state, unplaced_since=tuple(sorted(since.items())))
    due = {key: requests for key, requests in waiting.items() if now - since[key] >= PATIENCE_SECONDS}
    if not due:
        return assessments, placement, state
    vacating = _vacating(assessments, fleet)
    floor = min(by_key[key].deployment.priority for key in due)
    for place in placement.assigned:
        if by_key[place.request.deployment].deployment.priority >= floor:
            vacating.promise(place)
    vacancies = _claims(due, by_key, vacating)
    conceded = _concessions(vacancies, by_key, placement)
    later = {vacancy.node: vacating.room(vacancy.node) for vacancy in vacancies}
    placement = _kept_free(_without(placement, conceded), later, floor, by_key, fleet)
    assessments = tuple(replace(found, concession=conceded.get(found.deployment.key)) for found in assessments)
    return assessments, placement, _without_reserve(state, assessments)


def _waiting(by_key: Mapping[str, Assessment], placement: Placement) -> dict[str, tuple[PlacementRequest, ...]]:
    """Return the takers with the requests that they wait for, the most important first.

    A deployment of which some replica awaits a launch waits for that; what it would merely keep is worth nobody's replica.
    """
    priorities = [found.deployment.priority for found in by_key.values() if _yields(found)]
    lowest = min(priorities, default=None)
    if lowest is None:
        return {}
    unplaced: dict[str, list[PlacementRequest]] = {}
    launching = {entry.request.deployment for entry in placement.unplaced if entry.awaiting_launch}
    for entry in placement.unplaced:
        key = entry.request.deployment
        if key not in launching and by_key[key].deployment.priority > lowest:
            unplaced.setdefault(key, []).append(entry.request)
    placed: dict[str, int] = {}
    for place in placement.assigned:
        placed[place.request.deployment] = placed.get(place.request.deployment, 0) + 1
    waiting = {}
    for key, requests in unplaced.items():
        found = by_key[key]
        serving = found.standing.live - len(found.standing.condemned) + len(_returning(found)) + placed.get(key, 0)
        short = min(found.needed, found.wanted) - serving
        if short > 0:
            waiting[key] = tuple(requests[:short])
    return waiting


def _yields(found: Assessment) -> bool:
    """Whether a deployment can be asked to want less: only Auto decides that by itself, and not in the midst of another change."""
    deployment, standing = found.deployment, found.standing
    settled = not (standing.outdated or standing.evacuees or deployment.deleting or deployment.problems)
    return deployment.mode is Mode.AUTO and settled and len(standing.current) >= deployment.minimum_replicas


def _returning(found: Assessment) -> tuple[Replica, ...]:
    """Return the draining replicas that would be put back."""
    if found.deployment.problems:
        return ()
    missing = missing_replicas(found.deployment, found.standing, found.wanted)
    return restorable(found.standing, found.deployment, missing)


def _vacating(assessments: tuple[Assessment, ...], fleet: FleetIndex) -> Vacating:
    """Return the search for room that is coming or can be made."""
    tenants: list[Tenant] = []
    owners: dict[str, Owner] = {}
    staying: set[Key] = set()
    for found in assessments:
        deployment, current = found.deployment, found.standing.current
        returning = _returning(found)
        untouched = deployment.mode is Mode.PAUSED or deployment.deleting
        # What drains of an untouched deployment is deleted by nobody.
        staying.update(key_of(replica) for replica in (found.standing.draining if untouched else returning))
        if not _yields(found):
            continue
        tenants.extend(_tenants(found, returning, fleet))
        known = [replica for replica in current if replica.uid]
        ready = sum(replica.phase is ReplicaPhase.READY for replica in known)
        # Measured for too short a time, what seems to be a reserve may be needed.
        young = found.desired.reason == Reason.HOLDING_WINDOW_FILLING
        owners[deployment.key] = Owner(
            current=len(current),
            wanted=found.wanted,
            kept=0 if young else len(current) - found.needed,
            spare=len(known) - deployment.minimum_replicas,
            spare_ready=ready - deployment.minimum_replicas,
        )
    going = (ReplicaPhase.DRAINING, ReplicaPhase.TERMINATING)
    leaving = {key_of(replica) for replica in fleet.snapshot.replicas if replica.phase in going}
    return Vacating(fleet.snapshot, tenants, leaving - staying, owners, budgets(assessments))


def _tenants(found: Assessment, returning: tuple[Replica, ...], fleet: FleetIndex) -> Iterable[Tenant]:
    """Yield the replicas that can be asked to go; where nobody knows which cores one has, nobody knows what it would free."""
    current = () if found.desired.holding else found.standing.current
    weights = Weights(work=found.observation.work, usd_per_hour={})
    for position, replica in enumerate((*returning, *choose_victims(current, len(current), weights))):
        node = fleet.nodes.get(replica.node)
        if node is not None and (replica.cores or counted(node.instance_type)):
            yield Tenant(
                replica=replica,
                priority=found.deployment.priority,
                going=replica.phase is ReplicaPhase.DRAINING,
                loss=(replica.phase is ReplicaPhase.READY, position),
            )


def _claims(
    due: Mapping[str, tuple[PlacementRequest, ...]], by_key: Mapping[str, Assessment], vacating: Vacating
) -> tuple[Vacancy, ...]:
    """Promise room that is coming to the takers; one that none is coming for takes some."""
    vacancies: list[Vacancy] = []
    yielded: set[str] = set()
    for key, requests in due.items():
        if key in yielded:
            continue
        priority = by_key[key].deployment.priority
        found: list[Vacancy] = []
        for fresh in (False, True):
            for request in requests if not found else ():
                vacancy = vacating.claim(request, priority, fresh=fresh)
                if vacancy is None:
                    break
                found.append(vacancy)
        vacancies += found
        yielded |= {replica.deployment for vacancy in found for replica in vacancy.victims}
    return tuple(vacancies)


def _concessions(
    vacancies: tuple[Vacancy, ...], by_key: Mapping[str, Assessment], placement: Placement
) -> dict[str, Concession]:
    """Return what each deployment gives up, or is kept from taking back, and for whom."""
    takers: dict[str, str] = {}
    victims: dict[str, list[Replica]] = {}
    for vacancy in vacancies:
        taker = vacancy.request.deployment
        for replica in (*vacancy.victims, *vacancy.gone):
            owner = by_key.get(replica.deployment)
            less = owner is not None and owner.deployment.priority < by_key[taker].deployment.priority
            if owner is not None and less and _yields(owner):
                takers.setdefault(replica.deployment, taker)
        for replica in vacancy.victims:
            victims.setdefault(replica.deployment, []).append(replica)
    conceded = {}
    for key, taker in sorted(takers.items()):
        found, given = by_key[key], victims.get(key, [])
        current = len(found.standing.current)
        replicas = min(found.wanted, current - len(given))
        if not given and replicas == found.wanted:
            continue
        count = sum(entry.request.deployment == taker for entry in placement.unplaced)
        conceded[key] = Concession(
            replicas=replicas,
            victims=tuple(sorted(given, key=key_of)),
            message=f"{replicas} of {max(found.wanted, current)}: {taker} (priority {by_key[taker].deployment.priority}) has "
            f"{count} replica{'' if count == 1 else 's'} without a place",
        )
    return conceded


def _without(placement: Placement, keys: Iterable[str]) -> Placement:
    """Return the placement without the requests of those that want no more than they have."""
    gone = frozenset(keys)
    return replace(
        placement,
        assigned=tuple(place for place in placement.assigned if place.request.deployment not in gone),
        unplaced=tuple(entry for entry in placement.unplaced if entry.request.deployment not in gone),
    )


def _kept_free(
    placement: Placement, later: Mapping[str, Room], floor: int, by_key: Mapping[str, Assessment], fleet: FleetIndex
) -> Placement:
    """Return the placement in which nobody below priority `floor` has the room that the takers wait for.

    `later` is what is left of the promised nodes once the takers have come. Who loses a place is given another one, if there is any
    without a launch.
    """
    displaced = [
        place
        for place in placement.assigned
        if place.node in later and by_key[place.request.deployment].deployment.priority < floor
    ]
    if not displaced:
        return placement
    kept = [place for place in placement.assigned if place not in displaced]
    left = budgets(by_key.values())
    taken: dict[str, list[Assignment]] = {}
    for place in kept:
        taken.setdefault(place.node, []).append(place)
        if place.request.deployment in left:
            left[place.request.deployment] -= place.usd_per_hour or 0.0
    free = []
    for room in rooms(fleet.snapshot):
        for place in taken.get(room.node.name, ()):
            room = room.taken(place.cores or lowest_bits(room.free, place.cores_count), need_of(place).requests)
        free.append(_lesser(room, later[room.node.name]) if room.node.name in later else room)
    pools = fleet.snapshot.pools
    blocked = frozenset((pool.name, one.instance_type.name) for pool in pools for one in pool.offerings)
    nothing = LaunchContext(nodes={}, usd_per_hour={}, blocked=blocked)
    again = pack([place.request for place in displaced], free, pools, left, nothing)
    return replace(placement, assigned=(*kept, *again.assigned), unplaced=(*placement.unplaced, *again.unplaced))


def _lesser(now: Room, later: Room) -> Room:
    """Return what can be used of a node now and still is free later."""
    by_count = counted(now.node.instance_type)
    count = min(now.free_cores, later.free_cores)
    one, other = now.remaining, later.remaining
    return replace(
        now,
        free=lowest_bits(now.free, count) if by_count else now.free & later.free,
        remaining=Resources(
            cpu_millicores=min(one.cpu_millicores, other.cpu_millicores),
            memory_bytes=min(one.memory_bytes, other.memory_bytes),
            pods=min(one.pods, other.pods),
            accelerator_cores=min(one.accelerator_cores, other.accelerator_cores),
        ),
    )


def _without_reserve(state: State, assessments: tuple[Assessment, ...]) -> State:
    """Return the state in which givers no longer want what they merely kept: its rent is paid by those who wait for it."""
    least = {
        found.deployment.key: max(found.needed, found.concession.replicas)
        for found in assessments
        if found.concession and found.concession.victims
    }
    if not least:
        return state
    return replace(
        state,
        deployments=tuple(
            replace(entry, desired=min(entry.desired, least[entry.deployment]))
            if entry.deployment in least and entry.desired is not None
            else entry
            for entry in state.deployments
        ),
    )

"""How one deployment gets from the replicas it has to the number and the template it should have.

Derived anew on each pass from what is there; nothing is queued. In this order:

* what has failed is deleted, what the scheduler did not bind in time is deleted and its node set aside
* what drains is deleted once it is idle or its time is over, or put back if it is needed after all
* what is missing is created: new ones first where there is room (make before break)
* what is too much is drained: what serves least first
* a replica of an old template goes when a new one is Ready in its place, or, where there is no room for both, within the
  disruption budget
* a replica whose place is departing goes when a new one is Ready elsewhere, and never before: without room it stays to the end
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleetpack.api.conditions import Reason
from fleetpack.core.decision import Action, DeleteReplica, DrainReplica, RestoreReplica
from fleetpack.core.departures import Departure
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import LIVE_PHASES, Replica, ReplicaPhase
from fleetpack.core.windows import open_now

UNBOUND_SECONDS = 10.0
"""A Pod that the scheduler has not bound after this long will not be: it binds within milliseconds or finds an obstacle."""

_LEAST_USE_FIRST = {
    ReplicaPhase.REQUESTED: 0,
    ReplicaPhase.UNBOUND: 1,
    ReplicaPhase.STARTING: 2,
    ReplicaPhase.READY: 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The replicas of one deployment, sorted by what may be done with them."""

    current: tuple[Replica, ...]
    """Live, with the template of today."""
    outdated: tuple[Replica, ...]
    """Live, with an older template or a variant that is gone."""
    draining: tuple[Replica, ...]
    failed: tuple[Replica, ...]
    overdue: tuple[Replica, ...]
    """Not bound in time."""
    ready: int
    waiting_for_window: int = 0
    """How many of `current` have an older template that may not be rolled at this time of day."""
    leaving: tuple[Replica, ...] = ()
    """Live, in a place that should be left when it suits; not counted on to stay."""
    condemned: tuple[Replica, ...] = ()
    """Live, in a place that is lost or will be, whatever we do; not counted on at all."""
    unconfirmed: int = 0
    """How many that were live have been given up, where they could stay, without a yes of the API server so far."""
    departures: Mapping[str, Departure] = field(default_factory=dict)
    """Why replicas cannot stay where they are, by name, in whatever phase."""

    @property
    def live(self) -> int:
        """How many replicas serve or will serve, for however long."""
        return len(self.current) + len(self.outdated) + len(self.leaving) + len(self.condemned)

    @property
    def evacuees(self) -> tuple[Replica, ...]:
        """Live replicas that cannot stay where they are, the lost ones first."""
        return (*self.condemned, *self.leaving)


def standing(
    deployment: Deployment, replicas: tuple[Replica, ...], now: float, departures: Mapping[str, Departure]
) -> Standing:
    """Sort the replicas of one deployment; those of unknown outcome are counted on by nobody."""
    known = [replica for replica in replicas if not replica.outcome_unknown]
    overdue = [
        replica
        for replica in known
        if replica.phase is ReplicaPhase.UNBOUND and now - replica.created_at > UNBOUND_SECONDS
    ]
    live = [replica for replica in known if replica.phase in LIVE_PHASES and replica not in overdue]
    current: list[Replica] = []
    outdated: list[Replica] = []
    leaving: list[Replica] = []
    condemned: list[Replica] = []
    may_roll = open_now(deployment.disruption.windows, now)
    waiting_for_window = 0
    for replica in live:
        if replica.name in departures:
            (condemned if departures[replica.name].certain else leaving).append(replica)
            continue
        variant = deployment.variant(replica.variant)
        up_to_date = variant is not None and replica.template_hash == variant.template_hash
        (current if up_to_date or deployment.problems or not may_roll else outdated).append(replica)
        waiting_for_window += not (up_to_date or deployment.problems or may_roll)
    return Standing(
        current=tuple(current),
        outdated=tuple(outdated),
        draining=tuple(replica for replica in known if replica.phase is ReplicaPhase.DRAINING),
        failed=tuple(replica for replica in known if replica.phase is ReplicaPhase.FAILED),
        overdue=tuple(overdue),
        ready=sum(replica.phase is ReplicaPhase.READY for replica in live),
        waiting_for_window=waiting_for_window,
        leaving=tuple(leaving),
        condemned=tuple(condemned),
        unconfirmed=sum(
            replica.removal_unconfirmed and not (replica.name in departures and departures[replica.name].certain)
            for replica in known
        ),
        departures=departures,
    )


def surge_allowed(deployment: Deployment, now: Standing, wanted: int) -> int:
    """How many replicas more than wanted may exist while a template rolls or a cordoned node is left."""
    rolling = now.outdated or now.leaving or now.unconfirmed
    return max(1, deployment.disruption.allowed(wanted)) if rolling else 0


def missing_replicas(deployment: Deployment, now: Standing, wanted: int) -> int:
    """How many replicas should be created, if there is room for them.

    A removal that is on its way may be refused (the Pod has just changed), and its replacement would be one too many.
    """
    there = now.live - len(now.condemned) + now.unconfirmed
    room = wanted + surge_allowed(deployment, now, wanted) - there
    return max(0, min(wanted - len(now.current), room))


def restorable(now: Standing, deployment: Deployment, missing: int) -> tuple[Replica, ...]:
    """Draining replicas of today's template that can be put back instead of starting new ones; the latest drained first."""
    fit = []
    for replica in now.draining:
        variant = deployment.variant(replica.variant)
        up_to_date = variant is not None and replica.template_hash == variant.template_hash
        if up_to_date and replica.ready_at is not None and replica.name not in now.departures:
            fit.append(replica)
    return tuple(sorted(fit, key=lambda replica: (-(replica.draining_since or 0.0), replica.name))[:missing])


def removals(
    deployment: Deployment, now: Standing, wanted: int, room: RoomFound, weights: Weights
) -> tuple[tuple[Replica, str], ...]:
    """Return the replicas to give up in this pass, each with the reason."""
    gone = evacuated(deployment, now, wanted, room, weights)
    if not now.outdated:
        victims = choose_victims(now.current, len(now.current) - wanted, weights)
        return (*gone, *((replica, str(Reason.SURPLUS)) for replica in victims))
    old_ready = tuple(replica for replica in now.outdated if replica.phase is ReplicaPhase.READY)
    old_unready = tuple(
        replica for replica in now.outdated if replica.phase in (ReplicaPhase.UNBOUND, ReplicaPhase.STARTING)
    )
    ready = now.ready - sum(replica.phase is ReplicaPhase.READY for replica, _ in gone)
    replaced = choose_victims(old_ready, ready - wanted, weights)
    surplus = choose_victims(now.current, len(now.current) - wanted, weights)
    broken: tuple[Replica, ...] = ()
    if room.hopeless and not replaced:
        # On a short fleet the budget is a share of what there is room for; against what is wanted it would never be free.
        attainable = min(wanted, room.attainable)
        spare = deployment.disruption.allowed(attainable) - max(0, attainable - ready)
        broken = choose_victims(old_ready, min(spare, room.hopeless), weights)
    return (
        *gone,
        *((replica, Reason.TEMPLATE_CHANGED) for replica in (*old_unready, *replaced)),
        *((replica, Reason.SURPLUS) for replica in surplus),
        *((replica, Reason.NO_ROOM_TO_SURGE) for replica in broken),
    )


def evacuated(
    deployment: Deployment, now: Standing, wanted: int, room: RoomFound, weights: Weights
) -> tuple[tuple[Replica, str], ...]:
    """Return the replicas in departing places whose successors are Ready, with the reason; the lost ones first.

    One that does not serve may yet come back with its node, so it goes only when enough others serve; but where a ceiling pays for
    either it or its successor, it goes first.
    """
    serving = tuple(replica for replica in now.evacuees if replica.phase is ReplicaPhase.READY)
    silent = tuple(replica for replica in now.evacuees if replica.phase is not ReplicaPhase.READY)
    lost = tuple(replica for replica in serving if now.departures[replica.name].certain)
    excess = now.ready - wanted
    going = choose_victims(lost, excess, weights)
    going += choose_victims(tuple(one for one in serving if one not in lost), excess - len(going), weights)
    dispensable = len(silent) - max(0, wanted - now.ready)
    if room.hopeless and deployment.maximum_usd_per_hour is not None:
        dispensable = max(dispensable, room.hopeless)
    going += choose_victims(silent, dispensable, weights)
    return tuple((replica, now.departures[replica.name].reason) for replica in going)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFound:
    """What the packing found for one deployment."""

    hopeless: int = 0
    """Replicas that have no place, and for which no node is on its way."""
    attainable: int = 0
    """Replicas that hold room, in whatever phase, or have been given some in this pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What tells replicas apart when one must go."""

    work: Mapping[str, float]
    """Waiting + running by UID."""
    usd_per_hour: Mapping[str, float]
    """Cost by name."""


def choose_victims(candidates: tuple[Replica, ...], count: int, weights: Weights) -> tuple[Replica, ...]:
    """Return `count` replicas to give up, least loss first.

    Not yet serving before serving, then the one whose node it would empty soonest, the dearest, the least busy, the youngest, the
    highest ordinal. A replica whose creation is still on its way has no UID, so it cannot be deleted yet: it is the first to
    go once it is seen, and none that serves goes in its stead.
    """
    on_node = Counter(replica.node for replica in candidates)
    ordered = sorted(
        sorted(
            (replica for replica in candidates if replica.phase in _LEAST_USE_FIRST),
            key=lambda replica: replica.name,
            reverse=True,
        ),
        key=lambda replica: (
            _LEAST_USE_FIRST[replica.phase],
            on_node[replica.node],
            -weights.usd_per_hour.get(replica.name, 0.0),
            weights.work.get(replica.uid, 0.0),
            -replica.created_at,
        ),
    )
    return tuple(replica for replica in ordered[: max(0, count)] if replica.phase is not ReplicaPhase.REQUESTED)


def give_up(replica: Replica, reason: str) -> Action:
    """Drain a replica that serves; delete one that never did."""
    kind = DrainReplica if replica.phase is ReplicaPhase.READY else DeleteReplica
    return kind(
        deployment=replica.deployment,
        name=replica.name,
        uid=replica.uid,
        resource_version=replica.resource_version,
        reason=reason,
    )


def housekeeping(
    deployment: Deployment, now: Standing, work: Mapping[str, float], moment: float, restored: tuple[Replica, ...]
) -> tuple[Action, ...]:
    """Return what must be done whatever the wanted number is: failed, overdue and drained Pods go, restored ones come back."""
    actions: list[Action] = [
        *(_delete(replica, Reason.REPLICA_FAILED) for replica in now.failed),
        *(_delete(replica, Reason.NOT_BOUND) for replica in now.overdue),
        *(_restore(replica) for replica in restored),
    ]
    for replica in now.draining:
        drained_seconds = moment - (replica.draining_since if replica.draining_since is not None else moment)
        # A fresh reading taken before the drain began proves nothing, so an idle replica gets one more interval.
        idle = work.get(replica.uid, 1.0) == 0.0 and drained_seconds >= 2.0
        if replica not in restored and (idle or drained_seconds >= deployment.disruption.drain_seconds):
            actions.append(_delete(replica, Reason.DRAINED if idle else Reason.DRAIN_TIME_OVER))
    return tuple(actions)


def _delete(replica: Replica, reason: str) -> DeleteReplica:
    return DeleteReplica(
        deployment=replica.deployment,
        name=replica.name,
        uid=replica.uid,
        resource_version=replica.resource_version,
        reason=reason,
    )


def _restore(replica: Replica) -> RestoreReplica:
    return RestoreReplica(
        deployment=replica.deployment,
        name=replica.name,
        uid=replica.uid,
        resource_version=replica.resource_version,
        reason=Reason.DRAINING_REPLICA_RESTORED,
    )

"""Step 10, tell: every decision with its reason, its numbers and one sentence; conditions, reports, the order of actions.

A decision names what bound it: the number the demand asked for, else the money, else the room. Nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fleetpack.api.conditions import ConditionType, Reason
from fleetpack.core.absent import NoData
from fleetpack.core.assessment import Assessment
from fleetpack.core.cores import format_cores, largest_free_range
from fleetpack.core.cost import spent_usd_per_hour
from fleetpack.core.decision import (
    Action,
    CreateReplica,
    Decision,
    DeleteReplica,
    DrainReplica,
    LaunchNode,
    RemoveNode,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import LearnedProfile, Mode
from fleetpack.core.fleet import FleetSnapshot, Pool, ReplicaPhase
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.inputs import Plan
from fleetpack.core.packing.fit import Room
from fleetpack.core.packing.pack import Placement, Unplaced
from fleetpack.core.reports import (
    Condition,
    DeploymentReport,
    NodeReport,
    PlacementReport,
    PoolReport,
    VariantReport,
)
from fleetpack.core.state import DeploymentState, State

_ORDER = {
    DeleteReplica: 0,
    RestoreReplica: 1,
    DrainReplica: 2,
    CreateReplica: 3,
    LaunchNode: 4,
    RemoveNode: 5,
    SetScale: 6,
}
NO_PLACEMENT = Placement(assigned=(), unplaced=(), launches=())


def action_order(action: Action) -> tuple[int, str]:
    """Sort key of actions: what frees room first, then what serves soonest; the names make it total."""
    subject = action.pool if isinstance(action, LaunchNode | RemoveNode) else action.deployment
    name = action.node if isinstance(action, RemoveNode) else getattr(action, "name", "")
    return _ORDER[type(action)], f"{subject}/{name}"


def decide(found: Assessment, share: Placement, state: DeploymentState, now: float) -> Decision:
    """Return the decision about the number of replicas of one deployment; `share` is its part of the placement."""
    deployment = found.deployment
    before = found.standing.live
    if deployment.problems:
        problem = deployment.problems[0]
        message = "; ".join(entry.message for entry in deployment.problems)
        return _decision(found, before, problem.reason, f"not served as written, {before} replicas stay: {message}")
    if deployment.mode is Mode.PAUSED:
        return _decision(found, before, found.desired.reason, found.desired.message)
    unplaced = share.unplaced
    # A replica of an older template stays until there is room for its successor.
    after = max(found.wanted - len(unplaced), min(found.wanted, before))
    if unplaced:
        reason = Reason.WAITING_FOR_NODE if unplaced[0].awaiting_launch else Reason.NO_FEASIBLE_PLACEMENT
        message = f"{found.wanted} wanted, {len(unplaced)} without a place: {unplaced[0].message}"
        return _decision(found, after, reason, message)
    if found.concession:
        return _decision(found, after, Reason.YIELDED_TO_PRIORITY, found.concession.message)
    if found.allotment.reason:
        return _decision(found, after, found.allotment.reason, found.allotment.message)
    if now < state.retry_at and found.wanted > before:
        refusal = f": {state.refusal}" if state.refusal else ""
        reason = Reason.INVALID_TEMPLATE if state.refusal else Reason.BACKING_OFF
        message = (
            f"{state.failures} Pods in a row failed or were refused, next try in {state.retry_at - now:.0f} s{refusal}"
        )
        return _decision(found, before, reason, message)
    if found.standing.waiting_for_window and after == before:
        message = f"{found.standing.waiting_for_window} replicas of an older template wait for spec.disruption.windows"
        return _decision(found, after, Reason.DISRUPTION_LIMIT, message)
    evacuees = found.standing.evacuees
    if evacuees and after == before:
        departure = found.standing.departures[evacuees[0].name]
        others = f", {len(evacuees) - 1} more must leave their places" if len(evacuees) > 1 else ""
        message = f"{evacuees[0].name} is replaced elsewhere: {departure.message}{others}"
        return _decision(found, after, departure.reason, message)
    if after > before and found.desired.reason in (
        Reason.ON_TARGET,
        Reason.HOLDING_STABLE,
        Reason.HOLDING_WINDOW_FILLING,
    ):
        # The number was decided earlier; what happens now is that the room for it is there.
        return _decision(found, after, Reason.PLACED, f"{after - before} more get their place: {found.desired.message}")
    return _decision(found, after, found.desired.reason, found.desired.message)


def _decision(found: Assessment, after: int, reason: str, message: str) -> Decision:
    return Decision(
        subject=found.deployment.key,
        kind="replicas",
        before=found.standing.live,
        after=after,
        reason=reason,
        message=message,
        factors=found.desired.factors,
    )


def held(assessments: tuple[Assessment, ...], fleet: FleetIndex, reason: str, age_seconds: float) -> Plan:
    """Return the plan that does nothing, because the picture of the cluster is too old."""
    message = f"the cluster was last seen {age_seconds:.0f} s ago: nothing is done until it is seen again"
    decisions = tuple(_decision(found, found.standing.live, reason, message) for found in assessments)
    return Plan(decisions=decisions, deployments=deployment_reports(assessments, {}, decisions, fleet))


def deployment_reports(
    assessments: tuple[Assessment, ...],
    shares: Mapping[str, Placement],
    decisions: tuple[Decision, ...],
    fleet: FleetIndex,
) -> tuple[DeploymentReport, ...]:
    """Return what status, metrics and people are told of each deployment."""
    by_subject = {decision.subject: decision for decision in decisions}
    reports = []
    for found in assessments:
        decision = by_subject[found.deployment.key]
        unplaced = shares.get(found.deployment.key, NO_PLACEMENT).unplaced
        held_phases = (ReplicaPhase.FAILED, ReplicaPhase.REQUESTED)
        reports.append(
            DeploymentReport(
                deployment=found.deployment.key,
                mode=found.deployment.mode,
                desired_replicas=found.wanted,
                automatic_replicas=found.desired.automatic,
                replicas=found.standing.live,
                ready_replicas=found.standing.ready,
                queue_depth=found.observation.waiting,
                running=found.observation.running,
                arrival_rate_per_second=(
                    found.demand
                    if isinstance(found.demand, NoData)
                    else found.observation.measured_rate(found.demand.arrival_rate_per_second)
                ),
                usd_per_hour=spent_usd_per_hour(found.replicas, fleet.nodes),
                variants=_variant_reports(found),
                placements=tuple(
                    PlacementReport(
                        replica=replica.name,
                        variant=replica.variant,
                        node=replica.node,
                        cores=format_cores(replica.cores),
                        phase=replica.phase,
                    )
                    for replica in found.replicas
                    if replica.phase not in held_phases
                ),
                unplaced=_unplaced_by_exclusion(unplaced),
                conditions=_conditions(found, unplaced, decision),
                decision=decision,
            )
        )
    return tuple(reports)


def _unplaced_by_exclusion(unplaced: tuple[Unplaced, ...]) -> tuple[tuple[str, int], ...]:
    counts = Counter(entry.exclusions[0][0].value if entry.exclusions else "no node" for entry in unplaced)
    return tuple(sorted(counts.items()))


def _variant_reports(found: Assessment) -> tuple[VariantReport, ...]:
    live = (*found.standing.current, *found.standing.outdated)
    reports = []
    for name, profile in found.profiles:
        mine = [replica for replica in live if replica.variant == name]
        measured = LearnedProfile(
            variant=name,
            requests_per_second=profile.requests_per_second if profile.measured else None,
            concurrency=profile.concurrency if profile.measured else None,
            startup_seconds=profile.startup_seconds if profile.startup_measured else None,
        )
        ready = sum(replica.phase is ReplicaPhase.READY for replica in mine)
        reports.append(VariantReport(name=name, replicas=len(mine), ready=ready, measured=measured))
    return tuple(reports)


def _conditions(found: Assessment, unplaced: tuple[Unplaced, ...], decision: Decision) -> tuple[Condition, ...]:
    return (
        _accepted(found),
        _ready(found, unplaced),
        _scaling_active(found),
        _capacity_available(found, unplaced),
        _within_budget(found, decision),
    )


def _accepted(found: Assessment) -> Condition:
    problems = found.deployment.problems
    if problems:
        message = "; ".join(problem.message for problem in problems)
        return Condition(type=ConditionType.ACCEPTED, status=False, reason=problems[0].reason, message=message)
    warnings = "; ".join(problem.message for problem in found.deployment.warnings)
    message = f"the spec can be served, but {warnings}" if warnings else "the spec can be served as written"
    return Condition(type=ConditionType.ACCEPTED, status=True, reason=Reason.ACCEPTED, message=message)


def _ready(found: Assessment, unplaced: tuple[Unplaced, ...]) -> Condition:
    ready, wanted = found.standing.ready, found.wanted
    if ready >= wanted:
        reason = Reason.ALL_REPLICAS_READY if wanted else Reason.SCALED_TO_ZERO
        message = "as many replicas are ready as are wanted" if wanted else "no replica is wanted"
        return Condition(type=ConditionType.READY, status=True, reason=reason, message=message)
    if found.deployment.problems:
        return Condition(
            type=ConditionType.READY, status=False, reason=found.deployment.problems[0].reason, message="see Accepted"
        )
    reason = Reason.REPLICAS_UNPLACED if unplaced else Reason.REPLICAS_STARTING
    message = f"{ready} of {wanted} replicas are ready" + (f", {len(unplaced)} have no place" if unplaced else "")
    return Condition(type=ConditionType.READY, status=False, reason=reason, message=message)


def _scaling_active(found: Assessment) -> Condition:
    deployment = found.deployment
    if deployment.mode is not Mode.AUTO:
        reason = {
            Mode.MANUAL: Reason.MANUAL_REPLICAS,
            Mode.ADVISORY: Reason.ADVISORY,
            Mode.PAUSED: Reason.PAUSED,
        }[deployment.mode]
        message = f"spec.mode is {deployment.mode}"
        return Condition(type=ConditionType.SCALING_ACTIVE, status=False, reason=reason, message=message)
    if isinstance(found.demand, NoData):
        # Ages in seconds would make the text change on each pass; the event and the log have them.
        return Condition(
            type=ConditionType.SCALING_ACTIVE,
            status=False,
            reason=found.demand.reason,
            message="replicas are held: " + _SILENCE.get(found.demand.reason, found.demand.reason),
        )
    return Condition(
        type=ConditionType.SCALING_ACTIVE,
        status=True,
        reason=Reason.SIGNALS_FRESH,
        message="fresh signals drive the number of replicas" + _latency_remark(found),
    )


def _latency_remark(found: Assessment) -> str:
    """Say whether the latency target decides, without numbers, which would change the text on each pass."""
    if found.latency is None:
        return ""
    if found.latency.wait_at_most_seconds <= 0:
        return "; no number of them keeps spec.scaling.latencyTarget: the engines alone, without any queue, take longer"
    return ""


_SILENCE: dict[str, str] = {
    Reason.NO_SIGNAL: "spec.scaling.signals is empty, so nothing says how much work there is",
    Reason.NO_READY_REPLICA: "the signals are read from replicas, and none is ready yet",
    Reason.NO_FRESH_SIGNAL: "no source has answered within its staleAfter; fleetpack_signal_silent_sources says which",
}


def _capacity_available(found: Assessment, unplaced: tuple[Unplaced, ...]) -> Condition:
    if found.concession:
        return Condition(
            type=ConditionType.CAPACITY_AVAILABLE,
            status=False,
            reason=Reason.YIELDED_TO_PRIORITY,
            message=found.concession.message,
        )
    if not unplaced:
        return Condition(
            type=ConditionType.CAPACITY_AVAILABLE,
            status=True,
            reason=Reason.PLACED,
            message="every wanted replica has a place",
        )
    reason = Reason.WAITING_FOR_NODE if unplaced[0].awaiting_launch else Reason.NO_FEASIBLE_PLACEMENT
    message = f"{len(unplaced)} replicas have no place: {unplaced[0].message}"
    return Condition(type=ConditionType.CAPACITY_AVAILABLE, status=False, reason=reason, message=message)


def _within_budget(found: Assessment, decision: Decision) -> Condition:
    if found.allotment.reason:
        return Condition(
            type=ConditionType.WITHIN_BUDGET,
            status=False,
            reason=found.allotment.reason,
            message=found.allotment.message,
        )
    return Condition(
        type=ConditionType.WITHIN_BUDGET,
        status=True,
        reason=Reason.WITHIN_BUDGET,
        message="no ceiling holds replicas back",
    )


def pool_reports(
    snapshot: FleetSnapshot, fleet_rooms: tuple[Room, ...], state: State, now: float
) -> tuple[PoolReport, ...]:
    """Return what status, metrics and people are told of each pool."""
    reports = []
    for pool in snapshot.pools:
        mine = [room for room in fleet_rooms if room.node.pool == pool.name]
        nodes = tuple(
            NodeReport(
                name=room.node.name,
                instance_type=room.node.instance_type.name,
                ready=room.node.ready,
                cores=room.node.instance_type.cores,
                free_cores=room.free.bit_count(),
                largest_free_range=largest_free_range(room.free),
            )
            for room in mine
        )
        cores, free = sum(node.cores for node in nodes), sum(node.free_cores for node in nodes)
        reports.append(
            PoolReport(
                pool=pool.name,
                nodes=nodes,
                cores=cores,
                used_cores=cores - free,
                free_cores=free,
                largest_free_range=max((node.largest_free_range for node in nodes), default=0),
                usd_per_hour=sum(room.node.price_usd_per_hour or 0.0 for room in mine),
                conditions=_pool_conditions(pool, nodes, state, now),
            )
        )
    return tuple(reports)


def _pool_conditions(pool: Pool, nodes: tuple[NodeReport, ...], state: State, now: float) -> tuple[Condition, ...]:
    waiting = sum(not node.ready for node in nodes)
    blocked = [entry.instance_type for entry in state.blocked if entry.pool == pool.name and entry.until > now]
    return (
        Condition(
            type=ConditionType.ACCEPTED,
            status=not pool.problems,
            reason=pool.problems[0].reason if pool.problems else Reason.ACCEPTED,
            message="; ".join(problem.message for problem in pool.problems) or "the spec can be used as written",
        ),
        Condition(
            type=ConditionType.READY,
            status=not waiting,
            reason=Reason.NODES_NOT_READY if waiting else Reason.POOL_READY,
            message=f"{waiting} of {len(nodes)} nodes are not ready" if waiting else "every node is ready",
        ),
        Condition(
            type=ConditionType.CAPACITY_AVAILABLE,
            status=not blocked,
            reason=Reason.INSUFFICIENT_CAPACITY if blocked else Reason.PLACED,
            message=(
                f"the provider refused to launch {', '.join(blocked)}; tried again with back-off"
                if blocked
                else "the provider refuses nothing"
            ),
        ),
        _pool_within_budget(pool, nodes),
    )


def _pool_within_budget(pool: Pool, nodes: tuple[NodeReport, ...]) -> Condition:
    """Say whether a limit of the pool is reached: nothing more is launched then."""
    reached = pool.maximum_nodes is not None and len(nodes) >= pool.maximum_nodes
    return Condition(
        type=ConditionType.WITHIN_BUDGET,
        status=not reached,
        reason=Reason.POOL_LIMIT if reached else Reason.WITHIN_BUDGET,
        message=(f"spec.limits.nodes {pool.maximum_nodes} is reached" if reached else "no limit holds anything back"),
    )

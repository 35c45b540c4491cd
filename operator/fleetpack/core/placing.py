"""Step 7 from the planner's side: who asks for room in which order, what may be launched, what becomes of empty nodes.

Order of importance: higher priority first, then everybody's minimum before anybody's growth, then the fairest: the replica that
brings its deployment to the smallest share of what it wants comes first. The last key is the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleetpack.api.conditions import Reason
from fleetpack.core.assessment import Assessment
from fleetpack.core.decision import Action, Decision, LaunchNode, RemoveNode
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import FleetSnapshot
from fleetpack.core.packing.consolidation import NodeRemoval
from fleetpack.core.packing.pack import (
    Assignment,
    LaunchContext,
    Placement,
    PlacementRequest,
    Unplaced,
    VariantNeed,
)
from fleetpack.core.rollout import missing_replicas, restorable
from fleetpack.core.state import State


def replicas_to_place(found: Assessment, retry_at: float, now: float) -> int:
    """Return how many new replicas a deployment asks room for in this pass."""
    deployment = found.deployment
    if deployment.mode is Mode.PAUSED or deployment.deleting or deployment.problems:
        return 0
    if now < retry_at:
        return 0
    missing = missing_replicas(deployment, found.standing, found.wanted)
    return missing - len(restorable(found.standing, deployment, missing))


def placement_requests(assessments: tuple[Assessment, ...], state: State, now: float) -> tuple[PlacementRequest, ...]:
    """Return every wanted and missing replica as a request, the most important first."""
    retry_at = {entry.deployment: entry.retry_at for entry in state.deployments}
    aside: dict[tuple[str, str], set[str]] = {}
    for entry in state.set_aside:
        if entry.until > now:
            aside.setdefault((entry.deployment, entry.variant), set()).add(entry.node)
    ranked = []
    for found in assessments:
        count = replicas_to_place(found, retry_at.get(found.deployment.key, 0.0), now)
        options = _options(found, aside) if count else ()
        already = len(found.standing.current)
        for index in range(count):
            position = already + index
            request = PlacementRequest(
                deployment=found.deployment.key, namespace=found.deployment.namespace, index=index, options=options
            )
            growth = position >= found.deployment.minimum_replicas
            share = (position + 1) / max(1, found.wanted)
            ranked.append(((-found.deployment.priority, growth, share, found.deployment.key, index), request))
    return tuple(request for _, request in sorted(ranked, key=lambda entry: entry[0]))


def _options(found: Assessment, aside: Mapping[tuple[str, str], set[str]]) -> tuple[VariantNeed, ...]:
    """Return the variants as needs; `aside` holds nodes by deployment and variant."""
    return tuple(
        VariantNeed(
            variant=variant.name,
            accelerator=variant.accelerator,
            cores=variant.cores,
            devices=variant.devices,
            requests=variant.requests,
            node_selector=variant.node_selector,
            tolerations=variant.tolerations,
            set_aside_nodes=frozenset(aside.get((found.deployment.key, variant.name), ())),
        )
        for variant in found.deployment.variants
    )


def budgets(assessments: Iterable[Assessment]) -> dict[str, float]:
    """Return what each deployment with a ceiling may still add, in USD per hour."""
    return {
        found.deployment.key: found.allotment.addable_usd_per_hour
        for found in assessments
        if found.allotment.addable_usd_per_hour is not None
    }


def shares_of(placement: Placement) -> dict[str, Placement]:
    """Return each deployment's part of a placement; one that asked for nothing has none."""
    assigned: dict[str, list[Assignment]] = {}
    unplaced: dict[str, list[Unplaced]] = {}
    for place in placement.assigned:
        assigned.setdefault(place.request.deployment, []).append(place)
    for entry in placement.unplaced:
        unplaced.setdefault(entry.request.deployment, []).append(entry)
    return {
        key: Placement(assigned=tuple(assigned.get(key, ())), unplaced=tuple(unplaced.get(key, ())), launches=())
        for key in assigned.keys() | unplaced.keys()
    }


def refused_places(assessments: tuple[Assessment, ...]) -> tuple[tuple[str, str, str], ...]:
    """Return deployment, variant and node of each replica that the scheduler did not bind in time."""
    return tuple(
        sorted(
            {
                (found.deployment.key, replica.variant, replica.node)
                for found in assessments
                if found.deployment.mode is not Mode.PAUSED
                for replica in found.standing.overdue
            }
        )
    )


def launch_context(snapshot: FleetSnapshot, state: State, now: float) -> LaunchContext:
    """Return how much of each pool's limits is used, and what cannot be launched at the moment."""
    nodes: dict[str, int] = {}
    usd_per_hour: dict[str, float] = {}
    for node in snapshot.nodes:
        nodes[node.pool] = nodes.get(node.pool, 0) + 1
        usd_per_hour[node.pool] = usd_per_hour.get(node.pool, 0.0) + (node.price_usd_per_hour or 0.0)
    blocked = frozenset((entry.pool, entry.instance_type) for entry in state.blocked if entry.until > now)
    return LaunchContext(nodes=nodes, usd_per_hour=usd_per_hour, blocked=blocked)


def empty_since(
    snapshot: FleetSnapshot, state: State, placement: Placement, now: float
) -> tuple[tuple[str, float], ...]:
    """Return the nodes that hold and are promised nothing of ours, and since when."""
    taken = {replica.node for replica in snapshot.replicas} | {assigned.node for assigned in placement.assigned}
    before = dict(state.empty_since)
    return tuple(
        (node.name, before.get(node.name, now))
        for node in snapshot.nodes
        if node.name not in taken and not node.booting
    )


def node_actions(
    placement: Placement, removals: tuple[NodeRemoval, ...], snapshot: FleetSnapshot
) -> tuple[tuple[Action, ...], tuple[Decision, ...]]:
    """Return launches and removals; a pool that must grow gives nothing back in the same pass."""
    names = {node.name for node in snapshot.nodes}
    actions: list[Action] = []
    decisions: list[Decision] = []
    for launch in placement.launches:
        name = _free_name(f"{launch.pool}-{launch.instance_type.replace('.', '-')}", names)
        names.add(name)
        waiting = sum(entry.awaiting_launch for entry in placement.unplaced)
        message = (
            f"launch a {launch.instance_type}: {waiting} replicas have no room" if waiting else "headroom is used up"
        )
        reason = Reason.NODE_NEEDED if waiting else Reason.HEADROOM
        actions.append(
            LaunchNode(
                pool=launch.pool,
                name=name,
                instance_type=launch.instance_type,
                price_usd_per_hour=launch.price_usd_per_hour,
                reason=reason,
            )
        )
        decisions.append(
            Decision(subject=f"pool/{launch.pool}", kind="node", before=0, after=1, reason=reason, message=message)
        )
    growing = {launch.pool for launch in placement.launches}
    for removal in removals:
        if removal.pool in growing:
            continue
        actions.append(RemoveNode(pool=removal.pool, node=removal.node, reason=Reason.NODE_EMPTY))
        message = f"give {removal.node} back: {removal.reason}"
        decisions.append(
            Decision(
                subject=f"pool/{removal.pool}",
                kind="node",
                before=1,
                after=0,
                reason=Reason.NODE_EMPTY,
                message=message,
            )
        )
    return tuple(actions), tuple(decisions)


def _free_name(prefix: str, taken: set[str]) -> str:
    ordinal = 0
    while f"{prefix}-{ordinal}" in taken:
        ordinal += 1
    return f"{prefix}-{ordinal}"

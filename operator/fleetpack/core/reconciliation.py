"""Step 8 for one deployment: its part of the placement and its standing become actions."""

from __future__ import annotations

from dataclasses import replace

from fleetpack.api.conditions import Reason
from fleetpack.core.assessment import Assessment
from fleetpack.core.cost import replica_usd_per_hour
from fleetpack.core.decision import Action, CreateReplica, SetScale
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import Replica
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.packing.pack import Assignment, Placement
from fleetpack.core.rollout import RoomFound, Weights, give_up, housekeeping, missing_replicas, removals, restorable


def reconcile(found: Assessment, share: Placement, fleet: FleetIndex, now: float) -> tuple[Action, ...]:
    """Return the actions for one deployment; `share` is its part of the placement."""
    deployment = found.deployment
    actions: list[Action] = []
    restored: tuple[Replica, ...] = ()
    if not deployment.problems:
        missing = missing_replicas(deployment, found.standing, found.wanted)
        restored = restorable(found.standing, deployment, missing)
    work = found.observation.work
    actions.extend(housekeeping(deployment, found.standing, work, now, restored))
    if deployment.problems:
        return tuple(actions)
    costs = {
        replica.name: replica_usd_per_hour(fleet.nodes.get(replica.node), replica.cores_count)
        for replica in found.replicas
    }
    weights = Weights(work=work, usd_per_hour=costs)
    hopeless = sum(not entry.awaiting_launch for entry in share.unplaced)
    room = RoomFound(hopeless=hopeless, attainable=len(found.replicas) + len(share.assigned))
    given = found.concession.victims if found.concession else ()
    actions.extend(give_up(replica, Reason.YIELDED_TO_PRIORITY) for replica in given)
    remaining = replace(found.standing, current=tuple(one for one in found.standing.current if one not in given))
    for replica, reason in removals(deployment, remaining, found.wanted, room, weights):
        actions.append(give_up(replica, reason))
    actions.extend(_creations(found, [entry for entry in share.assigned if not entry.promised], fleet))
    # What has no place is not asked for; what waits for a node or a back-off is.
    feasible = max(found.wanted - hopeless, min(found.wanted, found.standing.live))
    if deployment.mode is Mode.AUTO and feasible != deployment.replicas:
        why = Reason.YIELDED_TO_PRIORITY if found.concession else found.desired.reason
        actions.append(SetScale(deployment=deployment.key, replicas=feasible, reason=why))
    return tuple(actions)


def _reason_to_create(found: Assessment) -> str:
    """Return why new replicas start: for those that must leave their place first, then for a template, then for the number."""
    evacuees = found.standing.evacuees
    if evacuees:
        return found.standing.departures[evacuees[0].name].reason
    return Reason.TEMPLATE_CHANGED if found.standing.outdated else found.desired.reason


def _creations(found: Assessment, assigned: list[Assignment], fleet: FleetIndex) -> list[Action]:
    """Name new replicas by variant and the lowest free ordinal."""
    deployment = found.deployment
    taken: set[str] = set()
    exist = fleet.names.get(deployment.namespace, frozenset())
    creations: list[Action] = []
    for entry in assigned:
        variant = deployment.variant(entry.variant)
        assert variant is not None, f"{deployment.key}: placed variant {entry.variant} is not in the spec"
        ordinal = 0
        while (name := f"{deployment.name}-{variant.name}-{ordinal}") in exist or name in taken:
            ordinal += 1
        taken.add(name)
        creations.append(
            CreateReplica(
                deployment=deployment.key,
                variant=variant.name,
                name=name,
                node=entry.node,
                cores=entry.cores,
                cores_count=entry.cores_count,
                template_hash=variant.template_hash,
                usd_per_hour=entry.usd_per_hour,
                reason=_reason_to_create(found),
            )
        )
    return creations

"""Actions issued and not yet seen: the snapshot as it will be.

Caches are always a little behind our own writes. What is pending or done is taken as having happened; what is unknown takes
its cores, its name and its money, but nobody counts on it; what failed teaches back-off, and a name that is taken is not tried
again for a while. A replica whose removal the API server has not confirmed is marked, because it may be refused: a surge counts it.
Nothing else in the core knows that actions take time.
"""

from __future__ import annotations

from dataclasses import replace

from fleetpack.core.decision import (
    CreateReplica,
    DeleteReplica,
    DrainReplica,
    IssuedAction,
    LaunchNode,
    Outcome,
    RemoveNode,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import Deployment, Mode
from fleetpack.core.fleet import LIVE_PHASES, FleetSnapshot, Node, Pool, Replica, ReplicaPhase, Resources
from fleetpack.core.state import Blocked, SetAside, State, TakenName

LAUNCH_BACK_OFF_SECONDS = 30.0
"""First wait after a launch that the provider refused; doubles up to the maximum below."""
LOST_LAUNCH_SECONDS = 900.0
"""A machine that has not joined a quarter of an hour after its launch will not; Karpenter gives up after the same time."""
CREATE_BACK_OFF_SECONDS = 5.0
MAXIMUM_BACK_OFF_SECONDS = 600.0


def back_off_seconds(first_seconds: float, refusals: int) -> float:
    """Return the wait after the n-th refusal in a row."""
    return float(min(MAXIMUM_BACK_OFF_SECONDS, first_seconds * 2 ** (min(refusals, 20) - 1)))


def without_lost_launches(snapshot: FleetSnapshot, now: float) -> FleetSnapshot:
    """Return the snapshot in which a node that has been booting for too long promises no room any more."""
    return replace(
        snapshot,
        nodes=tuple(
            replace(node, booting=False)
            if node.booting and node.created_at and now - node.created_at > LOST_LAUNCH_SECONDS
            else node
            for node in snapshot.nodes
        ),
    )


def project(
    snapshot: FleetSnapshot, issued: tuple[IssuedAction, ...], deployments: tuple[Deployment, ...]
) -> FleetSnapshot:
    """Return the snapshot with everything that is on its way."""
    replicas = {f"{replica.deployment.partition('/')[0]}/{replica.name}": replica for replica in snapshot.replicas}
    nodes = {node.name: node for node in snapshot.nodes}
    pools = {pool.name: pool for pool in snapshot.pools}
    requests = {
        (deployment.key, variant.name): variant.requests
        for deployment in deployments
        for variant in deployment.variants
    }
    for entry in issued:
        if entry.outcome in (Outcome.FAILED, Outcome.NOT_SENT):
            continue
        action = entry.action
        if isinstance(action, CreateReplica):
            key = f"{action.deployment.partition('/')[0]}/{action.name}"
            variant_requests = requests.get((action.deployment, action.variant), Resources(pods=1))
            replicas.setdefault(key, _requested(action, entry, variant_requests))
        elif isinstance(action, LaunchNode):
            node = empty_node(action.name, action.instance_type, pools.get(action.pool))
            if node:
                nodes.setdefault(node.name, node)
        elif isinstance(action, RemoveNode):
            if action.node in nodes:
                nodes[action.node] = replace(nodes[action.node], ready=False, booting=False)
        elif isinstance(action, DrainReplica | RestoreReplica | DeleteReplica):
            key = f"{action.deployment.partition('/')[0]}/{action.name}"
            if key in replicas and replicas[key].uid == action.uid:
                replicas[key] = _changed(replicas[key], entry)
    return replace(
        snapshot,
        replicas=tuple(replica for _, replica in sorted(replicas.items())),
        nodes=tuple(node for _, node in sorted(nodes.items())),
        foreign_pods=tuple(sorted(snapshot.foreign_pods, key=lambda pod: pod.name)),
        pools=tuple(pool for _, pool in sorted(pools.items())),
    )


def project_scales(deployments: tuple[Deployment, ...], issued: tuple[IssuedAction, ...]) -> tuple[Deployment, ...]:
    """Return the deployments with the `spec.replicas` that are on their way: what has been asked for is not asked again.

    Only Auto writes it; in the other modes what the cache shows is somebody's order.
    """
    written = {
        entry.action.deployment: entry.action.replicas
        for entry in issued
        if isinstance(entry.action, SetScale) and entry.outcome in (Outcome.PENDING, Outcome.DONE)
    }
    return tuple(
        replace(deployment, replicas=written[deployment.key])
        if deployment.mode is Mode.AUTO and deployment.key in written
        else deployment
        for deployment in deployments
    )


def _requested(action: CreateReplica, entry: IssuedAction, requests: Resources) -> Replica:
    return Replica(
        deployment=action.deployment,
        variant=action.variant,
        name=action.name,
        uid="",
        node=action.node,
        cores=action.cores,
        cores_count=action.cores_count,
        planned_cores=action.cores,
        phase=ReplicaPhase.REQUESTED,
        template_hash=action.template_hash,
        requests=replace(requests, accelerator_cores=action.cores_count),
        created_at=entry.issued_at,
        outcome_unknown=entry.outcome in (Outcome.UNKNOWN, Outcome.NAME_TAKEN),
    )


def empty_node(name: str, instance_type_name: str, pool: Pool | None) -> Node | None:
    """Return the node that a launch of an offering of `pool` would give, still booting; None where the pool has no such offering."""
    for offering in pool.offerings if pool else ():
        instance_type = offering.instance_type
        if instance_type.name == instance_type_name:
            return Node(
                name=name,
                pool=pool.name if pool else "",
                instance_type=instance_type,
                ready=False,
                booting=True,
                price_usd_per_hour=offering.price_usd_per_hour,
                allocatable=Resources(
                    cpu_millicores=instance_type.allocatable_cpu_millicores or 0,
                    memory_bytes=instance_type.allocatable_memory_bytes or 0,
                    pods=instance_type.max_pods or 110,
                    accelerator_cores=instance_type.cores,
                ),
            )
    return None


def _changed(replica: Replica, entry: IssuedAction) -> Replica:
    if isinstance(entry.action, DeleteReplica | DrainReplica):
        unconfirmed = replica.removal_unconfirmed or (
            entry.outcome is not Outcome.DONE and replica.phase in LIVE_PHASES
        )
        given_up = replace(replica, removal_unconfirmed=unconfirmed)
        if isinstance(entry.action, DeleteReplica):
            return replace(given_up, phase=ReplicaPhase.TERMINATING)
        since = replica.draining_since if replica.draining_since is not None else entry.issued_at
        return replace(given_up, phase=ReplicaPhase.DRAINING, draining_since=since)
    if entry.outcome is Outcome.UNKNOWN:
        return replica
    return replace(replica, phase=ReplicaPhase.READY, draining_since=None)


def learn_from_failures(state: State, issued: tuple[IssuedAction, ...], now: float) -> State:
    """Set aside what was refused: launches by pool and type, creations by deployment, and names that are taken."""
    blocked = {(entry.pool, entry.instance_type): entry for entry in state.blocked}
    deployments = {entry.deployment: entry for entry in state.deployments}
    for entry in issued:
        if entry.outcome is not Outcome.FAILED:
            continue
        if isinstance(entry.action, LaunchNode):
            key = (entry.action.pool, entry.action.instance_type)
            if key in blocked and now < blocked[key].until:
                # Sent with the one that was refused first: the same try.
                continue
            refusals = (blocked[key].refusals if key in blocked else 0) + 1
            until = now + back_off_seconds(LAUNCH_BACK_OFF_SECONDS, refusals)
            blocked[key] = Blocked(pool=key[0], instance_type=key[1], until=until, refusals=refusals)
        elif isinstance(entry.action, CreateReplica) and entry.action.deployment in deployments:
            before = deployments[entry.action.deployment]
            if now < before.retry_at:
                continue
            wait = back_off_seconds(CREATE_BACK_OFF_SECONDS, before.failures + 1)
            deployments[before.deployment] = replace(
                before, failures=before.failures + 1, retry_at=now + wait, refusal=entry.detail
            )
    forget_before = now - MAXIMUM_BACK_OFF_SECONDS
    return replace(
        state,
        blocked=tuple(entry for _, entry in sorted(blocked.items()) if entry.until > forget_before),
        deployments=tuple(entry for _, entry in sorted(deployments.items())),
        taken_names=_taken_names(state, issued, now),
    )


def _taken_names(state: State, issued: tuple[IssuedAction, ...], now: float) -> tuple[TakenName, ...]:
    """Return the names that are not tried again yet. A Pod whose labels somebody took away holds its name for as long as it lives."""
    taken = {(entry.namespace, entry.name): entry for entry in state.taken_names if entry.until > now}
    for entry in issued:
        if entry.outcome is Outcome.NAME_TAKEN and isinstance(entry.action, CreateReplica):
            key = entry.action.deployment.partition("/")[0], entry.action.name
            taken[key] = TakenName(namespace=key[0], name=key[1], until=now + MAXIMUM_BACK_OFF_SECONDS)
    return tuple(entry for _, entry in sorted(taken.items()))


def set_aside(state: State, refused: tuple[tuple[str, str, str], ...], now: float, first_seconds: float) -> State:
    """Remember the nodes that the scheduler did not bind to in time, each by deployment, variant and node."""
    entries = {
        (entry.deployment, entry.variant, entry.node): entry
        for entry in state.set_aside
        if entry.until > now - MAXIMUM_BACK_OFF_SECONDS
    }
    for place in refused:
        before = entries.get(place)
        if before is not None and before.until > now:
            # The same Pod, seen again before its deletion shows.
            continue
        refusals = before.refusals + 1 if before is not None else 1
        until = now + back_off_seconds(first_seconds, refusals)
        deployment, variant, node = place
        entries[place] = SetAside(deployment=deployment, variant=variant, node=node, until=until, refusals=refusals)
    return replace(state, set_aside=tuple(entry for _, entry in sorted(entries.items())))

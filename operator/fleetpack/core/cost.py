"""Step 6, budget: what replicas cost, and how many of the wanted ones the money allows.

A replica costs its node's price times its share of the node's cores, from placement until its Pod is gone; the idle share
belongs to the pool. A ceiling beats `minReplicas`. A price that nobody knows is no price of zero: such nodes take no replica
that has a ceiling (the packing excludes them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleetpack.api.conditions import Reason
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import Node, Replica, ReplicaPhase
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.packing.topology import Misfit, cores_needed

MONEY_TOLERANCE_USD_PER_HOUR = 1e-9
"""Sums of binary fractions of a price are off by less than this; a ceiling is never crossed by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """How many replicas one deployment may have; `reason` is empty where nothing was cut."""

    replicas: int
    addable_usd_per_hour: float | None
    """What may still be added to what it costs now; None: no ceiling."""
    reason: str = ""
    message: str = ""


def replica_usd_per_hour(node: Node | None, cores_count: int) -> float:
    """Return the cost of `cores_count` cores of a node; 0 where the node is gone or nobody knows its price."""
    if node is None or node.price_usd_per_hour is None or node.instance_type.cores == 0:
        return 0.0
    return node.price_usd_per_hour * cores_count / node.instance_type.cores


def spent_usd_per_hour(replicas: Iterable[Replica], nodes: Mapping[str, Node]) -> float:
    """Return what replicas cost; a Pod that has failed no longer holds cores."""
    return sum(
        replica_usd_per_hour(nodes.get(replica.node), replica.cores_count)
        for replica in replicas
        if replica.phase is not ReplicaPhase.FAILED
    )


def cheapest_usd_per_hour(deployment: Deployment, fleet: FleetIndex) -> float | None:
    """Return the least that one more replica could cost on any node or offering open to it; None: nothing is known."""
    pools = [pool.name for pool in fleet.snapshot.pools if pool.admits(deployment.namespace)]
    costs = []
    for instance_type, price in (offer for pool in pools for offer in fleet.offers[pool]):
        for variant in deployment.variants:
            if variant.accelerator != instance_type.accelerator or price is None:
                continue
            cores = cores_needed(instance_type, variant.cores, variant.devices)
            if not isinstance(cores, Misfit):
                costs.append(price * cores / instance_type.cores)
    return min(costs, default=None)


def allocate_budget(deployment: Deployment, wanted: int, replicas: tuple[Replica, ...], fleet: FleetIndex) -> Allotment:
    """Cut the wanted number to what the deployment's own ceiling allows."""
    ceiling = deployment.maximum_usd_per_hour
    if ceiling is None:
        return Allotment(replicas=wanted, addable_usd_per_hour=None)
    nodes = fleet.nodes
    spent = spent_usd_per_hour(replicas, nodes)
    addable = max(0.0, ceiling - spent)
    going = (ReplicaPhase.DRAINING, ReplicaPhase.TERMINATING, ReplicaPhase.FAILED)
    live = sorted(
        replica_usd_per_hour(nodes.get(replica.node), replica.cores_count)
        for replica in replicas
        if replica.phase not in going
    )
    allowed, total = 0, 0.0
    for cost in live:
        total += cost
        if total > ceiling + MONEY_TOLERANCE_USD_PER_HOUR:
            break
        allowed += 1
    cheapest = cheapest_usd_per_hour(deployment, fleet)
    if allowed == len(live) and cheapest:
        # What is draining or terminating is still being paid for, so it counts against new replicas until it is gone.
        allowed += int((ceiling - spent + MONEY_TOLERANCE_USD_PER_HOUR) / cheapest) if spent < ceiling else 0
    if allowed >= wanted or (allowed == len(live) and cheapest is None):
        return Allotment(replicas=wanted, addable_usd_per_hour=addable)
    message = f"{wanted} replicas wanted, spec.cost.maxUSDPerHour {ceiling:g} pays for {allowed}" + (
        f" at {cheapest:.4f} USD per hour each" if cheapest else ""
    )
    return Allotment(replicas=allowed, addable_usd_per_hour=addable, reason=Reason.COST_CEILING, message=message)

"""Step 6, budget: what replicas cost, and how many of the wanted ones the money allows.

A replica costs its node's price times its share of the node's cores, from placement until its Pod is gone; the idle share
belongs to the pool. A ceiling beats `minReplicas`. A price that nobody knows is no price of zero: such nodes take no replica
that has a ceiling (the packing excludes them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fleetpack.api.conditions import Reason
from fleetpack.core.decision import Factor
from fleetpack.core.demand import Demand
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import Node, Replica, ReplicaPhase
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.packing.topology import Misfit, cores_needed
from fleetpack.core.sizing import Recommendation

BACKLOG_SECONDS = 60.0
"""Under a cost target a backlog is served beside the arrivals within a minute; nobody pays for a faster drain."""

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


def keep_cost_target(
    deployment: Deployment,
    recommendation: Recommendation,
    demand: Demand,
    capacity: float | None,
    usd_per_hour: float | None,
) -> Recommendation:
    """Cut what latency and spare capacity ask for to what the target per million requests pays for.

    n replicas at u USD per hour serve a million requests for n * u / (3600 * a) * 1e6 USD. What the demand itself needs, the
    arrival rate over the capacity of one replica, is never cut: unserved requests are no cheap ones. Without a measured or promised
    capacity nobody can tell both apart, and nothing is cut.
    """
    target = deployment.target_usd_per_million_requests
    if target is None or not capacity or not usd_per_hour or demand.idle:
        return recommendation
    # The rate is believed as high as chance allows, so that noise does not take away what the mean pays for.
    rate = demand.arrival_rate_per_second + demand.rate_deviation_per_second
    paid = math.floor(target * rate * 3600.0 / (1e6 * usd_per_hour) + 1e-9)
    # A backlog is demand as well, as far as it must be served beside what arrives.
    serving = math.ceil((rate + demand.waiting / BACKLOG_SECONDS) / capacity - 1e-9)
    most = max(1, paid, serving)
    if recommendation.keep_replicas <= most:
        return recommendation
    cut = recommendation.replicas > most
    return replace(
        recommendation,
        replicas=min(recommendation.replicas, most),
        keep_replicas=most,
        bound_by=Reason.COST_TARGET if cut else recommendation.bound_by,
        factors=(*recommendation.factors, Factor(name="paid_replicas", value=float(most))),
    )


def usd_per_replica_hour(deployment: Deployment, replicas: tuple[Replica, ...], fleet: FleetIndex) -> float | None:
    """Return what one replica costs: the mean of those that there are, else the cheapest that there could be; None: unknown."""
    costs = [replica_usd_per_hour(fleet.nodes.get(replica.node), replica.cores_count) for replica in replicas]
    known = [cost for cost in costs if cost > 0.0]
    return sum(known) / len(known) if known else cheapest_usd_per_hour(deployment, fleet)


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

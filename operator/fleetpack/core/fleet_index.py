"""A snapshot, looked up by name: made once a pass, so that no deployment searches the whole fleet.

Boundary: holds nothing that the snapshot does not hold, but names that were refused. Every order is the snapshot's own. It does no
input or output and cannot fail; what is absent has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetpack.catalog import InstanceType
from fleetpack.core.departures import Departure, departing_nodes, departure_of
from fleetpack.core.fleet import FleetSnapshot, Node, Replica
from fleetpack.core.state import TakenName


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetIndex:
    """The fleet of one pass."""

    snapshot: FleetSnapshot
    nodes: Mapping[str, Node]
    """By name."""
    replicas: Mapping[str, tuple[Replica, ...]]
    """By deployment."""
    names: Mapping[str, frozenset[str]]
    """Names of the Pods of each namespace, as far as they are known: what a new replica cannot be called."""
    offers: Mapping[str, tuple[tuple[InstanceType, float | None], ...]]
    """By pool: each instance type that it has or may launch, with its price; every pair once."""

    departing: Mapping[str, Departure]
    """By node: why its replicas must go; those of all other nodes may stay."""

    broken: frozenset[str]
    """Nodes of which some core is out."""

    def departures(self, replicas: tuple[Replica, ...]) -> dict[str, Departure]:
        """Return, by name of the replica, why those of `replicas` that cannot stay must go."""
        if not self.departing and not self.broken:
            return {}
        found = ((one.name, departure_of(one, self.nodes.get(one.node), self.departing)) for one in replicas)
        return {name: departure for name, departure in found if departure is not None}


def index_fleet(snapshot: FleetSnapshot, now: float, taken_names: tuple[TakenName, ...] = ()) -> FleetIndex:
    """Return the index of a snapshot as it is at `now`; `taken_names` are those of Pods that it does not show."""
    replicas: dict[str, list[Replica]] = {}
    names: dict[str, set[str]] = {}
    for replica in snapshot.replicas:
        replicas.setdefault(replica.deployment, []).append(replica)
        names.setdefault(replica.deployment.partition("/")[0], set()).add(replica.name)
    for pod in snapshot.foreign_pods:
        namespace, _, name = pod.name.partition("/")
        names.setdefault(namespace, set()).add(name)
    for taken in taken_names:
        names.setdefault(taken.namespace, set()).add(taken.name)
    offers: dict[str, dict[tuple[str, float | None], InstanceType]] = {pool.name: {} for pool in snapshot.pools}
    for node in snapshot.nodes:
        if node.pool in offers:
            offers[node.pool][node.instance_type.name, node.price_usd_per_hour] = node.instance_type
    for pool in snapshot.pools:
        for offering in pool.offerings:
            offers[pool.name][offering.instance_type.name, offering.price_usd_per_hour] = offering.instance_type
    return FleetIndex(
        snapshot=snapshot,
        nodes={node.name: node for node in snapshot.nodes},
        replicas={key: tuple(found) for key, found in replicas.items()},
        names={namespace: frozenset(found) for namespace, found in names.items()},
        departing=departing_nodes(snapshot, now),
        broken=frozenset(node.name for node in snapshot.nodes if node.unhealthy_cores or node.unhealthy_devices),
        offers={
            pool: tuple((instance_type, price) for (_, price), instance_type in found.items())
            for pool, found in offers.items()
        },
    )

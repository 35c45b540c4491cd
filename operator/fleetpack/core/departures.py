"""Which places replicas have to leave, and how soon: cordoned, taken back, silent, gone, or on broken silicon.

A replica in such a place is not counted on to stay. Its successor starts first (`rollout`); only where the place is as good as
lost does every successor start at once, because the replicas end whatever we do. A cordon can wait, so its replicas move within the
disruption budget.

Damping, the only one here: a node that is not Ready is believed lost after `SILENT_SECONDS`. The kubelet's own restart takes some ten
seconds, and what is replaced for nothing costs a cold start. A kubelet that died shows only after the node monitor's grace
period of 40 to 50 s, so the whole detection takes about a minute. Where most nodes fall silent together, the fault lies with the
network or the control plane and not with them: then none is believed lost, as the node lifecycle controller does it.

A broken device is an annotation of our device plugin or a node condition; both are damped where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetpack.api.conditions import Reason
from fleetpack.core.cores import format_cores
from fleetpack.core.fleet import FleetSnapshot, Node, Replica, ReplicaPhase

SILENT_SECONDS = 30.0
"""Three times what a kubelet needs to restart, and well under the 300 s after which Kubernetes evicts the Pods of such a node."""
PARTITION_FRACTION = 0.55
PARTITION_NODES = 2
"""More than two nodes and at least this share of all not Ready: kube-controller-manager's `--unhealthy-zone-threshold` and its rule."""

LEAVING_TAINTS: Mapping[str, str] = {
    "aws-node-termination-handler/spot-itn": "its spot capacity is taken back in two minutes",
    "aws-node-termination-handler/scheduled-maintenance": "its machine is about to be maintained",
    "aws-node-termination-handler/asg-lifecycle-termination": "its auto scaling group ends it",
    "karpenter.sh/disrupted": "Karpenter ends it",
    "karpenter.sh/disruption": "Karpenter ends it",
    "ToBeDeletedByClusterAutoscaler": "the cluster autoscaler ends it",
    "cloud.google.com/impending-node-termination": "its machine is about to end",
    "node.kubernetes.io/out-of-service": "it was declared out of service",
    "node.cloudprovider.kubernetes.io/shutdown": "its machine is shut down",
}
"""Taints that announce a node's end, by key (aws-node-termination-handler, Karpenter, cluster autoscaler, GKE, Kubernetes)."""
CORDON_TAINTS: Mapping[str, str] = {
    "aws-node-termination-handler/rebalance-recommendation": "its spot capacity is at risk",
}
"""Taints that ask for the same as a cordon: nothing is certain yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Why a replica cannot stay where it is."""

    reason: str
    message: str
    certain: bool
    """The place is lost or will be, whatever we do; else it can wait for its turn."""


def is_leaving(node: Node) -> bool:
    """Whether a node takes nothing new because its end is announced, whatever a Pod tolerates."""
    return node.deleting or (bool(node.taints) and any(taint.key in LEAVING_TAINTS for taint in node.taints))


def departing_nodes(snapshot: FleetSnapshot, now: float) -> dict[str, Departure]:
    """Return the nodes whose replicas must go, by name, those that are gone included."""
    silent = [node for node in snapshot.nodes if _is_silent(node)]
    partitioned = len(silent) > PARTITION_NODES and len(silent) >= PARTITION_FRACTION * len(snapshot.nodes)
    found: dict[str, Departure] = {}
    for node in snapshot.nodes:
        departure = _announced(node)
        if departure is None and not partitioned and _is_silent(node):
            since = node.unready_since
            assert since is not None
            if now - since >= SILENT_SECONDS:
                message = f"node {node.name} has not been Ready for {SILENT_SECONDS:.0f} s and more"
                departure = Departure(reason=Reason.NODE_UNHEALTHY, message=message, certain=True)
        if departure is not None:
            found[node.name] = departure
    present = {node.name for node in snapshot.nodes} | set(snapshot.unusable_nodes)
    for replica in snapshot.replicas:
        if replica.node and replica.node not in present:
            message = f"node {replica.node} is gone"
            found[replica.node] = Departure(reason=Reason.NODE_LEAVING, message=message, certain=True)
    return found


def departure_of(replica: Replica, node: Node | None, nodes: Mapping[str, Departure]) -> Departure | None:
    """Return why a replica must leave its place; None: it may stay."""
    departure = nodes.get(replica.node)
    if departure is not None and departure.certain:
        return departure
    unbound = replica.phase in (ReplicaPhase.REQUESTED, ReplicaPhase.UNBOUND)
    broken = replica.cores & node.broken_cores if node is not None and not unbound else 0
    if broken:
        message = f"cores {format_cores(broken)} of node {replica.node} are unhealthy"
        return Departure(reason=Reason.NODE_UNHEALTHY, message=message, certain=True)
    return departure


def _is_silent(node: Node) -> bool:
    return not node.ready and not node.booting and node.unready_since is not None


def _announced(node: Node) -> Departure | None:
    if node.deleting:
        return Departure(reason=Reason.NODE_LEAVING, message=f"node {node.name} is being deleted", certain=True)
    for taint in node.taints:
        if taint.key in LEAVING_TAINTS:
            message = f"node {node.name} goes: {LEAVING_TAINTS[taint.key]}"
            return Departure(reason=Reason.NODE_LEAVING, message=message, certain=True)
    for taint in node.taints:
        if taint.key in CORDON_TAINTS:
            message = f"node {node.name} may go: {CORDON_TAINTS[taint.key]}"
            return Departure(reason=Reason.NODE_LEAVING, message=message, certain=False)
    if node.cordoned:
        return Departure(reason=Reason.NODE_LEAVING, message=f"node {node.name} is cordoned", certain=False)
    return None

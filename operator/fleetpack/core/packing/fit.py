"""Which nodes can take a replica, and why the others cannot.

A `Room` is what one node still has to give: free healthy cores, and what kube-scheduler will count as free. Both must agree
with a replica: the scheduler counts cores and does not see ranges, the planner sees ranges and must not ask for what the
scheduler will refuse. Taints and node selectors are read as kube-scheduler reads them.

Cores whose owner is known are taken as they are; a Pod that nobody knows the cores of is assumed to hold those that our
device plugin would give it. Each refusal is an `Exclusion`, so that a report can count them; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from fleetpack.core.cores import range_mask
from fleetpack.core.cost import MONEY_TOLERANCE_USD_PER_HOUR
from fleetpack.core.departures import is_leaving
from fleetpack.core.fleet import (
    FleetSnapshot,
    ForeignPod,
    Labels,
    Node,
    Replica,
    ReplicaPhase,
    Resources,
    Taint,
    Toleration,
)
from fleetpack.core.packing.topology import Misfit, Shape, cores_needed, counted, free_sets, lowest_bits, shape_of

POOL_LABEL = "fleetpack.dev/pool"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"

STARTUP_TAINTS = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/network-unavailable",
        "node.cloudprovider.kubernetes.io/uninitialized",
    }
)
"""Taints that every node has until it is up (Kubernetes, well-known labels, annotations and taints): no obstacle to a promise."""


class Exclusion(StrEnum):
    """Why a node cannot take a replica, from what never changes to what changes soonest; the text is for people."""

    WRONG_ACCELERATOR = "wrong accelerator"
    UNSUPPORTED_COUNT = "count not supported by the topology"
    POOL_NOT_OPEN = "pool not open to the namespace"
    NODE_SELECTOR = "node selector does not match"
    TAINT = "taint not tolerated"
    PRICE_UNKNOWN = "price unknown under a ceiling"
    NODE_NOT_READY = "node not ready"
    SET_ASIDE = "set aside, the scheduler refused"
    CORES = "not enough free cores"
    CONTIGUOUS_RANGE = "no contiguous range"
    CPU = "not enough CPU"
    MEMORY = "not enough memory"
    PODS = "no room for another Pod"
    COST_CEILING = "cost ceiling"


EXCLUSION_RANK = {exclusion: rank for rank, exclusion in enumerate(Exclusion)}
"""How far a replica came before it was refused; of several variants the one that came furthest is reported."""


_ONE_POD = Resources(pods=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantNeed:
    """What one replica of a variant needs; exactly one of `cores` and `devices` is above 0."""

    variant: str
    accelerator: str
    cores: int = 0
    devices: int = 0
    requests: Resources = _ONE_POD
    """CPU, memory and the Pod itself; accelerator cores follow from `cores` or `devices`."""
    node_selector: Labels = ()
    tolerations: tuple[Toleration, ...] = ()
    set_aside_nodes: frozenset[str] = frozenset()
    """Nodes that refused a replica of this size a short while ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one node still has to give."""

    node: Node
    shape: Shape
    free: int
    """Mask of the free healthy cores; as many lowest pseudo-ids as there are free devices, where these have no ids."""
    remaining: Resources
    """Allocatable minus the requests of all Pods that are not gone, as kube-scheduler counts; may be negative."""
    occupants: int = 0
    """Replicas, seen or on their way, and foreign Pods with accelerators."""
    replica_sizes: frozenset[int] = frozenset()
    """Sizes of the replicas on it, in cores: sizes that will be asked for again."""
    deployments: frozenset[str] = frozenset()
    """Deployments with a replica on it that is not on its way out."""

    @property
    def free_cores(self) -> int:
        """How many healthy cores nobody holds."""
        return self.free.bit_count()

    @property
    def open(self) -> bool:
        """Whether it takes replicas, now or as a promise."""
        return (self.node.ready or self.node.booting) and not is_leaving(self.node)

    @property
    def promised(self) -> bool:
        """Whether its node is still booting."""
        return not self.node.ready

    def usd_per_hour(self, cores: int) -> float | None:
        """Return what `cores` of its cores cost; None: nobody knows the price."""
        price = self.node.price_usd_per_hour
        return None if price is None else price * cores / self.shape.cores

    def taken(self, mask: int, requests: Resources) -> Room:
        """Return what is left after a replica takes the cores `mask` and `requests`."""
        left = self.remaining.minus(_whole(requests, mask.bit_count()))
        return replace(self, free=self.free & ~mask, remaining=left, occupants=self.occupants + 1)


def rooms(snapshot: FleetSnapshot) -> tuple[Room, ...]:
    """Return what each node of the fleet still has to give, by name."""
    replicas: dict[str, list[Replica]] = {}
    for replica in sorted(snapshot.replicas, key=lambda replica: (replica.deployment, replica.name, replica.uid)):
        # A Pod that has ended no longer holds cores in the kubelet, and kube-scheduler no longer counts it.
        if replica.phase is not ReplicaPhase.FAILED:
            replicas.setdefault(replica.node, []).append(replica)
    pods: dict[str, list[ForeignPod]] = {}
    for pod in sorted(snapshot.foreign_pods, key=lambda pod: pod.name):
        pods.setdefault(pod.node, []).append(pod)
    return tuple(
        _room(node, replicas.get(node.name, ()), pods.get(node.name, ()))
        for node in sorted(snapshot.nodes, key=lambda node: node.name)
    )


def candidates(
    need: VariantNeed, room: Room, open_pools: frozenset[str], addable_usd_per_hour: float | None
) -> tuple[int, ...] | Exclusion:
    """Return the free legal sets of cores for a replica on this node, by ascending start, or why there are none.

    `open_pools` are the pools that its namespace may use; `addable_usd_per_hour` is what its deployment may still add, None
    without a ceiling.
    """
    cores = never_fits(need, room, open_pools)
    if isinstance(cores, Exclusion):
        return cores
    if addable_usd_per_hour is not None and room.node.price_usd_per_hour is None:
        return Exclusion.PRICE_UNKNOWN
    if exclusion := unavailable(need, room, cores):
        return exclusion
    masks = free_sets(room.shape, room.free, cores)
    if not masks:
        return Exclusion.CONTIGUOUS_RANGE
    if exclusion := short_resource(need.requests, room.remaining):
        return exclusion
    if not affordable(room.usd_per_hour(cores), addable_usd_per_hour):
        return Exclusion.COST_CEILING
    return masks


def never_fits(need: VariantNeed, room: Room, open_pools: frozenset[str]) -> int | Exclusion:
    """Return how many cores a replica takes on this node, or why it cannot run there however much is free."""
    node = room.node
    if need.accelerator != node.instance_type.accelerator:
        return Exclusion.WRONG_ACCELERATOR
    cores = cores_needed(node.instance_type, need.cores, need.devices)
    if isinstance(cores, Misfit):
        return Exclusion.UNSUPPORTED_COUNT
    if node.pool not in open_pools:
        return Exclusion.POOL_NOT_OPEN
    if need.node_selector and not _selected(need.node_selector, node):
        return Exclusion.NODE_SELECTOR
    if node.taints and any(
        not _tolerated(taint, need.tolerations) for taint in node.taints if _keeps_away(taint, node)
    ):
        return Exclusion.TAINT
    return cores


def unavailable(need: VariantNeed, room: Room, cores: int) -> Exclusion | None:
    """Return why the node gives nothing now, or not that many cores wherever they are; None: it may."""
    if not room.open:
        return Exclusion.NODE_NOT_READY
    if room.node.name in need.set_aside_nodes:
        return Exclusion.SET_ASIDE
    if room.free.bit_count() < cores or room.remaining.accelerator_cores < cores:
        return Exclusion.CORES
    return None


def short_resource(requests: Resources, remaining: Resources) -> Exclusion | None:
    """Return the first resource that does not suffice; what is not asked for is not checked, as in kube-scheduler."""
    if 0 < requests.cpu_millicores > remaining.cpu_millicores:
        return Exclusion.CPU
    if 0 < requests.memory_bytes > remaining.memory_bytes:
        return Exclusion.MEMORY
    return Exclusion.PODS if remaining.pods < 1 else None


def affordable(usd_per_hour: float | None, addable_usd_per_hour: float | None) -> bool:
    """Whether a cost keeps to a ceiling; a cost that nobody knows keeps to none."""
    if addable_usd_per_hour is None:
        return True
    return usd_per_hour is not None and usd_per_hour <= addable_usd_per_hour + MONEY_TOLERANCE_USD_PER_HOUR


def _room(node: Node, replicas: Iterable[Replica], pods: Iterable[ForeignPod]) -> Room:
    shape = shape_of(node.instance_type)
    known, unknown, occupants = 0, [], 0
    sizes: set[int] = set()
    deployments: set[str] = set()
    remaining = _allocatable(node)
    for replica in replicas:
        # Until the kubelet has said which cores it gave, those planned may still be given out.
        unsettled = replica.outcome_unknown or replica.phase in (ReplicaPhase.REQUESTED, ReplicaPhase.UNBOUND)
        mask = replica.cores | (replica.planned_cores if unsettled else 0)
        known |= mask
        unknown += [] if mask else [replica.cores_count]
        remaining = remaining.minus(_whole(replica.requests, replica.cores_count))
        occupants += 1
        sizes.add(replica.cores_count)
        if replica.phase not in (ReplicaPhase.DRAINING, ReplicaPhase.TERMINATING):
            deployments.add(replica.deployment)
    for pod in pods:
        held = pod.requests.accelerator_cores + pod.whole_devices * shape.cores_per_device
        known |= pod.cores or 0
        unknown += [held] if pod.cores is None and held else []
        # The scheduler counts whole devices under another name, so they take nothing from the cores that it has to give.
        remaining = remaining.minus(_whole(pod.requests, pod.requests.accelerator_cores))
        occupants += bool(held or pod.cores)
    if counted(node.instance_type):
        free = range_mask(0, _free_devices(node, _allocatable(node).accelerator_cores - remaining.accelerator_cores))
    else:
        free = _healthy(node, shape) & ~known
        for cores in unknown:
            free &= ~_presumed(shape, free, cores)
    return Room(
        node=node,
        shape=shape,
        free=free,
        remaining=remaining,
        occupants=occupants,
        replica_sizes=frozenset(sizes),
        deployments=frozenset(deployments),
    )


def _free_devices(node: Node, held: int) -> int:
    """Return how many devices without ids are healthy and free when Pods hold `held` of them."""
    devices = node.instance_type.devices
    unhealthy = sum(1 for device in set(node.unhealthy_devices) if device < devices)
    return max(0, devices - unhealthy - held)


def _presumed(shape: Shape, free: int, cores: int) -> int:
    """Return the cores that a Pod holds which nobody knows more of: those that our device plugin would give it."""
    sets = free_sets(shape, free, cores)
    return sets[0] if sets else lowest_bits(free, cores)


def _healthy(node: Node, shape: Shape) -> int:
    return range_mask(0, shape.cores) & ~node.broken_cores


def _allocatable(node: Node) -> Resources:
    """Return what the node offers; before its device plugin has registered, a booting one promises what its type has."""
    if node.booting and not node.ready and not node.allocatable.accelerator_cores:
        return replace(node.allocatable, accelerator_cores=node.instance_type.cores)
    return node.allocatable


def _whole(requests: Resources, cores: int) -> Resources:
    """Return the requests of a Pod that also takes itself and `cores` accelerator cores."""
    if requests.pods == 1 and requests.accelerator_cores == cores:
        return requests
    return replace(requests, pods=1, accelerator_cores=cores)


def _selected(selector: Labels, node: Node) -> bool:
    labels = dict(node.labels)
    if node.booting:
        # A node that has not joined yet shows no labels; these two it will have whoever launches it.
        labels = {POOL_LABEL: node.pool, INSTANCE_TYPE_LABEL: node.instance_type.name, **labels}
    return all(labels.get(key) == value for key, value in selector)


def _keeps_away(taint: Taint, node: Node) -> bool:
    if taint.effect not in ("NoSchedule", "NoExecute"):
        return False
    return not (node.booting and not node.ready and taint.key in STARTUP_TAINTS)


def _tolerated(taint: Taint, tolerations: tuple[Toleration, ...]) -> bool:
    return any(toleration.tolerates(taint) for toleration in tolerations)

"""What the cluster looks like at one moment: nodes, our replicas, other people's Pods, pools.

These are the values that adapters project from Kubernetes objects (and the simulator makes itself). They hold what is seen,
never what is wanted. Masks of cores follow `core.cores`. Where something is not known the field is None and its docstring
says what that means; an adapter never fills in a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fleetpack.catalog import InstanceType

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Countable resources of a node or a Pod; `accelerator_cores` counts cores, or devices where those have no ids."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    pods: int = 0
    accelerator_cores: int = 0

    def plus(self, other: Resources) -> Resources:
        """Return the sum of both."""
        return Resources(
            cpu_millicores=self.cpu_millicores + other.cpu_millicores,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            pods=self.pods + other.pods,
            accelerator_cores=self.accelerator_cores + other.accelerator_cores,
        )

    def minus(self, other: Resources) -> Resources:
        """Return what is left when `other` is taken away; may be negative on an overcommitted node."""
        return Resources(
            cpu_millicores=self.cpu_millicores - other.cpu_millicores,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            pods=self.pods - other.pods,
            accelerator_cores=self.accelerator_cores - other.accelerator_cores,
        )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Taint:
    """A taint of a node; only the effects NoSchedule and NoExecute keep Pods away."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """A toleration of a Pod, as Kubernetes reads it: an empty key tolerates everything, an empty effect every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether a Pod with this toleration may run on a node with `taint`."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node with accelerators, as last seen."""

    name: str
    pool: str
    """The pool that the node's label names."""
    instance_type: InstanceType
    ready: bool
    """Whether the node takes Pods: Ready and not cordoned."""
    booting: bool = False
    """Launched and not yet Ready for the first time: a promise of room, not room."""
    created_at: float = 0.0
    price_usd_per_hour: float | None = None
    """None: neither catalog nor pool knows the price; such a node takes no replica that has a cost ceiling."""
    allocatable: Resources
    unhealthy_devices: tuple[int, ...] = ()
    unhealthy_cores: int = 0
    """Mask of single cores that are out, beside those of `unhealthy_devices`."""
    cordoned: bool = False
    """Somebody wants nothing new here (`kubectl cordon`, the first half of `kubectl drain`)."""
    deleting: bool = False
    """Its object is being deleted."""
    unready_since: float | None = None
    """Since when it has not been Ready; None: it is, never was, or nobody says since when."""
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()

    @property
    def broken_cores(self) -> int:
        """Mask of every core that is out."""
        mask = self.unhealthy_cores
        per_device = self.instance_type.cores_per_device
        for device in self.unhealthy_devices:
            mask |= ((1 << per_device) - 1) << (device * per_device)
        return mask


class ReplicaPhase(StrEnum):
    """How far one replica's Pod has come."""

    REQUESTED = "requested"
    """Created by an action that the snapshot does not show yet."""
    UNBOUND = "unbound"
    """Seen, and no node has been assigned by the scheduler yet."""
    STARTING = "starting"
    """Bound to its node; loading, not yet Ready."""
    READY = "ready"
    DRAINING = "draining"
    """Taken out of the Service; finishes what it has."""
    TERMINATING = "terminating"
    """Deleted; holds its cores until its Pod is gone."""
    FAILED = "failed"
    """Its Pod has ended (failed, evicted, or succeeded, which a server never should)."""


LIVE_PHASES = (ReplicaPhase.REQUESTED, ReplicaPhase.UNBOUND, ReplicaPhase.STARTING, ReplicaPhase.READY)
"""Those of a replica that serves or will serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One running copy of a variant: one Pod of ours, or one that an action in flight is making."""

    deployment: str
    """`namespace/name` of its InferenceDeployment."""
    variant: str
    name: str
    uid: str
    """Empty while the Pod has not been seen."""
    resource_version: str = ""
    node: str
    """The node it is bound to or, while unbound, planned for."""
    cores: int
    """Mask of its cores: the kubelet's truth where known, else the planned ones; 0 where devices have no ids."""
    cores_count: int
    """How many cores it asked for; holds for devices without ids also."""
    planned_cores: int = 0
    """Mask that the planner asked for; differs from `cores` where the kubelet gave others."""
    phase: ReplicaPhase
    template_hash: str = ""
    requests: Resources = Resources()
    created_at: float = 0.0
    ready_at: float | None = None
    """When it became Ready last; None if it never was."""
    draining_since: float | None = None
    outcome_unknown: bool = False
    """Made by an action of unknown outcome: it holds cores and money, and is counted on by nobody."""
    removal_unconfirmed: bool = False
    """It was live when it was given up, and the API server has not said yes: it may still be there, and stay."""
    address: str = ""
    failure: str = ""
    """For FAILED: the reason that Kubernetes gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPod:
    """Somebody else's Pod on a node of ours: it takes room, and perhaps cores."""

    name: str
    """`namespace/name`."""
    node: str
    requests: Resources
    cores: int | None = None
    """Mask of its cores; None: it asked for some, and nobody said which."""
    whole_devices: int = 0
    """Devices asked for as such (`aws.amazon.com/neuron`): the scheduler counts them apart from cores, the silicon is one."""
    terminating: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an object cannot be served as written; `reason` is a constant of `api.conditions`."""

    reason: str
    message: str


class PoolProvider(StrEnum):
    """Who makes the nodes of a pool."""

    STATIC = "Static"
    SIMULATED = "Simulated"
    KARPENTER = "Karpenter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """An instance type that a pool may launch, at its price there."""

    instance_type: InstanceType
    price_usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A set of instance types that may be launched, with limits."""

    name: str
    provider: PoolProvider
    offerings: tuple[Offering, ...] = ()
    maximum_nodes: int | None = None
    maximum_usd_per_hour: float | None = None
    headroom_cores: int = 0
    namespaces: frozenset[str] | None = None
    """Namespaces that may use the pool; None: all."""
    consolidate_after_seconds: float = 300.0
    problems: tuple[Problem, ...] = ()
    """What of the pool cannot be used as written; the rest of it can."""

    def admits(self, namespace: str) -> bool:
        """Whether models of `namespace` may run on this pool's nodes."""
        return self.namespaces is None or namespace in self.namespaces


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Everything of the cluster that a plan is made from, each tuple ordered by name."""

    nodes: tuple[Node, ...] = ()
    replicas: tuple[Replica, ...] = ()
    foreign_pods: tuple[ForeignPod, ...] = ()
    pools: tuple[Pool, ...] = ()
    unusable_nodes: tuple[str, ...] = ()
    """Nodes that exist and are left out of `nodes`, because their pool or instance type is not known: they are not gone."""

"""What the judge reads from Kubernetes objects: plain JSON in, small frozen facts out.

Only what the rules need is kept, so that a history of many thousand changes stays small. Annotations and labels are those that
the project documents for everybody; nothing is taken from the operator's status.

Text that cannot be read becomes None in the fact, and the check makes a violation of it; missing optional fields take the
defaults that Kubernetes gives them. Objects without a name raise `KeyError`: no API server sends such.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from fleetpack_simulator.checking.machines import GPU, NEURON_CORE, Layout, Machine, cores_per_device_of

KubernetesObject: TypeAlias = Mapping[str, Any]

_DEPLOYMENT_LABEL = "fleetpack.dev/deployment"
_CORES_ANNOTATION = "fleetpack.dev/cores"
_ALLOCATED_ANNOTATION = "fleetpack.dev/allocated-cores"
_POOL_LABEL = "fleetpack.dev/pool"
_INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
_CAPACITY_TYPE_LABEL = "karpenter.sh/capacity-type"
_MAX_CORE = 4096

Amounts: TypeAlias = tuple[tuple[str, int], ...]
"""Resource name to amount, sorted by name: CPU in thousandths of a core, all else in base units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFact:
    """One Pod at one moment."""

    name: str
    """`namespace/name`."""
    uid: str
    deployment: str | None
    """`namespace/name` of the InferenceDeployment; None: a foreign Pod."""
    owner: str
    """Tells apart deployments of the same name that lived after each other."""
    node: str | None
    """Node that it is bound to, else the one that its affinity names; None: neither."""
    bound: bool
    ended: bool
    """Failed or Succeeded: it holds nothing any more."""
    planned_cores: tuple[int, ...] | None
    allocated_cores: tuple[int, ...] | None
    """What the kubelet gave, where a device plugin wrote it down."""
    requests: Amounts

    @property
    def cores(self) -> tuple[int, ...] | None:
        """The cores that it holds: what the kubelet gave, else what was planned; None: unreadable, or none asked for."""
        return self.allocated_cores if self.allocated_cores is not None else self.planned_cores

    def amount(self, resource: str) -> int:
        """How much of a resource it asks for."""
        return dict(self.requests).get(resource, 0)

    @property
    def accelerators(self) -> int:
        """How many cores or devices it asks for."""
        return self.amount(NEURON_CORE) or self.amount(GPU)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFact:
    """One node at one moment."""

    name: str
    instance_type: str
    pool: str | None
    capacity_type: str | None
    allocatable: Amounts
    capacity: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFact:
    """What an InferenceDeployment promises about money."""

    name: str
    ceiling_usd_per_hour: Fraction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFact:
    """What an AcceleratorPool limits and knows better."""

    name: str
    launches: bool
    """Whether the operator makes its nodes; those of a static pool are somebody else's."""
    maximum_nodes: int | None
    maximum_usd_per_hour: Fraction | None
    first_capacity_type: str
    prices: tuple[tuple[str, str, Fraction], ...]
    """Instance type, capacity type, US dollars per hour."""
    machines: tuple[Machine, ...]


Fact: TypeAlias = PodFact | NodeFact | DeploymentFact | PoolFact


def read_pod(pod: KubernetesObject) -> PodFact:
    """Read a Pod."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    name = _full_name(metadata)
    annotations = metadata.get("annotations") or {}
    label = (metadata.get("labels") or {}).get(_DEPLOYMENT_LABEL)
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    bound_node = spec.get("nodeName")
    return PodFact(
        name=name,
        uid=metadata.get("uid") or name,
        deployment=f"{metadata.get('namespace', 'default')}/{label}" if label else None,
        owner=owners[0]["uid"] if owners else "",
        node=bound_node or _planned_node(spec),
        bound=bool(bound_node),
        ended=(pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"),
        planned_cores=read_cores(annotations.get(_CORES_ANNOTATION)),
        allocated_cores=read_cores(annotations.get(_ALLOCATED_ANNOTATION)),
        requests=_effective_requests(spec),
    )


def read_node(node: KubernetesObject) -> NodeFact:
    """Read a Node."""
    labels, status = node["metadata"].get("labels") or {}, node.get("status") or {}
    capacity = _amounts(status.get("capacity") or {})
    return NodeFact(
        name=node["metadata"]["name"],
        instance_type=labels.get(_INSTANCE_TYPE_LABEL, ""),
        pool=labels.get(_POOL_LABEL) or None,
        capacity_type=labels.get(_CAPACITY_TYPE_LABEL) or None,
        allocatable=_amounts(status.get("allocatable") or {}) or capacity,
        capacity=capacity,
    )


def read_deployment(resource: KubernetesObject) -> DeploymentFact:
    """Read an InferenceDeployment."""
    ceiling = ((resource.get("spec") or {}).get("cost") or {}).get("maxUSDPerHour")
    return DeploymentFact(
        name=_full_name(resource["metadata"]), ceiling_usd_per_hour=None if ceiling is None else Fraction(str(ceiling))
    )


def read_pool(resource: KubernetesObject) -> PoolFact:
    """Read an AcceleratorPool."""
    spec = resource.get("spec") or {}
    limits = spec.get("limits") or {}
    most_usd = limits.get("usdPerHour")
    capacity_types = spec.get("capacityTypes") or ["on-demand"]
    return PoolFact(
        name=resource["metadata"]["name"],
        launches=spec.get("provider") != "Static",
        maximum_nodes=limits.get("nodes"),
        maximum_usd_per_hour=None if most_usd is None else Fraction(str(most_usd)),
        first_capacity_type=capacity_types[0],
        prices=tuple(
            (entry["instanceType"], entry.get("capacityType", "on-demand"), Fraction(str(entry["usdPerHour"])))
            for entry in spec.get("priceOverrides") or ()
        ),
        machines=tuple(_custom_machine(entry) for entry in spec.get("customInstanceTypes") or ()),
    )


def read_cores(text: str | None) -> tuple[int, ...] | None:
    """Read `0-7,12`; None where there is no text or it is no such list."""
    if not text:
        return None
    cores: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return None
        start, end = int(first), int(last if dash else first)
        if not start <= end < _MAX_CORE:
            return None
        cores.extend(range(start, end + 1))
    return tuple(cores)


_SCALES = {
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Fraction(1024**power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


def read_quantity(value: object) -> Fraction:
    """Read a Kubernetes quantity: `4`, `250m`, `16Gi`, `1e3`; raises `ValueError` for anything else."""
    text = str(value)
    for suffix in sorted(_SCALES, key=len, reverse=True):
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * _SCALES[suffix]
    return Fraction(text)


def _full_name(metadata: Mapping[str, Any]) -> str:
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}"


def _planned_node(spec: Mapping[str, Any]) -> str | None:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    names = {
        value
        for term in required.get("nodeSelectorTerms") or ()
        for field in term.get("matchFields") or ()
        if field.get("key") == "metadata.name" and field.get("operator") == "In"
        for value in field.get("values") or ()
    }
    return names.pop() if len(names) == 1 else None


def _amounts(resources: Mapping[str, Any]) -> Amounts:
    scale = {"cpu": 1000}
    return tuple(
        (name, math.floor(read_quantity(value) * scale.get(name, 1))) for name, value in sorted(resources.items())
    )


def _container_requests(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    # Kubernetes takes a limit as the request where none is given; a request body in an audit log is not yet defaulted.
    return dict(_amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})}))


def _effective_requests(spec: Mapping[str, Any]) -> Amounts:
    """What the scheduler counts: containers and sidecars together, or the largest init step, plus overhead and the Pod."""
    running = _total(_container_requests(container) for container in spec.get("containers") or ())
    largest: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        own = _container_requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars = _total((sidecars, own))
            step = sidecars
        else:
            step = _total((sidecars, own))
        largest = {name: max(largest.get(name, 0), step.get(name, 0)) for name in largest | step}
    steady = _total((running, sidecars))
    highest = {name: max(steady.get(name, 0), largest.get(name, 0)) for name in steady | largest}
    total = _total((highest, dict(_amounts(spec.get("overhead") or {})), {"pods": 1}))
    return tuple(sorted(total.items()))


def _total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total


def _custom_machine(entry: Mapping[str, Any]) -> Machine:
    devices = int(entry["devices"])
    by_topology = {"ring": Layout.RING, "torus2d-4x4": Layout.BLOCKS}
    by_policy = {
        "single": Layout.SINGLE,
        "contiguous-window": Layout.RING,
        "aligned": Layout.BLOCKS,
        "count": Layout.COUNT,
    }
    default = Layout.SINGLE if devices == 1 else by_topology.get(entry.get("topology", "none"), Layout.COUNT)
    price = entry.get("priceUSDPerHour")
    return Machine(
        name=entry["name"],
        accelerator=entry["accelerator"],
        devices=devices,
        cores_per_device=int(entry.get("coresPerDevice") or cores_per_device_of(entry["accelerator"])),
        layout=by_policy.get(entry.get("allocationPolicy", ""), default),
        device_counts=tuple(entry.get("allowedDeviceCounts") or range(1, devices + 1)),
        usd_per_hour=None if price is None else Fraction(str(price)),
    )

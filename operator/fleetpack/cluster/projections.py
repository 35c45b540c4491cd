"""From raw Kubernetes objects to the small rows that the caches keep.

A fleet's Pods are many and large, so nothing of them is kept but what a plan needs. Rows compare by value: a heartbeat that
changes nothing in the row wakes nobody. A projection raises `ValueError` on what it cannot read; the cache then names the object
as unreadable, and everything else goes on. Anybody can write annotations: where one of ours cannot be read, the error holds a row that
is as careful as can be without it, for a cache that has never seen the object otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from fleetpack.api.values import Quantity
from fleetpack.cluster import names
from fleetpack.cluster.node_health import devices_out_by_condition
from fleetpack.cluster.reflector import PartlyReadableError
from fleetpack.core.cores import parse_cores
from fleetpack.core.fleet import ForeignPod, Labels, Replica, ReplicaPhase, Resources, Taint
from fleetpack.core.templates import pod_requests

ACCELERATOR_PREFIXES = (
    "aws.amazon.com/neuroncore",
    "nvidia.com/gpu",
    "amd.com/gpu",
    "google.com/tpu",
    "habana.ai/gaudi",
)
T = TypeVar("T")

UNREADABLE_HEALTH = Taint(key=names.UNHEALTHY_CORES_ANNOTATION, value="unreadable", effect="NoSchedule")
"""Nobody knows which cores are out: what runs there stays, and nothing new comes."""
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """What is kept of a node."""

    name: str
    uid: str
    labels: Labels
    taints: tuple[Taint, ...]
    cordoned: bool
    deleting: bool
    ready: bool
    unready_since: float | None
    """When it stopped to be Ready; None: it is, or never was."""
    ever_ready: bool
    """Whether anybody has ever reported on it; a node that nobody has is still booting."""
    created_at: float
    allocatable: Resources
    unhealthy_cores: int = 0
    """What the device plugin has written down."""
    unhealthy_devices: tuple[int, ...] | None = None
    """What the node's health condition names; empty: the whole node; None: no error."""

    @property
    def schedulable(self) -> bool:
        """Whether nobody has asked to keep Pods away or to take the node away."""
        return not self.cordoned and not self.deleting

    def label(self, key: str) -> str:
        """Return the value of a label; empty where there is none."""
        return next((value for name, value in self.labels if name == key), "")


def timestamp_seconds(text: str) -> float:
    """Read an RFC 3339 time as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def project_node(raw: Mapping[str, Any]) -> NodeRow | None:
    """Return the row of a node; None for a node of no pool, which is not ours to look at."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    if names.POOL_LABEL not in labels:
        return None
    condition = next((entry for entry in status.get("conditions") or () if entry.get("type") == "Ready"), None)
    reported = condition is not None and condition.get("reason") != "NodeStatusNeverUpdated"
    ready = condition is not None and condition.get("status") == "True"
    changed_at = (condition or {}).get("lastTransitionTime")
    allocatable = status.get("allocatable") or {}
    errors: list[ValueError] = []
    unhealthy = (metadata.get("annotations") or {}).get(names.UNHEALTHY_CORES_ANNOTATION, "")
    row = NodeRow(
        name=metadata["name"],
        uid=metadata["uid"],
        labels=tuple(sorted(labels.items())),
        taints=tuple(
            sorted(
                Taint(key=taint["key"], value=taint.get("value", ""), effect=taint["effect"])
                for taint in spec.get("taints") or ()
            )
        ),
        cordoned=bool(spec.get("unschedulable", False)),
        deleting="deletionTimestamp" in metadata,
        ready=ready,
        unready_since=timestamp_seconds(changed_at) if reported and not ready and changed_at else None,
        ever_ready=reported,
        created_at=timestamp_seconds(metadata["creationTimestamp"]),
        allocatable=Resources(
            cpu_millicores=_amount(allocatable.get("cpu"), 1000),
            memory_bytes=_amount(allocatable.get("memory"), 1),
            pods=_amount(allocatable.get("pods"), 1),
            accelerator_cores=sum(_amount(allocatable.get(name), 1) for name in ACCELERATOR_PREFIXES),
        ),
        unhealthy_cores=_read(parse_cores, unhealthy, 0, errors),
        unhealthy_devices=devices_out_by_condition(status.get("conditions") or ()),
    )
    if errors:
        raise PartlyReadableError(str(errors[0]), replace(row, taints=tuple(sorted((*row.taints, UNREADABLE_HEALTH)))))
    return row


def _read(reading: Callable[[str], T], text: str, absent: T, errors: list[ValueError]) -> T:
    """Return what an annotation says; one that cannot be read is as good as absent, and its error is added to `errors`."""
    try:
        return reading(text) if text else absent
    except ValueError as error:
        errors.append(error)
        return absent


def _amount(value: object, scale: int) -> int:
    return int(Quantity.parse(str(value)).number * scale) if value is not None else 0


def project_pod(raw: Mapping[str, Any]) -> Replica | ForeignPod | None:
    """Return one of our replicas, or somebody else's Pod that holds room on a node; None for all others."""
    labels = raw["metadata"].get("labels") or {}
    if names.DEPLOYMENT_LABEL in labels and names.VARIANT_LABEL in labels:
        return _replica(raw, labels)
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in _ENDED:
        return None
    metadata = raw["metadata"]
    requests, devices = _all_requests(raw), _accelerators(spec, (names.NEURON_DEVICE_RESOURCE,))
    return ForeignPod(
        name=f"{metadata['namespace']}/{metadata['name']}",
        node=spec["nodeName"],
        requests=requests,
        cores=_foreign_cores(metadata) or (None if requests.accelerator_cores or devices else 0),
        whole_devices=devices,
        terminating="deletionTimestamp" in metadata,
    )


def _foreign_cores(metadata: Mapping[str, Any]) -> int:
    """Return the cores that the device plugin wrote on somebody else's Pod; 0 where it wrote none that can be read.

    Its owner may have written there too. A Pod must not vanish from the books for that: it holds cores that nobody knows.
    """
    try:
        return parse_cores((metadata.get("annotations") or {}).get(names.ALLOCATED_CORES_ANNOTATION, ""))
    except ValueError:
        return 0


def _replica(raw: Mapping[str, Any], labels: Mapping[str, str]) -> Replica:
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    annotations = metadata.get("annotations") or {}
    errors: list[ValueError] = []
    planned = _read(parse_cores, annotations.get(names.CORES_ANNOTATION, ""), 0, errors)
    allocated = _read(parse_cores, annotations.get(names.ALLOCATED_CORES_ANNOTATION, ""), planned, errors)
    requests = _all_requests(raw)
    conditions: list[Mapping[str, Any]] = status.get("conditions") or []
    condition: Mapping[str, Any] = next((entry for entry in conditions if entry.get("type") == "Ready"), {})
    ready = condition.get("status") == "True"
    draining_since = annotations.get(names.DRAINING_SINCE_ANNOTATION, "")
    replica = Replica(
        deployment=f"{metadata['namespace']}/{labels[names.DEPLOYMENT_LABEL]}",
        variant=labels[names.VARIANT_LABEL],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        node=spec.get("nodeName") or _planned_node(spec),
        cores=allocated,
        cores_count=requests.accelerator_cores,
        planned_cores=planned,
        phase=_phase(raw, labels, ready),
        template_hash=annotations.get(names.TEMPLATE_HASH_ANNOTATION, ""),
        requests=requests,
        created_at=timestamp_seconds(metadata["creationTimestamp"]),
        ready_at=timestamp_seconds(condition["lastTransitionTime"])
        if ready and "lastTransitionTime" in condition
        else None,
        draining_since=_read(timestamp_seconds, draining_since, None, errors),
        address=status.get("podIP") or "",
        failure=status.get("reason") or status.get("message") or "",
    )
    if errors:
        raise PartlyReadableError(str(errors[0]), replica)
    return replica


def _phase(raw: Mapping[str, Any], labels: Mapping[str, str], ready: bool) -> ReplicaPhase:
    if (raw.get("status") or {}).get("phase") in _ENDED:
        return ReplicaPhase.FAILED
    if "deletionTimestamp" in raw["metadata"]:
        return ReplicaPhase.TERMINATING
    if labels.get(names.SERVING_LABEL) == "false":
        return ReplicaPhase.DRAINING
    if not (raw.get("spec") or {}).get("nodeName"):
        return ReplicaPhase.UNBOUND
    return ReplicaPhase.READY if ready else ReplicaPhase.STARTING


def _planned_node(spec: Mapping[str, Any]) -> str:
    """Return the node that the Pod's affinity names, for a Pod that is not bound yet."""
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def _all_requests(raw: Mapping[str, Any]) -> Resources:
    """Return CPU, memory and accelerators that the scheduler counts for the Pod."""
    return replace(pod_requests(raw), accelerator_cores=_accelerators(raw.get("spec") or {}, ACCELERATOR_PREFIXES))


def _accelerators(spec: Mapping[str, Any], resources: tuple[str, ...]) -> int:
    """Return how many of `resources` the scheduler counts: containers and sidecars add up, an init container may exceed them."""
    inits = spec.get("initContainers") or ()
    running = [*(spec.get("containers") or ()), *(init for init in inits if init.get("restartPolicy") == "Always")]
    starting = [init for init in inits if init.get("restartPolicy") != "Always"]
    return max(
        sum(_limit(container, resources) for container in running),
        max((_limit(container, resources) for container in starting), default=0),
    )


def _limit(container: Mapping[str, Any], resources: tuple[str, ...]) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(_amount(limits.get(name), 1) for name in resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRow:
    """What is kept of a namespace: its labels, for the pools' selectors."""

    name: str
    labels: Labels


def project_namespace(raw: Mapping[str, Any]) -> NamespaceRow:
    """Return the row of a namespace."""
    metadata = raw["metadata"]
    return NamespaceRow(name=metadata["name"], labels=tuple(sorted((metadata.get("labels") or {}).items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityRow:
    """What is kept of a PriorityClass."""

    name: str
    value: int
    is_default: bool


def project_priority_class(raw: Mapping[str, Any]) -> PriorityRow:
    """Return the row of a PriorityClass."""
    return PriorityRow(
        name=raw["metadata"]["name"], value=int(raw.get("value", 0)), is_default=bool(raw.get("globalDefault", False))
    )

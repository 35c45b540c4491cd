"""The plan against the truth: what to write on which Pod, and where the kubelet chose otherwise.

The kubelet's list is what the planner must plan from, so each Pod that holds cores gets them written down, Pods without a plan too. A
Pod that got other cores than planned is no error: equal sizes swap when two Pods of one size arrive together, and
a range may be gone when its Pod arrives. It is told once per Pod, and the annotation corrects the map.

Pure. A Pod that the kubelet lists and the API server's view does not have yet is left for the next comparison; so is a name that the
kubelet lists twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fleetpack.api.conditions import Reason
from fleetpack.core.cores import format_cores
from fleetpack.device_plugin.accounts import Holding, Reading


class DisagreementKind(StrEnum):
    """How the kubelet's choice differs from the plan: reason of an event, label of a metric."""

    SWAPPED = Reason.CORES_SWAPPED.value
    """The Pod has cores that were planned for another Pod of the same size on this node."""
    MOVED = Reason.CORES_MOVED.value
    """The Pod has cores that were planned for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPod:
    """What the API server knows of a Pod of this node."""

    namespace: str
    name: str
    uid: str
    planned: int
    """Mask of the planned cores; 0: the Pod has no plan."""
    written: str | None
    """The annotation with the allocated cores as it stands; None: there is none."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationWrite:
    """The allocated cores to be written on a Pod."""

    namespace: str
    name: str
    uid: str
    cores: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A Pod whose cores are not the planned ones."""

    namespace: str
    name: str
    uid: str
    planned: int
    allocated: int
    kind: DisagreementKind

    @property
    def message(self) -> str:
        """The sentence of the event."""
        what = "another waiting Pod's" if self.kind is DisagreementKind.SWAPPED else "other"
        return (
            f"planned on cores {format_cores(self.planned)}, the kubelet gave {what} cores "
            f"{format_cores(self.allocated)}; the planner goes on from these"
        )


def allocated_by_pod(holdings: tuple[Holding, ...]) -> dict[str, int]:
    """Return the cores of each Pod, over all its containers and both resources; without Pods of which not all cores can be told."""
    masks: dict[str, int] = {}
    for holding in holdings:
        masks[holding.pod] = masks.get(holding.pod, 0) | holding.cores
    untold = {holding.pod for holding in holdings if holding.foreign}
    return {pod: mask for pod, mask in masks.items() if pod not in untold}


def annotations_to_write(pods: tuple[PlannedPod, ...], reading: Reading) -> tuple[AnnotationWrite, ...]:
    """Return what has to be written so that each Pod's annotation says what the kubelet gave it, in the order of the Pods."""
    allocated = _known(pods, reading)
    return tuple(
        AnnotationWrite(namespace=pod.namespace, name=pod.name, uid=pod.uid, cores=text)
        for pod in sorted(pods, key=lambda pod: pod.key)
        if pod.key in allocated and pod.written != (text := format_cores(allocated[pod.key]))
    )


def disagreements(pods: tuple[PlannedPod, ...], reading: Reading) -> tuple[Disagreement, ...]:
    """Return the Pods with a plan that hold other cores than planned, in the order of their names."""
    allocated = _known(pods, reading)
    planned_for = {pod.planned: pod.key for pod in pods if pod.planned}
    return tuple(
        Disagreement(
            namespace=pod.namespace,
            name=pod.name,
            uid=pod.uid,
            planned=pod.planned,
            allocated=allocated[pod.key],
            kind=DisagreementKind.SWAPPED if allocated[pod.key] in planned_for else DisagreementKind.MOVED,
        )
        for pod in sorted(pods, key=lambda pod: pod.key)
        if pod.planned and pod.key in allocated and allocated[pod.key] != pod.planned
    )


def _known(pods: tuple[PlannedPod, ...], reading: Reading) -> Mapping[str, int]:
    names = {pod.key for pod in pods}
    allocated = allocated_by_pod(reading.holdings)
    return {pod: mask for pod, mask in allocated.items() if pod in names and pod not in reading.ambiguous}

"""Which cores the kubelet should take, and which it must not.

`choose` answers GetPreferredAllocation. The request says how many, not for whom; the kubelet admits Pods in the order in which they
were created and asks once for each container, so the oldest waiting Pod of that size for which it has not asked yet is the one
that is meant, with a plan or without. Where the guess is wrong, two Pods of one size swap: both still get legal cores, and the truth
is read back later. A Pod without a plan, or whose plan cannot be kept any more, gets the legal set that costs the future least
and that no waiting plan needs; the kubelet is told of no set rather than of an illegal one, and fails the Pod with our sentence.

`judge` answers Allocate: the kubelet may have chosen by itself, so whatever comes is held against the rules once more. Within
one resource the kubelet's own accounting is the truth, and is doubted only where its own list contradicts it; across the two it keeps
none, and this is the one place that does. Pure functions; every order is total.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetpack.catalog import InstanceType
from fleetpack.core.cores import format_cores
from fleetpack.core.packing.fragmentation import room_in_cores, usual_sizes
from fleetpack.core.packing.topology import Misfit, legal_masks, shape_of
from fleetpack.device_plugin.silicon import NeuronResource, Refusal, RefusalReason, devices_of, unit_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPod:
    """A container of a Pod that is bound to this node and holds no cores yet."""

    name: str
    """`namespace/name`."""
    question: str
    """Tells this container's question from all others."""
    created_at: float
    resource: NeuronResource
    size: int
    """How many cores it asks for."""
    planned: int
    """Mask of the planned cores; 0: no plan."""
    asked: bool = False
    """Whether the kubelet seems to have asked for it already."""
    contradiction: str = ""
    """Why it can be given no cores whatever is free; empty: it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Cores that somebody has, or that something takes out."""

    by: str
    """`Pod namespace/name`, or a cause that takes cores out."""
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceRequest:
    """One container's question."""

    resource: NeuronResource
    available: int
    """What the kubelet may take, without what the other resource holds; includes `must_include`."""
    must_include: int
    """What an earlier container of the same Pod leaves behind."""
    units: int
    claims: tuple[Claim, ...] = ()
    """Who or what keeps cores from this resource, for the sentence of a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The cores to take."""

    cores: int
    planned_for: str | None
    """The Pod whose plan this is; None: a set for a Pod without a plan that can be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRequest:
    """One container's devices as the kubelet has chosen them."""

    resource: NeuronResource
    cores: int
    unhealthy: int
    held_by_other_resource: int
    listed: tuple[Claim, ...] = ()
    """What the kubelet's list has with Pods, of the same resource."""
    claims: tuple[Claim, ...] = ()
    """Who or what keeps cores from this resource, for the sentence of a refusal."""


def choose(
    instance_type: InstanceType, request: PreferenceRequest, waiting: tuple[WaitingPod, ...]
) -> Preference | Refusal:
    """Return the cores that the kubelet should take for this request."""
    meant = meant_pod(instance_type, request, waiting)
    if meant is not None and meant.contradiction:
        return Refusal(reason=RefusalReason.BOTH_RESOURCES, message=f"{request.resource}: {meant.contradiction}")
    if meant is not None and can_keep(instance_type, request, meant):
        return Preference(cores=meant.planned, planned_for=meant.name)
    size = request.units * unit_cores(instance_type, request.resource)
    legal = legal_masks(instance_type, size)
    if isinstance(legal, Misfit):
        return _unsupported(instance_type, request.resource, request.units, legal)
    fitting = [
        mask
        for mask in legal
        if mask & request.available == mask and mask & request.must_include == request.must_include
    ]
    if not fitting:
        return _no_free_range(instance_type, request, size)
    needed, names = _needed_by_plans(request.available, tuple(pod for pod in waiting if pod is not meant))
    spare = [mask for mask in fitting if not mask & needed]
    if not spare:
        asker = f"a Pod that asks for {size}" if meant is None else meant.name
        message = (
            f"{request.resource}: every free legal set of {size} cores is planned for Pods that wait on this node: "
            f"{', '.join(names)}; the kubelet seems to ask for {asker}; "
            "the next try may succeed once they have started or are planned elsewhere"
        )
        return Refusal(reason=RefusalReason.PLANNED_FOR_OTHERS, message=message)
    return Preference(cores=_least_loss(instance_type, request.available & ~needed, spare), planned_for=None)


def meant_pod(
    instance_type: InstanceType, request: PreferenceRequest, waiting: tuple[WaitingPod, ...]
) -> WaitingPod | None:
    """Return who is meant by a request; None: nobody who is known.

    Once all of that size were asked for, the kubelet asks again for one whose answer it has lost: one whose plan is still free.
    """
    size = request.units * unit_cores(instance_type, request.resource)
    fitting = [
        pod
        for pod in waiting
        if pod.resource is request.resource
        and pod.size == size
        # What an earlier container leaves behind came from the plan of the same Pod.
        and (not pod.planned or pod.planned & request.must_include == request.must_include)
        and (not pod.asked or can_keep(instance_type, request, pod))
    ]
    return min(fitting, key=lambda pod: (pod.asked, pod.created_at, pod.question), default=None)


def can_keep(instance_type: InstanceType, request: PreferenceRequest, pod: WaitingPod) -> bool:
    """Whether a Pod has a plan and the request can be answered with it."""
    return (
        pod.planned != 0
        and pod.planned & request.available == pod.planned
        and pod.planned & request.must_include == request.must_include
        and is_legal(instance_type, pod.planned)
    )


def judge(instance_type: InstanceType, request: AllocationRequest) -> Refusal | None:
    """Return why these cores cannot be given; None: they can."""
    size = request.cores.bit_count()
    legal = legal_masks(instance_type, size)
    if isinstance(legal, Misfit):
        return _unsupported(instance_type, request.resource, size // unit_cores(instance_type, request.resource), legal)
    chosen = format_cores(request.cores)
    if request.cores not in legal:
        message = (
            f"{request.resource}: cores {chosen} may not serve one container on {instance_type.name}: "
            f"legal sets of {size} cores are {_examples(legal)}; free such a set, or let another Pod go first"
        )
        return Refusal(reason=RefusalReason.ILLEGAL_SET, message=message)
    if held := request.cores & request.held_by_other_resource:
        other = NeuronResource.DEVICE if request.resource is NeuronResource.CORE else NeuronResource.CORE
        devices = ", ".join(f"/dev/neuron{device}" for device in devices_of(instance_type, held))
        holders = _claimed(held, request.claims)
        message = (
            f"{request.resource}: cores {chosen} are on {devices}, which is given out through {other}"
            f"{f' ({holders})' if holders else ''}: free it, or use another node; whatever makes this Pod again may get other cores"
        )
        return Refusal(reason=RefusalReason.HELD_BY_OTHER_RESOURCE, message=message)
    if claimed := _claimed(request.cores, request.listed):
        message = (
            f"{request.resource}: of cores {chosen} the kubelet's list has {claimed}, and gives them out again; "
            "no core is given twice: whatever makes this Pod again may get others"
        )
        return Refusal(reason=RefusalReason.HELD_BY_ANOTHER_POD, message=message)
    if broken := request.cores & request.unhealthy:
        causes = _claimed(broken, request.claims)
        message = (
            f"{request.resource}: cores {format_cores(broken)} of the asked {chosen} are unhealthy{f' ({causes})' if causes else ''}: "
            "whatever makes this Pod again gets others where there are, or uses another node"
        )
        return Refusal(reason=RefusalReason.UNHEALTHY, message=message)
    return None


def is_legal(instance_type: InstanceType, cores: int) -> bool:
    """Whether this set may serve one replica on this machine."""
    legal = legal_masks(instance_type, cores.bit_count())
    return not isinstance(legal, Misfit) and cores in legal


def _needed_by_plans(available: int, waiting: tuple[WaitingPod, ...]) -> tuple[int, tuple[str, ...]]:
    """Return the cores of the plans that can still be kept, and whose they are; a broken plan needs nothing any more."""
    kept = sorted(
        (pod for pod in waiting if pod.planned and pod.planned & available == pod.planned), key=lambda pod: pod.name
    )
    needed = 0
    for pod in kept:
        needed |= pod.planned
    return needed, tuple(pod.name for pod in kept)


def _least_loss(instance_type: InstanceType, free: int, candidates: list[int]) -> int:
    """Return the candidate after which the most room is left for the usual sizes, the lowest start on ties."""
    shape = shape_of(instance_type)
    sizes = usual_sizes(shape)
    return min(candidates, key=lambda mask: (-room_in_cores(shape, free & ~mask, sizes), mask))


def _no_free_range(instance_type: InstanceType, request: PreferenceRequest, size: int) -> Refusal:
    """Say what is free, what keeps the rest from this resource, and what to do."""
    free = format_cores(request.available) or "none"
    claimed = _claimed(~request.available, request.claims)
    kept = f"; out of its reach: {claimed}" if claimed else ""
    included = (
        f"; the set has to include cores {format_cores(request.must_include)}, which an earlier container of the Pod leaves: ask "
        "for the same number of cores in init and main containers"
        if request.must_include
        else ""
    )
    message = (
        f"{request.resource}: no legal set of {size} cores is free on this {instance_type.name} (free cores: {free}){kept}{included}; "
        "ask for fewer cores, wait until Pods here have ended, or use another node"
    )
    return Refusal(reason=RefusalReason.NO_FREE_RANGE, message=message)


def _unsupported(instance_type: InstanceType, resource: NeuronResource, units: int, misfit: Misfit) -> Refusal:
    message = f"{resource}: {units} asked: {misfit.message}"
    return Refusal(reason=RefusalReason.UNSUPPORTED_SIZE, message=message)


def _claimed(cores: int, claims: tuple[Claim, ...]) -> str:
    """Return who has which of these cores: `0-1 by Pod a/b, 4 by node condition`; empty where nobody has any."""
    shares = sorted((claim.cores & cores, claim.by) for claim in claims if claim.cores & cores)
    return ", ".join(f"{format_cores(mask)} by {by}" for mask, by in shares)


def _examples(legal: tuple[int, ...]) -> str:
    shown = ", ".join(format_cores(mask) for mask in legal[:3])
    return f"{shown} and {len(legal) - 3} more" if len(legal) > 3 else shown

"""From resources as written to values as meant: `Deployment` and `Pool`.

What the API server cannot check is found here: an accelerator that nobody knows, a number of devices that no instance type of
it can serve. Each finding is a `Problem` with a hint and concerns its own object only. A variant with a problem is left out; a
deployment with no variant left keeps what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetpack.api.accelerator_pool import AcceleratorPool, CapacityType, CustomInstanceType, Provider
from fleetpack.api.conditions import Reason
from fleetpack.api.inference_deployment import InferenceDeployment, ModelSpec, Signal, Weekday
from fleetpack.api.inference_deployment import Variant as VariantSpecification
from fleetpack.api.inference_deployment import Window as WindowSpecification
from fleetpack.api.values import Money
from fleetpack.catalog import (
    AllocationPolicy,
    Catalog,
    CatalogError,
    InstanceType,
    Topology,
    UnknownAccelerator,
    UnknownInstanceType,
)
from fleetpack.core.deployments import (
    Deployment,
    Disruption,
    LatencyTarget,
    LearnedProfile,
    Mode,
    SignalSpecification,
    Variant,
)
from fleetpack.core.fleet import Offering, Pool, PoolProvider, Problem
from fleetpack.core.memory import memory_problem
from fleetpack.core.packing.topology import Misfit, cores_needed, legal_masks
from fleetpack.core.templates import merge_template, node_selector, pod_requests, template_hash, tolerations
from fleetpack.core.windows import Window, zone


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpretedPool:
    """A pool as meant, the catalog's prices and types as they hold in it, and what is wrong with it."""

    pool: Pool
    instance_types: Mapping[str, Offering]
    """Every instance type that a node of this pool may have, with its price here."""


def interpret_deployment(
    resource: InferenceDeployment, instance_types: tuple[InstanceType, ...], catalog: Catalog, priority: int
) -> Deployment:
    """Return the deployment as meant; `instance_types` are all that the catalog and the pools know."""
    spec = resource.spec
    problems: list[Problem] = []
    variants: list[Variant] = []
    for variant in spec.variants:
        problem = _variant_problem(spec.model, variant, instance_types, catalog)
        if problem:
            problems.append(problem)
        else:
            variants.append(_variant(resource, variant))
    unavailable = spec.disruption.max_unavailable
    scaling = spec.scaling
    return Deployment(
        namespace=resource.metadata.namespace,
        name=resource.metadata.name,
        uid=resource.metadata.uid,
        mode=Mode(spec.mode),
        replicas=spec.replicas,
        minimum_replicas=scaling.min_replicas,
        maximum_replicas=scaling.max_replicas,
        target_queue_depth=scaling.target_queue_depth,
        scale_to_zero_after_seconds=scaling.scale_to_zero_after.seconds,
        signals=tuple(_signal(signal) for signal in scaling.signals),
        latency_target=_latency_target(resource),
        maximum_usd_per_hour=_usd(spec.cost.max_usd_per_hour),
        target_usd_per_million_requests=_usd(spec.cost.target_usd_per_million_requests),
        disruption=Disruption(
            maximum_unavailable=unavailable.count,
            maximum_unavailable_fraction=(unavailable.percent or 0) / 100,
            drain_seconds=spec.disruption.drain.seconds,
            windows=tuple(_window(window) for window in spec.disruption.windows),
        ),
        variants=tuple(variants),
        priority=priority,
        deleting=resource.metadata.deletion_timestamp is not None,
        problems=tuple(problems) if not variants else (),
        warnings=(*(problems if variants else ()), *_unknown_zones(resource)),
        learned=_learned(resource),
    )


def _variant(resource: InferenceDeployment, variant: VariantSpecification) -> Variant:
    template = merge_template(resource.spec.template, variant.template or {})
    prior = variant.performance
    return Variant(
        name=variant.name,
        accelerator=variant.accelerator,
        cores=variant.cores or 0,
        devices=variant.devices or 0,
        prior_concurrency=prior.max_concurrency,
        prior_requests_per_second=float(prior.requests_per_second) if prior.requests_per_second else None,
        prior_startup_seconds=prior.startup.seconds if prior.startup else None,
        requests=pod_requests(template),
        node_selector=node_selector(template),
        tolerations=tolerations(template),
        template_hash=template_hash(
            template, variant.accelerator, variant.cores, variant.devices, resource.spec.serving_container
        ),
    )


def _variant_problem(
    model: ModelSpec | None, variant: VariantSpecification, instance_types: tuple[InstanceType, ...], catalog: Catalog
) -> Problem | None:
    """Return why no machine could ever run this variant; None if one could."""
    offered = [entry for entry in instance_types if entry.accelerator == variant.accelerator]
    where = f"spec.variants[{variant.name}]"
    if not offered:
        known = catalog.accelerator(variant.accelerator)
        hint = ""
        if isinstance(known, UnknownAccelerator):
            hint = f"; did you mean {' or '.join(known.nearest)}?" if known.nearest else ""
            message = f"{where}.accelerator {variant.accelerator!r} is in neither the catalog nor a pool{hint}"
        else:
            message = f"{where}.accelerator {variant.accelerator!r}: no instance type in the catalog or a pool has it"
        return Problem(reason=Reason.UNKNOWN_ACCELERATOR, message=message)
    misfits = []
    for entry in offered:
        cores = cores_needed(entry, variant.cores or 0, variant.devices or 0)
        masks = cores if isinstance(cores, Misfit) else legal_masks(entry, cores)
        if not isinstance(cores, Misfit) and not isinstance(masks, Misfit):
            known = catalog.accelerator(variant.accelerator)
            return None if isinstance(known, UnknownAccelerator) else memory_problem(where, model, known, entry, cores)
        assert isinstance(masks, Misfit)
        misfits.append(masks)
    asked = f"cores: {variant.cores}" if variant.cores else f"devices: {variant.devices}"
    reason = Reason.UNSUPPORTED_CORE_COUNT if variant.cores else Reason.UNSUPPORTED_DEVICE_COUNT
    # The largest machine says most about what would be possible.
    largest = max(zip(offered, misfits, strict=True), key=lambda pair: (pair[0].cores, pair[0].name))[1]
    return Problem(reason=reason, message=f"{where}.{asked} fits no {variant.accelerator} machine: {largest.message}")


def _signal(signal: Signal) -> SignalSpecification:
    return SignalSpecification(
        name=signal.name,
        in_pods=signal.pod_metrics is not None,
        measures=str(signal.measures) if signal.measures else "engine",
        interval_seconds=signal.interval.seconds,
        stale_after_seconds=signal.stale_after.seconds,
    )


def _window(window: WindowSpecification) -> Window:
    hours, _, minutes = window.start.partition(":")
    days = list(Weekday)
    return Window(
        weekdays=tuple(sorted(days.index(day) for day in window.days)),
        start_minute=int(hours) * 60 + int(minutes),
        duration_seconds=window.duration.seconds,
        timezone=window.timezone,
    )


def _unknown_zones(resource: InferenceDeployment) -> list[Problem]:
    return [
        Problem(
            reason=Reason.INVALID_SPEC,
            message=f"spec.disruption.windows: timezone {window.timezone!r} is not known here, UTC is used instead",
        )
        for window in resource.spec.disruption.windows
        if zone(window.timezone) is None
    ]


def _latency_target(resource: InferenceDeployment) -> LatencyTarget | None:
    target = resource.spec.scaling.latency_target
    return None if target is None else LatencyTarget(ttft_seconds=target.ttft.seconds, percentile=target.percentile)


def _usd(amount: Money | None) -> float | None:
    return None if amount is None else float(amount)


def _learned(resource: InferenceDeployment) -> tuple[LearnedProfile, ...]:
    return tuple(
        LearnedProfile(
            variant=entry.name,
            requests_per_second=(
                float(entry.measured_requests_per_second) if entry.measured_requests_per_second else None
            ),
            concurrency=float(entry.measured_concurrency) if entry.measured_concurrency else None,
            startup_seconds=entry.measured_startup.seconds if entry.measured_startup else None,
        )
        for entry in resource.status.variants
    )


def interpret_pool(
    resource: AcceleratorPool, catalog: Catalog, namespaces: Mapping[str, Mapping[str, str]]
) -> InterpretedPool:
    """Return the pool as meant; `namespaces` are the labels of each namespace by name."""
    spec = resource.spec
    problems: list[Problem] = []
    own: dict[str, InstanceType] = {}
    for entry in spec.custom_instance_types:
        try:
            own[entry.name] = custom_instance_type(entry, catalog)
        except CatalogError as error:
            problems.append(
                Problem(reason=Reason.INVALID_SPEC, message=f"spec.customInstanceTypes[{entry.name}]: {error}")
            )
    known = {**catalog.instance_types, **own}
    capacity_type = spec.capacity_types[0]
    prices = {
        entry.instance_type: float(entry.usd_per_hour)
        for entry in spec.price_overrides
        if entry.capacity_type == capacity_type
    }
    offerings = {
        name: Offering(
            instance_type=instance_type,
            price_usd_per_hour=prices.get(name, _catalog_price(instance_type, capacity_type)),
        )
        for name, instance_type in sorted(known.items())
    }
    launchable: list[Offering] = []
    for name in (*spec.instance_types, *own):
        found = catalog.instance_type(name) if name not in own else own[name]
        if isinstance(found, UnknownInstanceType):
            hint = f"; did you mean {' or '.join(found.nearest)}?" if found.nearest else ""
            message = f"spec.instanceTypes: {name!r} is neither in the catalog nor in spec.customInstanceTypes{hint}"
            problems.append(Problem(reason=Reason.UNKNOWN_INSTANCE_TYPE, message=message))
        else:
            launchable.append(offerings[name])
    if spec.provider is Provider.KARPENTER:
        message = "spec.provider Karpenter is not supported yet: nodes with the pool's label are used, none is launched"
        problems.append(Problem(reason=Reason.PROVIDER_FAILED, message=message))
    selector = spec.namespace_selector
    return InterpretedPool(
        pool=Pool(
            name=resource.metadata.name,
            provider=PoolProvider(spec.provider),
            offerings=tuple(launchable),
            maximum_nodes=spec.limits.nodes,
            maximum_usd_per_hour=float(spec.limits.usd_per_hour) if spec.limits.usd_per_hour else None,
            headroom_cores=spec.headroom.cores,
            namespaces=(
                frozenset(name for name, labels in namespaces.items() if selector.matches(dict(labels)))
                if selector is not None
                else None
            ),
            consolidate_after_seconds=spec.disruption.consolidate_after.seconds,
            problems=tuple(problems),
        ),
        instance_types=offerings,
    )


def custom_instance_type(entry: CustomInstanceType, catalog: Catalog) -> InstanceType:
    """Return a pool's own instance type with what it leaves out filled in from its accelerator and topology."""
    topology = Topology(entry.topology)
    if entry.allocation_policy is not None:
        policy = AllocationPolicy(entry.allocation_policy)
    elif entry.devices == 1:
        policy = AllocationPolicy.SINGLE
    else:
        policy = {
            Topology.RING: AllocationPolicy.CONTIGUOUS_WINDOW,
            Topology.TORUS_2D_4X4: AllocationPolicy.ALIGNED,
        }.get(topology, AllocationPolicy.COUNT)
    relatives = [other for other in catalog.instance_types.values() if other.accelerator == entry.accelerator]
    every = (1,) if policy is AllocationPolicy.SINGLE else tuple(range(1, entry.devices + 1))
    counts = entry.allowed_device_counts or every
    template = relatives[0] if relatives else next(iter(catalog.instance_types.values()))
    return replace(
        template,
        name=entry.name,
        cloud="custom",
        accelerator=entry.accelerator,
        devices=entry.devices,
        cores_per_device=entry.cores_per_device or (relatives[0].cores_per_device if relatives else 1),
        topology=topology,
        allocation_policy=policy,
        allowed_device_counts=counts,
        allocatable_cpu_millicores=entry.cpu.millicores,
        allocatable_memory_bytes=entry.memory.bytes,
        max_pods=entry.max_pods,
        price_usd_per_hour=float(entry.price_usd_per_hour) if entry.price_usd_per_hour else None,
    )


def _catalog_price(instance_type: InstanceType, capacity_type: CapacityType) -> float | None:
    """Return the list price; of a spot range its upper end, so that no ceiling is crossed by optimism."""
    if capacity_type is CapacityType.SPOT:
        spot = instance_type.spot_price_usd_per_hour
        return max(spot) if spot else None
    if capacity_type is CapacityType.RESERVED:
        return instance_type.reserved_price_usd_per_hour
    return instance_type.price_usd_per_hour

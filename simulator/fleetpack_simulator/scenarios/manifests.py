"""From ordinary manifests to models, pools and machines of the world.

The same manifests are applied to a real API server: they are checked by the same types and understood by the same interpretation.
What only the simulator needs is taken from what is there already: how the model is shaped (its published shape by the name in
`spec.model`, with the fields that are set there over it; an unknown name is estimated from the size), how large its batch is
(`performance.maxConcurrency`), how long it takes to start (`fleetpack.dev/simulated-startup-seconds` of the template, else
`performance.startup`). Engine settings in the container's environment (`FLEETPACK_ENGINE_*`) win, as they do in a simulated Pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.api.inference_deployment import Variant as VariantSpecification
from fleetpack.api.values import Duration
from fleetpack.catalog import Catalog, InstanceType, load_catalog
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import Node
from fleetpack.core.interpretation import InterpretedPool, interpret_deployment, interpret_pool
from fleetpack.core.templates import merge_template
from fleetpack_simulator.engine.serving import ServingProfile
from fleetpack_simulator.settings import PREFIX, replica_settings
from fleetpack_simulator.world.cluster import node_of
from fleetpack_simulator.world.setting import BootBehaviour

STARTUP_ANNOTATION = "fleetpack.dev/simulated-startup-seconds"
DEFAULT_STARTUP_SECONDS = 60.0
"""Where nothing says how long a start takes; loading 8B weights from a local disk takes about that."""


class ScenarioError(ValueError):
    """A scenario that cannot be played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderstoodModel:
    """One InferenceDeployment as the world needs it."""

    deployment: Deployment
    engines: Mapping[str, ServingProfile]
    startup_seconds: Mapping[str, float]
    image: str
    objective_ttft_seconds: float | None
    objective_percentile: int


@dataclass(slots=True)
class Manifests:
    """All manifests of a scenario."""

    pools: list[AcceleratorPool] = field(default_factory=list)
    deployments: list[InferenceDeployment] = field(default_factory=list)
    namespaces: dict[str, dict[str, str]] = field(default_factory=lambda: {"default": {}})
    priorities: dict[str, int] = field(default_factory=dict)
    default_priority: int = 0

    def add(self, manifest: Mapping[str, Any], source: str) -> None:
        """Take in one manifest; kinds that mean nothing to the simulator are passed over."""
        kind, metadata = manifest.get("kind"), dict(manifest.get("metadata") or {})
        name = metadata.get("name")
        if not name:
            raise ScenarioError(f"{source}: a {kind} without metadata.name")
        try:
            if kind == "AcceleratorPool":
                self.pools.append(AcceleratorPool.model_validate(dict(manifest)))
            elif kind == "InferenceDeployment":
                metadata.setdefault("namespace", "default")
                metadata.setdefault("uid", f"uid-{metadata['namespace']}-{name}")
                self.namespaces.setdefault(metadata["namespace"], {})
                self.deployments.append(InferenceDeployment.model_validate({**manifest, "metadata": metadata}))
            elif kind == "Namespace":
                self.namespaces[name] = dict(metadata.get("labels") or {})
            elif kind == "PriorityClass":
                self.priorities[name] = int(manifest.get("value", 0))
                if manifest.get("globalDefault"):
                    self.default_priority = self.priorities[name]
        except ValueError as error:
            raise ScenarioError(f"{source}: {kind} {name}: {error}") from error

    def understood_pools(self) -> tuple[InterpretedPool, ...]:
        """Return the pools as meant, by name."""
        catalog = load_catalog()
        pools = sorted(self.pools, key=lambda pool: pool.metadata.name)
        found = tuple(interpret_pool(pool, catalog, self.namespaces) for pool in pools)
        for entry in found:
            if entry.pool.problems:
                raise ScenarioError(f"AcceleratorPool {entry.pool.name}: {entry.pool.problems[0].message}")
        return found

    def boots(self) -> dict[str, BootBehaviour]:
        """Return how launches go, by pool."""
        found = {}
        for pool in self.pools:
            simulation = pool.spec.simulation
            found[pool.metadata.name] = (
                BootBehaviour()
                if simulation is None
                else BootBehaviour(
                    delay_seconds=simulation.boot_delay.seconds,
                    jitter_seconds=simulation.boot_jitter.seconds,
                    failure_rate=float(simulation.failure_rate),
                    insufficient_capacity=tuple(simulation.insufficient_capacity),
                )
            )
        return found

    def models(self, pools: Iterable[InterpretedPool], startup: Mapping[str, float]) -> tuple[UnderstoodModel, ...]:
        """Return the models by `namespace/name`; `startup` overrides starts, by the same name."""
        catalog = load_catalog()
        types: dict[str, InstanceType] = dict(catalog.instance_types)
        for pool in pools:
            types.update({name: offering.instance_type for name, offering in pool.instance_types.items()})
        every = tuple(types[name] for name in sorted(types))
        ordered = sorted(self.deployments, key=lambda resource: resource.key)
        return tuple(self._model(resource, every, catalog, startup) for resource in ordered)

    def _model(
        self,
        resource: InferenceDeployment,
        types: tuple[InstanceType, ...],
        catalog: Catalog,
        startup: Mapping[str, float],
    ) -> UnderstoodModel:
        wanted = (resource.spec.template.get("spec") or {}).get("priorityClassName", "")
        priority = self.priorities.get(wanted, self.default_priority)
        deployment = interpret_deployment(resource, types, catalog, priority)
        if deployment.problems:
            raise ScenarioError(f"InferenceDeployment {deployment.key}: {deployment.problems[0].message}")
        served = {variant.name for variant in deployment.variants}
        variants = [variant for variant in resource.spec.variants if variant.name in served]
        target = resource.spec.scaling.latency_target
        return UnderstoodModel(
            deployment=deployment,
            engines={variant.name: _engine(resource, variant) for variant in variants},
            startup_seconds={
                variant.name: startup.get(deployment.key, _startup_seconds(resource, variant)) for variant in variants
            },
            image=str(_serving_container(resource, resource.spec.template).get("image", "")),
            objective_ttft_seconds=target.ttft.seconds if target is not None else None,
            objective_percentile=target.percentile if target is not None else 95,
        )


def machines(pools: Iterable[InterpretedPool], pool: str, instance_type: str, count: int) -> tuple[Node, ...]:
    """Return machines that are there from the start."""
    by_name = {entry.pool.name: entry for entry in pools}
    if pool not in by_name:
        raise ScenarioError(f"nodes: pool {pool!r} has no manifest; there are {', '.join(sorted(by_name)) or 'none'}")
    offering = by_name[pool].instance_types.get(instance_type)
    if offering is None:
        raise ScenarioError(f"nodes: instanceType {instance_type!r} is in neither the catalog nor pool {pool}")
    prefix = f"{pool}-{instance_type.replace('.', '-')}-initial"
    return tuple(
        node_of(f"{prefix}-{index}", pool, offering.instance_type, offering.price_usd_per_hour)
        for index in range(count)
    )


def _serving_container(resource: InferenceDeployment, template: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = (template.get("spec") or {}).get("containers") or [{}]
    name = resource.spec.serving_container or containers[0].get("name")
    return next((container for container in containers if container.get("name") == name), containers[0])


def _engine(resource: InferenceDeployment, variant: VariantSpecification) -> ServingProfile:
    """Return the engine that a replica of a variant really is."""
    template = merge_template(resource.spec.template, variant.template or {})
    values: dict[str, Any] = {
        "ACCELERATOR": variant.accelerator,
        "MAX_BATCH": variant.performance.max_concurrency,
    }
    model = resource.spec.model
    if model is not None:
        values |= {
            "MODEL": model.name,
            "PARAMETERS_BILLIONS": model.parameters_billions,
            "WEIGHT_BITS": model.weight_bits,
            "KEY_VALUE_BITS": model.key_value_bits,
            "LAYERS": model.layers,
            "KV_HEADS": model.key_value_heads,
            "HEAD_SIZE": model.head_dimension,
            "WINDOW_TOKENS": model.context_tokens,
        }
    environment = {PREFIX + name: str(value) for name, value in values.items() if value is not None}
    for entry in _serving_container(resource, template).get("env") or ():
        if str(entry.get("name", "")).startswith(PREFIX) and "value" in entry:
            environment[entry["name"]] = str(entry["value"])
    try:
        return replica_settings(environment, cores=variant.cores or variant.devices).profile
    except ValueError as error:
        where = f"InferenceDeployment {resource.key}, variant {variant.name}"
        raise ScenarioError(f"{where}: {error}; spec.model says what is served") from error


def _startup_seconds(resource: InferenceDeployment, variant: VariantSpecification) -> float:
    template = merge_template(resource.spec.template, variant.template or {})
    annotation = ((template.get("metadata") or {}).get("annotations") or {}).get(STARTUP_ANNOTATION)
    if annotation is not None:
        return float(annotation)
    prior = variant.performance.startup
    return DEFAULT_STARTUP_SECONDS if prior is None else prior.seconds


def seconds_of(value: object, where: str) -> float:
    """Read a Go duration, or a number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return Duration.parse(str(value)).seconds
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error

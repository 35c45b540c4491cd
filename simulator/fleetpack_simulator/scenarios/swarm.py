"""Worlds drawn from a seed: fleets, models, loads, options and faults, for rules that must hold in every one of them.

First a phase under faults, in which only safety is asked for: nothing illegal, nothing double, nothing above a ceiling. Then the faults
end and so does the load, and everything must come to rest: minimums restored where there is room, every request ended. A machine
that died stays dead; a chip that broke stays broken. A seed always draws the same world, so it is a bug report by itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fleetpack.catalog import load_catalog
from fleetpack.core.deployments import Deployment, Disruption, Mode, SignalSpecification, Variant
from fleetpack.core.fleet import Offering, Pool, PoolProvider, Resources
from fleetpack_simulator.engine.serving import ServingProfile
from fleetpack_simulator.scenarios.swarm_options import with_options
from fleetpack_simulator.settings import PREFIX, replica_settings
from fleetpack_simulator.workload import GeneratorOptions, Request, generate
from fleetpack_simulator.world.cluster import node_of
from fleetpack_simulator.world.faults import INSTANT, Fault, FaultKind
from fleetpack_simulator.world.invariants import Violation
from fleetpack_simulator.world.setting import BootBehaviour, Delays, ModelSetting, SpecChange, WorldSetting
from fleetpack_simulator.world.simulation import RunResult, simulate

SAFETY_SECONDS = 240.0
LIVENESS_SECONDS = 1500.0
"""At most: longer than the planner's longest back-off (10 minutes) with a boot and a start after it."""

_FAMILIES = (
    ("inferentia2", ("inf2.24xlarge", "inf2.48xlarge"), (2, 4, 6, 8, 12)),
    ("trainium", ("trn1.32xlarge",), (2, 8, 16)),
    ("inferentia2", ("inf2.8xlarge",), (2,)),
)
"""Accelerator, instance types, and cores per replica that are legal on them."""
_SHAPES = ("constant", "step", "ramp", "sine", "spike", "production-chat")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOutcome:
    """What became of one seed."""

    seed: int
    description: str
    result: RunResult

    @property
    def violations(self) -> list[Violation]:
        """Rules that were broken."""
        return self.result.violations


def play_seed(seed: int) -> SwarmOutcome:
    """Draw the world of a seed and play it."""
    setting = draw_setting(seed)
    return SwarmOutcome(seed=seed, description=_describe(setting), result=simulate(setting, until_rest=True))


def draw_setting(seed: int) -> WorldSetting:
    """Draw a world."""
    return with_options(draw_common(seed))


def draw_common(seed: int) -> WorldSetting:
    """Draw a world without promises, prices, namespaces and other accelerators."""
    draw = random.Random(f"{seed}/swarm")
    catalog = load_catalog()
    families = draw.sample(_FAMILIES, k=draw.choice((1, 1, 2)))
    pools, nodes, boots = [], [], {}
    for index, (_, kinds, _) in enumerate(families):
        name = f"pool-{index}"
        offerings = tuple(
            Offering(
                instance_type=catalog.instance_types[kind],
                price_usd_per_hour=catalog.instance_types[kind].price_usd_per_hour,
            )
            for kind in kinds
        )
        provider = draw.choice((PoolProvider.SIMULATED, PoolProvider.SIMULATED, PoolProvider.STATIC))
        pools.append(_pool(name, provider, offerings, draw))
        boots[name] = BootBehaviour(
            delay_seconds=draw.choice((5.0, 30.0, 90.0)),
            jitter_seconds=draw.choice((0.0, 20.0)),
            failure_rate=draw.choice((0.0, 0.0, 0.2)),
        )
        initial = draw.randint(1, 3) if provider is PoolProvider.STATIC else draw.choice((0, 0, 1))
        for number in range(initial):
            kind = catalog.instance_types[draw.choice(kinds)]
            nodes.append(node_of(f"{name}-initial-{number}", name, kind, kind.price_usd_per_hour))
    models = tuple(_model(index, families, seed, draw) for index in range(draw.randint(1, 3)))
    faults = _faults(draw, models)
    return WorldSetting(
        models=models,
        pools=tuple(pools),
        nodes=tuple(nodes),
        boots=boots,
        faults=faults,
        changes=_changes(draw, models),
        delays=Delays(
            watch_seconds=draw.choice((0.02, 0.05, 0.5)),
            write_seconds=draw.choice((0.01, 0.05, 0.4)),
            image_pull_seconds=draw.choice((0.0, 10.0)),
            startup_jitter_fraction=draw.choice((0.0, 0.1, 0.5)),
            termination_seconds=draw.choice((0.5, 2.0, 15.0)),
        ),
        duration_seconds=SAFETY_SECONDS,
        tail_seconds=LIVENESS_SECONDS,
        seed=seed,
    )


def _pool(name: str, provider: PoolProvider, offerings: tuple[Offering, ...], draw: random.Random) -> Pool:
    return Pool(
        name=name,
        provider=provider,
        offerings=offerings,
        maximum_nodes=draw.choice((2, 4, 8, None)),
        maximum_usd_per_hour=draw.choice((None, None, 30.0, 60.0)),
        headroom_cores=draw.choice((0, 0, 0, 4)),
        consolidate_after_seconds=draw.choice((20.0, 60.0, 300.0)),
    )


def _model(index: int, families: list[Any], seed: int, draw: random.Random) -> ModelSetting:
    billions = draw.choice((1.24, 3.21))
    batch = draw.choice((4, 16))
    startup_seconds = draw.choice((5.0, 20.0, 60.0))
    outside = draw.random() < 0.4
    chosen = draw.sample(families, k=draw.randint(1, len(families)))
    variants: list[Variant] = []
    engines: dict[str, ServingProfile] = {}
    for accelerator, _, counts in chosen:
        cores = draw.choice(counts)
        name = f"{accelerator}-tp{cores}-{len(variants)}"
        variants.append(
            Variant(
                name=name,
                accelerator=accelerator,
                cores=cores,
                prior_concurrency=draw.choice((None, batch)),
                prior_requests_per_second=draw.choice((None, 0.5, 2.0, 5.0)),
                prior_startup_seconds=draw.choice((None, startup_seconds)),
                requests=Resources(cpu_millicores=1000, memory_bytes=2**31, pods=1),
                template_hash="hash-0",
            )
        )
        engines[name] = _engine(accelerator, cores, billions, batch)
    minimum = draw.choice((0, 0, 1)) if outside else draw.choice((1, 1, 2))
    signals = [SignalSpecification(name="engine", in_pods=True)]
    if outside:
        signals.append(SignalSpecification(name="gateway", in_pods=False, measures="waiting"))
    deployment = Deployment(
        namespace="default",
        name=f"model-{index}",
        uid=f"uid-model-{index}",
        minimum_replicas=minimum,
        maximum_replicas=draw.choice((3, 6, 12)),
        target_queue_depth=draw.choice((1.0, 4.0)),
        scale_to_zero_after_seconds=draw.choice((20.0, 120.0)),
        signals=tuple(signals),
        maximum_usd_per_hour=draw.choice((None, None, None, 5.0, 15.0)),
        disruption=Disruption(drain_seconds=draw.choice((10.0, 60.0))),
        variants=tuple(variants),
        priority=draw.choice((0, 0, 10)),
    )
    return ModelSetting(
        deployment=deployment,
        engines=engines,
        startup_seconds={variant.name: startup_seconds for variant in variants},
        image=f"example.com/model-{index}:1",
        load=_load(seed * 10 + index, draw),
        objective_ttft_seconds=2.0,
    )


def _engine(accelerator: str, cores: int, billions: float, batch: int) -> ServingProfile:
    environment = {
        f"{PREFIX}PARAMETERS_BILLIONS": str(billions),
        f"{PREFIX}ACCELERATOR": accelerator,
        f"{PREFIX}MAX_BATCH": str(batch),
        f"{PREFIX}WINDOW_TOKENS": "2048",
    }
    return replica_settings(environment, cores=cores).profile


def _load(seed: int, draw: random.Random) -> tuple[Request, ...]:
    options = GeneratorOptions(
        duration_seconds=SAFETY_SECONDS,
        rate_per_second=draw.choice((0.0, 0.3, 2.0, 6.0)),
        peak_rate_per_second=draw.choice((1.0, 6.0, 20.0)),
        at_seconds=draw.uniform(0.0, 120.0),
        width_seconds=draw.uniform(5.0, 60.0),
        period_seconds=draw.choice((60.0, 240.0)),
        prompt_tokens=draw.choice((100, 800, 3000)),
        output_tokens=draw.choice((5, 40, 150)),
        seed=seed,
    )
    return generate(draw.choice(_SHAPES), options)


def _faults(draw: random.Random, models: tuple[ModelSetting, ...]) -> tuple[Fault, ...]:
    found = []
    for _ in range(draw.randint(0, 8)):
        kind = draw.choice(tuple(FaultKind))
        at_seconds = draw.uniform(0.0, SAFETY_SECONDS * 0.9)
        lasts = min(draw.uniform(5.0, 120.0), SAFETY_SECONDS - at_seconds)
        found.append(
            Fault(
                kind=kind,
                at_seconds=at_seconds,
                duration_seconds=0.0 if kind in INSTANT else lasts,
                target=_target(kind, models, draw),
                share=draw.choice((0.1, 0.5, 1.0)),
                seconds=draw.choice((0.5, 3.0, 8.0))
                if kind is FaultKind.METRICS_LATE
                else draw.choice((0.5, 2.0, 4.0)),
                factor=draw.choice((0.0, 0.3, 5.0)),
                cores=draw.choice((1, 2, 4, 8)),
            )
        )
    return tuple(found)


def _changes(draw: random.Random, models: tuple[ModelSetting, ...]) -> tuple[SpecChange, ...]:
    """Draw what people do to the specs meanwhile; in the end every model is there and scales by itself."""
    found = []
    for number in range(draw.choice((0, 0, 1, 2, 4))):
        key = draw.choice(models).deployment.key
        at_seconds = draw.uniform(10.0, SAFETY_SECONDS * 0.9)
        kind = draw.choice(("template", "template", "bounds", "mode", "delete"))
        if kind == "template":
            found.append(SpecChange(at_seconds=at_seconds, deployment=key, template_hash=f"hash-{number + 1}"))
        elif kind == "bounds":
            least = draw.choice((1, 2, 3))
            bounds = (("minimum_replicas", least), ("maximum_replicas", least + draw.choice((0, 1, 6))))
            found.append(SpecChange(at_seconds=at_seconds, deployment=key, fields=bounds))
        elif kind == "mode":
            mode = draw.choice((Mode.MANUAL, Mode.ADVISORY, Mode.PAUSED))
            by_hand = (("mode", mode), ("replicas", draw.choice((1, 2, 5))))
            found.append(SpecChange(at_seconds=at_seconds, deployment=key, fields=by_hand))
        else:
            found.append(SpecChange(at_seconds=at_seconds, deployment=key, deleted=True))
            back_seconds = min(at_seconds + draw.choice((0.5, 5.0, 40.0)), SAFETY_SECONDS)
            found.append(SpecChange(at_seconds=back_seconds, deployment=key))
    keys = sorted({change.deployment for change in found})
    automatic = (("mode", Mode.AUTO),)
    return (*found, *(SpecChange(at_seconds=SAFETY_SECONDS, deployment=key, fields=automatic) for key in keys))


def _target(kind: FaultKind, models: tuple[ModelSetting, ...], draw: random.Random) -> str:
    whole = (
        FaultKind.SLOW_API,
        FaultKind.LOST_WRITES,
        FaultKind.REFUSED_WRITES,
        FaultKind.CACHE_LAG,
        FaultKind.CACHE_STALL,
    )
    by_model = (FaultKind.REPLICA_CRASH, FaultKind.START_FAILURE, FaultKind.NEVER_BOUND, FaultKind.METRICS_MISSING)
    if kind in whole or kind not in by_model or draw.random() < 0.5:
        return ""
    return draw.choice(models).deployment.key


def _describe(setting: WorldSetting) -> str:
    pools = ", ".join(f"{pool.name} ({pool.provider}, {len(pool.offerings)} types)" for pool in setting.pools)
    models = ", ".join(f"{model.deployment.key} ({len(model.load)} requests)" for model in setting.models)
    faults = ", ".join(f"{fault.kind} at {fault.at_seconds:.0f} s" for fault in setting.faults) or "none"
    changes = ", ".join(f"{_change_text(change)} at {change.at_seconds:.0f} s" for change in setting.changes) or "none"
    return f"pools {pools}; models {models}; faults {faults}; changes {changes}"


def _change_text(change: SpecChange) -> str:
    """Say what an edit does, in a word or two."""
    name = change.deployment.rpartition("/")[2]
    if change.deleted:
        return f"delete {name}"
    if change.template_hash:
        return f"new template of {name}"
    return f"{name} {', '.join(f'{field} {value}' for field, value in change.fields) or 'made anew'}"

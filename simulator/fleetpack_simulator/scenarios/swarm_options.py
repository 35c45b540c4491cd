"""What a world of the swarm may have beside the common things: promises, prices, priorities, namespaces, other accelerators.

Takes a world that is drawn already and gives some of its models and pools more options, from a draw of its own, so that the rest of
the world stays what its seed has always drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from fleetpack.catalog import load_catalog
from fleetpack.core.deployments import LatencyTarget, Variant
from fleetpack.core.fleet import Offering, Pool, PoolProvider, Resources
from fleetpack_simulator.engine.serving import ServingProfile
from fleetpack_simulator.settings import PREFIX, replica_settings
from fleetpack_simulator.world.cluster import node_of
from fleetpack_simulator.world.setting import BootBehaviour, Delays, ModelSetting, WorldSetting

_OTHERS = (
    ("trainium2", "trn2.48xlarge", 4, (4, 16, 32)),
    ("l4", "g6.12xlarge", 1, (1, 2, 4)),
    ("inferentia", "inf1.6xlarge", 4, (8, 16)),
)
"""Accelerator, instance type, cores of a device, and legal cores per replica, of what the common worlds do not have."""
_DEVICE_CORES = {"inferentia2": 2, "trainium": 2} | {accelerator: cores for accelerator, _, cores, _ in _OTHERS}
_WINDOW_TOKENS = 2048
"""Of every engine of the swarm."""
_TRAINIUM2_USD_PER_HOUR = 40.0
"""No list price is published; of the order of what two trn1.32xlarge cost."""


def with_options(setting: WorldSetting) -> WorldSetting:
    """Return a world with more options, drawn from its seed."""
    draw = random.Random(f"{setting.seed}/swarm-options")
    setting = replace(
        setting,
        delays=_delays(setting.delays, draw),
        models=tuple(_with_promises(model, draw) for model in setting.models),
    )
    if draw.random() < 0.35:
        setting = _with_other_accelerator(setting, draw)
    if draw.random() < 0.3:
        setting = replace(setting, models=tuple(_in_devices(model, draw) for model in setting.models))
    if draw.random() < 0.4:
        setting = replace(setting, models=tuple(_with_long_answers(model) for model in setting.models))
    return _in_namespaces(setting, draw) if draw.random() < 0.3 else setting


def _delays(delays: Delays, draw: random.Random) -> Delays:
    pull = draw.choice((0.0, 10.0, 30.0))
    return replace(delays, image_pull_seconds=pull, compile_seconds=draw.choice((0.0, 0.0, 20.0, 60.0)))


def _with_promises(model: ModelSetting, draw: random.Random) -> ModelSetting:
    deployment = replace(model.deployment, priority=draw.choice((0, 0, 10, 1000)))
    if draw.random() < 0.25:
        deployment = replace(deployment, target_usd_per_million_requests=draw.choice((50.0, 300.0, 2000.0)))
    if draw.random() < 0.5:
        return replace(model, deployment=deployment)
    target = LatencyTarget(ttft_seconds=draw.choice((0.5, 2.0, 5.0)), percentile=draw.choice((90.0, 95.0, 99.0)))
    return replace(
        model,
        deployment=replace(deployment, latency_target=target),
        objective_ttft_seconds=target.ttft_seconds,
        objective_percentile=round(target.percentile),
    )


def _with_other_accelerator(setting: WorldSetting, draw: random.Random) -> WorldSetting:
    """Add a pool of another accelerator, and variants that run there to some models."""
    accelerator, kind, device_cores, counts = draw.choice(_OTHERS)
    machine = load_catalog().instance_types[kind]
    price = machine.price_usd_per_hour or _TRAINIUM2_USD_PER_HOUR
    pool = Pool(
        name="pool-other",
        provider=draw.choice((PoolProvider.SIMULATED, PoolProvider.SIMULATED, PoolProvider.STATIC)),
        offerings=(Offering(instance_type=machine, price_usd_per_hour=price),),
        maximum_nodes=draw.choice((1, 2, 4)),
        headroom_cores=draw.choice((0, 0, 0, 4)),
        consolidate_after_seconds=draw.choice((20.0, 60.0, 300.0)),
    )
    initial = draw.randint(1, 2) if pool.provider is PoolProvider.STATIC else 0
    nodes = tuple(node_of(f"{pool.name}-initial-{number}", pool.name, machine, price) for number in range(initial))
    boot = BootBehaviour(delay_seconds=draw.choice((5.0, 60.0)), failure_rate=draw.choice((0.0, 0.2)))
    models = tuple(
        _with_variant(model, accelerator, draw.choice(counts), device_cores) if draw.random() < 0.7 else model
        for model in setting.models
    )
    return replace(
        setting,
        pools=(*setting.pools, pool),
        nodes=(*setting.nodes, *nodes),
        boots={**setting.boots, pool.name: boot},
        models=models,
    )


def _with_variant(model: ModelSetting, accelerator: str, cores: int, device_cores: int) -> ModelSetting:
    first = model.deployment.variants[0]
    engine = model.engines[first.name]
    name = f"{accelerator}-tp{cores}"
    variant = Variant(
        name=name,
        accelerator=accelerator,
        # What has no cores of its own is asked for by the device.
        cores=cores if device_cores > 1 else 0,
        devices=0 if device_cores > 1 else cores,
        prior_startup_seconds=first.prior_startup_seconds,
        requests=Resources(cpu_millicores=1000, memory_bytes=2**31, pods=1),
        template_hash=first.template_hash,
    )
    environment = {
        f"{PREFIX}PARAMETERS_BILLIONS": "1.24",
        f"{PREFIX}ACCELERATOR": accelerator,
        f"{PREFIX}MAX_BATCH": str(getattr(engine, "maximum_batch", 4)),
        f"{PREFIX}WINDOW_TOKENS": str(_WINDOW_TOKENS),
    }
    added: ServingProfile = replica_settings(environment, cores=cores).profile
    return replace(
        model,
        deployment=replace(model.deployment, variants=(*model.deployment.variants, variant)),
        engines={**model.engines, name: added},
        startup_seconds={**model.startup_seconds, name: model.startup_seconds[first.name]},
    )


def _with_long_answers(model: ModelSetting) -> ModelSetting:
    """Make the load heavy: each request asks for several times as many tokens, as far as its window holds them."""
    load = tuple(
        replace(
            one, output_tokens=max(one.output_tokens, min(6 * one.output_tokens, _WINDOW_TOKENS - one.prompt_tokens))
        )
        for one in model.load
    )
    return replace(model, load=load)


def _in_devices(model: ModelSetting, draw: random.Random) -> ModelSetting:
    """Ask for whole devices instead of cores in some variants."""
    variants = []
    for variant in model.deployment.variants:
        size = _DEVICE_CORES[variant.accelerator]
        if variant.cores and not variant.cores % size and draw.random() < 0.5:
            variant = replace(variant, cores=0, devices=variant.cores // size)
        variants.append(variant)
    return replace(model, deployment=replace(model.deployment, variants=tuple(variants)))


def _in_namespaces(setting: WorldSetting, draw: random.Random) -> WorldSetting:
    """Move some models to a namespace of their own, and keep some pools for one namespace."""
    keys: dict[str, str] = {}
    models = []
    for model in setting.models:
        deployment = replace(model.deployment, namespace=draw.choice(("default", "team")))
        keys[model.deployment.key] = deployment.key
        models.append(replace(model, deployment=deployment))
    spaces = (None, None, frozenset({"default"}), frozenset({"team"}), frozenset({"default", "team"}))
    return replace(
        setting,
        models=tuple(models),
        pools=tuple(replace(pool, namespaces=draw.choice(spaces)) for pool in setting.pools),
        faults=tuple(replace(fault, target=_renamed(fault.target, keys)) for fault in setting.faults),
        changes=tuple(replace(change, deployment=keys[change.deployment]) for change in setting.changes),
    )


def _renamed(target: str, keys: Mapping[str, str]) -> str:
    return keys.get(target, target)

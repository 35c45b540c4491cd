"""Small worlds for tests: one pool of Inferentia2 machines, one model of two cores per replica, times that are easy to follow."""

from __future__ import annotations

from typing import Any

from fleetpack.catalog import load_catalog
from fleetpack.core.deployments import Deployment, Disruption, SignalSpecification, Variant
from fleetpack.core.fleet import Offering, Pool, PoolProvider, Resources
from fleetpack_simulator.settings import PREFIX, replica_settings
from fleetpack_simulator.workload import Request
from fleetpack_simulator.world import BootBehaviour, Delays, ModelSetting, WorldSetting
from fleetpack_simulator.world.cluster import node_of

POOL = "ring"
TYPE = load_catalog().instance_types["inf2.24xlarge"]
ENGINE = replica_settings(
    {
        f"{PREFIX}PARAMETERS_BILLIONS": "1.24",
        f"{PREFIX}ACCELERATOR": "inferentia2",
        f"{PREFIX}MAX_BATCH": "4",
        f"{PREFIX}WINDOW_TOKENS": "1024",
    },
    cores=2,
).profile


def deployment(**changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "namespace": "default",
        "name": "chat",
        "uid": "uid-chat",
        "minimum_replicas": 1,
        "maximum_replicas": 6,
        "signals": (SignalSpecification(name="engine", in_pods=True),),
        "disruption": Disruption(drain_seconds=30.0),
        "variants": (
            Variant(
                name="tp2",
                accelerator="inferentia2",
                cores=2,
                prior_concurrency=4,
                prior_requests_per_second=2.0,
                prior_startup_seconds=10.0,
                requests=Resources(cpu_millicores=1000, memory_bytes=2**30, pods=1),
                template_hash="hash",
            ),
        ),
    }
    return Deployment(**{**values, **changes})


def requests(rate_per_second: float, seconds: float, start_seconds: float = 0.0, **changes: int) -> tuple[Request, ...]:
    """Evenly spaced requests."""
    tokens = {"prompt_tokens": 100, "output_tokens": 20, **changes}
    count = int(rate_per_second * seconds)
    return tuple(Request(arrival_seconds=start_seconds + index / rate_per_second, **tokens) for index in range(count))


def model(load: tuple[Request, ...] = (), startup_seconds: float = 10.0, **changes: Any) -> ModelSetting:
    own = deployment(**changes)
    return ModelSetting(
        deployment=own,
        engines={variant.name: ENGINE for variant in own.variants},
        startup_seconds={variant.name: startup_seconds for variant in own.variants},
        image=f"example.com/{own.name}:1",
        load=load,
        objective_ttft_seconds=1.0,
    )


def pool(**changes: Any) -> Pool:
    values: dict[str, Any] = {
        "name": POOL,
        "provider": PoolProvider.SIMULATED,
        "offerings": (Offering(instance_type=TYPE, price_usd_per_hour=TYPE.price_usd_per_hour),),
        "consolidate_after_seconds": 60.0,
    }
    return Pool(**{**values, **changes})


def world(*models: ModelSetting, nodes: int = 1, **changes: Any) -> WorldSetting:
    values: dict[str, Any] = {
        "models": models,
        "pools": (pool(),),
        "nodes": tuple(node_of(f"node-{index}", POOL, TYPE, TYPE.price_usd_per_hour) for index in range(nodes)),
        "boots": {POOL: BootBehaviour(delay_seconds=20.0)},
        "delays": Delays(startup_jitter_fraction=0.0),
        "duration_seconds": 120.0,
        "tail_seconds": 120.0,
        "seed": 7,
    }
    return WorldSetting(**{**values, **changes})

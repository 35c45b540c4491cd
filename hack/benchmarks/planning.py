"""How long the pure core takes for a large fleet: a steady pass, and a fleet that is placed from nothing."""

import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.results import Figure, median
from fleetpack.catalog import load_catalog
from fleetpack.core.cores import range_mask
from fleetpack.core.deployments import Deployment, SignalSpecification, Variant
from fleetpack.core.fleet import FleetSnapshot, Node, Pool, PoolProvider, Replica, ReplicaPhase, Resources
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.planner import plan
from fleetpack.core.samples import Sample
from fleetpack.core.state import State

NODES = 1_000
DEPLOYMENTS = 500
REPLICAS_EACH = 10
CORES_EACH = 4
NOW = 1_000_000.0


def measure() -> list[Figure]:
    """Return the figures of this machine."""
    placed = _fleet(placed=True)
    _, state = plan(placed, State())
    steady = [_timed(lambda: plan(replace(placed, now=NOW + 2), state)) for _ in range(5)]
    empty = [_timed(lambda: plan(_fleet(placed=False), State())) for _ in range(3)]
    return [
        Figure(name="plan_1000_nodes_5000_replicas_seconds", value=median(steady), detail="median of 5 steady passes"),
        Figure(name="pack_1000_nodes_5000_requests_seconds", value=median(empty), detail="median of 3, all unplaced"),
    ]


def _timed(work: Callable[[], tuple[Plan, State]]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _fleet(*, placed: bool) -> Inputs:
    """Return a fleet of inf2.48xlarge nodes with six replicas of four cores on each but the last ones."""
    kind = load_catalog().instance_types["inf2.48xlarge"]
    allocatable = Resources(
        cpu_millicores=kind.allocatable_cpu_millicores or 0,
        memory_bytes=kind.allocatable_memory_bytes or 0,
        pods=kind.max_pods or 0,
        accelerator_cores=kind.cores,
    )
    nodes = tuple(
        Node(
            name=f"node-{index:04d}",
            pool="inferentia2",
            instance_type=kind,
            ready=True,
            price_usd_per_hour=kind.price_usd_per_hour,
            allocatable=allocatable,
        )
        for index in range(NODES)
    )
    variant = Variant(
        name="tp4",
        accelerator="inferentia2",
        cores=CORES_EACH,
        prior_requests_per_second=2.0,
        prior_concurrency=16,
        prior_startup_seconds=60.0,
        requests=Resources(cpu_millicores=2000, memory_bytes=2**33, pods=1),
        template_hash="hash",
    )
    deployments = tuple(
        Deployment(
            namespace="default",
            name=f"model-{index:03d}",
            uid=f"uid-{index}",
            replicas=REPLICAS_EACH,
            minimum_replicas=REPLICAS_EACH,
            maximum_replicas=2 * REPLICAS_EACH,
            signals=(SignalSpecification(name="engine", in_pods=True),),
            variants=(variant,),
        )
        for index in range(DEPLOYMENTS)
    )
    replicas = tuple(_replica(number) for number in range(DEPLOYMENTS * REPLICAS_EACH)) if placed else ()
    snapshot = FleetSnapshot(
        nodes=nodes, replicas=replicas, pools=(Pool(name="inferentia2", provider=PoolProvider.STATIC),)
    )
    return Inputs(now=NOW, deployments=deployments, snapshot=snapshot, samples=tuple(map(_sample, replicas)))


def _replica(number: int) -> Replica:
    node, slot = divmod(number, 6)
    mask = range_mask(slot * CORES_EACH, CORES_EACH)
    deployment, ordinal = divmod(number, REPLICAS_EACH)
    return Replica(
        deployment=f"default/model-{deployment:03d}",
        variant="tp4",
        name=f"model-{deployment:03d}-tp4-{ordinal}",
        uid=f"uid-{number}",
        node=f"node-{node:04d}",
        cores=mask,
        planned_cores=mask,
        cores_count=CORES_EACH,
        phase=ReplicaPhase.READY,
        template_hash="hash",
        requests=Resources(cpu_millicores=2000, memory_bytes=2**33, pods=1, accelerator_cores=CORES_EACH),
        created_at=NOW - 1000,
        ready_at=NOW - 900,
        address="127.10.0.1",
    )


def _sample(replica: Replica) -> Sample:
    return Sample(
        deployment=replica.deployment,
        signal="engine",
        pod_uid=replica.uid,
        observed_at=NOW,
        waiting=0.0,
        running=8.0,
        finished_total=100.0,
        arrival_rate_per_second=None,
        ttft_seconds=None,
    )

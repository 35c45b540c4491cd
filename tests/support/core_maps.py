"""Pictures of cores for tests of packing: `"aabb..cc"` is a node whose first two cores belong to replica a, and so on.

`.` is a free core, `x` a core of an unhealthy device, upper-case letters are foreign Pods. A letter is one Pod, whichever cores
it holds. Blanks between devices are for the eye.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fleetpack.catalog import AllocationPolicy, InstanceType, load_catalog
from fleetpack.core.cores import core_ids
from fleetpack.core.fleet import (
    FleetSnapshot,
    ForeignPod,
    Node,
    Offering,
    Pool,
    PoolProvider,
    Replica,
    ReplicaPhase,
    Resources,
)
from fleetpack.core.packing.pack import Assignment, LaunchContext, PlacementRequest, VariantNeed

NOTHING_LAUNCHED = LaunchContext(nodes={}, usd_per_hour={})


def type_of(name: str) -> InstanceType:
    """Return an instance type of the catalog."""
    found = load_catalog().instance_type(name)
    assert isinstance(found, InstanceType), f"the catalog has no {name}"
    return found


def small_type(
    devices: int, cores_per_device: int, policy: AllocationPolicy, counts: tuple[int, ...] = ()
) -> InstanceType:
    """Return a made-up instance type, small enough to try everything on."""
    return InstanceType(
        name=f"test.{policy.value}-{devices}x{cores_per_device}",
        accelerator="inferentia2",
        devices=devices,
        cores_per_device=cores_per_device,
        allocation_policy=policy,
        allowed_device_counts=counts or tuple(range(1, devices + 1)),
        resource_name="aws.amazon.com/neuroncore",
        allocatable_cpu_millicores=64_000,
        allocatable_memory_bytes=2**38,
        max_pods=58,
        price_usd_per_hour=1.0 * devices,
    )


def an_inf2_pool(**changes: object) -> Pool:
    """Return a static pool that everybody may use, named `inf2`."""
    pool = Pool(name="inf2", provider=PoolProvider.STATIC)
    return replace(pool, **changes)  # type: ignore[arg-type]


def a_simulated_pool(*type_names: str, **changes: object) -> Pool:
    """Return a pool named `inf2` that launches these types at their list prices."""
    types = [type_of(name) for name in type_names]
    offerings = tuple(Offering(instance_type=one, price_usd_per_hour=one.price_usd_per_hour) for one in types)
    return an_inf2_pool(provider=PoolProvider.SIMULATED, offerings=offerings, **changes)


def a_node(name: str, instance_type: InstanceType | str = "inf2.24xlarge", **changes: object) -> Node:
    """Return a ready, empty node at the list price in the pool `inf2`."""
    its_type = type_of(instance_type) if isinstance(instance_type, str) else instance_type
    node = Node(
        name=name,
        pool="inf2",
        instance_type=its_type,
        ready=True,
        price_usd_per_hour=its_type.price_usd_per_hour,
        allocatable=Resources(
            cpu_millicores=its_type.allocatable_cpu_millicores or 0,
            memory_bytes=its_type.allocatable_memory_bytes or 0,
            pods=its_type.max_pods or 0,
            accelerator_cores=its_type.cores,
        ),
    )
    return replace(node, **changes)  # type: ignore[arg-type]


def letters(drawing: str) -> dict[str, int]:
    """Return the mask of each letter in a drawing."""
    masks: dict[str, int] = {}
    for core, letter in enumerate(drawing.replace(" ", "")):
        if letter not in ".":
            masks[letter] = masks.get(letter, 0) | 1 << core
    return masks


def drawn_fleet(nodes: Mapping[Node, str] | Iterable[tuple[Node, str]], *pools: Pool) -> FleetSnapshot:
    """Return the snapshot of nodes with what is drawn on each."""
    drawn, replicas, foreign = [], [], []
    for node, drawing in nodes.items() if isinstance(nodes, Mapping) else nodes:
        masks = letters(drawing)
        per_device = node.instance_type.cores_per_device
        unhealthy = tuple(sorted({core // per_device for core in core_ids(masks.pop("x", 0))}))
        drawn.append(replace(node, unhealthy_devices=unhealthy))
        for letter, mask in masks.items():
            cores_count = mask.bit_count()
            if letter.isupper():
                requests = Resources(pods=1, accelerator_cores=cores_count)
                pod = ForeignPod(name=f"others/{letter}-{node.name}", node=node.name, requests=requests, cores=mask)
                foreign.append(pod)
                continue
            replicas.append(
                Replica(
                    deployment=f"default/{letter}",
                    variant="v",
                    name=f"{letter}-{node.name}",
                    uid=f"{letter}-{node.name}",
                    node=node.name,
                    cores=mask,
                    cores_count=cores_count,
                    phase=ReplicaPhase.READY,
                    requests=Resources(pods=1, accelerator_cores=cores_count),
                )
            )
    return FleetSnapshot(
        nodes=tuple(drawn), replicas=tuple(replicas), foreign_pods=tuple(foreign), pools=pools or (an_inf2_pool(),)
    )


def a_need(cores: int = 0, *, devices: int = 0, **changes: object) -> VariantNeed:
    """Return what a replica on Inferentia2 needs."""
    need = VariantNeed(variant="v", accelerator="inferentia2", cores=cores, devices=devices)
    return replace(need, **changes)  # type: ignore[arg-type]


def requests_for(letter: str, count: int, *options: VariantNeed) -> tuple[PlacementRequest, ...]:
    """Return requests for replicas of the deployment `default/<letter>`."""
    return tuple(
        PlacementRequest(deployment=f"default/{letter}", namespace="default", index=index, options=options)
        for index in range(count)
    )


def redrawn(node: Node, drawing: str, assigned: Iterable[Assignment]) -> str:
    """Return a drawing with what was assigned on the node, in the letter of its deployment."""
    blanks = [core for core, letter in enumerate(drawing) if letter == " "]
    cores = list(drawing.replace(" ", ""))
    for assignment in assigned:
        if assignment.node == node.name:
            for core in core_ids(assignment.cores):
                assert cores[core] == ".", f"{node.name}: core {core} of {drawing!r} is given out twice"
                cores[core] = assignment.request.deployment.partition("/")[2]
    for blank in blanks:
        cores.insert(blank, " ")
    return "".join(cores)

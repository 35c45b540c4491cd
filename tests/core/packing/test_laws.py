"""Laws of packing, checked on random fleets against rules written down a second time.

The second writing below shares nothing with the packing but the values: a set of cores is legal by what the Neuron scheduler
documents, cores are free by drawing, money is counted here.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from core_maps import a_need, a_node, a_simulated_pool, an_inf2_pool, drawn_fleet, small_type
from fleetpack.catalog import AllocationPolicy, InstanceType
from fleetpack.core.fleet import FleetSnapshot, Node, Offering, Pool, Resources
from fleetpack.core.packing.fit import rooms
from fleetpack.core.packing.pack import LaunchContext, Placement, PlacementRequest, pack

RING = small_type(4, 2, AllocationPolicy.CONTIGUOUS_WINDOW)
TORUS = replace(small_type(4, 2, AllocationPolicy.ALIGNED, (1, 2, 4)), accelerator="trainium")
SINGLE = small_type(1, 4, AllocationPolicy.SINGLE)
GPUS = replace(small_type(4, 1, AllocationPolicy.COUNT), accelerator="h100-sxm")
TYPES = (RING, TORUS, SINGLE, GPUS)


# The rules a second time.


def is_legal(instance_type: InstanceType, cores: set[int]) -> bool:
    """Whether one replica may have exactly these cores."""
    count, per_device = len(cores), instance_type.cores_per_device
    if not cores or max(cores) >= instance_type.cores or max(cores) - min(cores) != count - 1:
        return False
    devices = sorted({core // per_device for core in cores})
    if len(devices) == 1:
        return True
    if instance_type.allocation_policy is AllocationPolicy.CONTIGUOUS_WINDOW:
        return min(cores) % per_device == 0
    if instance_type.allocation_policy is AllocationPolicy.ALIGNED:
        whole = count == len(devices) * per_device and len(devices) in instance_type.allowed_device_counts
        return whole and devices[0] % len(devices) == 0
    return False


@dataclass
class Ledger:
    """What is free on each node, and what each deployment may still add, recomputed from drawings and assignments."""

    snapshot: FleetSnapshot
    budgets: dict[str, float]

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.snapshot.nodes}
        self.free = {
            node.name: set(range(node.instance_type.cores))
            - {
                core
                for core in range(node.instance_type.cores)
                if core // node.instance_type.cores_per_device in node.unhealthy_devices
            }
            for node in self.snapshot.nodes
        }
        held = [(replica.node, replica.cores) for replica in self.snapshot.replicas]
        held += [(pod.node, pod.cores or 0) for pod in self.snapshot.foreign_pods]
        for name, mask in held:
            self.free[name] -= {core for core in range(64) if mask >> core & 1}
        self.cpu = {node.name: node.allocatable.cpu_millicores for node in self.snapshot.nodes}

    def can_take(self, request: PlacementRequest) -> bool:
        """Whether any node has any legal free set for any variant of a request, by trying all windows."""
        for option, node in itertools.product(request.options, self.nodes.values()):
            instance_type = node.instance_type
            if option.accelerator != instance_type.accelerator or not (node.ready or node.booting):
                continue
            if option.requests.cpu_millicores > self.cpu[node.name]:
                continue
            count = option.cores or option.devices * instance_type.cores_per_device
            if not self.affords(request.deployment, node, count):
                continue
            free = self.free[node.name]
            if instance_type.allocation_policy is AllocationPolicy.COUNT:
                if count <= len(free):
                    return True
                continue
            windows = (set(range(start, start + count)) for start in range(instance_type.cores))
            if any(window <= free and is_legal(instance_type, window) for window in windows):
                return True
        return False

    def affords(self, deployment: str, node: Node, count: int) -> bool:
        if deployment not in self.budgets:
            return True
        cost = cost_of(node, count)
        return cost is not None and cost <= self.budgets[deployment] + 1e-6

    def take(self, placement: Placement) -> None:
        """Book all assignments, each checked."""
        for assigned in placement.assigned:
            node = self.nodes[assigned.node]
            (option,) = [one for one in assigned.request.options if one.variant == assigned.variant]
            assert option.accelerator == node.instance_type.accelerator
            count = option.cores or option.devices * node.instance_type.cores_per_device
            assert assigned.cores_count == count
            cores = {core for core in range(64) if assigned.cores >> core & 1}
            if node.instance_type.allocation_policy is AllocationPolicy.COUNT:
                assert not cores
                cores = set(sorted(self.free[node.name])[:count])
            else:
                assert is_legal(node.instance_type, cores)
            assert len(cores) == count
            assert cores <= self.free[node.name], "given out twice, or unhealthy"
            self.free[node.name] -= cores
            self.cpu[node.name] -= option.requests.cpu_millicores
            assert self.cpu[node.name] >= 0
            assert node.ready or node.booting
            assert assigned.promised is not node.ready
            if assigned.request.deployment in self.budgets:
                cost = cost_of(node, count)
                assert cost is not None
                self.budgets[assigned.request.deployment] -= cost
                assert self.budgets[assigned.request.deployment] >= -1e-6


def cost_of(node: Node, count: int) -> float | None:
    """Return what `count` cores of a node cost."""
    if node.price_usd_per_hour is None:
        return None
    return node.price_usd_per_hour * count / node.instance_type.cores


# Random fleets and requests.


@st.composite
def fleets(draw: st.DrawFn) -> FleetSnapshot:
    """Draw up to four small nodes, partly used, some booting or broken, at various prices."""
    nodes = []
    for number in range(draw(st.integers(0, 4))):
        instance_type = draw(st.sampled_from(TYPES))
        ready, booting = draw(st.sampled_from([(True, False)] * 4 + [(False, True), (False, False)]))
        node = a_node(
            f"n{number}",
            instance_type,
            ready=ready,
            booting=booting,
            created_at=1.0,
            price_usd_per_hour=draw(st.sampled_from([None, 1.0, 2.0, 4.0])),
            allocatable=Resources(
                cpu_millicores=draw(st.sampled_from([1000, 4000])),
                memory_bytes=1000,
                pods=20,
                accelerator_cores=instance_type.cores,
            ),
        )
        alphabet = "..." if instance_type is GPUS else "....aBx"
        drawing = "".join(draw(st.sampled_from(alphabet)) for _ in range(instance_type.cores))
        nodes.append((node, drawing))
    return drawn_fleet(nodes, an_inf2_pool())


NEEDS = st.builds(
    lambda sizes, accelerator, cpu: a_need(
        sizes[0],
        devices=sizes[1],
        accelerator=accelerator,
        variant=f"{accelerator}-{sizes}-{cpu}",
        requests=Resources(cpu_millicores=cpu, pods=1),
    ),
    st.sampled_from([(1, 0), (2, 0), (3, 0), (4, 0), (8, 0), (0, 1), (0, 2), (0, 3)]),
    st.sampled_from(["inferentia2", "inferentia2", "trainium", "h100-sxm"]),
    st.sampled_from([0, 100, 900]),
)


@st.composite
def request_lists(draw: st.DrawFn) -> tuple[PlacementRequest, ...]:
    """Draw requests of up to three deployments, in mixed order."""
    options = draw(st.lists(st.lists(NEEDS, min_size=1, max_size=2, unique=True).map(tuple), min_size=1, max_size=3))
    indexes: Counter[int] = Counter()
    requests = []
    for number in draw(st.lists(st.integers(0, len(options) - 1), max_size=8)):
        requests.append(
            PlacementRequest(
                deployment=f"default/d{number}", namespace="default", index=indexes[number], options=options[number]
            )
        )
        indexes[number] += 1
    return tuple(requests)


BUDGETS = st.dictionaries(st.sampled_from(["default/d0", "default/d1"]), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
OFFERINGS = tuple(Offering(instance_type=one, price_usd_per_hour=one.price_usd_per_hour) for one in TYPES)


@st.composite
def launching_pools(draw: st.DrawFn) -> Pool:
    """Draw a pool that launches nodes, under limits."""
    return replace(
        a_simulated_pool(),
        offerings=tuple(draw(st.lists(st.sampled_from(OFFERINGS), unique=True))),
        maximum_nodes=draw(st.sampled_from([None, 0, 2, 5])),
        maximum_usd_per_hour=draw(st.sampled_from([None, 4.0, 9.0])),
        headroom_cores=draw(st.sampled_from([0, 0, 5, 30])),
    )


def used_of(snapshot: FleetSnapshot, pool: Pool) -> LaunchContext:
    """Return how much of the pool's limits the snapshot uses."""
    cost = sum(node.price_usd_per_hour or 0.0 for node in snapshot.nodes)
    return LaunchContext(nodes={pool.name: len(snapshot.nodes)}, usd_per_hour={pool.name: cost})


def packed(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float], pool: Pool
) -> Placement:
    """Pack onto the snapshot's rooms."""
    return pack(requests, rooms(snapshot), (pool,), budgets, used_of(snapshot, pool))


# The laws.


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS)
def test_law_only_legal_free_sets_within_budgets_are_given_out(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float]
) -> None:
    placement = packed(snapshot, requests, budgets, an_inf2_pool())
    Ledger(snapshot, dict(budgets)).take(placement)


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS)
def test_law_every_request_is_answered_once_in_order(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float]
) -> None:
    placement = packed(snapshot, requests, budgets, an_inf2_pool())
    assigned = [one.request for one in placement.assigned]
    unplaced = [one.request for one in placement.unplaced]
    assert sorted(assigned + unplaced, key=requests.index) == list(requests)
    assert sorted(assigned, key=requests.index) == assigned
    assert sorted(unplaced, key=requests.index) == unplaced


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS)
def test_law_an_unplaced_request_has_no_place_on_any_node(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float]
) -> None:
    placement = packed(snapshot, requests, budgets, an_inf2_pool())
    ledger = Ledger(snapshot, dict(budgets))
    ledger.take(placement)
    for unplaced in placement.unplaced:
        assert not ledger.can_take(unplaced.request)
        assert sum(count for _, count in unplaced.exclusions) == len(snapshot.nodes)


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS, pool=launching_pools(), data=st.data())
def test_law_the_order_of_the_input_does_not_matter(
    snapshot: FleetSnapshot,
    requests: tuple[PlacementRequest, ...],
    budgets: dict[str, float],
    pool: Pool,
    data: st.DataObject,
) -> None:
    pools = (pool, replace(pool, name="other"))
    shuffled = replace(
        snapshot,
        nodes=tuple(data.draw(st.permutations(snapshot.nodes))),
        replicas=tuple(data.draw(st.permutations(snapshot.replicas))),
        foreign_pods=tuple(data.draw(st.permutations(snapshot.foreign_pods))),
    )
    shuffled_rooms = tuple(data.draw(st.permutations(rooms(shuffled))))
    turned_budgets = dict(reversed(budgets.items()))
    used = used_of(snapshot, pool)
    turned = pack(requests, shuffled_rooms, pools[::-1], turned_budgets, used)
    assert turned == pack(requests, rooms(snapshot), pools, budgets, used)


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS, pool=launching_pools())
def test_law_launches_keep_to_the_limits_of_the_pool(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float], pool: Pool
) -> None:
    placement = packed(snapshot, requests, budgets, pool)
    prices = [launch.price_usd_per_hour for launch in placement.launches]
    used = used_of(snapshot, pool)
    if placement.launches and pool.maximum_nodes is not None:
        assert len(snapshot.nodes) + len(prices) <= pool.maximum_nodes
    if placement.launches and pool.maximum_usd_per_hour is not None:
        assert used.usd_per_hour["inf2"] + sum(price or 0.0 for price in prices) <= pool.maximum_usd_per_hour
    offered = {one.instance_type.name for one in pool.offerings}
    assert {launch.instance_type for launch in placement.launches} <= offered


@given(snapshot=fleets(), requests=request_lists(), budgets=BUDGETS, pool=launching_pools())
def test_law_booted_launches_serve_what_awaited_them_and_nothing_launches_twice(
    snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...], budgets: dict[str, float], pool: Pool
) -> None:
    """Plan again with the launched nodes booting and what was assigned still asked for: no more launches."""
    first = packed(snapshot, requests, budgets, pool)
    types = {one.name: one for one in TYPES}
    booting = tuple(
        a_node(f"z{number}", types[launch.instance_type], ready=False, booting=True)
        for number, launch in enumerate(first.launches)
    )
    grown = replace(snapshot, nodes=(*snapshot.nodes, *booting))
    awaiting = tuple(one.request for one in first.unplaced if one.awaiting_launch)
    taken = tuple(one.request for one in first.assigned)
    again = packed(grown, tuple(sorted((*taken, *awaiting), key=requests.index)), budgets, pool)
    assert again.launches == ()


def a_busy_plan() -> str:
    """Return one plan as text; run by the test below in processes with different hash seeds."""
    nodes = [(a_node(f"n{number}", TYPES[number % 4]), ".a" if number % 4 != 3 else "") for number in range(12)]
    snapshot = drawn_fleet(nodes, an_inf2_pool())
    needs = [a_need(size, accelerator=one) for size in (1, 2, 4) for one in ("inferentia2", "trainium", "h100-sxm")]
    requests = tuple(
        PlacementRequest(
            deployment=f"default/d{number % 7}",
            namespace="default",
            index=number,
            options=(needs[number % 9], needs[(number * 4 + 1) % 9]),
        )
        for number in range(60)
    )
    pool = replace(a_simulated_pool(), offerings=OFFERINGS, maximum_nodes=16, headroom_cores=10)
    return repr(packed(snapshot, requests, {"default/d1": 3.0}, pool))


def test_should_give_the_same_plan_under_two_hash_seeds() -> None:
    here = Path(__file__).resolve()
    plans = set()
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(here.parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", "import test_laws; print(test_laws.a_busy_plan())"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        )
        plans.add(done.stdout)
    assert len(plans) == 1
    assert "Launch(" in plans.pop()


# Against an all-knowing packer, on small cases.


def most_that_fit(snapshot: FleetSnapshot, requests: tuple[PlacementRequest, ...]) -> int:
    """Return how many of the requests fit at once if one may choose which and where: by trying everything."""
    nodes = [node for node in snapshot.nodes if node.ready or node.booting]
    start = Ledger(snapshot, {})

    def best(position: int, free: tuple[frozenset[int], ...]) -> int:
        if position == len(requests):
            return 0
        found = best(position + 1, free)
        (option,) = requests[position].options
        for number, node in enumerate(nodes):
            if option.accelerator != node.instance_type.accelerator:
                continue
            for first in sorted(free[number]):
                window = set(range(first, first + option.cores))
                if window <= free[number] and is_legal(node.instance_type, window):
                    left = (*free[:number], free[number] - window, *free[number + 1 :])
                    found = max(found, 1 + best(position + 1, left))
        return found

    return best(0, tuple(frozenset(start.free[node.name]) for node in nodes))


@settings(max_examples=50)
@given(
    drawings=st.lists(st.text("...a", min_size=8, max_size=8), min_size=1, max_size=2),
    sizes=st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=4),
)
def test_law_largest_first_powers_of_two_are_packed_as_well_as_possible(drawings: list[str], sizes: list[int]) -> None:
    """Powers of two that come largest first, on aligned windows, never block each other: greedy is optimal there."""
    snapshot = drawn_fleet([(a_node(f"n{number}", TORUS), drawing) for number, drawing in enumerate(drawings)])
    requests = tuple(
        PlacementRequest(
            deployment="default/d", namespace="default", index=index, options=(a_need(size, accelerator="trainium"),)
        )
        for index, size in enumerate(sorted(sizes, reverse=True))
    )
    placement = packed(snapshot, requests, {}, an_inf2_pool())
    if len(placement.assigned) < len(requests):
        assert most_that_fit(snapshot, requests) < len(requests)

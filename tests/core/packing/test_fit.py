"""Which nodes can take a replica, and why the others cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core_maps import a_need, a_node, an_inf2_pool, drawn_fleet, type_of
from fleetpack.core.cores import format_cores, parse_cores
from fleetpack.core.fleet import (
    FleetSnapshot,
    ForeignPod,
    Node,
    Replica,
    ReplicaPhase,
    Resources,
    Taint,
    Toleration,
)
from fleetpack.core.packing.fit import Exclusion, Room, VariantNeed, candidates, rooms

OPEN = frozenset({"inf2"})


def _free(snapshot: FleetSnapshot) -> str:
    (room,) = rooms(snapshot)
    return format_cores(room.free)


def _replica(cores: str, phase: ReplicaPhase = ReplicaPhase.READY, **changes: object) -> Replica:
    mask = parse_cores(cores)
    replica = Replica(
        deployment="default/chat",
        variant="v",
        name="chat-v-0",
        uid="1",
        node="a",
        cores=mask,
        cores_count=mask.bit_count(),
        phase=phase,
        requests=Resources(cpu_millicores=1000, memory_bytes=10, pods=1),
    )
    return replace(replica, **changes)  # type: ignore[arg-type]


def _on_a(*replicas: Replica, pods: tuple[ForeignPod, ...] = (), node: Node | None = None) -> FleetSnapshot:
    return FleetSnapshot(nodes=(node or a_node("a"),), replicas=replicas, foreign_pods=pods)


def _pod(name: str, count: int, cores: str | None = None) -> ForeignPod:
    requests = Resources(cpu_millicores=500, pods=1, accelerator_cores=count)
    return ForeignPod(name=name, node="a", requests=requests, cores=None if cores is None else parse_cores(cores))


def test_should_leave_what_no_pod_and_no_unhealthy_device_holds() -> None:
    assert _free(drawn_fleet([(a_node("a"), "aa bb .. xx A. ..")])) == "4-5,9-11"


@pytest.mark.parametrize("phase", [phase for phase in ReplicaPhase if phase is not ReplicaPhase.FAILED])
def test_should_hold_cores_in_every_phase_until_the_pod_is_gone(phase: ReplicaPhase) -> None:
    assert _free(_on_a(_replica("0-7", phase))) == "8-11"


def test_should_release_cores_and_requests_of_a_failed_pod() -> None:
    assert rooms(_on_a(_replica("0-7", ReplicaPhase.FAILED))) == rooms(_on_a())


def test_should_hold_allocated_and_planned_cores_of_an_unbound_replica() -> None:
    unbound = _replica("0-1", ReplicaPhase.UNBOUND, planned_cores=parse_cores("4-5"))
    assert _free(_on_a(unbound)) == "2-3,6-11"


def test_should_believe_the_kubelet_once_it_has_said_which_cores_it_gave() -> None:
    assert _free(_on_a(_replica("0-1", planned_cores=parse_cores("4-5")))) == "2-11"


def test_should_hold_the_cores_of_an_action_of_unknown_outcome() -> None:
    unknown = _replica("0-1", planned_cores=parse_cores("4-5"), outcome_unknown=True)
    assert _free(_on_a(unknown)) == "2-3,6-11"


def test_should_presume_the_first_legal_free_range_for_a_pod_of_unknown_cores() -> None:
    assert _free(_on_a(_replica("0"), pods=(_pod("others/b", 2),))) == "1,4-11"


def test_should_presume_in_the_order_of_names_and_after_all_known_cores() -> None:
    pods = (_pod("others/c", 1), _pod("others/b", 2), _pod("others/z", 2, "0-1"))
    assert _free(_on_a(pods=pods)) == _free(_on_a(pods=pods[::-1])) == "5-11"


def test_should_presume_the_lowest_free_cores_where_no_legal_range_is_free() -> None:
    assert _free(drawn_fleet([(a_node("a"), ".a .a .a .a .a .a")])) == "0,2,4,6,8,10"
    scattered = drawn_fleet([(a_node("a"), ".a .a .a .a .a .a")])
    assert _free(replace(scattered, foreign_pods=(_pod("others/b", 2),))) == "4,6,8,10"


def test_should_presume_cores_for_a_replica_of_which_nobody_knows_them() -> None:
    assert _free(_on_a(_replica("", cores_count=8))) == "8-11"


def test_should_count_what_the_scheduler_counts_terminating_pods_included() -> None:
    (room,) = rooms(_on_a(_replica("0-7", ReplicaPhase.TERMINATING), pods=(_pod("others/b", 2),)))
    allocatable = a_node("a").allocatable
    assert room.remaining == Resources(
        cpu_millicores=allocatable.cpu_millicores - 1500,
        memory_bytes=allocatable.memory_bytes - 10,
        pods=allocatable.pods - 2,
        accelerator_cores=2,
    )


def test_should_count_free_devices_where_they_have_no_ids() -> None:
    gpus = a_node("a", "p5.48xlarge", unhealthy_devices=(7,))
    (room,) = rooms(_on_a(_replica("", cores_count=2), pods=(_pod("others/b", 1),), node=gpus))
    assert (room.free, room.free_cores) == (0b1111, 4)


def test_should_take_whole_devices_from_the_silicon_and_not_from_what_the_scheduler_counts_as_cores() -> None:
    guest = replace(_pod("others/b", 0), whole_devices=2)
    (room,) = rooms(_on_a(pods=(guest,)))
    assert (format_cores(room.free), room.remaining.accelerator_cores, room.occupants) == ("4-11", 12, 1)


def test_should_give_out_no_core_that_is_out_alone() -> None:
    assert _free(_on_a(node=a_node("a", unhealthy_cores=parse_cores("3"), unhealthy_devices=(5,)))) == "0-2,4-9"


def test_should_ignore_pods_of_nodes_that_are_gone() -> None:
    assert _free(_on_a(_replica("0-7", node="gone"))) == "0-11"


def test_should_offer_every_legal_free_range_by_ascending_start() -> None:
    (room,) = rooms(drawn_fleet([(a_node("a"), "aa .. .. .. b. ..")]))
    assert candidates(a_need(4), room, OPEN, None) == (0b111100, 0b11110000)


def _refusal(node: Node, need: VariantNeed, drawing: str = "", ceiling: float | None = None) -> object:
    (room,) = rooms(drawn_fleet([(node, drawing)]))
    answer = candidates(need, room, OPEN, ceiling)
    return answer if isinstance(answer, Exclusion) else None


SMALL = Resources(cpu_millicores=1000, memory_bytes=1000, pods=10, accelerator_cores=12)
TAINTED = (Taint(key="dedicated", value="chat"),)


@pytest.mark.parametrize(
    ("node", "need", "drawing", "expected"),
    [
        (a_node("a", "trn1.32xlarge"), a_need(2), "", Exclusion.WRONG_ACCELERATOR),
        (a_node("a"), a_need(13), "", Exclusion.UNSUPPORTED_COUNT),
        (a_node("a"), a_need(devices=7), "", Exclusion.UNSUPPORTED_COUNT),
        (a_node("a", pool="other"), a_need(2), "", Exclusion.POOL_NOT_OPEN),
        (a_node("a", ready=False), a_need(2), "", Exclusion.NODE_NOT_READY),
        (a_node("a", ready=False, booting=True), a_need(2), "", None),
        (a_node("a"), a_need(2, node_selector=(("zone", "b"),)), "", Exclusion.NODE_SELECTOR),
        (a_node("a", labels=(("zone", "b"),)), a_need(2, node_selector=(("zone", "b"),)), "", None),
        (a_node("a", taints=TAINTED), a_need(2), "", Exclusion.TAINT),
        (a_node("a", taints=(Taint(key="k", effect="NoExecute"),)), a_need(2), "", Exclusion.TAINT),
        (a_node("a", taints=(Taint(key="k", effect="PreferNoSchedule"),)), a_need(2), "", None),
        (a_node("a"), a_need(8), "aa aa aa a. .. ..", Exclusion.CORES),
        (a_node("a"), a_need(4), ".. a. .. .a .. b.", Exclusion.CONTIGUOUS_RANGE),
        (a_node("a"), a_need(2), ".a .a .a .a .a .a", Exclusion.CONTIGUOUS_RANGE),
        (a_node("a", allocatable=SMALL), a_need(2, requests=Resources(cpu_millicores=1001)), "", Exclusion.CPU),
        (a_node("a", allocatable=SMALL), a_need(2, requests=Resources(memory_bytes=1001)), "", Exclusion.MEMORY),
        (a_node("a", allocatable=replace(SMALL, pods=1)), a_need(2), "a", Exclusion.PODS),
        (a_node("a", allocatable=replace(SMALL, accelerator_cores=7)), a_need(8), "", Exclusion.CORES),
        (a_node("a"), a_need(2, set_aside_nodes=frozenset({"a"})), "", Exclusion.SET_ASIDE),
    ],
)
def test_should_say_why_a_node_cannot_take_a_replica(
    node: Node, need: VariantNeed, drawing: str, expected: Exclusion | None
) -> None:
    assert _refusal(node, need, drawing) == expected


@pytest.mark.parametrize(
    ("price", "ceiling", "expected"),
    [
        (12.0, 2.0, None),
        (12.0, 1.99, Exclusion.COST_CEILING),
        (None, 100.0, Exclusion.PRICE_UNKNOWN),
        (None, None, None),
    ],
)
def test_should_keep_to_a_cost_ceiling(price: float | None, ceiling: float | None, expected: object) -> None:
    assert _refusal(a_node("a", price_usd_per_hour=price), a_need(2), ceiling=ceiling) == expected


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration(key="dedicated", value="chat"), True),
        (Toleration(key="dedicated", value="other"), False),
        (Toleration(key="dedicated", operator="Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration(key="dedicated", value="chat", effect="NoExecute"), False),
        (Toleration(key="dedicated", value="chat", effect="NoSchedule"), True),
    ],
)
def test_should_read_tolerations_as_kube_scheduler_does(toleration: Toleration, tolerated: bool) -> None:
    refusal = _refusal(a_node("a", taints=TAINTED), a_need(2, tolerations=(toleration,)))
    assert refusal == (None if tolerated else Exclusion.TAINT)


def test_should_not_check_resources_that_are_not_asked_for_on_an_overcommitted_node() -> None:
    overcommitted = a_node("a", allocatable=replace(SMALL, cpu_millicores=-5))
    assert _refusal(overcommitted, a_need(2)) is None


def test_should_promise_room_on_a_booting_node_by_what_it_will_be() -> None:
    booting = a_node(
        "a",
        ready=False,
        booting=True,
        allocatable=replace(a_node("a").allocatable, accelerator_cores=0),
        taints=(Taint(key="node.kubernetes.io/not-ready"),),
    )
    selector = (("node.kubernetes.io/instance-type", "inf2.24xlarge"), ("fleetpack.dev/pool", "inf2"))
    assert _refusal(booting, a_need(12, node_selector=selector)) is None


def test_should_keep_away_from_a_node_that_is_not_ready_again() -> None:
    sick = a_node("a", ready=True, taints=(Taint(key="node.kubernetes.io/not-ready"),))
    assert _refusal(sick, a_need(2)) is Exclusion.TAINT


def test_should_not_depend_on_the_order_of_the_snapshot() -> None:
    snapshot = drawn_fleet([(a_node("a"), "aa .B .. CC"), (a_node("b", "inf2.48xlarge"), "D. bb")], an_inf2_pool())
    turned = replace(
        snapshot,
        nodes=snapshot.nodes[::-1],
        replicas=snapshot.replicas[::-1],
        foreign_pods=snapshot.foreign_pods[::-1],
    )
    assert rooms(turned) == rooms(snapshot)


def test_should_cost_its_share_of_the_cores() -> None:
    (room,) = rooms(_on_a(node=a_node("a", price_usd_per_hour=6.0)))
    assert isinstance(room, Room)
    assert (room.usd_per_hour(8), type_of("inf2.24xlarge").cores) == (4.0, 12)

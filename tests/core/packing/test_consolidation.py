"""Which nodes are given back."""

from __future__ import annotations

from dataclasses import replace

from core_maps import a_need, a_node, a_simulated_pool, an_inf2_pool, drawn_fleet, requests_for
from fleetpack.core.fleet import FleetSnapshot, ForeignPod, Pool, Resources
from fleetpack.core.packing.consolidation import NodeRemoval, removable_nodes
from fleetpack.core.packing.fit import rooms
from fleetpack.core.packing.pack import Assignment

NOW = 1000.0
POOL = a_simulated_pool("inf2.24xlarge", "inf2.48xlarge")
LONG_AGO = {"a": 0.0, "b": 0.0, "c": 0.0}


def _removed(
    snapshot: FleetSnapshot,
    pool: Pool = POOL,
    empty_since: dict[str, float] | None = None,
    assigned: tuple[Assignment, ...] = (),
) -> list[str]:
    since = LONG_AGO if empty_since is None else empty_since
    return [removal.node for removal in removable_nodes(rooms(snapshot), (pool,), since, NOW, assigned)]


def test_should_give_back_empty_nodes_the_dearest_first() -> None:
    fleet = drawn_fleet(
        [(a_node("a"), ""), (a_node("b", "inf2.48xlarge"), ""), (a_node("c", price_usd_per_hour=None), "")]
    )
    assert _removed(fleet) == ["b", "a", "c"]


def test_should_say_why() -> None:
    assert removable_nodes(rooms(drawn_fleet([(a_node("a"), "")])), (POOL,), {"a": 600.0}, NOW) == (
        NodeRemoval(node="a", pool="inf2", reason="empty for 400 s, consolidateAfter is 300 s"),
    )


def test_should_keep_a_node_that_was_not_empty_for_long() -> None:
    assert _removed(drawn_fleet([(a_node("a"), "")]), empty_since={"a": 701.0}) == []


def test_should_keep_a_node_that_nobody_has_seen_empty() -> None:
    assert _removed(drawn_fleet([(a_node("a"), "")]), empty_since={}) == []


def test_should_keep_nodes_with_replicas_or_foreign_accelerator_pods() -> None:
    assert _removed(drawn_fleet([(a_node("a"), "a"), (a_node("b"), "B")])) == []


def test_should_not_be_kept_by_a_daemon() -> None:
    daemon = ForeignPod(name="kube-system/daemon", node="a", requests=Resources(cpu_millicores=100, pods=1))
    assert _removed(replace(drawn_fleet([(a_node("a"), "")]), foreign_pods=(daemon,))) == ["a"]


def test_should_leave_static_pools_alone() -> None:
    assert _removed(drawn_fleet([(a_node("a"), "")]), pool=an_inf2_pool()) == []


def test_should_leave_alone_what_is_neither_ready_nor_booting() -> None:
    assert _removed(drawn_fleet([(a_node("a", ready=False), "")])) == []


def test_should_keep_the_headroom_of_the_pool() -> None:
    fleet = drawn_fleet([(a_node("a"), ""), (a_node("b", "inf2.48xlarge"), ""), (a_node("c"), "cc cc")])
    assert _removed(fleet, replace(POOL, headroom_cores=20)) == ["b"]
    assert _removed(fleet, replace(POOL, headroom_cores=21)) == ["a"]
    assert _removed(fleet, replace(POOL, headroom_cores=32)) == ["a"]
    assert _removed(fleet, replace(POOL, headroom_cores=33)) == []


def test_should_keep_what_the_same_pass_places() -> None:
    (request,) = requests_for("r", 1, a_need(8))
    placed = Assignment(
        request=request,
        variant="v",
        node="a",
        pool="inf2",
        cores=0xFF,
        cores_count=8,
        usd_per_hour=1.0,
        promised=False,
    )
    fleet = drawn_fleet([(a_node("a"), ""), (a_node("b"), "")])
    assert _removed(fleet, assigned=(placed,)) == ["b"]
    assert _removed(fleet, replace(POOL, headroom_cores=5), assigned=(placed,)) == []

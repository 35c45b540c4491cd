"""Which nodes are launched for replicas without a place, and for headroom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_maps import a_need, a_node, a_simulated_pool, an_inf2_pool, drawn_fleet, requests_for
from fleetpack.core.fleet import Node, Pool, Resources
from fleetpack.core.packing.fit import rooms
from fleetpack.core.packing.pack import Launch, LaunchContext, Placement, PlacementRequest, VariantNeed, pack

SMALL, LARGE = "inf2.24xlarge", "inf2.48xlarge"


def _packed(
    pool: Pool,
    requests: tuple[PlacementRequest, ...],
    fleet: list[tuple[Node, str]] | None = None,
    context: LaunchContext | None = None,
    budgets: dict[str, float] | None = None,
) -> Placement:
    fleet = fleet or []
    used = LaunchContext(
        nodes={pool.name: len(fleet)},
        usd_per_hour={pool.name: sum(node.price_usd_per_hour or 0.0 for node, _ in fleet)},
    )
    return pack(requests, rooms(drawn_fleet(fleet, pool)), (pool,), budgets or {}, context or used)


def _launched(placement: Placement) -> list[str]:
    return [launch.instance_type for launch in placement.launches]


@pytest.mark.parametrize(
    ("cores", "replicas", "expected"),
    [
        # One replica: the cheapest node that takes it.
        (8, 1, [SMALL]),
        # A 48xlarge takes three of eight cores, a 24xlarge one: a third of a large one is cheaper than a small one.
        (8, 3, [LARGE]),
        (8, 4, [LARGE, SMALL]),
        (12, 1, [SMALL]),
        (12, 3, [SMALL, SMALL, SMALL]),
        (24, 1, [LARGE]),
        (2, 7, [SMALL, SMALL]),
    ],
)
def test_should_launch_the_least_price_per_replica_that_it_serves(
    cores: int, replicas: int, expected: list[str]
) -> None:
    placement = _packed(a_simulated_pool(SMALL, LARGE), requests_for("r", replicas, a_need(cores)))
    assert _launched(placement) == expected
    assert all(unplaced.awaiting_launch for unplaced in placement.unplaced)


def test_should_say_what_is_launched_where_and_at_which_price() -> None:
    placement = _packed(a_simulated_pool(SMALL), requests_for("r", 1, a_need(8)))
    assert placement.launches == (Launch(pool="inf2", instance_type=SMALL, price_usd_per_hour=6.49063),)


def test_should_launch_nothing_for_what_the_booting_nodes_will_take() -> None:
    booting = a_node("new", SMALL, ready=False, booting=True)
    placement = _packed(a_simulated_pool(SMALL), requests_for("r", 1, a_need(8)), [(booting, "")])
    assert (placement.launches, placement.unplaced, placement.assigned[0].promised) == ((), (), True)


def test_should_launch_nothing_in_a_pool_whose_nodes_somebody_else_makes() -> None:
    static = replace(a_simulated_pool(SMALL), provider=an_inf2_pool().provider)
    placement = _packed(static, requests_for("r", 1, a_need(8)))
    assert (placement.launches, placement.unplaced[0].awaiting_launch) == ((), False)


def test_should_stop_at_the_maximum_of_nodes() -> None:
    placement = _packed(
        a_simulated_pool(SMALL, maximum_nodes=2), requests_for("r", 3, a_need(12)), [(a_node("a"), "aa")]
    )
    assert _launched(placement) == [SMALL]
    assert [unplaced.awaiting_launch for unplaced in placement.unplaced] == [True, False, False]


def test_should_stop_at_the_maximum_of_usd_per_hour() -> None:
    pool = a_simulated_pool(SMALL, LARGE, maximum_usd_per_hour=20.0)
    placement = _packed(pool, requests_for("r", 9, a_need(8)), [(a_node("a"), "aa aa aa aa aa aa")])
    assert _launched(placement) == [LARGE]


def test_should_take_the_smaller_node_where_the_money_does_not_reach_for_the_better_one() -> None:
    pool = a_simulated_pool(SMALL, LARGE, maximum_usd_per_hour=12.0)
    assert _launched(_packed(pool, requests_for("r", 3, a_need(8)))) == [SMALL]


def test_should_launch_nothing_of_unknown_price_under_a_limit_in_usd() -> None:
    pool = a_simulated_pool(SMALL, maximum_usd_per_hour=100.0)
    unpriced = replace(pool, offerings=tuple(replace(one, price_usd_per_hour=None) for one in pool.offerings))
    assert _launched(_packed(unpriced, requests_for("r", 1, a_need(8)))) == []


def test_should_pass_over_what_the_provider_refused() -> None:
    context = LaunchContext(nodes={}, usd_per_hour={}, blocked=frozenset({("inf2", SMALL)}))
    placement = _packed(a_simulated_pool(SMALL, LARGE), requests_for("r", 1, a_need(8)), context=context)
    assert _launched(placement) == [LARGE]


def test_should_launch_only_what_the_ceiling_of_the_deployment_pays_for() -> None:
    requests = requests_for("r", 3, a_need(8))
    placement = _packed(a_simulated_pool(SMALL), requests, budgets={"default/r": 4.4})
    assert [unplaced.awaiting_launch for unplaced in placement.unplaced] == [True, False, False]
    assert _launched(placement) == [SMALL]


def test_should_serve_the_important_request_first_where_limits_allow_one_node() -> None:
    requests = (*requests_for("l", 1, a_need(24)), *requests_for("s", 6, a_need(2)))
    placement = _packed(a_simulated_pool(SMALL, LARGE, maximum_nodes=1), requests)
    assert _launched(placement) == [LARGE]
    assert [unplaced.awaiting_launch for unplaced in placement.unplaced] == [True] + [False] * 6


def test_should_let_small_requests_share_the_node_of_a_large_one() -> None:
    requests = (*requests_for("l", 1, a_need(8)), *requests_for("s", 2, a_need(2)))
    assert _launched(_packed(a_simulated_pool(SMALL), requests)) == [SMALL]


def test_should_pass_over_what_no_offering_can_serve() -> None:
    impossible = VariantNeed(variant="g", accelerator="h100-sxm", devices=1)
    requests = (*requests_for("g", 2, impossible), *requests_for("s", 1, a_need(2)))
    placement = _packed(a_simulated_pool(SMALL), requests)
    assert [unplaced.awaiting_launch for unplaced in placement.unplaced] == [False, False, True]


def test_should_launch_nothing_that_lacks_the_memory() -> None:
    need = a_need(2, requests=Resources(memory_bytes=2**50, pods=1))
    assert _launched(_packed(a_simulated_pool(SMALL, LARGE), requests_for("r", 1, need))) == []


def test_should_launch_for_a_selector_of_the_instance_type() -> None:
    need = a_need(2, node_selector=(("node.kubernetes.io/instance-type", LARGE),))
    assert _launched(_packed(a_simulated_pool(SMALL, LARGE), requests_for("r", 1, need))) == [LARGE]


def test_should_launch_only_in_pools_open_to_the_namespace() -> None:
    closed = a_simulated_pool(SMALL, namespaces=frozenset({"team-b"}))
    assert _launched(_packed(closed, requests_for("r", 1, a_need(2)))) == []


@pytest.mark.parametrize(
    ("headroom_cores", "drawing", "expected"),
    [
        (0, "aa aa aa aa aa aa", []),
        (4, "aa aa aa aa .. ..", []),
        (5, "aa aa aa aa .. ..", [SMALL]),
        (20, "aa aa aa aa .. ..", [LARGE]),
        # No node covers 40 cores: the least price per core, then the rest.
        (40, "aa aa aa aa aa aa", [SMALL, SMALL, LARGE]),
    ],
)
def test_should_keep_the_headroom_of_a_pool(headroom_cores: int, drawing: str, expected: list[str]) -> None:
    pool = a_simulated_pool(SMALL, LARGE, headroom_cores=headroom_cores)
    assert _launched(_packed(pool, (), [(a_node("a"), drawing)])) == expected


def test_should_count_booting_nodes_and_what_is_placed_in_headroom() -> None:
    pool = a_simulated_pool(SMALL, headroom_cores=12)
    booting = a_node("new", ready=False, booting=True)
    assert _launched(_packed(pool, (), [(booting, "")])) == []
    assert _launched(_packed(pool, requests_for("r", 1, a_need(2)), [(booting, "")])) == [SMALL]


def test_should_count_what_a_launch_leaves_free_as_headroom() -> None:
    pool = a_simulated_pool(SMALL, headroom_cores=4)
    assert _launched(_packed(pool, requests_for("r", 1, a_need(8)))) == [SMALL]


def test_should_keep_headroom_within_the_limits() -> None:
    pool = a_simulated_pool(SMALL, headroom_cores=100, maximum_nodes=2)
    assert _launched(_packed(pool, ())) == [SMALL, SMALL]


def _priced(small: float, large: float) -> Pool:
    pool = a_simulated_pool(SMALL, LARGE)
    prices = {SMALL: small, LARGE: large}
    return replace(
        pool,
        offerings=tuple(
            replace(offering, price_usd_per_hour=prices[offering.instance_type.name]) for offering in pool.offerings
        ),
    )


def test_should_launch_the_cheapest_set_and_not_the_cheapest_next_node() -> None:
    # Four of four cores: a small one takes three at 2 USD each, and then a second one is needed; one large takes all.
    assert _launched(_packed(_priced(6.0, 9.0), requests_for("r", 4, a_need(4)))) == [LARGE]
    # Seven: six on a large one, and the last on a small one.
    assert sorted(_launched(_packed(_priced(6.0, 9.0), requests_for("r", 7, a_need(4))))) == [SMALL, LARGE]


@given(
    replicas=st.integers(1, 9), cores=st.sampled_from([2, 4, 8, 12]), small=st.integers(1, 20), large=st.integers(1, 20)
)
@settings(max_examples=60)
def test_law_no_set_of_nodes_that_serves_all_is_cheaper(replicas: int, cores: int, small: int, large: int) -> None:
    placement = _packed(_priced(float(small), float(large)), requests_for("r", replicas, a_need(cores)))

    found = sum(launch.price_usd_per_hour or 0.0 for launch in placement.launches)
    least = min(
        count * small + others * large
        for count in range(replicas + 1)
        for others in range(replicas + 1)
        if count * (12 // cores) + others * (24 // cores) >= replicas
    )
    assert found == least
    assert all(unplaced.awaiting_launch for unplaced in placement.unplaced)


def test_should_serve_the_important_where_the_node_limit_leaves_one_launch() -> None:
    pool = replace(_priced(2.0, 9.0), maximum_nodes=1)

    placement = _packed(pool, requests_for("r", 3, a_need(8)))

    # A small node would be cheaper by the replica; the large one serves all three, and nobody is given up for money.
    assert _launched(placement) == [LARGE]

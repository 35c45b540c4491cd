"""Which place a replica gets, in pictures: what is there, and what it looks like afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core_maps import (
    NOTHING_LAUNCHED,
    a_need,
    a_node,
    a_simulated_pool,
    an_inf2_pool,
    drawn_fleet,
    redrawn,
    requests_for,
)
from fleetpack.core.fleet import Node, Pool, Resources
from fleetpack.core.packing.fit import rooms
from fleetpack.core.packing.pack import Exclusion, Placement, PlacementRequest, VariantNeed, pack

POOL = an_inf2_pool()


def _packed(
    fleet: list[tuple[Node, str]], requests: tuple[PlacementRequest, ...], budgets: dict[str, float] | None = None
) -> Placement:
    return pack(requests, rooms(drawn_fleet(fleet)), (POOL,), budgets or {}, NOTHING_LAUNCHED)


def _after(
    fleet: list[tuple[Node, str]], requests: tuple[PlacementRequest, ...], budgets: dict[str, float] | None = None
) -> dict[str, str]:
    placement = _packed(fleet, requests, budgets)
    return {node.name: redrawn(node, drawing, placement.assigned) for node, drawing in fleet}


@pytest.mark.parametrize(
    ("before", "cores", "after"),
    [
        # Both fit; the window at the end leaves the aligned half for a later four-core replica.
        (".. .. .. .. .. ..", 4, "rr rr .. .. .. .."),
        ("aa .. .. .. .. ..", 2, "aa rr .. .. .. .."),
        # A half-used device is used up before a whole one is broken.
        (".. .. .. .. a. ..", 1, ".. .. .. .. ar .."),
        # The gap that it fits exactly.
        ("aa .. bb .. .. ..", 2, "aa rr bb .. .. .."),
        (".. .. .. bb .. aa", 2, ".. .. .. bb rr aa"),
        ("aa .. .. .. .. bb", 8, "aa rr rr rr rr bb"),
        # Three cores begin at a device boundary.
        ("a. .. .. .. .. ..", 3, "a. rr r. .. .. .."),
    ],
)
def test_should_take_the_range_that_leaves_the_most_room(before: str, cores: int, after: str) -> None:
    assert _after([(a_node("a"), before)], requests_for("r", 1, a_need(cores))) == {"a": after}


def test_should_take_aligned_devices_on_a_torus() -> None:
    need = replace(a_need(8), accelerator="trainium")
    before = "........ ..a..... ........ ........"
    assert _after([(a_node("t", "trn1.32xlarge"), before)], requests_for("r", 2, need)) == {
        "t": "rrrrrrrr ..a..... rrrrrrrr ........"
    }


def test_should_break_the_smaller_half_of_a_torus() -> None:
    """Half the torus is still whole: what is small goes into the half that is not."""
    need = replace(a_need(2), accelerator="trainium")
    before = "........ ........ aaaaaaaa ........"
    assert _after([(a_node("t", "trn1.32xlarge"), before)], requests_for("r", 1, need)) == {
        "t": "........ ........ aaaaaaaa rr......"
    }


def test_should_keep_room_for_the_sizes_that_are_asked_for() -> None:
    """The small one comes first, and leaves the only place for the large one."""
    fleet = [(a_node("a"), ".. .. .. .. aa aa"), (a_node("b"), ".. .. bb bb bb bb")]
    requests = (*requests_for("s", 1, a_need(2)), *requests_for("l", 1, a_need(8)))
    assert _after(fleet, requests) == {"a": "ll ll ll ll aa aa", "b": "ss .. bb bb bb bb"}


def test_should_fill_the_fullest_node_first() -> None:
    fleet = [(a_node("a"), ""), (a_node("b"), "bb bb .. .. .. ..")]
    fleet = [(node, drawing or ".. .. .. .. .. ..") for node, drawing in fleet]
    assert _after(fleet, requests_for("r", 1, a_need(4))) == {"a": ".. .. .. .. .. ..", "b": "bb bb rr rr .. .."}


def test_should_prefer_the_lower_name_on_equal_nodes() -> None:
    fleet = [(a_node("b"), "." * 12), (a_node("a"), "." * 12)]
    assert _after(fleet, requests_for("r", 1, a_need(12))) == {"b": "." * 12, "a": "r" * 12}


def test_should_prefer_the_cheaper_node() -> None:
    fleet = [(a_node("a", price_usd_per_hour=7.0), "." * 12), (a_node("b", price_usd_per_hour=6.0), "." * 12)]
    assert _after(fleet, requests_for("r", 1, a_need(8))) == {"a": "." * 12, "b": "rr rr rr rr ....".replace(" ", "")}


def test_should_let_fragmentation_decide_between_prices_that_differ_by_rounding_only() -> None:
    """A core of inf2.24xlarge is half a millionth of a dollar cheaper than one of inf2.48xlarge."""
    fleet = [(a_node("a"), "." * 12), (a_node("b", "inf2.48xlarge"), "b" * 16 + "." * 8)]
    assert _after(fleet, requests_for("r", 1, a_need(8))) == {"a": "." * 12, "b": "b" * 16 + "r" * 8}


def test_should_prefer_the_variant_that_costs_less() -> None:
    large, small = replace(a_need(8), variant="large"), replace(a_need(4), variant="small")
    placement = _packed([(a_node("a"), "")], requests_for("r", 1, large, small))
    assert [assigned.variant for assigned in placement.assigned] == ["small"]


def test_should_prefer_the_first_variant_where_costs_tie() -> None:
    first, second = replace(a_need(4), variant="first"), replace(a_need(devices=2), variant="second")
    placement = _packed([(a_node("a"), "")], requests_for("r", 1, first, second))
    assert [assigned.variant for assigned in placement.assigned] == ["first"]


def test_should_take_the_dearer_variant_where_only_that_has_room() -> None:
    inferentia, trainium = a_need(8), VariantNeed(variant="t", accelerator="trainium", cores=8)
    fleet = [(a_node("a"), "aa aa aa .. .. .."), (a_node("t", "trn1.32xlarge"), "")]
    placement = _packed(fleet, requests_for("r", 1, inferentia, trainium))
    assert [(assigned.variant, assigned.node) for assigned in placement.assigned] == [("t", "t")]


def test_should_promise_room_on_a_booting_node_only_when_no_ready_one_has_any() -> None:
    booting = a_node("a", ready=False, booting=True, price_usd_per_hour=1.0)
    fleet = [(booting, ""), (a_node("b"), "bb bb .. .. .. ..")]
    placement = _packed(fleet, requests_for("r", 2, a_need(8)))
    assert [(assigned.node, assigned.promised) for assigned in placement.assigned] == [("b", False), ("a", True)]


def test_should_keep_its_promise_on_the_older_node_when_a_cheaper_one_boots() -> None:
    older = a_node("b", ready=False, booting=True, created_at=10.0)
    newer = a_node("a", ready=False, booting=True, created_at=20.0, price_usd_per_hour=1.0)
    unseen = a_node("c", ready=False, booting=True, created_at=0.0, price_usd_per_hour=1.0)
    placement = _packed([(older, ""), (newer, ""), (unseen, "")], requests_for("r", 3, a_need(8)))
    assert [assigned.node for assigned in placement.assigned] == ["b", "a", "c"]


def test_should_stay_below_the_ceiling_of_each_deployment() -> None:
    node = a_node("a", price_usd_per_hour=12.0)
    requests = (*requests_for("r", 3, a_need(2)), *requests_for("s", 3, a_need(2)))
    placement = _packed([(node, "")], requests, {"default/r": 4.5})
    assert [assigned.request.deployment for assigned in placement.assigned] == ["default/r"] * 2 + ["default/s"] * 3
    assert [(u.request.index, u.exclusions) for u in placement.unplaced] == [(2, ((Exclusion.COST_CEILING, 1),))]


def test_should_take_a_dearer_node_never_above_the_ceiling() -> None:
    fleet = [(a_node("a", price_usd_per_hour=12.0), "." * 12), (a_node("b", price_usd_per_hour=None), "." * 12)]
    assert _after(fleet, requests_for("r", 2, a_need(12)), {"default/r": 12.0}) == {"a": "r" * 12, "b": "." * 12}


def test_should_count_cores_of_counted_devices_and_name_none() -> None:
    need = VariantNeed(variant="gpu", accelerator="h100-sxm", devices=4)
    placement = _packed([(a_node("g", "p5.48xlarge"), "")], requests_for("r", 3, need))
    assert [(assigned.cores, assigned.cores_count) for assigned in placement.assigned] == [(0, 4), (0, 4)]
    assert placement.unplaced[0].exclusions == ((Exclusion.CORES, 1),)


def test_should_not_ask_for_more_than_the_scheduler_counts_as_free() -> None:
    node = a_node("a")
    crowded = replace(node, allocatable=replace(node.allocatable, cpu_millicores=2500))
    requests = requests_for("r", 3, a_need(2, requests=Resources(cpu_millicores=1000, pods=1)))
    placement = _packed([(crowded, "")], requests)
    assert (len(placement.assigned), placement.unplaced[0].exclusions) == (2, ((Exclusion.CPU, 1),))


def test_should_say_why_there_is_no_place_the_most_frequent_reason_first() -> None:
    fleet = [
        (a_node("a"), ".. .. .a .. .. .."),
        (a_node("b"), ".. .. a. .. .. .."),
        (a_node("c", "trn1.32xlarge"), ""),
    ]
    (unplaced,) = _packed(fleet, requests_for("r", 1, a_need(8))).unplaced
    assert unplaced.message == "0 of 3 nodes: 2 no contiguous range of 8 cores, 1 wrong accelerator"


def test_should_name_the_sizes_of_all_variants() -> None:
    needs = (a_need(devices=4), VariantNeed(variant="t", accelerator="trainium", cores=2))
    (unplaced,) = _packed([(a_node("a"), ".. .. .a .. .. ..")], requests_for("r", 1, *needs)).unplaced
    assert unplaced.message == "0 of 1 node: 1 no contiguous range of 2 cores or 4 devices"


def test_should_say_that_the_fleet_is_empty() -> None:
    (unplaced,) = _packed([], requests_for("r", 1, a_need(8))).unplaced
    assert unplaced.message == "the fleet has no node"


def test_should_give_the_important_request_its_place_first() -> None:
    fleet = [(a_node("a"), ".. .. .. .. .. aa")]
    requests = (*requests_for("l", 1, a_need(8)), *requests_for("s", 2, a_need(2)))
    assert _after(fleet, requests) == {"a": "ll ll ll ll ss aa"}


def test_should_keep_namespaces_out_of_pools_that_are_not_theirs() -> None:
    closed = Pool(name="inf2", provider=POOL.provider, namespaces=frozenset({"team-b"}))
    placement = pack(
        requests_for("r", 1, a_need(2)), rooms(drawn_fleet([(a_node("a"), "")])), (closed,), {}, NOTHING_LAUNCHED
    )
    assert placement.unplaced[0].exclusions == ((Exclusion.POOL_NOT_OPEN, 1),)


def test_should_spread_a_deployment_over_two_nodes_that_are_there_anyway() -> None:
    fleet = [(a_node(name), ".. .. .. .. .. ..") for name in ("a", "b", "c")]

    placement = _packed(fleet, requests_for("r", 4, a_need(2)))

    # The second goes to another node; from then on the least loss of room decides again, and c stays whole.
    assert [place.node for place in placement.assigned] == ["a", "b", "a", "b"]


def test_should_not_spread_at_a_loss() -> None:
    # The place on b would cost a later replica of eight cores its room.
    fleet = [(a_node("a"), "rr .. cc cc cc cc"), (a_node("b"), ".. .. .. .. dd dd")]
    sizes = (*requests_for("r", 1, a_need(2)), *requests_for("s", 1, a_need(8)))

    assert _after(fleet, sizes) == {"a": "rr rr cc cc cc cc", "b": "ss ss ss ss dd dd"}


def test_should_not_spread_onto_an_empty_node_that_could_be_given_back() -> None:
    fleet = [(a_node(name), ".. .. .. .. .. ..") for name in ("a", "b")]
    launched = a_simulated_pool("inf2.24xlarge")

    placement = pack(
        requests_for("r", 2, a_need(2)), rooms(drawn_fleet(fleet, launched)), (launched,), {}, NOTHING_LAUNCHED
    )

    assert [place.node for place in placement.assigned] == ["a", "a"]

"""Which cores the kubelet is told to take, drawn as text; and what is refused whatever it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack.catalog import InstanceType, load_catalog
from fleetpack.core.cores import core_ids, format_cores, parse_cores
from fleetpack.device_plugin.choosing import (
    AllocationRequest,
    Claim,
    Preference,
    PreferenceRequest,
    WaitingPod,
    choose,
    is_legal,
    judge,
)
from fleetpack.device_plugin.silicon import NeuronResource, Refusal, RefusalReason
from fleetpack.device_plugin.sources import machine_of, unlisted_machine

CORE, DEVICE = NeuronResource.CORE, NeuronResource.DEVICE


def machine(name: str = "inf2.24xlarge") -> InstanceType:
    return machine_of(load_catalog(), name)


def wants(
    name: str, cores: str, at: float = 0.0, resource: NeuronResource = CORE, *, size: int = 0, asked: bool = False
) -> WaitingPod:
    planned = parse_cores(cores)
    size = size or planned.bit_count()
    return WaitingPod(
        name=name, question=name, created_at=at, resource=resource, size=size, planned=planned, asked=asked
    )


def request(available: str, units: int, must: str = "", resource: NeuronResource = CORE) -> PreferenceRequest:
    return PreferenceRequest(
        resource=resource, available=parse_cores(available), must_include=parse_cores(must), units=units
    )


def chosen(answer: Preference | Refusal) -> tuple[str, str | None] | RefusalReason:
    return answer.reason if isinstance(answer, Refusal) else (format_cores(answer.cores), answer.planned_for)


def test_should_mean_the_oldest_pod_of_the_size_and_its_name_on_ties() -> None:
    waiting = (wants("b", "0-1", 1.0), wants("a", "2-3", 1.0), wants("old", "4-7", 0.5), wants("c", "8-9", 2.0))
    assert chosen(choose(machine(), request("0-11", 2), waiting)) == ("2-3", "a")


def test_should_keep_a_plan_when_an_older_one_is_broken() -> None:
    waiting = (wants("first", "0-3", 1.0), wants("second", "8-11", 2.0))
    assert chosen(choose(machine(), request("2-11", 4), waiting)) == ("2-5", None)


def test_should_mean_a_foreign_pod_when_it_is_the_oldest_of_its_size() -> None:
    waiting = (wants("foreign", "", 1.0, size=4), wants("planned", "0-3", 2.0))
    assert chosen(choose(machine(), request("0-7", 4), waiting)) == ("4-7", None)


def test_should_mean_each_pod_once() -> None:
    planned = wants("planned", "0-3", 2.0)
    foreign = wants("foreign", "", 1.0, size=4, asked=True)
    assert chosen(choose(machine(), request("0-11", 4), (foreign, planned))) == ("0-3", "planned")
    # Its cores are given out already, although nobody lists it yet.
    granted = wants("granted", "4-7", 1.0, asked=True)
    assert chosen(choose(machine(), request("0-3", 4), (granted,))) == ("0-3", None)


def test_should_mean_a_pod_again_whose_answer_was_lost() -> None:
    waiting = (wants("first", "0-3", 1.0, asked=True), wants("second", "8-11", 2.0, asked=True))
    assert chosen(choose(machine(), request("0-11", 4), waiting)) == ("0-3", "first")


def test_should_include_what_an_earlier_container_leaves_behind() -> None:
    waiting = (wants("first", "0-1", 1.0), wants("second", "4-5", 2.0))
    assert chosen(choose(machine(), request("0-11", 2, "4-5"), waiting)) == ("4-5", "second")
    assert chosen(choose(machine(), request("0-11", 4, "6"), ())) == ("6-9", None)


def test_should_take_the_set_that_costs_the_future_least_for_a_pod_without_a_plan() -> None:
    # The odd pair keeps the eight in one piece.
    assert chosen(choose(machine(), request("0-7,10-11", 2), ())) == ("10-11", None)


def test_should_tell_apart_no_range_planned_ranges_and_sizes_that_do_not_exist() -> None:
    assert chosen(choose(machine(), request("1-2,5-6", 2), ())) is RefusalReason.NO_FREE_RANGE
    assert chosen(choose(machine(), request("4-7", 2), (wants("a", "4-7"),))) is RefusalReason.PLANNED_FOR_OTHERS
    assert chosen(choose(machine(), request("0-11", 13), ())) is RefusalReason.UNSUPPORTED_SIZE


def test_should_reserve_nothing_for_a_plan_that_cannot_be_kept() -> None:
    assert chosen(choose(machine(), request("2-3", 2), (wants("broken", "0-3"),))) == ("2-3", None)


def test_should_count_whole_devices_in_devices() -> None:
    assert chosen(choose(machine(), request("0-11", 2, resource=DEVICE), (wants("a", "4-7", 0.0, DEVICE),))) == (
        "4-7",
        "a",
    )
    # A plan in cores is not met by a question for devices, and is kept free.
    assert chosen(choose(machine(), request("0-7", 2, resource=DEVICE), (wants("a", "4-7"),))) == ("0-3", None)


def test_should_allow_one_device_or_all_on_a_machine_that_is_not_listed() -> None:
    unlisted = unlisted_machine("other", devices=4, cores_per_device=2)
    assert [is_legal(unlisted, parse_cores(cores)) for cores in ("2-3", "1", "0-7", "0-3", "1-2")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_should_say_what_to_do_where_no_range_is_free() -> None:
    claims = (Claim(by="Pod n/a through aws.amazon.com/neuron", cores=parse_cores("4-5")), Claim(by="file", cores=1))
    asked = replace(request("1-3,6-11", 4, must="6"), claims=claims)
    free = replace(asked, available=parse_cores("1-3,6-7"))
    answer = choose(machine(), free, ())
    assert answer == Refusal(
        reason=RefusalReason.NO_FREE_RANGE,
        message="aws.amazon.com/neuroncore: no legal set of 4 cores is free on this inf2.24xlarge (free cores: 1-3,6-7); out of its "
        "reach: 0 by file, 4-5 by Pod n/a through aws.amazon.com/neuron; the set has to include cores 6, which an earlier "
        "container of the Pod leaves: ask for the same number of cores in init and main containers; ask for fewer cores, "
        "wait until Pods here have ended, or use another node",
    )


def test_should_give_no_core_that_the_kubelet_lists_with_a_pod() -> None:
    listed = (Claim(by="Pod n/b", cores=parse_cores("3-5")), Claim(by="Pod n/a", cores=parse_cores("0,8")))
    asked = AllocationRequest(
        resource=CORE, cores=parse_cores("0-3"), unhealthy=0, held_by_other_resource=0, listed=listed
    )
    assert judge(machine(), asked) == Refusal(
        reason=RefusalReason.HELD_BY_ANOTHER_POD,
        message="aws.amazon.com/neuroncore: of cores 0-3 the kubelet's list has 0 by Pod n/a, 3 by Pod n/b, and gives them out "
        "again; no core is given twice: whatever makes this Pod again may get others",
    )


@pytest.mark.parametrize(
    ("cores", "unhealthy", "held", "reason"),
    [
        ("0-3", "", "", None),
        ("0,2", "", "", RefusalReason.ILLEGAL_SET),
        ("0-12", "", "", RefusalReason.UNSUPPORTED_SIZE),
        ("0-3", "3", "", RefusalReason.UNHEALTHY),
        ("0-3", "", "2-3", RefusalReason.HELD_BY_OTHER_RESOURCE),
    ],
)
def test_should_judge_what_the_kubelet_has_chosen(
    cores: str, unhealthy: str, held: str, reason: RefusalReason | None
) -> None:
    asked = AllocationRequest(
        resource=CORE,
        cores=parse_cores(cores),
        unhealthy=parse_cores(unhealthy),
        held_by_other_resource=parse_cores(held),
    )
    refusal = judge(machine(), asked)
    assert (refusal and refusal.reason) == reason


MACHINES = ("inf1.6xlarge", "inf2.xlarge", "inf2.24xlarge", "inf2.48xlarge", "trn1.32xlarge", "trn2.48xlarge")


@given(
    name=st.sampled_from(MACHINES),
    free=st.integers(min_value=0, max_value=2**64 - 1),
    units=st.integers(min_value=1, max_value=64),
    plans=st.lists(st.integers(min_value=1, max_value=2**16 - 1), max_size=4),
)
def test_should_only_ever_choose_legal_free_sets_that_no_other_plan_needs(
    name: str, free: int, units: int, plans: list[int]
) -> None:
    node = machine(name)
    free &= (1 << node.cores) - 1
    waiting = tuple(wants(f"p{index}", format_cores(planned), float(index)) for index, planned in enumerate(plans))
    asked = PreferenceRequest(resource=CORE, available=free, must_include=0, units=units)
    answer = choose(node, asked, waiting)
    assert answer == choose(node, asked, waiting[::-1]), "the order of the Pods does not matter"
    if isinstance(answer, Preference):
        assert is_legal(node, answer.cores)
        assert answer.cores & free == answer.cores
        assert len(list(core_ids(answer.cores))) == units
        if answer.planned_for is None:
            assert all(not answer.cores & plan for plan in plans if plan & free == plan)

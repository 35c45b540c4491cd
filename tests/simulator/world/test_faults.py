"""What each fault does by itself: a world with it beside the same world without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.core.decision import Outcome
from fleetpack.core.deployments import Mode, SignalSpecification
from fleetpack.core.fleet import Offering, ReplicaPhase
from fleetpack.core.samples import Sample
from fleetpack_simulator.serving_metrics import TTFT_BUCKETS_SECONDS
from fleetpack_simulator.world import (
    BootBehaviour,
    Fault,
    FaultKind,
    ModelView,
    PolicyView,
    RunResult,
    SpecChange,
    WorldSetting,
    simulate,
)
from fleetpack_simulator.world.events import EPOCH_SECONDS, Kind
from fleetpack_simulator.world.pages import WrongCounters, WrongTimes
from fleetpack_simulator.world.simulation import World
from fleetpack_simulator.world.traffic import RequestState
from worlds import POOL, TYPE, model, pool, requests, world

GATEWAY = tuple(
    SignalSpecification(name=name, in_pods=False, measures=name) for name in ("waiting", "running", "arrivalRate")
)
ENGINE = SignalSpecification(name="engine", in_pods=True)
LOAD = requests(4.5, 100.0, start_seconds=20.0)
"""More than the one replica serves: its queue grows, so that no two readings are the same."""


def steered(**changes: Any) -> WorldSetting:
    """A world whose one replica nobody adds to, so that what a fault does to readings does nothing to what is read."""
    return world(model(LOAD, mode=Mode.MANUAL, replicas=1, signals=(ENGINE, *GATEWAY)), **changes)


def lasting(kind: FaultKind, start: float = 50.0, end: float = 80.0, **options: float) -> Fault:
    return Fault(kind=kind, at_seconds=start, duration_seconds=end - start, **options)  # type: ignore[arg-type]  # options are numbers


def read(setting: WorldSetting, *faults: Fault) -> dict[str, dict[int, Sample]]:
    """What the operator reads, by signal and second."""
    found: dict[str, dict[int, Sample]] = {}
    for inputs, _ in simulate(replace(setting, faults=faults), record=True).recorded:
        for sample in inputs.samples:
            found.setdefault(sample.signal, {})[round(sample.observed_at - EPOCH_SECONDS)] = sample
    return found


def numbers(sample: Sample) -> tuple[float | None, ...]:
    return sample.waiting, sample.running, sample.finished_total, sample.arrival_rate_per_second


@dataclass
class Watcher:
    """A policy that wants one replica, and remembers what it sees."""

    name: str = "watcher"
    interval_seconds: float = 2.0
    seen: dict[int, ModelView] = field(default_factory=dict)

    def decide(self, view: PolicyView) -> Mapping[str, int]:
        self.seen[round(view.now_seconds)] = view.models[0]
        return {"default/chat": 1}


def seen(*faults: Fault) -> dict[int, ModelView]:
    """What a policy sees, by second."""
    watcher = Watcher()
    simulate(replace(steered(), faults=faults), policy=watcher)
    return watcher.seen


def gateway_of(view: ModelView) -> tuple[float, float, bool]:
    return view.outstanding, view.arrived_total, view.gateway_answered


def pod_of(view: ModelView) -> tuple[float, float, float, float, bool]:
    (pod,) = view.pods
    return pod.waiting, pod.running, pod.finished_total, pod.generated_tokens_total, pod.answered


def bound_at(setting: WorldSetting, *faults: Fault) -> list[float]:
    """When Pods got to their cores."""
    result = simulate(replace(setting, faults=faults))
    return [round(one["fromSeconds"], 2) for one in result.cluster.placements]


# --- metrics, as the operator reads them


def test_should_read_what_was_true_eight_seconds_ago_while_metrics_are_late() -> None:
    calm, late = read(steered()), read(steered(), lasting(FaultKind.METRICS_LATE, seconds=8.0))
    for signal in ("engine", "waiting", "running", "arrivalRate"):
        during = {at: numbers(late[signal][at]) for at in range(58, 80, 2)}
        assert during == {at: numbers(calm[signal][at - 8]) for at in range(58, 80, 2)}
    assert numbers(late["engine"][60]) != numbers(calm["engine"][60])
    # Nothing comes in until the first late answer does.
    assert sorted(set(calm["engine"]) - set(late["engine"])) == [50, 52, 54, 56]


def test_should_read_three_times_the_truth_while_metrics_are_wrong() -> None:
    calm, wrong = read(steered()), read(steered(), lasting(FaultKind.METRICS_WRONG, factor=3.0))
    engine = {at: (wrong["engine"][at].waiting, wrong["engine"][at].running) for at in range(50, 80, 2)}
    truth = {at: (calm["engine"][at].waiting, calm["engine"][at].running) for at in range(50, 80, 2)}
    assert engine == {at: (3 * (waiting or 0), 3 * (running or 0)) for at, (waiting, running) in truth.items()}
    running, rate = calm["running"][70].running or 0, calm["arrivalRate"][70].arrival_rate_per_second or 0
    assert (wrong["running"][70].running, wrong["arrivalRate"][70].arrival_rate_per_second) == (3 * running, 3 * rate)
    assert numbers(wrong["running"][80]) == numbers(calm["running"][80])


def test_should_count_three_times_what_ends_while_metrics_are_wrong_and_never_jump() -> None:
    calm, wrong = read(steered()), read(steered(), lasting(FaultKind.METRICS_WRONG, factor=3.0))
    truth = {at: sample.finished_total or 0 for at, sample in calm["engine"].items()}
    shown = {at: sample.finished_total or 0 for at, sample in wrong["engine"].items()}
    grown = truth[78] - truth[50]
    assert (shown[50], shown[78], shown[110]) == (truth[50], truth[50] + 3 * grown, truth[110] + 2 * grown)


# --- metrics, as the policies of others read them


def test_should_show_a_policy_what_was_true_eight_seconds_ago_while_metrics_are_late() -> None:
    calm, late = seen(), seen(lasting(FaultKind.METRICS_LATE, seconds=8.0))
    assert {at: gateway_of(late[at]) for at in range(58, 80, 2)} == {
        at: gateway_of(calm[at - 8]) for at in range(58, 80, 2)
    }
    # Pods are read after the policy has decided, so it sees two seconds more.
    assert {at: pod_of(late[at]) for at in range(60, 80, 2)} == {at: pod_of(calm[at - 6]) for at in range(60, 80, 2)}
    assert gateway_of(late[60]) != gateway_of(calm[60])
    # Once answers are prompt again, those that are still on their way say nothing new.
    assert {at: gateway_of(late[at]) for at in range(80, 90, 2)} == {
        at: gateway_of(calm[at]) for at in range(80, 90, 2)
    }


def test_should_show_a_policy_the_last_answers_and_that_reads_fail_while_metrics_are_missing() -> None:
    calm, missing = seen(), seen(lasting(FaultKind.METRICS_MISSING))
    assert {gateway_of(missing[at]) for at in range(50, 80, 2)} == {(*gateway_of(calm[48])[:2], False)}
    assert {pod_of(missing[at]) for at in range(52, 82, 2)} == {(*pod_of(calm[50])[:4], False)}
    assert gateway_of(missing[80]) == gateway_of(calm[80])
    assert pod_of(missing[82]) == pod_of(calm[82])


def test_should_show_a_policy_three_times_the_truth_while_metrics_are_wrong() -> None:
    calm, wrong = seen(), seen(lasting(FaultKind.METRICS_WRONG, factor=3.0))
    outstanding = {at: wrong[at].outstanding for at in range(50, 80, 2)}
    assert outstanding == {at: 3 * calm[at].outstanding for at in range(50, 80, 2)}
    assert pod_of(wrong[60])[:2] == tuple(3 * one for one in pod_of(calm[60])[:2])
    grown = calm[78].arrived_total - calm[50].arrived_total
    assert wrong[78].arrived_total == calm[50].arrived_total + 3 * grown


def test_should_show_a_policy_fresh_numbers_while_the_operator_is_down() -> None:
    down = seen(Fault(kind=FaultKind.OPERATOR_RESTART, at_seconds=50.0, seconds=30.0))
    assert {at: view.pods[0].read_at_seconds for at, view in down.items() if 50 < at < 80} == {
        at: at - 2.0 for at in range(52, 80, 2)
    }


@pytest.mark.parametrize(
    "fault",
    [
        lasting(FaultKind.METRICS_LATE, seconds=8.0),
        lasting(FaultKind.METRICS_MISSING),
        lasting(FaultKind.METRICS_WRONG, factor=3.0),
    ],
    ids=lambda fault: fault.kind,
)
def test_should_draw_the_truth_whatever_is_read(fault: Fault) -> None:
    assert simulate(steered(faults=(fault,))).series == simulate(steered()).series


# --- pages that are wrong


def test_should_count_wrongly_between_two_looks_and_keep_the_difference() -> None:
    page = WrongCounters()
    looks = [(None, 10), (3.0, 20), (3.0, 30), (0.0, 40), (None, 50), (0.5, 60), (0.5, 70)]
    assert [page.shown(factor, (total,))[0] for factor, total in looks] == [10, 20, 50, 50, 60, 70, 75]


@pytest.mark.parametrize(
    ("factor", "expected_seconds"), [(3.0, 2.5), (0.1, 0.08), (0.0, TTFT_BUCKETS_SECONDS[0]), (1e6, float("inf"))]
)
def test_should_move_times_to_where_they_would_be_if_each_took_that_many_times_as_long(
    factor: float, expected_seconds: float
) -> None:
    bounds = (*TTFT_BUCKETS_SECONDS, float("inf"))
    before, after = [0] * len(bounds), [0] * len(bounds)
    before[bounds.index(0.75)], after[bounds.index(0.75)] = 4, 9
    page = WrongTimes()
    page.shown(factor, before)
    shown = dict(zip(bounds, page.shown(factor, after), strict=True))
    assert {bound: count for bound, count in shown.items() if count} == {0.75: 4, expected_seconds: 5}


# --- replicas


def test_should_end_a_replica_that_crashes_and_make_another() -> None:
    load = requests(1.0, 80.0, start_seconds=20.0, output_tokens=100)
    calm = world(model(load, mode=Mode.MANUAL, replicas=1))
    crashed = replace(calm, faults=(Fault(kind=FaultKind.REPLICA_CRASH, at_seconds=60.3),))
    ends = [[one["toSeconds"] for one in simulate(setting).cluster.placements] for setting in (calm, crashed)]
    states = [[*simulate(setting).log.state] for setting in (calm, crashed)]
    assert ends == [[None], [60.3, None]]
    assert (RequestState.FAILED in states[0], RequestState.FAILED in states[1]) == (False, True)


def test_should_fail_a_replica_that_would_have_become_ready() -> None:
    setting = world(model(), duration_seconds=60.0)
    failed = replace(setting, faults=(lasting(FaultKind.START_FAILURE, 0.0, 15.0),))
    calm, faulty = ([point.ready for point in simulate(one).series["default/chat"]] for one in (setting, failed))
    # Ten seconds of loading; the one that failed at its end is followed by another that needs as long.
    assert (calm.index(1), faulty.index(1) > 10, faulty[-1]) == (6, True, 1)


def test_should_never_bind_a_pod_that_was_created_meanwhile() -> None:
    setting = world(model(), nodes=2)
    (calm,), (faulty,) = bound_at(setting), bound_at(setting, lasting(FaultKind.NEVER_BOUND, 0.0, 5.0))
    # Given up after ten seconds, and made anew on the other node.
    assert (calm, 10.0 < faulty < 15.0) == (0.13, True)


# --- writes


def test_should_get_an_error_for_each_write_that_is_refused() -> None:
    setting = world(model())
    outcomes = [
        {
            one.outcome
            for inputs, _ in simulate(replace(setting, faults=faults), record=True).recorded
            for one in inputs.issued
        }
        for faults in ((), (lasting(FaultKind.REFUSED_WRITES, 0.0, 5.0),))
    ]
    (bound,) = bound_at(setting, lasting(FaultKind.REFUSED_WRITES, 0.0, 5.0))
    assert (Outcome.FAILED in outcomes[0], Outcome.FAILED in outcomes[1], bound > 5.0) == (False, True, True)


def test_should_write_late_while_the_api_is_slow() -> None:
    setting = world(model())
    (calm,), (slow,) = bound_at(setting), bound_at(setting, lasting(FaultKind.SLOW_API, 0.0, 60.0, seconds=3.0))
    assert (calm, 0.13 < slow <= 3.13) == (0.13, True)


def test_should_write_only_its_share_late_while_the_api_is_slow() -> None:
    setting = world(model(minimum_replicas=6))
    bound = [bound_at(setting, lasting(FaultKind.SLOW_API, 0.0, 60.0, seconds=3.0, share=share)) for share in (0.5, 1)]
    prompt = [sum(at == 0.13 for at in times) for times in bound]
    assert (0 < prompt[0] < 6, prompt[1]) == (True, 0)


# --- caches


def first_seen_ready(*faults: Fault) -> int:
    result = simulate(world(model(), faults=faults), record=True)
    return next(
        round(inputs.now - EPOCH_SECONDS)
        for inputs, _ in result.recorded
        if any(one.phase is ReplicaPhase.READY for one in inputs.snapshot.replicas)
    )


def test_should_see_a_change_late_while_the_cache_lags() -> None:
    assert (first_seen_ready(), first_seen_ready(lasting(FaultKind.CACHE_LAG, 0.0, 60.0, seconds=6.0))) == (10, 16)


def test_should_see_nothing_new_and_know_it_while_the_cache_stalls() -> None:
    grown = SpecChange(at_seconds=30.0, deployment="default/chat", fields=(("minimum_replicas", 2),))
    setting = world(model(), changes=(grown,))
    minimums = []
    for faults in ((), (lasting(FaultKind.CACHE_STALL, 25.0, 45.0),)):
        result = simulate(replace(setting, faults=faults), record=True)
        ticks = {round(inputs.now - EPOCH_SECONDS, 3): inputs for inputs, _ in result.recorded}
        minimums.append(
            {
                at: (ticks[at].deployments[0].minimum_replicas, ticks[at].cache_age_seconds)
                for at in (24.0, 32.0, 44.0, 46.0)
            }
        )
    assert minimums == [
        {24.0: (1, 0.0), 32.0: (2, 0.0), 44.0: (2, 0.0), 46.0: (2, 0.0)},
        {24.0: (1, 0.0), 32.0: (1, 6.0), 44.0: (1, 18.0), 46.0: (2, 0.0)},
    ]


# --- machines


def given_cores(*broken: int) -> list[int]:
    """The cores that the first replica gets when chips break between its creation and its binding."""
    own = World(world(model(), duration_seconds=10.0, tail_seconds=0.0))
    for device in broken:
        own.queue.push(0.05, Kind.FAULT, partial(own.cluster.break_device, "node-0", device))
    own.run(None, until_rest=False)
    return [one["cores"] for one in own.cluster.placements]


def test_should_give_a_pod_other_cores_where_the_chip_of_the_planned_ones_has_broken_meanwhile() -> None:
    assert (given_cores(), given_cores(0)) == ([0b11], [0b11 << 10])


def machines_of(*dry: str) -> RunResult:
    large = load_catalog().instance_types["inf2.48xlarge"]
    both = tuple(Offering(instance_type=kind, price_usd_per_hour=kind.price_usd_per_hour) for kind in (TYPE, large))
    boots = {POOL: BootBehaviour(delay_seconds=20.0, insufficient_capacity=dry)}
    return simulate(world(model(), nodes=0, pools=(pool(offerings=both),), boots=boots))


def test_should_take_another_type_of_a_pool_that_has_insufficient_capacity_of_one() -> None:
    nodes = [sorted(machines_of(*dry).cluster.nodes) for dry in ((), ("inf2.24xlarge",))]
    assert nodes == [[f"{POOL}-inf2-24xlarge-0"], [f"{POOL}-inf2-48xlarge-0"]]


def test_should_get_no_machine_from_a_pool_that_has_insufficient_capacity_of_all() -> None:
    assert not machines_of("inf2.24xlarge", "inf2.48xlarge").cluster.nodes

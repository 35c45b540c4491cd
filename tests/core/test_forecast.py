"""What is foreseen: growth that chance cannot explain, the time until a replica serves, and the queue at its end."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, a_deployment, a_replica, a_sample, some_inputs
from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.demand import Demand, dispersion, estimate_demand
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import ReplicaPhase
from fleetpack.core.forecast import (
    GROWTH_DEVIATIONS,
    DemandForecast,
    Supply,
    earned_weight,
    follow_lead,
    forecast,
    lead_seconds,
    slope,
    supply_of,
)
from fleetpack.core.observation import Observation
from fleetpack.core.planner import plan
from fleetpack.core.profiles import ServiceProfile, with_estimate
from fleetpack.core.state import DeploymentState, Flow, Prediction, Raise, State

TICK_SECONDS = 2.0
PROFILE = ServiceProfile(requests_per_second=2.0, concurrency=32.0, startup_seconds=100.0, measured=True)


def flows(rate_at: list[float]) -> tuple[Flow, ...]:
    """One flow per tick up to NOW, at the given rates, the oldest first."""
    begin = NOW - TICK_SECONDS * (len(rate_at) - 1)
    return tuple(
        Flow(at=begin + TICK_SECONDS * tick, arrivals=rate * TICK_SECONDS, finished=0.0)
        for tick, rate in enumerate(rate_at)
    )


def a_state(**changes: object) -> DeploymentState:
    return replace(DeploymentState(deployment="default/chat", observing_since=NOW - 600.0), **changes)  # type: ignore[arg-type]


def a_demand(**changes: object) -> Demand:
    calm = Demand(
        arrival_rate_per_second=4.0, waiting=0.0, running=8.0, ready_replicas=2, complete=True, rate_known=True
    )
    return replace(calm, **changes)  # type: ignore[arg-type]


def foreseen(demand: Demand, supply: Supply, state: DeploymentState | None = None) -> DemandForecast:
    found, _ = forecast(demand, PROFILE, supply, state or a_state(), NOW)
    return found


# --- growth


def test_should_see_the_slope_of_a_ramp() -> None:
    ramp = flows([10.0 + 0.1 * TICK_SECONDS * tick for tick in range(61)])

    seen = slope(a_state(flows=ramp), NOW)

    assert seen.growth_per_second == pytest.approx(0.1, rel=0.01)
    assert 0.0 < seen.deviation_per_second < 0.05
    assert seen.window_seconds == 120.0


@pytest.mark.parametrize("ticks_ago", range(4, 60, 4))
def test_should_take_no_step_for_growth(ticks_ago: int) -> None:
    step = flows([2.0] * (61 - ticks_ago) + [10.0] * ticks_ago)

    assert slope(a_state(flows=step), NOW).growth_per_second == 0.0


@pytest.mark.parametrize("rates", [[0.2] * 61, [5.0] * 10, []])
def test_should_see_no_growth_where_too_little_was_counted(rates: list[float]) -> None:
    assert slope(a_state(flows=flows(rates)), NOW).growth_per_second == 0.0


def test_should_seldom_take_chance_for_growth() -> None:
    drawn = random.Random(11)
    alarms = 0
    for _ in range(400):
        counts = [sum(drawn.random() < 0.01 for _ in range(1000)) / TICK_SECONDS for _ in range(61)]
        seen = slope(a_state(flows=flows(counts)), NOW)
        alarms += seen.growth_per_second > GROWTH_DEVIATIONS * seen.deviation_per_second

    # Each is small, and the weight falls with each that does not come true.
    assert alarms <= 30


def test_should_expect_the_rate_at_the_end_of_the_lead_time() -> None:
    state = a_state(flows=flows([10.0 + 0.1 * TICK_SECONDS * tick for tick in range(61)]))
    demand = a_demand(arrival_rate_per_second=20.5)

    found = foreseen(demand, Supply(ready=20), state)

    # 0.1 per second over 100 s and half the window; less what chance could have added.
    assert 26.0 < found.arrival_rate_per_second < 32.0


def test_should_not_carry_a_short_rise_on_for_long() -> None:
    # Flat for a minute, and up for the last 40 s: only the shortest blocks see it.
    state = a_state(flows=flows([10.0] * 41 + [10.0 + 0.5 * TICK_SECONDS * tick for tick in range(20)]))
    slow = replace(PROFILE, startup_seconds=600.0)

    found, _ = forecast(a_demand(arrival_rate_per_second=22.0), slow, Supply(ready=20), state, NOW)

    assert 22.0 < found.arrival_rate_per_second <= 22.0 + 0.5 * 5 * 40.0


def test_should_foresee_no_fall() -> None:
    state = a_state(flows=flows([20.0 - 0.1 * TICK_SECONDS * tick for tick in range(61)]))

    assert foreseen(a_demand(), Supply(ready=2), state).arrival_rate_per_second == 4.0


def test_should_measure_bursts_apart_from_growth() -> None:
    rising = flows([5.0 + 0.05 * tick for tick in range(61)])
    bursts = flows([30.0 if tick % 12 < 3 else 0.0 for tick in range(61)])

    assert dispersion(a_state(flows=rising), NOW) == 1.0
    assert dispersion(a_state(flows=bursts), NOW) > 10.0


# --- what growth has earned


def test_should_believe_growth_less_after_it_did_not_come_true() -> None:
    state = a_state()
    for tick in range(60):
        due = Prediction(due=NOW + 10 * tick, made_at=NOW, rate_per_second=10.0, growth=10.0)
        state = replace(state, predictions=(due,))
        _, state = forecast(a_demand(arrival_rate_per_second=10.0), PROFILE, Supply(ready=9), state, NOW + 10 * tick)

    assert earned_weight(state) < 0.05


def test_should_believe_growth_in_full_while_it_comes_true() -> None:
    state = a_state()
    for tick in range(60):
        due = Prediction(due=NOW + 10 * tick, made_at=NOW, rate_per_second=10.0, growth=10.0)
        state = replace(state, predictions=(due,))
        _, state = forecast(a_demand(arrival_rate_per_second=20.0), PROFILE, Supply(ready=9), state, NOW + 10 * tick)

    assert earned_weight(state) == 1.0


@given(
    agreement=st.floats(-1e6, 1e6, allow_nan=False),
    evidence=st.floats(0.0, 1e6, allow_nan=False),
)
def test_law_the_weight_is_a_share(agreement: float, evidence: float) -> None:
    assert 0.0 <= earned_weight(a_state(trend_agreement=agreement, trend_evidence=evidence)) <= 1.0


# --- the lead time


def test_should_measure_from_wanting_to_serving() -> None:
    state = a_state(desired=3)
    state = follow_lead(state, before=2, ready=2, now=NOW)
    state = follow_lead(state, before=3, ready=2, now=NOW + 60.0)
    state = follow_lead(state, before=3, ready=3, now=NOW + 150.0)

    assert (state.leads_seconds, state.raised, lead_seconds(PROFILE, state)) == ((150.0,), (), 150.0)


def test_should_take_the_second_longest_of_the_last_five_and_no_less_than_a_cold_start() -> None:
    assert lead_seconds(PROFILE, a_state(leads_seconds=(120.0, 800.0, 90.0, 150.0, 2.0))) == 150.0
    assert lead_seconds(PROFILE, a_state(leads_seconds=(2.0, 3.0))) == 100.0
    assert lead_seconds(PROFILE, a_state()) == 100.0


def test_should_learn_nothing_from_what_was_given_up_or_never_came() -> None:
    wanted = a_state(desired=5, raised=(Raise(at=NOW, replicas=5),))

    given_up = follow_lead(replace(wanted, desired=2), before=5, ready=2, now=NOW + 10.0)
    never_came = follow_lead(wanted, before=5, ready=2, now=NOW + 1000.0)

    assert (given_up.raised, given_up.leads_seconds) == ((), ())
    assert (never_came.raised, never_came.leads_seconds) == ((), ())


@pytest.mark.parametrize("mode", [Mode.PAUSED, Mode.MANUAL, Mode.ADVISORY])
def test_should_not_measure_while_nobody_starts_what_is_wanted(mode: Mode) -> None:
    deployment, state = a_deployment(mode=mode, replicas=1, maximum_replicas=12), State()
    for tick in range(10):
        now = NOW + TICK_SECONDS * tick
        sample = a_sample(a_replica(), at=now, waiting=200.0, running=32.0)
        inputs = some_inputs(now=now, deployments=(deployment,), replicas=(a_replica(),), samples=(sample,))
        _, state = plan(inputs, state)

    assert state.deployments[0].desired == 7
    assert state.deployments[0].raised == ()


# --- the rate of the first seconds


@pytest.mark.parametrize(
    ("ticks", "rate", "known"),
    [
        (4, 5.0, True),
        (3, 5.0, False),
        (4, 2.0, False),
        (15, 0.1, False),
        (16, 0.1, True),
        (1, 50.0, False),
        (0, 0.0, False),
    ],
)
def test_should_know_a_rate_as_soon_as_chance_makes_a_fifth_of_it(ticks: int, rate: float, known: bool) -> None:
    # The first flow is what had piled up before: it covers a time that nobody knows.
    piled = (Flow(at=NOW - TICK_SECONDS * (ticks - 1), arrivals=300.0, finished=0.0),)
    state = a_state(flows=(*piled, *flows([rate] * (ticks - 1))) if ticks else (), observing_since=NOW - 60.0)
    observation = Observation(
        waiting=Measurement(value=300.0, age_seconds=0.0),
        running=Measurement(value=32.0, age_seconds=0.0),
        arrival_rate_per_second=NoData(reason="NoFreshSignal", message="no source measures this"),
        ready_replicas=1,
        complete=True,
        work={},
    )

    found = estimate_demand(observation, state, 4.0, NOW)

    assert isinstance(found, Demand)
    assert found.rate_known == known
    if known:
        assert found.arrival_rate_per_second == pytest.approx(rate)


# --- the queue at the horizon


def test_should_expect_starting_replicas_and_those_that_wait_for_a_machine() -> None:
    replicas = (
        a_replica(0),
        a_replica(1, phase=ReplicaPhase.STARTING, ready_at=None, created_at=NOW - 30.0),
        a_replica(2, phase=ReplicaPhase.STARTING, ready_at=None, created_at=NOW - 400.0),
    )
    state = a_state(desired=4, raised=(Raise(at=NOW - 20.0, replicas=4),), leads_seconds=(160.0, 160.0))

    assert supply_of(replicas, PROFILE, state, NOW) == Supply(ready=1, coming_seconds=(10.0, 70.0, 140.0))


def test_should_let_the_queue_grow_by_what_is_not_served() -> None:
    demand = a_demand(arrival_rate_per_second=8.0, waiting=10.0, ready_replicas=2)

    # 8 come and 4 are served per second for 100 s.
    assert foreseen(demand, Supply(ready=2)).waiting == pytest.approx(410.0)


def test_should_count_what_comes_against_the_queue() -> None:
    demand = a_demand(arrival_rate_per_second=8.0, waiting=10.0, ready_replicas=2)

    # Two more after 50 s: the queue grows for half the time only.
    assert foreseen(demand, Supply(ready=2, coming_seconds=(50.0, 50.0))).waiting == pytest.approx(210.0)


@given(
    waiting=st.floats(0.0, 1e5),
    rate=st.floats(0.0, 1e3),
    ready=st.integers(0, 50),
    coming=st.lists(st.floats(0.0, 300.0), max_size=20),
)
def test_law_another_replica_on_its_way_never_makes_the_queue_longer(
    waiting: float, rate: float, ready: int, coming: list[float]
) -> None:
    demand = a_demand(arrival_rate_per_second=rate, waiting=waiting, ready_replicas=ready)
    few = foreseen(demand, Supply(ready=ready, coming_seconds=tuple(sorted(coming[1:]))))
    more = foreseen(demand, Supply(ready=ready, coming_seconds=tuple(sorted(coming))))

    assert 0.0 <= more.waiting <= few.waiting + 1e-6


# --- capacity from partial load


def test_should_estimate_a_capacity_before_any_replica_was_full() -> None:
    # Two replicas run 8 each and serve 4 per second: a request takes 4 s at a quarter of the batch; in a full batch twice as long.
    half_full = tuple(Flow(at=NOW - 60.0 + 2.0 * tick, arrivals=8.0, finished=8.0, running=16.0) for tick in range(31))
    promised = ServiceProfile(requests_per_second=None, concurrency=32.0, startup_seconds=100.0, measured=False)

    found = with_estimate(promised, a_state(flows=half_full), ready_replicas=2)

    assert found.requests_per_second == pytest.approx(32.0 / (4.0 * 3.0 / 1.5))


def test_should_estimate_nothing_where_a_capacity_is_known_or_little_was_seen() -> None:
    unknown = replace(PROFILE, requests_per_second=None)

    assert with_estimate(PROFILE, a_state(flows=flows([5.0] * 20)), ready_replicas=2) == PROFILE
    assert with_estimate(unknown, a_state(flows=flows([5.0] * 20)), ready_replicas=2) == unknown


def test_should_believe_what_a_full_replica_did_more_than_what_others_half_full_suggest() -> None:
    # Long prompts one after the other fill a replica with few requests; a batch with room says nothing of that.
    calm = tuple(Flow(at=NOW - 60.0 + 2.0 * tick, arrivals=8.0, finished=8.0, running=16.0) for tick in range(31))
    measured = replace(PROFILE, requests_per_second=0.5)

    assert with_estimate(measured, a_state(flows=calm), ready_replicas=2) == measured


# --- what is said


def test_should_say_that_an_expected_demand_is_met() -> None:
    deployment, replica, state, told = a_deployment(maximum_replicas=12), a_replica(0), State(), []
    for tick in range(75):
        now, rate = NOW + TICK_SECONDS * tick, min(10.0, 2.0 + 0.08 * tick)
        finished = sum(min(10.0, 2.0 + 0.08 * earlier) * TICK_SECONDS for earlier in range(tick))
        sample = a_sample(replica, at=now, running=2.0 * rate, finished_total=finished)
        inputs = some_inputs(now=now, deployments=(deployment,), replicas=(replica,), samples=(sample,))
        found, state = plan(inputs, state)
        told += [decision.message for decision in found.decisions if "are expected" in decision.message]

    assert told
    assert re.search(r"needed in 10 s, when [\d.]+ requests per second are expected \([\d.]+ now\)", told[0])

"""A latency target is a share of requests: what may be missed, what was, and which replicas are not bought for it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, a_deployment, a_replica, a_sample, said, some_inputs
from fleetpack.api.conditions import Reason
from fleetpack.core.demand import Demand
from fleetpack.core.deployments import LatencyTarget
from fleetpack.core.forecast import DemandForecast, Supply
from fleetpack.core.inputs import Plan
from fleetpack.core.latency import beyond, remember_misses
from fleetpack.core.misses import Serving, let_miss
from fleetpack.core.planner import plan
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.sizing import Recommendation
from fleetpack.core.state import DeploymentState, Flow, Misses, State

TARGET = LatencyTarget(ttft_seconds=2.0, percentile=95.0)
COUNTS = ((1.0, 90.0), (3.0, 8.0), (math.inf, 2.0))
LATELY = Misses(since=NOW - 7200.0, at=NOW, ttft_seconds=2.0, requests=4000.0, missed=20.0)
"""100 of 4000 requests may be missed on purpose, 80 of them still."""


def a_state(misses: Misses | None = LATELY, rate_per_second: float = 1.0, **changes: object) -> DeploymentState:
    """Two minutes of a constant load, on which no growth has ever come true."""
    counted = tuple(
        Flow(at=NOW - 120.0 + 2.0 * tick, arrivals=2.0 * rate_per_second, finished=0.0) for tick in range(61)
    )
    state = DeploymentState(deployment="default/chat", flows=counted, misses=misses)
    return replace(without_trust(state), **changes)  # type: ignore[arg-type]


def without_trust(state: DeploymentState) -> DeploymentState:
    return replace(state, trend_agreement=-10.0, trend_evidence=10.0)


def a_burst(**changes: object) -> DemandForecast:
    """Some seconds of it: 5 requests per second, give or take 2."""
    demand = Demand(
        arrival_rate_per_second=5.0,
        rate_deviation_per_second=2.0,
        waiting=20.0,
        running=32.0,
        ready_replicas=1,
        complete=True,
        rate_known=True,
    )
    demand = replace(demand, **changes)  # type: ignore[arg-type]
    return DemandForecast(demand=demand, horizon_seconds=100.0, arrival_rate_per_second=5.0, waiting=320.0)


def a_model(**changes: object) -> Serving:
    profile = ServiceProfile(requests_per_second=2.0, concurrency=32.0, startup_seconds=100.0, measured=True)
    serving = Serving(target=TARGET, profile=profile, supply=Supply(ready=1), wanted=1)
    return replace(serving, **changes)  # type: ignore[arg-type]


def asked(replicas: int, keep_replicas: int) -> Recommendation:
    return Recommendation(
        replicas=replicas, keep_replicas=keep_replicas, bound_by=Reason.DEMAND_ABOVE_CAPACITY, factors=()
    )


def shortened(found: Recommendation) -> tuple[int, int, str]:
    return found.replicas, found.keep_replicas, found.bound_by


# --- what was missed


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 10.0), (2.0, 6.0), (3.0, 2.0), (10.0, 2.0), (0.0, 100.0)])
def test_should_count_what_took_longer(seconds: float, expected: float) -> None:
    assert beyond(COUNTS, seconds) == pytest.approx(expected)


def test_should_remember_the_share_that_missed_the_target_for_about_an_hour() -> None:
    first = remember_misses(None, COUNTS, TARGET, NOW)
    later = remember_misses(first, (), TARGET, NOW + 1800.0)

    assert first == Misses(since=NOW, at=NOW, ttft_seconds=2.0, requests=100.0, missed=6.0)
    assert later == Misses(since=NOW, at=NOW + 1800.0, ttft_seconds=2.0, requests=50.0, missed=3.0)


def test_should_begin_anew_with_another_target_and_count_nothing_without_one() -> None:
    stricter = LatencyTarget(ttft_seconds=1.0)

    assert remember_misses(LATELY, COUNTS, stricter, NOW) == Misses(
        since=NOW, at=NOW, ttft_seconds=1.0, requests=100.0, missed=10.0
    )
    assert remember_misses(LATELY, COUNTS, None, NOW) is None
    assert remember_misses(None, (), TARGET, NOW) is None


# --- what may be missed


def test_should_start_no_replica_for_a_burst_that_may_be_missed() -> None:
    found = let_miss(asked(3, 4), a_burst(), a_model(), a_state(), NOW)

    assert shortened(found) == (1, 1, Reason.MISSES_WITHIN_TARGET)
    assert {factor.name: factor.value for factor in found.factors} == {
        "replicas_without_misses": 3.0,
        "missed_percent": 0.5,
        "permitted_percent": 5.0,
    }


def test_should_keep_a_surplus_replica_only_as_far_as_it_is_needed() -> None:
    two = a_model(supply=Supply(ready=2), wanted=2)

    found = let_miss(asked(1, 2), a_burst(waiting=0.0), two, a_state(), NOW)

    assert shortened(found) == (1, 1, Reason.DEMAND_ABOVE_CAPACITY)


@pytest.mark.parametrize(
    ("expected", "serving", "state"),
    [
        pytest.param(a_burst(waiting=81.0), a_model(), a_state(), id="more wait than may be missed"),
        pytest.param(
            a_burst(rate_deviation_per_second=0.0), a_model(), a_state(), id="surely too much for a lead time"
        ),
        pytest.param(a_burst(), a_model(), a_state(rate_per_second=3.0), id="too much for two minutes already"),
        pytest.param(a_burst(), a_model(), a_state(replace(LATELY, missed=100.0)), id="all is spent"),
        pytest.param(
            a_burst(), a_model(), a_state(replace(LATELY, since=NOW - 1700.0)), id="counted for too short a time"
        ),
        pytest.param(a_burst(), a_model(), a_state(None), id="nobody counts"),
        pytest.param(a_burst(complete=False), a_model(), a_state(), id="a part of the numbers is missing"),
        pytest.param(a_burst(rate_known=False), a_model(), a_state(), id="the rate is not known"),
        pytest.param(a_burst(), a_model(supply=Supply(ready=0)), a_state(), id="nothing serves"),
        pytest.param(a_burst(), a_model(target=None), a_state(), id="no target"),
        pytest.param(a_burst(), a_model(), a_state(trend_agreement=20.0), id="growth comes true"),
    ],
)
def test_should_let_nothing_miss_where_it_is_too_much_or_not_known(
    expected: DemandForecast, serving: Serving, state: DeploymentState
) -> None:
    recommendation = asked(3, 4)

    assert let_miss(recommendation, expected, serving, state, NOW) == recommendation


@given(
    needed=st.integers(0, 30),
    margin=st.integers(0, 5),
    ready=st.integers(0, 30),
    waiting=st.floats(0.0, 500.0),
    missed=st.floats(0.0, 200.0),
    more=st.floats(0.0, 200.0),
)
def test_law_never_more_than_asked_for_nor_less_than_there_is_and_never_fewer_after_more_misses(
    needed: int, margin: int, ready: int, waiting: float, missed: float, more: float
) -> None:
    expected, recommendation = a_burst(waiting=waiting), asked(needed, needed + margin)
    serving = a_model(supply=Supply(ready=ready), wanted=ready)
    few, many = (
        let_miss(recommendation, expected, serving, a_state(replace(LATELY, missed=count)), NOW)
        for count in (missed, missed + more)
    )

    assert few.replicas <= few.keep_replicas <= needed + margin
    assert min(needed, ready) <= few.replicas <= needed
    assert (few.replicas, few.keep_replicas) <= (many.replicas, many.keep_replicas)


# --- what is said


def passes(state: State, count: int, per_second: float, waiting: float = 0.0) -> tuple[Plan, State]:
    deployment, found, began = a_deployment(latency_target=TARGET), Plan(), state.last_now or NOW - 2.0
    before = next((r.finished_total or 0.0 for entry in state.deployments for r in entry.readings), 0.0)
    for tick in range(1, count + 1):
        finished = before + 2.0 * per_second * tick
        sample = a_sample(
            a_replica(),
            at=began + 2.0 * tick,
            waiting=waiting,
            running=8.0,
            finished_total=finished,
            ttft_buckets=((0.5, finished), (math.inf, finished)),
        )
        inputs = some_inputs(
            now=began + 2.0 * tick, deployments=(deployment,), replicas=(a_replica(),), samples=(sample,)
        )
        found, state = plan(inputs, state)
    return found, state


@pytest.fixture(scope="module")
def quiet() -> State:
    """What is remembered after half an hour of a constant load, which one replica serves."""
    _, state = passes(State(), 950, per_second=1.0)
    return state


def test_should_say_in_its_reason_that_it_lets_requests_miss(quiet: State) -> None:
    state = replace(quiet, deployments=tuple(without_trust(entry) for entry in quiet.deployments))

    found, _ = passes(state, 5, per_second=6.0)

    assert (said(found), found.decisions[0].reason) == ([], Reason.MISSES_WITHIN_TARGET)
    assert found.decisions[0].message == (
        "1 kept, 2 needed to miss less; 0 % of requests missed spec.scaling.latencyTarget lately, 5 % may"
    )


def test_should_answer_the_same_burst_while_growth_may_still_be_foreseen(quiet: State) -> None:
    found, _ = passes(quiet, 5, per_second=6.0)

    assert found.deployments[0].desired_replicas == 2

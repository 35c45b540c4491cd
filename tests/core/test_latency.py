"""The latency target and the cost target: formulas against simulation and tables, then what they make of the number of replicas."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, QUEUE, a_deployment, a_node, a_replica, a_sample, a_variant, said, some_inputs
from fleetpack.api.conditions import Reason
from fleetpack.core.decision import SetScale
from fleetpack.core.deployments import Deployment, LatencyTarget
from fleetpack.core.fleet import Replica
from fleetpack.core.inputs import Plan
from fleetpack.core.latency import Counts, increase, percentile_seconds, remember_unqueued
from fleetpack.core.planner import plan
from fleetpack.core.queueing import replicas_for_wait, wait_seconds, waiting_probability
from fleetpack.core.samples import Sample
from fleetpack.core.state import Reading, State

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, math.inf)


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (3, 3.0, 1.0), (4, 0.0, 0.0)],
)
def test_should_give_erlangs_table(servers: int, load: float, expected: float) -> None:
    assert waiting_probability(servers, load) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 3.2), (16, 14.0)])
def test_should_predict_the_wait_that_a_simulated_queue_has(servers: int, load: float) -> None:
    drawn = random.Random(7)
    free = [0.0] * servers
    now, waits = 0.0, []
    for _ in range(120_000):
        now += drawn.expovariate(load)
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        heapq.heappush(free, start + drawn.expovariate(1.0))

    found = sorted(waits)[int(0.95 * len(waits))]

    assert wait_seconds(load, float(servers), servers, 0.95) == pytest.approx(found, rel=0.12)


@given(
    arrivals=st.floats(0.01, 200.0),
    capacity=st.floats(0.05, 20.0),
    servers=st.integers(1, 64),
    fraction=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
    allowed=st.floats(0.01, 30.0),
)
@settings(deadline=None)
def test_law_the_number_of_replicas_is_the_least_that_keeps_the_wait(
    arrivals: float, capacity: float, servers: int, fraction: float, allowed: float
) -> None:
    found = replicas_for_wait(arrivals, capacity, servers, fraction=fraction, wait_at_most_seconds=allowed)

    assert wait_seconds(arrivals / found, capacity, servers, fraction) <= allowed
    if found > 1:
        assert wait_seconds(arrivals / (found - 1), capacity, servers, fraction) > allowed


def histogram(counts: dict[float, float]) -> Counts:
    """Return the cumulative histogram of requests by bucket."""
    total, buckets = 0.0, []
    for bound in BOUNDS:
        total += counts.get(bound, 0.0)
        buckets.append((bound, total))
    return tuple(buckets)


def a_reading(counts: dict[float, float]) -> Reading:
    return Reading(signal="engine", pod_uid="u", at=NOW, ttft_buckets=histogram(counts))


def buckets_sample(counts: dict[float, float]) -> Sample:
    return a_sample(a_replica(), ttft_buckets=histogram(counts))


def test_should_count_what_came_between_two_readings() -> None:
    came = dict(increase(buckets_sample({0.25: 5, 1.0: 9}), a_reading({0.25: 3, 1.0: 4})))

    assert {bound: count for bound, count in came.items() if count} == {0.25: 2.0, 1.0: 5.0}


def test_should_count_from_zero_after_a_restart_of_the_engine() -> None:
    came = dict(increase(buckets_sample({0.25: 5}), a_reading({0.25: 300})))

    assert {bound: count for bound, count in came.items() if count} == {0.25: 5.0}


def test_should_interpolate_percentiles_as_prometheus_does() -> None:
    counts = ((0.25, 50.0), (0.5, 50.0), (1.0, 100.0))

    assert percentile_seconds(counts, 75) == pytest.approx(0.75)
    assert percentile_seconds(((0.25, 50.0), (math.inf, 50.0)), 90) == 0.25


def test_should_say_nothing_of_a_percentile_beyond_which_too_few_requests_lie() -> None:
    assert percentile_seconds(((0.25, 99.0),), 95) is None
    assert percentile_seconds(((0.25, 100.0),), 95) is not None


def test_should_follow_prompts_that_grow_longer() -> None:
    known: Counts = ((0.25, 10_000.0),)
    for _ in range(100):
        known = remember_unqueued(known, ((1.0, 200.0),))

    assert percentile_seconds(known, 50) == pytest.approx(0.625, abs=0.2)


class Load:
    """One model with engines that report histograms; each pass is two seconds."""

    def __init__(self, deployment: Deployment, replicas: tuple[Replica, ...], waiting: float = 0.0) -> None:
        self.deployment, self.replicas, self.waiting = deployment, replicas, waiting
        self.counts: dict[float, float] = {}
        self.state, self.now, self.finished = State(), NOW, 0.0

    def pass_by(self, passes: int, per_second: float, ttft_bucket: float) -> Plan:
        found = Plan()
        for _ in range(passes):
            self.now += 2.0
            self.finished += 2.0 * per_second
            self.counts[ttft_bucket] = self.counts.get(ttft_bucket, 0.0) + 2.0 * per_second
            samples = tuple(
                a_sample(
                    replica,
                    at=self.now,
                    waiting=self.waiting,
                    running=1.0,
                    finished_total=self.finished,
                    ttft_buckets=histogram(self.counts),
                )
                for replica in self.replicas
            )
            inputs = some_inputs(
                now=self.now,
                deployments=(self.deployment,),
                nodes=tuple(a_node(f"node-{letter}") for letter in "abcdef"),
                replicas=self.replicas,
                samples=samples,
            )
            found, self.state = plan(inputs, self.state)
            scales = [action.replicas for action in found.actions if isinstance(action, SetScale)]
            self.deployment = replace(self.deployment, replicas=scales[-1] if scales else self.deployment.replicas)
        return found


def promising(ttft_seconds: float, percentile: float = 95.0, **changes: object) -> Deployment:
    target = LatencyTarget(ttft_seconds=ttft_seconds, percentile=percentile)
    return a_deployment(latency_target=target, maximum_replicas=30, **changes)


def wanted(found: Plan) -> int:
    return found.deployments[0].desired_replicas


def test_should_take_more_replicas_for_a_shorter_promise() -> None:
    # One replica serves 10 a second, one at a time: Erlang C with one server, so the wait decides and not the capacity.
    variant = a_variant(prior_requests_per_second=10.0, prior_concurrency=1)
    sizes = []
    for ttft_seconds in (20.0, 1.0, 0.3):
        load = Load(promising(ttft_seconds, variants=(variant,)), (a_replica(),))
        sizes.append(wanted(load.pass_by(20, per_second=8.0, ttft_bucket=0.1)))

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    # Surely 7.2 a second; ln((0.72 / n) / 0.05) / (10 - 7.2 / n) <= 0.3 s less the engine's own 0.095 s first holds for 4.
    assert sizes[-1] == 4


def test_should_name_the_promise_that_bound_the_number() -> None:
    variant = a_variant(prior_requests_per_second=10.0, prior_concurrency=1)
    load = Load(promising(0.3, variants=(variant,)), (a_replica(),))

    found = load.pass_by(20, per_second=8.0, ttft_bucket=0.1)

    assert "spec.scaling.latencyTarget" in found.decisions[0].message
    names = [factor.name for factor in found.decisions[0].factors]
    assert {"ttft_target_seconds", "ttft_seconds", "ttft_unqueued_seconds"} <= set(names)


def test_should_add_one_where_the_measured_percentile_is_above_its_target_although_nobody_waits() -> None:
    load = Load(promising(2.0, replicas=2), (a_replica(), a_replica(1, "8-15")))

    before = wanted(load.pass_by(60, per_second=1.0, ttft_bucket=0.5))
    # The engine's own time is known by now; then the same load takes longer, now and then with a request that waits.
    after = Plan()
    for passes in range(32):
        load.waiting = float(passes % 2)
        after = load.pass_by(1, per_second=1.0, ttft_bucket=5.0)

    assert before == 2
    assert wanted(after) == 3
    assert said(after) == ["create chat-tp8-2 on node-b cores 0-7"]


def test_should_let_the_queue_decide_where_no_latency_is_measured() -> None:
    with_target, without = promising(2.0, signals=(QUEUE,)), a_deployment(maximum_replicas=30, signals=(QUEUE,))
    plans = []
    for deployment in (with_target, without):
        sample = Sample(
            deployment="default/chat",
            signal="inbox",
            pod_uid="",
            observed_at=NOW,
            waiting=40.0,
            running=None,
            finished_total=None,
            arrival_rate_per_second=None,
            ttft_seconds=None,
        )
        found, _ = plan(some_inputs(deployments=(deployment,), replicas=(a_replica(),), samples=(sample,)), State())
        plans.append(wanted(found))

    assert plans[0] == plans[1] > 1


def test_should_believe_a_source_that_measures_the_percentile_itself() -> None:
    signal = replace(QUEUE, name="p95", measures="ttft")
    deployment = promising(1.0, signals=(QUEUE, signal))
    base = {"deployment": "default/chat", "pod_uid": "", "observed_at": NOW, "running": None, "finished_total": None}
    numbers = (
        Sample(**base, signal="inbox", waiting=1.0, arrival_rate_per_second=None, ttft_seconds=None),
        Sample(**base, signal="p95", waiting=None, arrival_rate_per_second=None, ttft_seconds=1.7),
    )

    found, _ = plan(some_inputs(deployments=(deployment,), replicas=(a_replica(),), samples=numbers), State())

    assert (wanted(found), found.decisions[0].reason) == (2, Reason.LATENCY_ABOVE_TARGET)


def test_should_say_that_no_number_of_replicas_keeps_a_promise_below_the_engines_own_time() -> None:
    load = Load(promising(0.05), (a_replica(),))

    found = load.pass_by(100, per_second=1.0, ttft_bucket=0.5)

    [active] = [one for one in found.deployments[0].conditions if one.type == "ScalingActive"]
    assert active.message.endswith("the engines alone, without any queue, take longer")
    assert wanted(found) == 1


def priced(target: float | None, **changes: object) -> Deployment:
    variant = a_variant(prior_requests_per_second=10.0, prior_concurrency=1)
    return promising(0.12, variants=(variant,), target_usd_per_million_requests=target, **changes)


def test_should_buy_no_more_latency_than_the_cost_target_pays_for_and_never_less_than_the_demand_needs() -> None:
    # A replica is a third of an inf2.48xlarge, 4.327 USD per hour; 8 requests a second are 28,800 an hour.
    sizes = {}
    reasons = {}
    for target in (None, 600.0, 310.0, 1.0):
        load = Load(priced(target), (a_replica(),))
        found = load.pass_by(20, per_second=8.0, ttft_bucket=0.1)
        sizes[target] = wanted(found)
        reasons[target] = found.decisions[0].reason

    assert sizes[None] > sizes[600.0] > sizes[310.0] >= sizes[1.0] >= 1
    assert reasons[600.0] == Reason.COST_TARGET


def test_should_keep_the_minimum_whatever_the_cost_target_says() -> None:
    load = Load(priced(1.0, minimum_replicas=3), (a_replica(),))

    assert wanted(load.pass_by(20, per_second=8.0, ttft_bucket=0.1)) == 3

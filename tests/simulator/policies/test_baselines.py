"""Each baseline does first what its original's documentation or own tests say it does."""

from __future__ import annotations

import pytest

from fleetpack_simulator.policies.aibrix import AibrixAutoscaler, guarded
from fleetpack_simulator.policies.aibrix import recommendation as aibrix_recommendation
from fleetpack_simulator.policies.dynamo import LATENCY, DynamoAutoscaler, load_decision
from fleetpack_simulator.policies.knative import KnativeAutoscaler
from fleetpack_simulator.policies.kubeai import KubeaiAutoscaler, MovingAverage
from fleetpack_simulator.policies.kubernetes import (
    Behavior,
    KedaAutoscaler,
    QueueDepthAutoscaler,
    ScalingPolicy,
    Unit,
    per_pod_recommendation,
)
from fleetpack_simulator.policies.llm_d import (
    ReplicaLoad,
    SpareCapacityAutoscaler,
    TokenAutoscaler,
    spare_capacity_decision,
    token_decision,
)
from fleetpack_simulator.policies.ray_serve import RayServeAutoscaler
from fleetpack_simulator.policies.static import StaticPolicy
from policy_views import MODEL, model_view, pod_view, targets, view


def test_should_keep_the_number_when_static() -> None:
    assert StaticPolicy(3).decide(view(0.0, model_view(1, outstanding=1000))) == {MODEL: 3}


# kubernetes.io, "Horizontal Pod Autoscaling", Algorithm details: 200m against 100m doubles, 50m halves, 0.1 is tolerated.
@pytest.mark.parametrize(("value", "expected"), [(0.2, 8), (0.05, 2), (0.11, 4), (0.09, 4), (0.111, 5)])
def test_should_scale_by_the_ratio_like_hpa(value: float, expected: int) -> None:
    values = {f"pod-{index}": value for index in range(4)}
    assert per_pod_recommendation(values, 0.1, current=4) == expected


# kubernetes.io, Algorithm details: Pods that are not ready count as 0 on the way up, and never turn the direction around.
def test_should_count_starting_pods_as_idle_on_the_way_up_like_hpa() -> None:
    assert per_pod_recommendation({"a": 0.4, "b": 0.4}, 0.2, current=3, pending=1) == 4
    assert per_pod_recommendation({"a": 0.25, "b": 0.25}, 0.2, current=3, pending=1) == 3


# The same place and calcPlainMetricReplicas: on the way down Pods without a metric count as the target, pending ones not at all.
@pytest.mark.parametrize(("missing", "pending", "expected"), [(0, 0, 1), (2, 0, 3), (0, 2, 1), (1, 1, 2)])
def test_should_take_silent_pods_for_busy_on_the_way_down_like_hpa(missing: int, pending: int, expected: int) -> None:
    values = {"a": 1.0, "b": 1.0}
    assert per_pod_recommendation(values, 2.0, current=4, missing=missing, pending=pending) == expected


# calcPlainMetricReplicas over a rollout that waits for machines: 8 of 10 Pods are pending, so the two that are full ask for no fewer.
def test_should_count_replicas_without_a_machine_as_pending_pods_like_hpa() -> None:
    autoscaler = QueueDepthAutoscaler()
    full = tuple(pod_view(index, waiting=2.0) for index in range(2))
    wanted = {at: autoscaler.decide(float(at), model_view(pods=full, desired_replicas=10)) for at in range(0, 600, 15)}
    assert set(wanted.values()) == {10}


# calculateScaleUpLimitWithScalingRules: a period began with the replicas before all of its changes, of either direction.
def test_should_count_what_was_taken_away_in_the_same_period_like_hpa() -> None:
    behavior = Behavior(
        up=(ScalingPolicy(unit=Unit.PODS, value=4, period_seconds=60.0),), down_stabilization_seconds=0.0
    )
    assert [behavior.apply(0.0, 10, 2), behavior.apply(15.0, 2, 30), behavior.apply(60.0, 14, 30)] == [2, 14, 14]


# kubernetes.io, "Scaling policies": 4 Pods or 10 % a minute, from 80 to 10: 8 go first, then 8 of 72 (7.2 rounded up), by 4 below 40.
def test_should_shrink_by_the_larger_of_two_policies_like_hpa() -> None:
    behavior = Behavior(
        down=(
            ScalingPolicy(unit=Unit.PODS, value=4, period_seconds=60.0),
            ScalingPolicy(unit=Unit.PERCENT, value=10, period_seconds=60.0),
        ),
        down_stabilization_seconds=0.0,
    )
    current, seen = 80, [80]
    for minute in range(14):
        current = behavior.apply(60.0 * minute, current, 10)
        seen.append(current)
    assert seen == [80, 72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10]


# kubernetes.io, "Default behavior": 4 Pods or 100 % in 15 s on the way up.
def test_should_grow_by_four_or_double_in_fifteen_seconds_like_hpa() -> None:
    behavior = Behavior()
    current, seen = 1, [1]
    for sync in range(4):
        current = behavior.apply(15.0 * sync, current, 100)
        seen.append(current)
    assert seen == [1, 5, 10, 20, 40]


def test_should_wait_three_hundred_seconds_before_it_shrinks_like_hpa() -> None:
    autoscaler = QueueDepthAutoscaler()
    busy = model_view(pods=tuple(pod_view(index, waiting=1.0) for index in range(4)))
    assert autoscaler.decide(0.0, busy) == 4
    idle = model_view(4)
    wanted = {at: autoscaler.decide(float(at), idle) for at in range(15, 331, 15)}
    assert next(at for at, replicas in wanted.items() if replicas == 1) == 300
    assert wanted[285] == 4


# keda.sh, "Scaling Deployments": polled each 30 s at zero; cooldownPeriod 300 s after the last active trigger, only from one to zero.
def test_should_wake_at_the_poll_and_sleep_after_the_cooldown_like_keda() -> None:
    autoscaler = KedaAutoscaler(10.0)
    assert autoscaler.decide(0.0, model_view(0)) is None
    waiting = model_view(0, outstanding=3)
    assert [autoscaler.decide(15.0, waiting), autoscaler.decide(30.0, waiting)] == [None, 1]
    idle = model_view(1)
    first = next(at for at in range(45, 600, 15) if autoscaler.decide(float(at), idle) == 0)
    assert first == 30 + 330


# knative/serving autoscaler_test.go, TestAutoscalerStableModeDecrease and TestAutoscalerPanicModeExponentialTrackAndStablize.
def test_should_follow_the_stable_window_down_like_knative() -> None:
    autoscaler = KnativeAutoscaler(10.0)
    # From one replica, so that it does not begin in panic.
    assert autoscaler.scale(0.0, 10.0, 10.0, 1) == 1
    assert [autoscaler.scale(2.0, 100.0, 100.0, 8), autoscaler.scale(4.0, 50.0, 50.0, 8)] == [10, 5]


def test_should_track_an_exponential_burst_in_panic_like_knative() -> None:
    autoscaler = KnativeAutoscaler(1.0)
    seen, ready = [], 1
    for second, load in enumerate((6.0, 36.0, 216.0, 1296.0, 1296.0)):
        ready = autoscaler.scale(float(second), load, load, ready)
        seen.append(ready)
    assert seen == [6, 36, 216, 1296, 1296]


# knative/serving autoscaler_test.go, TestAutoscalerPanicThenUnPanicScaleDown.
def test_should_not_shrink_in_panic_and_calm_down_after_a_stable_window_like_knative() -> None:
    autoscaler = KnativeAutoscaler(10.0)
    assert autoscaler.scale(0.0, 100.0, 100.0, 1) == 10
    assert autoscaler.scale(1.0, 100.0, 1000.0, 10) == 100
    assert autoscaler.scale(31.0, 1.0, 1.0, 10) == 100
    assert autoscaler.scale(62.0, 1.0, 1.0, 1) == 1


# vllm-project/aibrix apa_test.go, TestAPAAlgorithm_ComputeTargetReplicas.
@pytest.mark.parametrize(
    ("current", "use", "expected"),
    [(2, 45, 3), (2, 35, 3), (2, 90, 4), (6, 20, 4), (6, 18, 4), (6, 10, 3), (2, 33, 2), (2, 27, 2)],
)
def test_should_scale_by_use_per_pod_like_aibrix(current: int, use: float, expected: int) -> None:
    assert aibrix_recommendation(current, use, 30.0) == expected


# autoscaler_pending_guard: TestComputeDesiredReplicasAdjustsKPAAPAConservativelyWhenReplicasPending and ...WhenNoReplicasPending.
@pytest.mark.parametrize(("use", "ready", "expected"), [(90, 2, 4), (10, 2, 3), (90, 4, 8)])
def test_should_take_replicas_on_their_way_into_account_like_aibrix(use: float, ready: int, expected: int) -> None:
    assert guarded(4, ready, use, 50.0) == expected


def test_should_not_double_again_while_replicas_start_like_aibrix() -> None:
    autoscaler = AibrixAutoscaler(10.0)
    busy = (pod_view(0, running=10.0, waiting=20.0),)
    seen = [
        autoscaler.decide(10.0 * tick, model_view(pods=busy, desired_replicas=2 if tick else 1)) for tick in range(6)
    ]
    # Thirty requests for a target of ten are three replicas, however long the second and third take to start.
    assert seen == [2, 3, 3, 3, 3, 3]


def test_should_hold_for_the_cooldown_on_the_way_down_like_aibrix() -> None:
    autoscaler = AibrixAutoscaler(10.0)
    busy = model_view(pods=tuple(pod_view(index, running=10.0) for index in range(4)))
    assert autoscaler.decide(0.0, busy) == 4
    wanted = {at: autoscaler.decide(float(at), model_view(4)) for at in range(10, 400, 10)}
    assert min(at for at, replicas in wanted.items() if replicas is not None and replicas < 4) == 300


# docs/saturation-analyzer.md, "Scale-Up Decision", "Scale-Down Safety Simulation" and the worked two-step example (2 ready: 3).
@pytest.mark.parametrize(
    ("loads", "wanted", "expected"),
    [
        (((0.75, 0), (0.72, 0)), 2, 3),
        (((0.40, 3), (0.40, 3)), 2, 3),
        (((0.75, 0), (0.72, 0)), 3, 3),
        (((0.90, 9),), 1, 2),
        (((0.40, 1), (0.40, 1)), 2, 2),
        (((0.30, 0), (0.30, 0)), 2, 1),
        (((0.20, 0),), 1, 1),
        # "Model in transition": what has been asked for stays, upwards and downwards.
        (((0.30, 0), (0.30, 0)), 5, 5),
        (((0.90, 9), (0.90, 9), (0.90, 9)), 2, 2),
    ],
)
def test_should_go_by_spare_capacity_like_wva_v1(
    loads: tuple[tuple[float, float], ...], wanted: int, expected: int
) -> None:
    replicas = [ReplicaLoad(kv_cache_usage=cache, waiting=queue) for cache, queue in loads]
    assert spare_capacity_decision(replicas, wanted) == expected


def test_should_add_one_replica_every_fifteen_seconds_at_most_like_wva_v1() -> None:
    autoscaler = SpareCapacityAutoscaler(targets())
    full = {"kv_cache_usage": 0.95, "waiting": 50.0}
    seen = []
    for cycle, ready in enumerate((1, 1, 2, 3)):
        pods = tuple(pod_view(index, **full) for index in range(ready))
        starting = 1 if cycle == 1 else 0
        shown = model_view(pods=pods, starting_replicas=starting, desired_replicas=ready + starting)
        seen.append(autoscaler.decide(15.0 * cycle, shown))
    assert seen == [2, 2, 3, 4]


# saturation_v2/analyzer_test.go, "k1/k2 interaction" and "k2 history": 16,000 tokens hold 12,800; 8,000 when full at 8,000, also later.
def test_should_learn_the_capacity_of_a_full_replica_like_wva_v2() -> None:
    autoscaler = TokenAutoscaler(targets(kv_capacity_tokens=16_000))
    seen = [autoscaler.capacity(5_000 / 16_000, 0), autoscaler.capacity(0.5, 6), autoscaler.capacity(6_000 / 16_000, 2)]
    assert seen == [12_800, 8_000, 8_000]


# saturation_v2/analyzer.go, `estimateCapacityFromParams`: min(8192 · O / (I + O), S) requests of their tokens, until a queue was full.
@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [(100.0, 50.0, 8 * 125.0), (8_000.0, 192.0, 8 * 8_096.0), (8_190.0, 2.0, 2 * 8_191.0)],
)
def test_should_derive_the_capacity_from_the_engines_arguments_like_wva_v2(
    prompt: float, output: float, expected: float
) -> None:
    asked = targets(
        prompt_tokens=prompt,
        output_tokens=output,
        maximum_ongoing_requests=8,
        tokens_per_request=prompt + output / 2,
        kv_capacity_tokens=1_000_000,
    )
    assert TokenAutoscaler(asked).capacity(0.001, 0) == expected


# saturation_v2/analyzer.go, Phase 4: demand / 0.85 over what is anticipated, demand / 0.70 under what is ready.
@pytest.mark.parametrize(
    ("ready", "demand", "starting", "expected"),
    [(1, 10_000, 0, 1), (1, 12_000, 0, 2), (1, 12_000, 1, 2), (2, 60_000, 0, 6), (4, 12_000, 0, 2), (3, 17_921, 0, 3)],
)
def test_should_go_by_tokens_like_wva_v2(ready: int, demand: float, starting: int, expected: int) -> None:
    assert token_decision([12_800.0] * ready, demand, starting) == expected


# saturation_v2/analyzer.go: required = demand / 0.85 - (ready + pending) x capacity, so that nothing is asked for twice while it
# starts; spare = ready x capacity - demand / 0.70; demand is tokens in use and the queue's prompts; 80 % of 16,000 tokens are a
# replica's capacity. The HPA behind it lets the highest wish of 60 s stand on the way down.
def test_should_go_up_once_wait_for_the_start_and_come_down_after_a_minute_like_wva_v2() -> None:
    autoscaler = TokenAutoscaler(targets())
    #        ready, starting, cache in use of each, waiting at each
    cycles = [
        (1, 0, 0.75, 0.0),  # 12,000 tokens want 14,118, there are 12,800: one more
        (1, 1, 0.75, 0.0),  # 25,600 are on their way: no second one
        (1, 1, 0.80, 6.0),  # 13,400 with the queue want 15,765: still none
        (2, 0, 0.35, 0.0),  # 11,200 leave 9,600 to spare, less than a replica
        (2, 0, 0.25, 0.0),  # 8,000 leave 14,171, more than one: from now on it wants one fewer
        (2, 0, 0.25, 0.0),
        (2, 0, 0.25, 0.0),
        (2, 0, 0.25, 0.0),  # the last wish for two is 60 s old: horizontal.go counts those after the cutoff
        (1, 0, 0.50, 0.0),  # 8,000 on one of 12,800: neither
    ]
    seen = []
    for cycle, (ready, starting, usage, waiting) in enumerate(cycles):
        pods = tuple(pod_view(index, kv_cache_usage=usage, waiting=waiting) for index in range(ready))
        shown = model_view(pods=pods, starting_replicas=starting, desired_replicas=ready + starting)
        seen.append(autoscaler.decide(15.0 * cycle, shown))
    assert seen == [2, 2, 2, 2, 2, 2, 2, 1, 1]


# saturation_v2/analyzer.go: several replicas at once where one is not enough, which V1 never does.
def test_should_ask_for_all_that_are_missing_at_once_like_wva_v2() -> None:
    autoscaler = TokenAutoscaler(targets())
    # 16,000 in use and 300 prompts of 100 want 54,118 tokens; full with a queue, the replica holds 12,800 of them.
    full = (pod_view(0, kv_cache_usage=1.0, waiting=300.0),)
    wanted = autoscaler.decide(0.0, model_view(pods=full))
    again = autoscaler.decide(15.0, model_view(pods=full, starting_replicas=4, desired_replicas=5))
    assert (wanted, again) == (5, 5)


# substratusai/kubeai internal/movingaverage/simple_test.go.
@pytest.mark.parametrize(
    ("samples", "values", "expected"),
    [(3, (1, 2, 3), 2), (3, (3, 2, 1), 2), (3, (3, 2, 1, 1, 1, 1), 1), (2, (2, 3), 2.5), (3, (2, 2, 2), 2)],
)
def test_should_average_a_ring_of_zeros_like_kubeai(samples: int, values: tuple[int, ...], expected: float) -> None:
    average = MovingAverage(samples)
    assert [average.add(value) for value in values][-1] == expected


# autoscaler.go and the chart's values: 60 samples of 10 s, so a step of 10 targets' worth is fully seen after ten minutes.
def test_should_reach_a_step_only_after_ten_minutes_like_kubeai() -> None:
    autoscaler = KubeaiAutoscaler(10.0)
    seen = [autoscaler.decide(10.0 * tick, model_view(1, outstanding=100)) for tick in range(60)]
    assert (seen[0], seen[6], seen[29], seen[53], seen[54], seen[59]) == (1, 2, 5, 9, 10, 10)


def test_should_go_down_at_the_fourth_request_in_a_row_like_kubeai() -> None:
    autoscaler = KubeaiAutoscaler(10.0)
    assert [autoscaler.decide(10.0 * tick, model_view(2)) for tick in range(4)] == [None, None, None, 0]


# ray-project/ray test_autoscaling_policy.py, test_upscale_downscale_delay.
def test_should_wait_for_both_delays_like_ray_serve() -> None:
    autoscaler = RayServeAutoscaler(1.0, interval_seconds=0.1)
    bounds = {"maximum_replicas": 2}
    assert autoscaler.scale(1.0, model_view(0, **bounds)) == 1
    ups = [autoscaler.scale(100.0, model_view(1, **bounds)) for _ in range(301)]
    assert (set(ups[:300]), ups[300]) == ({1}, 2)
    downs = [autoscaler.scale(0.0, model_view(2, **bounds)) for _ in range(6001)]
    assert (set(downs[:6000]), downs[6000]) == ({2}, 1)
    last = [autoscaler.scale(0.0, model_view(1, **bounds)) for _ in range(6001)]
    assert (set(last[:6000]), last[6000]) == ({1}, 0)


# The same test: one decision the other way begins the count anew.
def test_should_count_anew_after_a_decision_the_other_way_like_ray_serve() -> None:
    autoscaler = RayServeAutoscaler(1.0)
    for _ in range(15):
        autoscaler.scale(100.0, model_view(2, maximum_replicas=4))
    autoscaler.scale(0.0, model_view(2, maximum_replicas=4))
    again = [autoscaler.scale(100.0, model_view(2, maximum_replicas=4)) for _ in range(16)]
    assert again == [2] * 15 + [4]


# `current_num_replicas` are the running ones: from none it asks for one at once, and for no more until that one runs.
def test_should_ask_for_one_until_the_first_replica_runs_like_ray_serve() -> None:
    autoscaler = RayServeAutoscaler(1.0)
    seen = [autoscaler.scale(50.0, model_view(0, desired_replicas=1 if tick else 0)) for tick in range(60)]
    assert set(seen) == {1}
    runs = [autoscaler.scale(50.0, model_view(1)) for _ in range(16)]
    assert runs == [1] * 15 + [50]


# ai-dynamo/dynamo, tests of the builtin load plugin: any engine over its cache, 2 to 3; between 60 and 100 %, 2; all below, 1.
@pytest.mark.parametrize(("utilizations", "expected"), [((1.2, 0.3), 3), ((0.7, 0.7), 2), ((0.3, 0.2), 1)])
def test_should_go_by_the_fullest_cache_like_dynamo(utilizations: tuple[float, ...], expected: int) -> None:
    assert load_decision(utilizations, 2) == expected


# load_scaling.py, `_DECODE_LATENCY_SCALE_UP` and `_DECODE_LATENCY_SCALE_DOWN`: the same with 40 and 10 %.
@pytest.mark.parametrize(("utilizations", "expected"), [((0.41, 0.0), 3), ((0.4, 0.1), 2), ((0.09, 0.0), 1)])
def test_should_keep_engines_emptier_for_latency_like_dynamo(utilizations: tuple[float, ...], expected: int) -> None:
    assert load_decision(utilizations, 2, LATENCY) == expected


# load_scaling.py, `_advance_load_agg`, target `throughput`: nothing while `_scaling_in_progress` or where another number of engines
# tells something (`_reconcile_fpm_worker_count`); one more for any engine above 100 %, one fewer when all are below 60 %;
# `min_endpoint` 1.
def test_should_go_up_and_down_one_by_one_and_only_look_meanwhile_like_dynamo() -> None:
    autoscaler = DynamoAutoscaler(targets())
    #        asked for, starting, utilisation of each engine that tells one (20 waiting prompts of 100 are an eighth of 16,000)
    ticks: list[tuple[int, int, tuple[tuple[float, float], ...]]] = [
        (1, 0, ((0.9, 20.0),)),  # 102.5 %
        (2, 1, ((0.9, 40.0),)),  # under way
        (2, 0, ((0.9, 40.0),)),  # ready, and has not told anything yet
        (2, 0, ((0.9, 20.0), (0.1, 0.0))),  # any engine
        (3, 0, ((0.7, 0.0), (0.7, 0.0), (0.7, 0.0))),
        (3, 0, ((0.5, 0.0), (0.5, 0.0), (0.61, 0.0))),  # not all are below
        (3, 0, ((0.5, 0.0), (0.5, 0.0), (0.59, 0.0))),
        (2, 0, ((0.3, 0.0), (0.3, 0.0), (0.3, 0.0))),  # one has to go first
        (2, 0, ((0.4, 0.0), (0.5, 0.0))),
        (1, 0, ((0.0, 0.0),)),  # never below one
    ]
    seen = []
    for tick, (desired, starting, engines) in enumerate(ticks):
        pods = tuple(pod_view(index, kv_cache_usage=use, waiting=queue) for index, (use, queue) in enumerate(engines))
        shown = model_view(pods=pods, desired_replicas=desired, starting_replicas=starting)
        seen.append(autoscaler.decide(5.0 * tick, shown))
    assert seen == [2, None, None, 3, 3, 3, 2, None, 1, 1]


def test_should_only_look_while_a_change_is_under_way_like_dynamo() -> None:
    autoscaler = DynamoAutoscaler(targets())
    full = (pod_view(0, kv_cache_usage=0.99, waiting=10.0),)
    assert autoscaler.decide(0.0, model_view(pods=full)) == 2
    assert autoscaler.decide(5.0, model_view(pods=full, desired_replicas=2, starting_replicas=1)) is None

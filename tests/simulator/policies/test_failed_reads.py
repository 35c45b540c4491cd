"""What each baseline does while its reads fail, as its original does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from fleetpack_simulator.policies.aibrix import AibrixAutoscaler
from fleetpack_simulator.policies.controllers import Controller
from fleetpack_simulator.policies.dynamo import DynamoAutoscaler
from fleetpack_simulator.policies.knative import KnativeAutoscaler
from fleetpack_simulator.policies.kubeai import KubeaiAutoscaler
from fleetpack_simulator.policies.kubernetes import KedaAutoscaler, QueueDepthAutoscaler
from fleetpack_simulator.policies.llm_d import SpareCapacityAutoscaler, TokenAutoscaler
from fleetpack_simulator.policies.ray_serve import RayServeAutoscaler
from fleetpack_simulator.world import ModelView
from policy_views import model_view, pod_view, targets

TARGET = 10.0


def gateway(outstanding: float, replicas: int = 2, *, answered: bool = True) -> ModelView:
    return model_view(replicas, outstanding=outstanding, gateway_answered=answered)


def silent_pods(replicas: int, *, waiting: float = 0.0, silent: int | None = None) -> ModelView:
    """Pods of which some do not answer; what they last said is still there."""
    count = replicas if silent is None else silent
    pods = (pod_view(index, waiting=waiting, answered=index >= count) for index in range(replicas))
    return model_view(pods=tuple(pods))


def decided(controller: Controller, views: Iterable[tuple[float, ModelView]]) -> list[int | None]:
    return [controller.decide(at, view) for at, view in views]


# replica_calculator.go: without any metric there is an error and no new number; Pods without one count as 0 on the way up.
def test_should_keep_the_number_while_no_pod_answers_like_hpa() -> None:
    assert decided(QueueDepthAutoscaler(), [(0.0, silent_pods(2, waiting=9.0))]) == [None]


def test_should_take_silent_pods_for_idle_on_the_way_up_like_hpa() -> None:
    views = [silent_pods(4, waiting=4.0, silent=silent) for silent in (0, 2, 3)]
    assert [QueueDepthAutoscaler().decide(0.0, view) for view in views] == [8, 8, 4]


# scale_scaledobjects.go: an error without `fallback` neither activates nor counts down to zero; the HPA fails to get its metric.
def test_should_neither_wake_nor_sleep_nor_move_while_the_gateway_is_silent_like_keda() -> None:
    asleep = KedaAutoscaler(TARGET)
    assert decided(asleep, [(0.0, gateway(5.0, 0, answered=False)), (30.0, gateway(5.0, 0))]) == [None, 1]
    awake = KedaAutoscaler(TARGET)
    calm = [(15.0 * step, gateway(40.0, answered=False)) for step in range(1, 40)]
    assert decided(awake, [(0.0, gateway(20.0)), *calm]) == [2, *[None] * 39]


# bucketing.go, WindowAverage and IsEmpty.
def test_should_go_on_over_what_is_left_of_the_window_like_knative() -> None:
    views = [(2.0 * step, gateway(40.0, 1)) for step in range(5)]
    silent = [(2.0 * step, gateway(0.0, 1, answered=False)) for step in range(5, 40)]
    found = decided(KnativeAutoscaler(TARGET), [*views, *silent])
    # The last sample came in second 8, and is out of the stable window of a minute in second 68.
    assert (found[:34], found[34:]) == ([4] * 34, [None] * 6)


def test_should_take_a_gap_between_two_reports_for_idle_like_knative() -> None:
    gap = [(float(at), gateway(8.0, 8, answered=False)) for at in (5, 7, 9, 11)]
    views = [(1.0, gateway(1.0, 1)), (3.0, gateway(8.0, 8)), *gap, (13.0, gateway(8.0, 8))]
    # In the end the mean of 1, 8, four times nothing and 8 is 2.4, but at most half may go; without the gap it would be 5.7.
    assert decided(KnativeAutoscaler(1.0), views) == [1, *[5] * 5, 4]


# metrics/collector.go, CollectMetrics.
def test_should_average_over_the_pods_that_answer_like_aibrix() -> None:
    views = [silent_pods(4, waiting=20.0, silent=silent) for silent in (0, 3, 4)]
    assert [AibrixAutoscaler(TARGET).decide(0.0, view) for view in views] == [8, 8, None]


# registration: max_over_time(...[1m]).
@pytest.mark.parametrize("make", [SpareCapacityAutoscaler, TokenAutoscaler], ids=["v1", "v2"])
def test_should_believe_a_silent_pod_for_a_minute_and_then_nothing_like_wva(
    make: Callable[..., Controller],
) -> None:
    controller = make(targets())
    full = model_view(pods=tuple(pod_view(index, waiting=9.0, kv_cache_usage=0.95) for index in range(2)))
    lost = model_view(
        pods=tuple(pod_view(index, waiting=9.0, kv_cache_usage=0.95, answered=False) for index in range(2))
    )
    first, *others = decided(controller, [(0.0, full), *((15.0 * step, lost) for step in range(1, 7))])
    assert first is not None
    assert first > 2
    assert ([one is not None and one > 2 for one in others[:3]], others[3:]) == ([True] * 3, [None] * 3)


# autoscaler.go: an error of the aggregation ends the round, so the mean gets no sample.
def test_should_leave_out_a_round_like_kubeai() -> None:
    busy, silent = gateway(600.0, 1), gateway(600.0, 1, answered=False)
    views = [(0.0, busy), (10.0, silent), (20.0, silent), (30.0, busy)]
    assert decided(KubeaiAutoscaler(TARGET), views) == [1, None, None, 2]


# autoscaling_state.py: the last report counts until it is dropped after twice the interval of 10 s; then nobody asks for anything.
def test_should_believe_the_last_report_for_twenty_seconds_like_ray_serve() -> None:
    busy = [(2.0 * step, gateway(40.0)) for step in range(10)]
    silent = [(2.0 * step, gateway(0.0, answered=False)) for step in range(10, 400)]
    found = decided(RayServeAutoscaler(TARGET), [*busy, *silent])
    # More after 30 s of asking, of which the last 14 are without a report; then 20 s after the last one it counts down for 600 s.
    assert [index for index, wanted in enumerate(found) if wanted != 2] == [15, 15 + 4 + 300]


# FpmEventSubscriber: the last message of each engine counts until the engine is gone.
def test_should_go_on_with_the_last_word_of_each_engine_like_dynamo() -> None:
    full = model_view(pods=tuple(pod_view(index, kv_cache_usage=1.2, answered=False) for index in range(2)))
    assert DynamoAutoscaler(targets()).decide(0.0, full) == 3

"""What a pass and the caches leave in the metrics."""

from __future__ import annotations

from unittest.mock import Mock

from prometheus_client import generate_latest

from builders import some_inputs
from fleetpack.cluster.observing import MetricsObserver, show_reflectors
from fleetpack.cluster.reflector import Reflector
from fleetpack.core.planner import plan
from fleetpack.core.state import State
from fleetpack.telemetry.metrics import FleetMetrics


def series(metrics: FleetMetrics, name: str) -> dict[str, float]:
    """The values of a metric, by the value of its last label."""
    return {
        list(sample.labels.values())[-1]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_should_show_a_cache_that_was_never_filled_to_be_as_old_as_the_process() -> None:
    metrics = FleetMetrics()
    refused: Reflector[str] = Reflector(Mock(), "/api/v1/pods", str)
    filled = Mock(age_seconds=lambda now_seconds: now_seconds - 1038.0, counts=refused.counts)

    show_reflectors(metrics, {"pods": refused, "nodes": filled}, 1040.0, 1000.0)

    assert series(metrics, "fleetpack_reflector_age_seconds") == {"pods": 40.0, "nodes": 2.0}


def test_should_show_a_plan_and_nothing_of_it_once_another_process_leads() -> None:
    metrics = FleetMetrics()
    observer = MetricsObserver(metrics)
    inputs = some_inputs()
    found, state = plan(inputs, State())
    observer.planned(inputs, state, found, 0.001)
    shown = b'deployment="default/chat"' in generate_latest(metrics.registry)

    observer.forget()

    page = generate_latest(metrics.registry)
    assert (shown, b"default/chat" in page, b'pool="inferentia2"' in page) == (True, False, False)

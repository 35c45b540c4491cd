from __future__ import annotations

from prometheus_client import generate_latest

from builders import some_inputs
from fleetpack.cluster.observing import MetricsObserver
from fleetpack.core.planner import plan
from fleetpack.core.state import State
from fleetpack.telemetry.metrics import FleetMetrics


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

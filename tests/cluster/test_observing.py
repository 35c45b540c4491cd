"""What a pass and the caches leave in the metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import generate_latest

from builders import ENGINE, NOW, a_deployment, a_node, a_replica, a_sample, some_inputs
from fleetpack.cluster.observing import MetricsObserver, show_reflectors
from fleetpack.cluster.reflector import Reflector
from fleetpack.core.deployments import SignalSpecification
from fleetpack.core.fleet import ForeignPod, Node, Replica, ReplicaPhase, Resources
from fleetpack.core.observation import build_observation
from fleetpack.core.planner import plan
from fleetpack.core.state import DeploymentState, Reading, State
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


OUTSIDE = SignalSpecification(name="inbox", in_pods=False, measures="waiting", stale_after_seconds=30.0)


class Watched:
    """A fleet that is planned every ten seconds, and the number of sources that do not answer."""

    def __init__(self) -> None:
        self.now = NOW
        self.take_over()

    def take_over(self) -> None:
        """Go on as another process, which has seen nothing."""
        self.metrics = FleetMetrics()
        self.observer, self.state = MetricsObserver(self.metrics), State()

    def planned(self, replica: Replica, **numbers: Any) -> dict[str, float]:
        """Plan once; `numbers` are what the replica answers."""
        self.now += 10.0
        sample = a_sample(replica, at=self.now, **numbers)
        inputs = some_inputs(now=self.now, replicas=(replica,), samples=(sample,))
        found, state = plan(inputs, self.state)
        self.observer.planned(inputs, self.state, found, 0.001)
        self.state = state
        return series(self.metrics, "fleetpack_signal_silent_sources")


SILENT = {"waiting": None, "running": None, "finished_total": None, "error": "connection refused"}


def test_should_show_a_signal_that_has_never_answered() -> None:
    watched = Watched()
    shown = [watched.planned(a_replica(), **SILENT) for _ in range(60)]
    assert shown == [{"engine": 1.0}] * 60


def test_should_show_that_the_replica_which_follows_the_only_one_that_answered_does_not() -> None:
    watched = Watched()
    before = watched.planned(a_replica())
    after = [watched.planned(a_replica(1, cores="8-15"), **SILENT) for _ in range(3)]
    assert (before, after) == ({"engine": 0.0}, [{"engine": 1.0}] * 3)


def test_should_show_a_silent_signal_at_once_after_a_takeover() -> None:
    watched = Watched()
    watched.planned(a_replica())
    watched.planned(a_replica(), **SILENT)
    watched.take_over()
    assert watched.planned(a_replica(), **SILENT) == {"engine": 1.0}


def test_should_show_an_answer_as_long_as_it_is_fresh() -> None:
    watched = Watched()
    watched.planned(a_replica())
    # staleAfter is ten seconds, and what is just so old still counts.
    assert [watched.planned(a_replica(), **SILENT) for _ in range(2)] == [{"engine": 0.0}, {"engine": 1.0}]


def test_should_ask_nobody_where_no_replica_is_ready() -> None:
    metrics = FleetMetrics()
    inputs = some_inputs(replicas=(a_replica(phase=ReplicaPhase.STARTING),))
    found, _ = plan(inputs, State())
    MetricsObserver(metrics).planned(inputs, State(), found, 0.001)
    assert series(metrics, "fleetpack_signal_silent_sources") == {}


@pytest.mark.parametrize("phase", [ReplicaPhase.READY, ReplicaPhase.STARTING, ReplicaPhase.DRAINING])
@pytest.mark.parametrize("remembered", [None, 5.0, 40.0])
@pytest.mark.parametrize("answered", [None, "error", 0.0, 10.0, 11.0])
@pytest.mark.parametrize("outside", [None, 30.0, 31.0])
def test_should_count_as_silent_exactly_what_the_plan_misses(
    phase: ReplicaPhase, remembered: float | None, answered: str | float | None, outside: float | None
) -> None:
    deployment = a_deployment(signals=(ENGINE, OUTSIDE))
    replicas = (a_replica(phase=phase), a_replica(1, cores="8-15"))
    past = [] if remembered is None else [Reading(signal="engine", pod_uid=replicas[0].uid, at=NOW - remembered)]
    state = DeploymentState(deployment=deployment.key, readings=tuple(past))
    samples = [a_sample(replicas[1])]
    if answered is not None:
        numbers = SILENT if answered == "error" else {"at": NOW - float(answered)}
        samples.append(a_sample(replicas[0], **numbers))
    if outside is not None:
        samples.append(replace(a_sample(replicas[0], at=NOW - outside), signal="inbox", pod_uid=""))
    inputs = some_inputs(deployments=(deployment,), replicas=replicas, samples=tuple(samples))
    observed, _ = build_observation(deployment, replicas, inputs.samples, state, NOW)
    found, _ = plan(inputs, State(deployments=(state,)))
    metrics = FleetMetrics()

    MetricsObserver(metrics).planned(inputs, State(deployments=(state,)), found, 0.001)

    shown = series(metrics, "fleetpack_signal_silent_sources")
    assert sum(shown.values()) == observed.missing.count("signal ")


def a_node_that_offers(cores: int, **changes: Any) -> Node:
    return a_node(allocatable=replace(a_node().allocatable, accelerator_cores=cores), **changes)


@pytest.mark.parametrize(
    ("node", "shown"),
    [
        (a_node_that_offers(0), {"node-a": 1.0}),
        (a_node_that_offers(0, unhealthy_cores=0b11), {"node-a": 1.0}),
        (a_node_that_offers(2), {}),
        (a_node_that_offers(0, unhealthy_cores=(1 << 24) - 1), {}),
        (a_node_that_offers(0, unhealthy_devices=tuple(range(12))), {}),
        (a_node_that_offers(0, ready=False), {}),
        (a_node_that_offers(0, name="node-whole"), {}),
    ],
)
def test_should_show_a_node_that_no_device_plugin_serves(node: Node, shown: dict[str, float]) -> None:
    metrics = FleetMetrics()
    whole = ForeignPod(name="team/job", node="node-whole", requests=Resources(), whole_devices=12)
    inputs = some_inputs(nodes=(node,), foreign_pods=(whole,))
    found, _ = plan(inputs, State())

    MetricsObserver(metrics).planned(inputs, State(), found, 0.001)

    assert series(metrics, "fleetpack_pool_node_without_cores") == shown

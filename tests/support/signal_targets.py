"""Builders of read targets and samples for tests, with defaults that each test overrides where it matters."""

from dataclasses import replace
from typing import Any

from fleetpack.core.samples import Sample
from fleetpack.signals import HttpTarget, Measure, MetricNames, PodTarget, PrometheusTarget

NOW = 1_700_000_000.0
OWN_NAMES = MetricNames(waiting="app_waiting", running="app_running", finished=("app_done_total",))
OWN_PAGE = "app_waiting 3\napp_running 2\napp_done_total 40\n"


def pod_target(**changes: Any) -> PodTarget:
    target = PodTarget(
        deployment="ml/chat",
        signal="engine",
        pod_uid="uid-0",
        address="127.0.0.1",
        port=8000,
        names=OWN_NAMES,
    )
    return replace(target, **changes)


def prometheus_target(**changes: Any) -> PrometheusTarget:
    target = PrometheusTarget(
        deployment="ml/chat",
        signal="broker",
        url="http://prometheus.test:9090",
        query='sum(queue_depth{queue="chat"})',
        measures=Measure.WAITING,
    )
    return replace(target, **changes)


def http_target(**changes: Any) -> HttpTarget:
    target = HttpTarget(
        deployment="ml/chat",
        signal="inbox",
        url="http://broker.test/api/queues",
        json_path="$.queues[0].messages",
        measures=Measure.WAITING,
    )
    return replace(target, **changes)


def sample(**changes: Any) -> Sample:
    base = Sample(
        deployment="ml/chat",
        signal="engine",
        pod_uid="",
        observed_at=NOW,
        waiting=None,
        running=None,
        finished_total=None,
        arrival_rate_per_second=None,
        ttft_seconds=None,
    )
    return replace(base, **changes)

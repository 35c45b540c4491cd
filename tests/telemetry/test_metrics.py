"""The page of metrics after what was shown, counted and forgotten; and that somebody shows and counts it."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.telemetry import DeploymentNumbers, FleetMetrics, PoolNumbers, VariantNumbers

CHAT = DeploymentNumbers(
    deployment="ml/chat",
    variants=(
        VariantNumbers(variant="inf2-tp8", desired=4, placed=3, ready=2),
        VariantNumbers(variant="gpu", desired=1, placed=1, ready=1),
    ),
    queue_depth_requests=12.0,
    arrival_rate_per_second=3.5,
    usd_per_hour=6.49,
    signal_ages_seconds=(("engine", 1.5),),
    silent_sources=(("engine", 2),),
    unplaced_replicas=(("not enough free cores", 1),),
)
POOL = PoolNumbers(
    pool="inf2",
    nodes=(("inf2.24xlarge", 2), ("inf2.48xlarge", 1)),
    cores=48,
    used_cores=32,
    free_cores=16,
    largest_free_range_cores=8,
    usd_per_hour=25.96,
    nodes_without_cores=("node-b",),
)


def lines(metrics: FleetMetrics, containing: str) -> list[str]:
    """The page's lines about one label value, histograms left out."""
    page = generate_latest(metrics.registry).decode()
    return [line for line in page.splitlines() if containing in line and not line.startswith("#")]


def test_should_show_a_deployment():
    metrics = FleetMetrics()

    metrics.show_deployment(CHAT)

    assert lines(metrics, 'deployment="ml/chat"') == [
        'fleetpack_desired_replicas{deployment="ml/chat",variant="inf2-tp8"} 4.0',
        'fleetpack_desired_replicas{deployment="ml/chat",variant="gpu"} 1.0',
        'fleetpack_placed_replicas{deployment="ml/chat",variant="inf2-tp8"} 3.0',
        'fleetpack_placed_replicas{deployment="ml/chat",variant="gpu"} 1.0',
        'fleetpack_ready_replicas{deployment="ml/chat",variant="inf2-tp8"} 2.0',
        'fleetpack_ready_replicas{deployment="ml/chat",variant="gpu"} 1.0',
        'fleetpack_unplaced_replicas{deployment="ml/chat",exclusion="not enough free cores"} 1.0',
        'fleetpack_queue_depth_requests{deployment="ml/chat"} 12.0',
        'fleetpack_arrival_rate_requests_per_second{deployment="ml/chat"} 3.5',
        'fleetpack_deployment_cost_usd_per_hour{deployment="ml/chat"} 6.49',
        'fleetpack_signal_age_seconds{deployment="ml/chat",signal="engine"} 1.5',
        'fleetpack_signal_silent_sources{deployment="ml/chat",signal="engine"} 2.0',
    ]


def test_should_have_no_series_for_what_is_no_longer_known_or_there():
    metrics = FleetMetrics()
    metrics.show_deployment(CHAT)

    metrics.show_deployment(
        replace(
            CHAT,
            variants=CHAT.variants[:1],
            queue_depth_requests=None,
            arrival_rate_per_second=None,
            usd_per_hour=None,
            signal_ages_seconds=(),
            silent_sources=(),
            unplaced_replicas=(),
        )
    )

    assert lines(metrics, 'deployment="ml/chat"') == [
        'fleetpack_desired_replicas{deployment="ml/chat",variant="inf2-tp8"} 4.0',
        'fleetpack_placed_replicas{deployment="ml/chat",variant="inf2-tp8"} 3.0',
        'fleetpack_ready_replicas{deployment="ml/chat",variant="inf2-tp8"} 2.0',
    ]


def test_should_show_a_pool():
    metrics = FleetMetrics()

    metrics.show_pool(POOL)

    assert lines(metrics, 'pool="inf2"') == [
        'fleetpack_pool_nodes{instance_type="inf2.24xlarge",pool="inf2"} 2.0',
        'fleetpack_pool_nodes{instance_type="inf2.48xlarge",pool="inf2"} 1.0',
        'fleetpack_pool_capacity_cores{pool="inf2"} 48.0',
        'fleetpack_pool_used_cores{pool="inf2"} 32.0',
        'fleetpack_pool_free_cores{pool="inf2"} 16.0',
        'fleetpack_pool_largest_free_range_cores{pool="inf2"} 8.0',
        'fleetpack_pool_cost_usd_per_hour{pool="inf2"} 25.96',
        'fleetpack_pool_node_without_cores{node="node-b",pool="inf2"} 1.0',
    ]


def test_should_forget_a_deleted_deployment_and_no_other():
    metrics = FleetMetrics()
    metrics.show_deployment(CHAT)
    metrics.count_decision("ml/chat", "QueueAboveTarget")
    untouched = FleetMetrics()
    for both in (metrics, untouched):
        both.show_deployment(replace(CHAT, deployment="ml/code"))
        both.count_decision("ml/code", "QueueAboveTarget")

    metrics.forget_deployment("ml/chat")

    assert lines(metrics, "ml/") == lines(untouched, "ml/")


def test_should_forget_a_deleted_pool_and_no_other():
    metrics = FleetMetrics()
    metrics.show_pool(POOL)
    metrics.show_pool(replace(POOL, pool="gpu"))

    metrics.forget_pool("inf2")

    assert (lines(metrics, 'pool="inf2"'), len(lines(metrics, 'pool="gpu"'))) == ([], 8)


def test_should_forget_what_was_never_shown():
    metrics = FleetMetrics()

    metrics.forget_deployment("ml/chat")
    metrics.forget_pool("inf2")

    assert lines(metrics, "ml/chat") == []


def test_should_count_decisions_actions_and_writes():
    metrics = FleetMetrics()
    metrics.count_decision("ml/chat", "QueueAboveTarget")
    metrics.count_decision("ml/chat", "QueueAboveTarget")
    metrics.count_decision("ml/chat", "made up on the spot")
    metrics.count_action("CreateReplica", "done")
    metrics.count_write("create", "pods", "201")
    metrics.count_write("create", "pods", "409")

    assert lines(metrics, "_total{") == [
        'fleetpack_decisions_total{deployment="ml/chat",reason="QueueAboveTarget"} 2.0',
        'fleetpack_decisions_total{deployment="ml/chat",reason="Other"} 1.0',
        'fleetpack_actions_total{kind="CreateReplica",outcome="done"} 1.0',
        'fleetpack_writes_total{code="201",resource="pods",verb="create"} 1.0',
        'fleetpack_writes_total{code="409",resource="pods",verb="create"} 1.0',
    ]


def test_should_show_the_state_of_the_process():
    metrics = FleetMetrics()
    metrics.plan_made(at=1_700_000_000.0, took_seconds=0.02)
    metrics.tick_was_late(-0.001)
    metrics.show_reflector_age("pods", 0.5)
    metrics.show_reflector_failures("pods", 2)
    metrics.show_reflector_failures("pods", 5)
    metrics.show_leader(True)

    assert [
        *lines(metrics, "fleetpack_plan_duration_seconds_sum"),
        *lines(metrics, "fleetpack_loop_lag_seconds_sum"),
        *lines(metrics, "fleetpack_last_plan"),
        *lines(metrics, "fleetpack_reflector_age"),
        *lines(metrics, "fleetpack_reflector_failures"),
        *lines(metrics, "fleetpack_leader"),
    ] == [
        "fleetpack_plan_duration_seconds_sum 0.02",
        "fleetpack_loop_lag_seconds_sum 0.0",
        "fleetpack_last_plan_timestamp_seconds 1.7e+09",
        'fleetpack_reflector_age_seconds{resource="pods"} 0.5',
        'fleetpack_reflector_failures_total{resource="pods"} 5.0',
        "fleetpack_leader 1.0",
    ]


PRODUCT = Path(__file__).resolve().parents[2] / "operator"


def called_in_the_product() -> set[str]:
    """The names of all methods that the product calls on something else than itself."""
    trees = [ast.parse(path.read_text()) for path in sorted(PRODUCT.rglob("*.py"))]
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute) and not (isinstance(call.value, ast.Name) and call.value.id == "self")
    }


@pytest.mark.parametrize("metrics", [FleetMetrics, PluginMetrics])
def test_should_have_somebody_in_the_product_who_shows_and_counts_each_number(metrics: type):
    writers = {name for name in vars(metrics) if not name.startswith("_")}
    assert writers - called_in_the_product() == set()

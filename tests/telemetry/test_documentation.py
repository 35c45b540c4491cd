"""docs/metrics.md says what the registry has."""

from pathlib import Path

from fleetpack.telemetry import FleetMetrics
from fleetpack.telemetry.documentation import metrics_page

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_should_document_every_metric_as_it_is():
    assert METRICS_PAGE.read_text() == metrics_page(), (
        "run: python -m fleetpack.telemetry.documentation > docs/metrics.md"
    )


def test_should_describe_exactly_what_is_registered():
    metrics = FleetMetrics()
    registered = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, family.documentation)
        for family in metrics.registry.collect()
        if family.name.startswith("fleetpack_")
    }

    assert {(metric.name, metric.kind, metric.help) for metric in metrics.descriptions} == registered


def test_should_name_a_unit_in_every_name():
    units = (
        "_replicas",
        "_requests",
        "_per_second",
        "_per_hour",
        "_seconds",
        "_nodes",
        "_cores",
        "_sources",
        "_total",
        "_leader",
    )

    assert [metric.name for metric in FleetMetrics().descriptions if not metric.name.endswith(units)] == []

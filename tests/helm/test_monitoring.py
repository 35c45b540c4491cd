"""Monitors, alerts, runbooks and the dashboard: there where they can be, and speaking of metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import CHART, EVERYTHING, MONITORING, ROOT, Manifest, of_kind, rendered, the
from control_plane.binaries import ensure
from control_plane.module_sources import PROMETHEUS_OPERATOR, module_source
from control_plane.programs import KUBECONFORM, PROMTOOL
from fleetpack.api.conditions import Reason
from fleetpack.cluster.api_client import Write
from fleetpack.cluster.observing import CountingWriteObserver
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.silicon import RefusalReason
from fleetpack.main import STALE_CACHE_SECONDS
from fleetpack.telemetry.metrics import FleetMetrics
from openapi_schemas import LOCATION, write_definition_schemas
from prometheus_process import configuration

pytestmark = pytest.mark.cluster

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
RULE_TESTS = Path(__file__).with_name("alerts_test.yaml")

OURS = re.compile(r"\b(?:fleetpack|process)_[a-z0-9_]+")


@pytest.fixture(scope="session")
def promtool() -> Path:
    return ensure((PROMTOOL,))["promtool"]


def alerts() -> dict[str, Manifest]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def series_names() -> set[str]:
    """Every name that a series of ours can have."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    registries = (FleetMetrics().registry, PluginMetrics().registry)
    families = [family for registry in registries for family in registry.collect()]
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def run(promtool: Path, *arguments: str) -> str:
    answer = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_should_leave_out_what_the_api_server_does_not_know() -> None:
    assert of_kind(rendered(*EVERYTHING), "ServiceMonitor", "PodMonitor", "PrometheusRule") == []


def test_should_bring_monitors_and_rules_where_the_prometheus_operator_is() -> None:
    found = of_kind(rendered(*EVERYTHING, api_versions=MONITORING), "ServiceMonitor", "PodMonitor", "PrometheusRule")
    assert sorted(item["kind"] for item in found) == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("monitoring.serviceMonitor.enabled=false", "ServiceMonitor"),
        ("metrics.service.enabled=false", "ServiceMonitor"),
        ("monitoring.podMonitor.enabled=false", "PodMonitor"),
        ("devicePlugin.enabled=false", "PodMonitor"),
        ("monitoring.prometheusRule.enabled=false", "PrometheusRule"),
        ("monitoring.dashboard.enabled=false", "ConfigMap"),
        ("networkPolicy.enabled=false", "NetworkPolicy"),
    ],
)
def test_should_leave_each_of_them_out_when_told_so(setting: str, kind: str) -> None:
    assert of_kind(rendered(*EVERYTHING, setting, api_versions=MONITORING), kind) == []


@pytest.fixture(scope="session")
def definition_schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Schemas of the Prometheus Operator's own definitions."""
    folder = tmp_path_factory.mktemp("definitions")
    definitions = module_source(PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
    names = ("servicemonitors", "podmonitors", "prometheusrules")
    write_definition_schemas(
        (yaml.safe_load((definitions / f"monitoring.coreos.com_{name}.yaml").read_text()) for name in names), folder
    )
    return folder


def monitors() -> list[Manifest]:
    manifests = rendered(*EVERYTHING, "monitoring.serviceMonitor.labels.release=p", api_versions=MONITORING)
    return of_kind(manifests, "ServiceMonitor", "PodMonitor", "PrometheusRule")


def checked(schemas: Path, manifests: list[Manifest]) -> str:
    command = [ensure((KUBECONFORM,))["kubeconform"], "-strict", "-summary", "-schema-location", schemas / LOCATION]
    answer = subprocess.run(command, input=yaml.safe_dump_all(manifests), capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def test_should_fit_the_definitions_of_the_prometheus_operator(definition_schemas: Path) -> None:
    assert "Valid: 3, Invalid: 0, Errors: 0, Skipped: 0" in checked(definition_schemas, monitors())


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("ServiceMonitor", ("spec",), "endpoint"),
        ("ServiceMonitor", ("spec", "selector"), "matchLabel"),
        ("ServiceMonitor", ("spec", "endpoints", 0), "intervall"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0), "honourLabels"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "relabelings", 0), "sourceLabel"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0), "expression"),
        ("PrometheusRule", (), "specs"),
    ],
)
def test_should_notice_a_field_that_the_definitions_do_not_have(
    definition_schemas: Path, kind: str, path: tuple[str | int, ...], wrong: str
) -> None:
    manifest = the(monitors(), kind)
    inner: Any = manifest
    for step in path:
        inner = inner[step]
    inner[wrong] = "1"
    said = checked(definition_schemas, [manifest])
    assert "Invalid: 1" in said
    assert wrong in said


def test_should_notice_a_time_that_is_none(definition_schemas: Path) -> None:
    manifest = the(monitors(), "ServiceMonitor")
    manifest["spec"]["endpoints"][0]["interval"] = "often"
    assert "Invalid: 1" in checked(definition_schemas, [manifest])


def test_should_point_the_monitors_at_ports_and_pods_that_are_there() -> None:
    manifests = rendered(*EVERYTHING, api_versions=MONITORING)
    service, monitor = the(manifests, "Service"), the(manifests, "ServiceMonitor")
    operators = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= operators.items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [
        port["name"] for port in service["spec"]["ports"]
    ]
    plugin, pod_monitor = the(manifests, "DaemonSet")["spec"]["template"], the(manifests, "PodMonitor")
    assert pod_monitor["spec"]["selector"]["matchLabels"].items() <= plugin["metadata"]["labels"].items()
    [endpoint] = pod_monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in plugin["spec"]["containers"][0]["ports"]}


def test_should_render_the_rules_as_they_are_tested() -> None:
    rule = the(rendered(api_versions=MONITORING), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text().replace("RUNBOOKS", "docs/runbooks.md"))


def test_should_write_rules_that_prometheus_reads(promtool: Path) -> None:
    assert f"{len(alerts())} rules found" in run(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_should_alert_on_each_fault_and_on_nothing_else(promtool: Path, tmp_path: Path) -> None:
    tests = tmp_path / "alerts_test.yaml"
    tests.write_text(RULE_TESTS.read_text().replace("[RULES]", f"[{ALERTS}]"))
    assert "SUCCESS" in run(promtool, "test", "rules", str(tests))


@pytest.mark.parametrize(
    "name", [name for name, rule in alerts().items() if "fleetpack_device_plugin_" in rule["expr"]]
)
def test_should_name_the_node_of_a_plugin_as_the_runbooks_need_it(name: str) -> None:
    rule = alerts()[name]
    monitor = the(rendered(*EVERYTHING, api_versions=MONITORING), "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"} in endpoint["relabelings"]
    assert "$labels.node" in rule["annotations"]["summary"]
    assert [kept for kept in re.findall(r"by \(([^)]*)\)", rule["expr"]) if "node" not in kept.split(", ")] == []


def test_should_label_plugins_in_the_test_of_real_kubelets_as_the_monitors_do(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    user = {"client-certificate-data": "", "client-key-data": ""}
    server = {"server": "https://127.0.0.1:6443", "certificate-authority-data": ""}
    kubeconfig.write_text(yaml.safe_dump({"clusters": [{"cluster": server}], "users": [{"user": user}]}))
    operator, plugin = configuration(kubeconfig, tmp_path)["scrape_configs"]
    given = {rule["target_label"]: rule for rule in plugin["relabel_configs"] if "target_label" in rule}
    assert given["node"]["source_labels"] == ["__meta_kubernetes_pod_node_name"]
    # Both monitors leave the instance as Prometheus makes it of a Pod: its address and port.
    address = {
        "source_labels": ["__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_container_port_number"],
        "separator": ":",
    }
    for job in (operator, plugin):
        assert {"target_label": "instance", **address} in job["relabel_configs"]
    assert {"namespace", "pod", "container", "endpoint"} <= given.keys()


def test_should_tell_of_a_stale_cache_before_the_probe_ends_the_process_that_tells() -> None:
    manifests = rendered(api_versions=MONITORING)
    probe = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    [endpoint] = the(manifests, "ServiceMonitor")["spec"]["endpoints"]
    rule = alerts()["FleetpackCacheStale"]
    [limit_seconds] = re.findall(r"> (\d+)$", rule["expr"])
    ended_after_seconds = STALE_CACHE_SECONDS + (probe["failureThreshold"] - 1) * probe["periodSeconds"]
    # The number is shown each 5 s, and scraped and looked at at once at best.
    late_seconds = 5 + 2 * seconds(endpoint["interval"])
    assert float(limit_seconds) + seconds(rule["for"]) + late_seconds <= ended_after_seconds


def test_should_not_wait_for_one_process_to_stall_longer_than_the_probe_lets_it() -> None:
    # Two minutes of one process never come: it is ended after 80 to 90 s.
    assert "instance" not in alerts()["FleetpackPlanningStalled"]["expr"]


def seconds(duration: str) -> int:
    """Return the seconds of one number and unit."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_should_make_every_alert_rise_in_a_test() -> None:
    tested = RULE_TESTS.read_text()
    assert [name for name in alerts() if name not in tested] == []


def test_should_have_a_runbook_for_each_alert_and_for_nothing_else() -> None:
    headings = re.findall(r"^## (Fleetpack\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert headings == list(alerts())
    assert {name: rule["annotations"]["runbook_url"] for name, rule in alerts().items()} == {
        name: f"RUNBOOKS#{name.lower()}" for name in alerts()
    }


def test_should_have_a_runbook_for_what_nodes_and_plugins_say_without_an_alert() -> None:
    told = [
        Reason.CORES_SWAPPED,
        Reason.CORES_MOVED,
        Reason.NODE_LEAVING,
        Reason.NODE_UNHEALTHY,
        *RefusalReason,
    ]
    text = RUNBOOKS.read_text()
    assert [str(reason) for reason in told if str(reason) not in text] == []


@pytest.mark.parametrize("name", alerts())
def test_should_say_of_each_alert_how_bad_it_is_and_what_it_means(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert set(OURS.findall(rule["expr"])) <= series_names()


def test_should_take_no_write_that_succeeds_for_one_that_fails() -> None:
    metrics = FleetMetrics()
    CountingWriteObserver(metrics).after_write(Write(number=1, verb="create", path="/api/v1/namespaces/a/pods"), None)
    [counted] = [one for one in metrics.registry.collect() if one.name == "fleetpack_writes"]
    [code] = [sample.labels["code"] for sample in counted.samples]
    [spared] = re.findall(r'code!~"([^"]+)"', alerts()["FleetpackWritesFailing"]["expr"])
    assert re.fullmatch(spared, code)


def test_should_draw_only_metrics_that_exist() -> None:
    page = dashboard()
    queries = [variable["definition"] for variable in page["templating"]["list"] if variable["type"] == "query"]
    named = {name for text in (*expressions(page["panels"]), *queries) for name in OURS.findall(text)}
    assert named - series_names() == set()
    assert len(named) > 20


def test_should_draw_every_metric_of_the_operator() -> None:
    drawn = " ".join(expressions(dashboard()["panels"]))
    missing = [own.name for own in FleetMetrics().descriptions if own.name not in drawn]
    assert missing == []


def test_should_draw_expressions_that_prometheus_reads(promtool: Path, tmp_path: Path) -> None:
    replaced = [
        text.replace("$__rate_interval", "1m").replace("$deployment", ".*").replace("$pool", ".*")
        for text in expressions(dashboard()["panels"])
    ]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(replaced)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", "--lint=none", str(file))


def test_should_lay_the_panels_out_without_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for position in (panel["gridPos"],)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    identifiers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(identifiers) == len(set(identifiers))


def test_should_hand_the_dashboard_over_whole() -> None:
    config = the(rendered("monitoring.dashboard.enabled=true"), "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["fleetpack.json"]) == dashboard()

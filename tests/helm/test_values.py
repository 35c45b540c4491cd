"""Each value of the chart changes what it says it changes, and there is none that no test has set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import CHART, MONITORING, NAMESPACE, Manifest, of_kind, rendered, template, the

pytestmark = pytest.mark.cluster

ON = ("devicePlugin.enabled=true", "networkPolicy.enabled=true", "monitoring.dashboard.enabled=true")
POD = "spec.template.spec"
OPERATOR = f"Deployment/fleetpack {POD}"
PLUGIN = f"DaemonSet/fleetpack-device-plugin {POD}"
PLUGIN_TERMS = f"{PLUGIN}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
NOTHING = "nothing"


def at(manifests: list[Manifest], place: str) -> Any:
    """Return what is at `Kind/name path.to.field`; NOTHING where there is no such object or field."""
    thing, _, path = place.partition(" ")
    kind, _, name = thing.partition("/")
    found: Any = next((own for own in of_kind(manifests, kind) if own["metadata"]["name"] == name), NOTHING)
    for step in path.split(".") if path else ():
        if isinstance(found, list):
            found = found[int(step)] if -len(found) <= int(step) < len(found) else NOTHING
        else:
            found = found.get(step, NOTHING) if isinstance(found, dict) else NOTHING
    return found


@pytest.mark.parametrize(
    ("setting", "place", "expected"),
    [
        (
            "nameOverride=other",
            "Deployment/fleetpack-other spec.selector.matchLabels.app\tkubernetes\tio/name",
            "other",
        ),
        ("fullnameOverride=whole", "Deployment/whole metadata.name", "whole"),
        ("image.pullPolicy=Always", f"{OPERATOR}.containers.0.imagePullPolicy", "Always"),
        ("image.pullPolicy=Always", f"{PLUGIN}.containers.0.imagePullPolicy", "Always"),
        ("imagePullSecrets[0].name=key", f"{OPERATOR}.imagePullSecrets", [{"name": "key"}]),
        ("imagePullSecrets[0].name=key", f"{PLUGIN}.imagePullSecrets", [{"name": "key"}]),
        ("imagePullSecrets[0].name=key", "Pod/fleetpack-test-leader spec.imagePullSecrets", [{"name": "key"}]),
        ("operator.extraArguments={--log-format=json}", f"{OPERATOR}.containers.0.args", ["--log-format=json"]),
        (
            "operator.extraEnvironment[0].name=A,operator.extraEnvironment[0].value=b",
            f"{OPERATOR}.containers.0.env.-1",
            {"name": "A", "value": "b"},
        ),
        ("serviceAccount.create=false,serviceAccount.name=own", "ServiceAccount/fleetpack", NOTHING),
        ("serviceAccount.create=false,serviceAccount.name=own", f"{OPERATOR}.serviceAccountName", "own"),
        ("serviceAccount.name=own", "ServiceAccount/own metadata.name", "own"),
        ("serviceAccount.name=own", "ClusterRoleBinding/fleetpack subjects.0.name", "own"),
        ("serviceAccount.annotations.a=b", "ServiceAccount/fleetpack metadata.annotations", {"a": "b"}),
        ("rbac.create=false", "ClusterRole/fleetpack", NOTHING),
        ("rbac.create=false", "ClusterRoleBinding/fleetpack", NOTHING),
        ("rbac.create=false", "Role/fleetpack-lease", NOTHING),
        ("rbac.create=false", "ClusterRole/fleetpack-device-plugin", NOTHING),
        ("rbac.create=false", "ClusterRole/fleetpack-view", NOTHING),
        ("rbac.aggregate=false", "ClusterRole/fleetpack-view", NOTHING),
        ("rbac.aggregate=false", "ClusterRole/fleetpack-edit", NOTHING),
        (
            "crds.keep=false",
            "CustomResourceDefinition/acceleratorpools.fleetpack.dev metadata.annotations.helm\tsh/resource-policy",
            NOTHING,
        ),
        ("priorityClasses.create=false", "PriorityClass/fleetpack-batch", NOTHING),
        ("priorityClasses.classes[0].name=a,priorityClasses.classes[0].value=7", "PriorityClass/a value", 7),
        ("podAnnotations.a=b", "Deployment/fleetpack spec.template.metadata.annotations.a", "b"),
        ("podLabels.a=b", "Deployment/fleetpack spec.template.metadata.labels.a", "b"),
        ("priorityClassName=high", f"{OPERATOR}.priorityClassName", "high"),
        ("nodeSelector.a=b", f"{OPERATOR}.nodeSelector", {"kubernetes.io/os": "linux", "a": "b"}),
        ("tolerations[0].key=a", f"{OPERATOR}.tolerations", [{"key": "a"}]),
        ("affinity.podAffinity.a=b", f"{OPERATOR}.affinity", {"podAffinity": {"a": "b"}}),
        ("terminationGracePeriodSeconds=99", f"{OPERATOR}.terminationGracePeriodSeconds", 99),
        ("resources.requests.cpu=3", f"{OPERATOR}.containers.0.resources.requests.cpu", 3),
        ("resources.limits.memory=3Gi", f"{OPERATOR}.containers.0.resources.limits.memory", "3Gi"),
        ("podDisruptionBudget.enabled=false", "PodDisruptionBudget/fleetpack", NOTHING),
        ("devicePlugin.serviceAccount.name=own", "ServiceAccount/own metadata.name", "own"),
        ("devicePlugin.serviceAccount.name=own", f"{PLUGIN}.serviceAccountName", "own"),
        (
            "devicePlugin.serviceAccount.annotations.a=b",
            "ServiceAccount/fleetpack-device-plugin metadata.annotations",
            {"a": "b"},
        ),
        ("devicePlugin.admissionPolicy.enabled=false", "ValidatingAdmissionPolicy/fleetpack-device-plugin", NOTHING),
        (
            "devicePlugin.admissionPolicy.enabled=false",
            "ValidatingAdmissionPolicy/fleetpack-device-plugin-node",
            NOTHING,
        ),
        (
            "devicePlugin.admissionPolicy.enabled=false",
            "ValidatingAdmissionPolicyBinding/fleetpack-device-plugin",
            NOTHING,
        ),
        ("devicePlugin.instanceTypes={inf2.xlarge}", f"{PLUGIN_TERMS}.0.matchExpressions.0.values", ["inf2.xlarge"]),
        (
            "devicePlugin.instanceTypes=null",
            PLUGIN_TERMS,
            [{"matchExpressions": [{"key": "fleetpack.dev/device-plugin", "operator": "In", "values": ["true"]}]}],
        ),
        ("devicePlugin.nodeSelector.a=b", f"{PLUGIN}.nodeSelector", {"kubernetes.io/os": "linux", "a": "b"}),
        ("nodeSelector.a=b", "Pod/fleetpack-test-leader spec.nodeSelector", {"kubernetes.io/os": "linux", "a": "b"}),
        ("devicePlugin.tolerations[0].key=a", f"{PLUGIN}.tolerations", [{"key": "a"}]),
        ("devicePlugin.priorityClassName=high", f"{PLUGIN}.priorityClassName", "high"),
        ("devicePlugin.seLinuxOptions.type=spc_t", f"{PLUGIN}.securityContext.seLinuxOptions", {"type": "spc_t"}),
        (
            "devicePlugin.podAnnotations.a=b",
            "DaemonSet/fleetpack-device-plugin spec.template.metadata.annotations.a",
            "b",
        ),
        ("devicePlugin.podLabels.a=b", "DaemonSet/fleetpack-device-plugin spec.template.metadata.labels.a", "b"),
        (
            "devicePlugin.maxUnavailable=2",
            "DaemonSet/fleetpack-device-plugin spec.updateStrategy.rollingUpdate.maxUnavailable",
            2,
        ),
        ("devicePlugin.resources.requests.cpu=3", f"{PLUGIN}.containers.0.resources.requests.cpu", 3),
        ("devicePlugin.resources.limits.memory=3Gi", f"{PLUGIN}.containers.0.resources.limits.memory", "3Gi"),
        ("metrics.service.enabled=false", "Service/fleetpack-metrics", NOTHING),
        ("metrics.service.enabled=false", "Pod/fleetpack-test-leader", NOTHING),
        ("metrics.service.annotations.a=b", "Service/fleetpack-metrics metadata.annotations", {"a": "b"}),
        ("monitoring.serviceMonitor.interval=7s", "ServiceMonitor/fleetpack spec.endpoints.0.interval", "7s"),
        ("monitoring.serviceMonitor.labels.a=b", "ServiceMonitor/fleetpack metadata.labels.a", "b"),
        (
            "monitoring.podMonitor.interval=7s",
            "PodMonitor/fleetpack-device-plugin spec.podMetricsEndpoints.0.interval",
            "7s",
        ),
        ("monitoring.podMonitor.labels.a=b", "PodMonitor/fleetpack-device-plugin metadata.labels.a", "b"),
        ("monitoring.prometheusRule.labels.a=b", "PrometheusRule/fleetpack metadata.labels.a", "b"),
        ("monitoring.dashboard.labels.a=b", "ConfigMap/fleetpack-dashboard metadata.labels.a", "b"),
        ("monitoring.dashboard.annotations.a=b", "ConfigMap/fleetpack-dashboard metadata.annotations", {"a": "b"}),
        (
            "networkPolicy.apiServerPorts={7443}",
            "NetworkPolicy/fleetpack spec.egress.1.ports",
            [{"protocol": "TCP", "port": 7443}],
        ),
        (
            "networkPolicy.extraEgress[0].to[0].ipBlock.cidr=10.0.0.0/8",
            "NetworkPolicy/fleetpack spec.egress.3",
            {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        ),
        ("test.timeoutSeconds=7", "Pod/fleetpack-test-leader spec.containers.0.env.2.value", "7"),
    ],
)
def test_should_change_what_the_value_says(standard: list[Manifest], setting: str, place: str, expected: Any) -> None:
    def found(manifests: list[Manifest]) -> Any:
        return dotted(at(dotted_keys(manifests), place))

    assert found(standard) != expected
    assert found(rendered(*ON, setting, api_versions=MONITORING)) == expected


def dotted_keys(value: Any) -> Any:
    """Put tabs for the dots in keys, which are not steps of a path."""
    if isinstance(value, dict):
        return {key.replace(".", "\t"): dotted_keys(own) for key, own in value.items()}
    return [dotted_keys(own) for own in value] if isinstance(value, list) else value


def dotted(value: Any) -> Any:
    """Put the dots back."""
    if isinstance(value, dict):
        return {key.replace("\t", "."): dotted(own) for key, own in value.items()}
    return [dotted(own) for own in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def standard() -> list[Manifest]:
    return rendered(*ON, api_versions=MONITORING)


def test_should_point_every_alert_at_the_runbooks_that_are_named() -> None:
    url = "https://example.com/runbooks"
    rule = the(rendered(f"monitoring.prometheusRule.runbookURL={url}", api_versions=MONITORING), "PrometheusRule")
    urls = [own["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for own in group["rules"]]
    assert urls
    assert {own.partition("#")[0] for own in urls} == {url}


@pytest.mark.parametrize(
    "place", [f"{OPERATOR}.nodeSelector", f"{PLUGIN}.nodeSelector", "Pod/fleetpack-test-leader spec.nodeSelector"]
)
def test_should_run_on_nodes_that_its_image_is_for(standard: list[Manifest], place: str) -> None:
    assert at(standard, place) == {"kubernetes.io/os": "linux"}


def test_should_ask_for_the_account_that_it_does_not_make() -> None:
    result = template("serviceAccount.create=false")
    assert result.returncode != 0
    assert "serviceAccount.name: name an existing service account" in result.stderr


def test_should_keep_one_operator_while_nodes_are_drained() -> None:
    manifests = rendered("replicas=3")
    budget, deployment = the(manifests, "PodDisruptionBudget"), the(manifests, "Deployment")
    assert budget["metadata"]["namespace"] == NAMESPACE
    assert budget["spec"] == {
        "minAvailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": deployment["spec"]["selector"]["matchLabels"]},
    }
    assert deployment["spec"]["selector"]["matchLabels"].items() <= (
        deployment["spec"]["template"]["metadata"]["labels"].items()
    )


@pytest.mark.parametrize("settings", [("replicas=1",), ("replicas=0",), ("podDisruptionBudget.enabled=false",)])
def test_should_hinder_no_drain_where_one_operator_runs_or_when_told_so(settings: tuple[str, ...]) -> None:
    assert of_kind(rendered(*settings), "PodDisruptionBudget") == []


def leaves(values: Manifest, schema: Manifest, path: str = "") -> Iterator[str]:
    """Every value by its whole name, as far as the schema names fields."""
    for name, value in values.items():
        own = schema["properties"][name]
        if isinstance(value, dict) and value and "properties" in own:
            yield from leaves(value, own, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_should_have_a_test_that_sets_each_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    tests = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    missing = [name for name in leaves(values, schema) if not any(f"{name}{end}" in tests for end in ("=", ".", "["))]
    assert missing == []

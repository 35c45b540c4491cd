"""What the chart renders and refuses, seen through the real `helm`.

Rendering one set of values takes a tenth of a second, so each test renders what it needs and compares parsed objects.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import (
    CHART,
    EVERYTHING,
    MONITORING,
    NAMESPACE,
    ROOT,
    Manifest,
    helm,
    objects,
    of_kind,
    rendered,
    set_arguments,
    template,
)
from fleetpack.settings import Settings

pytestmark = pytest.mark.cluster


def rules(objects: list[Manifest]) -> Iterator[Manifest]:
    for role in of_kind(objects, "ClusterRole", "Role"):
        yield from role.get("rules", ())


def allows(objects: list[Manifest], resource: str) -> set[str]:
    """Verbs that the operator's own roles (those that a binding names) give on a resource."""
    bound = {binding["roleRef"]["name"] for binding in of_kind(objects, "ClusterRoleBinding", "RoleBinding")}
    return {
        verb
        for role in of_kind(objects, "ClusterRole", "Role")
        if role["metadata"]["name"] in bound
        for rule in role["rules"]
        if resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_should_pass_lint_strictly() -> None:
    result = subprocess.run([helm(), "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replica=3", "replica"),
        ("image.repositry=x", "repositry"),
        ("simulation.enable=true", "enable"),
        ("replicas=two", "replicas"),
        ("image.digest=sha256:short", "digest"),
        ("devicePlugin.enable=true", "enable"),
        ("devicePlugin.source=real", "source"),
        ("devicePlugin.maxUnavailable=0%", "maxUnavailable"),
        ("devicePlugin.image.pullPolicy=Always", "pullPolicy"),
        ("monitoring.serviceMonitor.intervall=5s", "intervall"),
        ("monitoring.podMonitor.interval=often", "interval"),
        ("monitoring.alerts.enabled=true", "alerts"),
        ("metrics.enabled=true", "enabled"),
        ("networkPolicy.apiServerPorts={70000}", "apiServerPorts"),
        ("networkPolicy.metricsFrom[0].podSelektor.a=b", "podSelektor"),
    ],
)
def test_should_refuse_a_value_that_the_schema_does_not_know(setting: str, named: str) -> None:
    result = template(setting)
    assert result.returncode != 0
    assert named in result.stderr


def test_should_grant_nothing_by_wildcard() -> None:
    objects = rendered(*EVERYTHING)
    granted = [entry for rule in rules(objects) for key in ("apiGroups", "resources", "verbs") for entry in rule[key]]
    assert "*" not in granted
    assert granted


def test_should_never_touch_secrets_workload_controllers_or_definitions() -> None:
    objects = rendered("simulation.enabled=true", "devicePlugin.enabled=true")
    resources = {resource.split("/")[0] for rule in rules(objects) for resource in rule["resources"]}
    assert resources == {
        "inferencedeployments",
        "acceleratorpools",
        "pods",
        "services",
        "nodes",
        "namespaces",
        "priorityclasses",
        "poddisruptionbudgets",
        "events",
        "leases",
    }


def test_should_grant_the_lease_only_in_the_namespace_of_the_release() -> None:
    objects = rendered()
    holders = [
        (role["kind"], role["metadata"].get("namespace"))
        for role in of_kind(objects, "ClusterRole", "Role")
        if any("leases" in rule["resources"] for rule in role["rules"])
    ]
    bindings = [binding["metadata"]["namespace"] for binding in of_kind(objects, "RoleBinding")]
    assert (holders, bindings) == ([("Role", NAMESPACE)], [NAMESPACE])
    assert allows(objects, "leases") == {"get", "create", "update"}


def test_should_only_read_nodes_unless_they_are_simulated() -> None:
    plain = rendered()
    simulated = rendered("simulation.enabled=true")
    reading = {"list", "watch"}
    assert allows(plain, "nodes") == reading
    assert allows(simulated, "nodes") == reading | {"create", "delete"}


def test_should_read_secrets_only_where_signals_may_name_them() -> None:
    assert allows(rendered(), "secrets") == set()
    assert allows(rendered("signals.secrets.enabled=true"), "secrets") == {"get"}


def test_should_bind_every_role_to_the_account_that_the_operator_runs_as() -> None:
    objects = rendered("simulation.enabled=true")
    [deployment] = of_kind(objects, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    subjects = [binding["subjects"] for binding in of_kind(objects, "ClusterRoleBinding", "RoleBinding")]
    assert subjects == [[{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]] * 3


def test_should_run_the_operator_under_the_restricted_pod_standard() -> None:
    [deployment] = of_kind(rendered(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.get("hostNetwork")


def test_should_run_two_operators_with_probes_on_the_port_that_they_serve() -> None:
    [deployment] = of_kind(rendered(), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert container["command"] == ["fleetpack", "operator", "run"]
    assert container["ports"] == [{"name": "http", "containerPort": Settings().http_port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_should_take_an_image_by_digest_before_its_tag() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    objects = rendered("image.repository=registry.example/fleetpack", "image.tag=9.9.9", f"image.digest={digest}")
    [deployment] = of_kind(objects, "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/fleetpack@{digest}"


def test_should_ship_priority_classes_that_never_preempt() -> None:
    classes = of_kind(rendered(), "PriorityClass")
    assert {item["metadata"]["name"]: item["value"] for item in classes} == {
        "fleetpack-critical": 100000,
        "fleetpack-standard": 10000,
        "fleetpack-batch": 1000,
    }
    assert {item["preemptionPolicy"] for item in classes} == {"Never"}


def test_should_carry_every_definition_of_the_repository_and_keep_it_on_uninstall() -> None:
    shipped = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    carried = of_kind(rendered(), "CustomResourceDefinition")
    assert {item["metadata"]["name"]: item["spec"] for item in carried} == {
        item["metadata"]["name"]: item["spec"] for item in shipped
    }
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in carried} == {"keep"}


def test_should_leave_the_definitions_out_when_told_so() -> None:
    assert of_kind(rendered("crds.enabled=false"), "CustomResourceDefinition") == []


def test_should_describe_every_value_in_the_schema_and_refuse_all_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(gaps(values, schema, "")) == []
    assert set(schema["properties"]) - set(values) == {"global", "enabled"}


ALL_DIGITS = {
    "nameOverride": "7",
    "fullnameOverride": "99",
    "priorityClassName": "1",
    "serviceAccount": {"name": "2"},
    "priorityClasses": {"classes": [{"name": "3", "value": 3}]},
    "devicePlugin": {
        "namespace": "4",
        "createNamespace": True,
        "priorityClassName": "5",
        "serviceAccount": {"name": "6"},
    },
}


@pytest.mark.parametrize("values", [{}, ALL_DIGITS], ids=["plain", "values"])
def test_should_be_installed_under_names_that_look_like_numbers(tmp_path: Path, values: Manifest) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm(), "template", "123", CHART, "--namespace=42", f"--values={file}", *set_arguments(*EVERYTHING)]
    command += [f"--api-versions={version}" for version in MONITORING]
    manifests = objects(subprocess.run(command, capture_output=True, text=True, check=False))
    assert {own["metadata"].get("namespace", "42") for own in manifests} == ({"42", "4"} if values else {"42"})
    assert [found for own in manifests for found in named_by_no_text(own, own["kind"])] == []


def named_by_no_text(value: Any, path: str) -> Iterator[str]:
    """Names, namespaces and labels, wherever they are, that are no text: the API server refuses them."""
    for key, own in value.items() if isinstance(value, dict) else ():
        place = f"{path}.{key}"
        if key in ("labels", "matchLabels", "annotations") and isinstance(own, dict) and "type" not in own:
            yield from (f"{place}.{name}: {text!r}" for name, text in own.items() if not isinstance(text, str))
        elif (key == "namespace" or key.lower().endswith("name")) and not isinstance(own, str | dict):
            yield f"{place}: {own!r}"
        yield from named_by_no_text(own, place)
    for index, own in enumerate(value) if isinstance(value, list) else ():
        yield from named_by_no_text(own, f"{path}[{index}]")


@pytest.mark.parametrize("is_enabled", [True, False])
def test_should_be_a_part_of_another_chart_or_not_as_its_condition_says(tmp_path: Path, is_enabled: bool) -> None:
    dependency = {"name": "fleetpack", "version": "0.1.0", "condition": "fleetpack.enabled"}
    chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"fleetpack": {"enabled": is_enabled, "replicas": 3}}))
    shutil.copytree(CHART, tmp_path / "charts" / "fleetpack")
    result = subprocess.run([helm(), "template", "all", tmp_path], capture_output=True, text=True, check=False)
    deployments = [(own["metadata"]["name"], own["spec"]["replicas"]) for own in of_kind(objects(result), "Deployment")]
    assert deployments == ([("all-fleetpack", 3)] if is_enabled else [])


def gaps(values: Manifest, schema: Manifest, path: str) -> Iterator[str]:
    """Values whose fields the schema does not name, or among which it would take others."""
    if schema.get("additionalProperties") is not False:
        yield f"{path}: takes any field"
    for name, value in values.items():
        own = schema["properties"].get(name)
        if own is None:
            yield f"{path}.{name}: not in the schema"
        elif isinstance(value, dict) and "properties" in own:
            yield from gaps(value, own, f"{path}.{name}")


def test_should_say_how_to_go_on_after_the_installation() -> None:
    command = [helm(), "install", "fleetpack", CHART, "--namespace", NAMESPACE, "--dry-run=client"]
    result = subprocess.run(
        [*command, "--set", "devicePlugin.enabled=true"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    notes = result.stdout.partition("NOTES:")[2]
    for step in (
        "get pods,lease",
        "helm -n fleetpack-system test",
        "fleetpack.dev/pool=",
        "get accpool",
        "describe infd",
    ):
        assert step in notes
    assert "leaves replicas running" in notes
    assert "The Prometheus Operator is not here" in notes


def test_should_let_a_network_policy_open_what_the_operator_needs_and_no_more() -> None:
    source = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring"
    [policy] = of_kind(rendered("networkPolicy.enabled=true", source), "NetworkPolicy")
    [deployment] = of_kind(rendered(), "Deployment")
    pods = deployment["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == [
        {
            "ports": [{"protocol": "TCP", "port": pods["spec"]["containers"][0]["ports"][0]["name"]}],
            "from": [
                {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}},
                {
                    "podSelector": {
                        "matchLabels": {
                            "app.kubernetes.io/instance": "fleetpack",
                            "app.kubernetes.io/component": "test",
                        }
                    }
                },
            ],
        }
    ]
    ports = [[port["port"] for port in rule.get("ports", ())] for rule in policy["spec"]["egress"]]
    assert ports == [[53, 53], [443, 6443], []]


def test_should_run_the_test_pod_where_only_restricted_pods_may() -> None:
    [pod] = of_kind(rendered(), "Pod")
    [container] = pod["spec"]["containers"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert (pod["spec"]["securityContext"]["runAsNonRoot"], pod["spec"]["automountServiceAccountToken"]) == (
        True,
        False,
    )
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    compile(container["args"][0], "test_leader.py", "exec")


def test_should_ask_for_a_cluster_that_has_what_it_uses() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    shipped = [yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in sorted((ROOT / "crds").glob("*"))]
    listed = [crd["kind"] for crd in yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])]
    assert sorted(listed) == sorted(shipped)
    assert chart["kubeVersion"] == ">=1.30.0-0"
    older = subprocess.run(
        [helm(), "template", "fleetpack", CHART, "--kube-version", "1.29.9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "requires kubeVersion: >=1.30.0-0" in older.stderr

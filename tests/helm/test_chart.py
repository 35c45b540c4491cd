"""What the chart renders and refuses, seen through the real `helm`.

Rendering one set of values takes a tenth of a second, so each test renders what it needs and compares parsed objects.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.binaries import ensure
from control_plane.programs import HELM
from fleetpack.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "fleetpack"
NAMESPACE = "fleetpack-system"

Manifest = dict[str, Any]
Render = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="session")
def helm() -> Path:
    return ensure((HELM,))["helm"]


@pytest.fixture
def render(helm: Path) -> Render:
    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        values = [argument for setting in settings for argument in ("--set", setting)]
        return subprocess.run(
            [helm, "template", "fleetpack", CHART, "--namespace", NAMESPACE, *values],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def manifests(result: subprocess.CompletedProcess[str]) -> list[Manifest]:
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [item for item in objects if item["kind"] in kinds]


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


def test_should_pass_lint_strictly(helm: Path) -> None:
    result = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replica=3", "replica"),
        ("image.repositry=x", "repositry"),
        ("simulation.enable=true", "enable"),
        ("replicas=two", "replicas"),
        ("image.digest=sha256:short", "digest"),
    ],
)
def test_should_refuse_a_value_that_the_schema_does_not_know(render: Render, setting: str, named: str) -> None:
    result = render(setting)
    assert result.returncode != 0
    assert named in result.stderr


def test_should_grant_nothing_by_wildcard(render: Render) -> None:
    objects = manifests(render("simulation.enabled=true"))
    granted = [entry for rule in rules(objects) for key in ("apiGroups", "resources", "verbs") for entry in rule[key]]
    assert "*" not in granted
    assert granted


def test_should_never_touch_secrets_workload_controllers_or_definitions(render: Render) -> None:
    objects = manifests(render("simulation.enabled=true"))
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


def test_should_grant_the_lease_only_in_the_namespace_of_the_release(render: Render) -> None:
    objects = manifests(render())
    holders = [
        (role["kind"], role["metadata"].get("namespace"))
        for role in of_kind(objects, "ClusterRole", "Role")
        if any("leases" in rule["resources"] for rule in role["rules"])
    ]
    bindings = [binding["metadata"]["namespace"] for binding in of_kind(objects, "RoleBinding")]
    assert (holders, bindings) == ([("Role", NAMESPACE)], [NAMESPACE])
    assert allows(objects, "leases") == {"get", "create", "update"}


def test_should_only_read_nodes_unless_they_are_simulated(render: Render) -> None:
    plain = manifests(render())
    simulated = manifests(render("simulation.enabled=true"))
    reading = {"get", "list", "watch"}
    assert allows(plain, "nodes") == reading
    assert allows(simulated, "nodes") == reading | {"create", "patch", "delete"}


def test_should_bind_every_role_to_the_account_that_the_operator_runs_as(render: Render) -> None:
    objects = manifests(render("simulation.enabled=true"))
    [deployment] = of_kind(objects, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    subjects = [binding["subjects"] for binding in of_kind(objects, "ClusterRoleBinding", "RoleBinding")]
    assert subjects == [[{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]] * 3


def test_should_run_the_operator_under_the_restricted_pod_standard(render: Render) -> None:
    [deployment] = of_kind(manifests(render()), "Deployment")
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


def test_should_run_two_operators_with_probes_on_the_port_that_they_serve(render: Render) -> None:
    [deployment] = of_kind(manifests(render()), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert container["command"] == ["fleetpack", "operator", "run"]
    assert container["ports"] == [{"name": "http", "containerPort": Settings().http_port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_should_take_an_image_by_digest_before_its_tag(render: Render) -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    result = render("image.repository=registry.example/fleetpack", "image.tag=9.9.9", f"image.digest={digest}")
    [deployment] = of_kind(manifests(result), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/fleetpack@{digest}"


def test_should_ship_priority_classes_that_never_preempt(render: Render) -> None:
    classes = of_kind(manifests(render()), "PriorityClass")
    assert {item["metadata"]["name"]: item["value"] for item in classes} == {
        "fleetpack-critical": 100000,
        "fleetpack-standard": 10000,
        "fleetpack-batch": 1000,
    }
    assert {item["preemptionPolicy"] for item in classes} == {"Never"}


def test_should_carry_every_definition_of_the_repository_and_keep_it_on_uninstall(render: Render) -> None:
    shipped = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    rendered = of_kind(manifests(render()), "CustomResourceDefinition")
    assert {item["metadata"]["name"]: item["spec"] for item in rendered} == {
        item["metadata"]["name"]: item["spec"] for item in shipped
    }
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in rendered} <= {"keep"}


def test_should_leave_the_definitions_out_when_told_so(render: Render) -> None:
    assert of_kind(manifests(render("crds.enabled=false")), "CustomResourceDefinition") == []

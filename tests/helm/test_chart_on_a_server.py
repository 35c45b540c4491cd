"""What a real API server makes of the chart: it takes every object, and the roles give what they say and no more."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import chart
from chart import EVERYTHING
from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from control_plane.binaries import ensure
from control_plane.programs import KUBECONFORM
from openapi_schemas import LOCATION, write_schemas
from rights import wait_until_allowed

pytestmark = pytest.mark.cluster

FIELD_MANAGER = "chart-test"


def rendered(namespace: str, *settings: str) -> list[dict[str, Any]]:
    return chart.rendered(*settings, release=namespace, namespace=namespace)


def apply(cluster, manifests: list[dict[str, Any]], *arguments: str) -> subprocess.CompletedProcess[str]:
    text = yaml.safe_dump_all(manifests)
    return cluster.kubectl(
        "apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-", *arguments, input_text=text
    )


def kubeconform(schemas: Path, manifests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    program = ensure((KUBECONFORM,))["kubeconform"]
    command = [program, "-strict", "-summary", "-schema-location", schemas / LOCATION]
    return subprocess.run(command, input=yaml.safe_dump_all(manifests), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def operator_namespace(cluster) -> Iterator[str]:
    # A new one for each run: on a cluster that is kept, the last run's may still be ending.
    name = f"chart-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def operator(cluster, operator_namespace: str) -> Iterator[ApiClient]:
    """Return a connection as the chart's service account, with the chart's roles and nothing else."""
    manifests = rendered(operator_namespace, "crds.enabled=false", "priorityClasses.create=false")
    accounts = [own for own in manifests if own["kind"].startswith(("ServiceAccount", "ClusterRole", "Role"))]
    applied = apply(cluster, accounts)
    assert applied.returncode == 0, applied.stderr
    [account] = [own["metadata"]["name"] for own in accounts if own["kind"] == "ServiceAccount"]
    with cluster.client(cluster.service_account_kubeconfig(operator_namespace, account)) as client:
        wait_until_allowed(client, accounts)
        yield client
    cluster.kubectl("delete", "-f", "-", "--wait=false", input_text=yaml.safe_dump_all(accounts))


@pytest.mark.parametrize("settings", [(), EVERYTHING], ids=["default", "everything"])
def test_should_be_taken_whole_by_the_api_server(cluster, namespace: str, settings: tuple[str, ...]) -> None:
    answer = apply(cluster, rendered(namespace, *settings), "--dry-run=server", "--force-conflicts")
    assert answer.returncode == 0, answer.stderr
    assert "Warning" not in answer.stderr


def test_should_fit_the_schemas_of_the_api_server(admin: ApiClient, tmp_path: Path) -> None:
    manifests = rendered("schemas", *EVERYTHING)
    write_schemas(admin, {(own["apiVersion"], own["kind"]) for own in manifests}, tmp_path)
    checked = kubeconform(tmp_path, manifests)
    assert checked.returncode == 0, checked.stdout
    assert f"Valid: {len(manifests)}, Invalid: 0, Errors: 0, Skipped: 0" in checked.stdout


def test_should_notice_a_field_that_no_schema_has(admin: ApiClient, tmp_path: Path) -> None:
    [budget] = [own for own in rendered("schemas") if own["kind"] == "PodDisruptionBudget"]
    write_schemas(admin, {(budget["apiVersion"], budget["kind"])}, tmp_path)
    budget["spec"]["minimumAvailable"] = 1
    assert "minimumAvailable" in kubeconform(tmp_path, [budget]).stdout


def test_should_run_where_only_restricted_pods_may(cluster, admin: ApiClient, namespace: str) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    manifests = rendered(namespace)
    # The API server holds Pods to a label a moment after it has stored it.
    anything = {"containers": [{"name": "any", "image": "none"}]}
    wait_for(lambda: refusal(admin, namespace, pod("any", anything)), what="the restricted standard in force")
    operator = chart.the(manifests, "Deployment")["spec"]["template"]["spec"]
    for name, spec in (("operator", operator), ("test", chart.the(manifests, "Pod")["spec"])):
        created = admin.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod(name, spec))
        assert created["metadata"]["name"] == name


def test_should_need_a_privileged_namespace_for_the_device_plugin_alone(
    cluster, admin: ApiClient, namespace: str
) -> None:
    plugin = chart.the(rendered(namespace, "devicePlugin.enabled=true"), "DaemonSet")["spec"]["template"]["spec"]
    body = pod("plugin", plugin)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")
    # The API server holds Pods to a label a moment after it has stored it.
    refused = wait_for(lambda: refusal(admin, namespace, body), what="the baseline standard in force")
    # Folders of the node are all that keeps it from running under the baseline standard.
    assert re.search(r'violates PodSecurity "baseline:latest": hostPath volumes \(volumes [^)]*\)$', refused)
    cluster.kubectl("label", "namespace", namespace, "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    wait_for(lambda: not refusal(admin, namespace, body), what="a privileged namespace that takes the plugin")


def refusal(admin: ApiClient, namespace: str, body: dict[str, Any]) -> str:
    """Return why a Pod is refused; empty where it is not."""
    try:
        admin.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body)
    except ApiError as error:
        return str(error)
    return ""


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A Pod of a template, under an account that every namespace has."""
    spec = {**spec, "serviceAccountName": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    "asked",
    [
        "create pods",
        "delete pods",
        "patch pods",
        "watch nodes",
        "list namespaces",
        "get services",
        "create services",
        "get poddisruptionbudgets.policy",
        "create poddisruptionbudgets.policy",
        "list priorityclasses.scheduling.k8s.io",
        "watch inferencedeployments.fleetpack.dev",
        "patch inferencedeployments.fleetpack.dev/status",
        "patch inferencedeployments.fleetpack.dev/scale",
        "update inferencedeployments.fleetpack.dev/finalizers",
        "patch acceleratorpools.fleetpack.dev/status",
        "create events.events.k8s.io",
        "update leases.coordination.k8s.io",
    ],
)
def test_should_let_the_operator_do_its_work(operator: ApiClient, operator_namespace: str, asked: str) -> None:
    assert may(operator, operator_namespace, asked)


@pytest.mark.parametrize(
    "asked",
    [
        "get secrets",
        "list configmaps",
        "create pods/eviction",
        "create pods/exec",
        "create pods/binding",
        "delete nodes",
        "create nodes",
        "patch nodes",
        "patch inferencedeployments.fleetpack.dev",
        "delete inferencedeployments.fleetpack.dev",
        "patch customresourcedefinitions.apiextensions.k8s.io",
        "update deployments.apps",
        "create clusterrolebindings.rbac.authorization.k8s.io",
        "impersonate users",
    ],
)
def test_should_let_the_operator_do_nothing_else(operator: ApiClient, operator_namespace: str, asked: str) -> None:
    assert not may(operator, operator_namespace, asked)


PEOPLE = ("view", "edit", "admin")
PEOPLE_MAY: list[tuple[str, set[str]]] = [
    ("get inferencedeployments.fleetpack.dev", {"view", "edit", "admin"}),
    ("list inferencedeployments.fleetpack.dev", {"view", "edit", "admin"}),
    ("watch inferencedeployments.fleetpack.dev", {"view", "edit", "admin"}),
    ("get inferencedeployments.fleetpack.dev/scale", {"view", "edit", "admin"}),
    ("get inferencedeployments.fleetpack.dev/status", {"view", "edit", "admin"}),
    ("create inferencedeployments.fleetpack.dev", {"edit", "admin"}),
    ("update inferencedeployments.fleetpack.dev", {"edit", "admin"}),
    ("patch inferencedeployments.fleetpack.dev", {"edit", "admin"}),
    ("delete inferencedeployments.fleetpack.dev", {"edit", "admin"}),
    ("deletecollection inferencedeployments.fleetpack.dev", {"edit", "admin"}),
    ("update inferencedeployments.fleetpack.dev/scale", {"edit", "admin"}),
    ("patch inferencedeployments.fleetpack.dev/scale", {"edit", "admin"}),
    ("patch inferencedeployments.fleetpack.dev/status", set()),
    ("get acceleratorpools.fleetpack.dev", {"view", "edit", "admin"}),
    ("create acceleratorpools.fleetpack.dev", set()),
    ("patch acceleratorpools.fleetpack.dev", set()),
    ("delete acceleratorpools.fleetpack.dev", set()),
]


@pytest.fixture(scope="module")
def people(cluster, operator_namespace: str) -> Iterator[Callable[[str, str], bool]]:
    """Somebody with each of the cluster's own roles, everywhere (pools are in no namespace); asks whether one of them may."""
    manifests = rendered(operator_namespace)
    roles = [own for own in manifests if any("/aggregate-to-" in key for key in own["metadata"].get("labels", {}))]
    bindings = [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{operator_namespace}-people-{role}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"somebody-{role}"}],
        }
        for role in PEOPLE
    ]
    applied = apply(cluster, [*roles, *bindings])
    assert applied.returncode == 0, applied.stderr
    with cluster.client() as client:

        def somebody_may(role: str, asked: str) -> bool:
            return may(client, operator_namespace, asked, user=f"somebody-{role}")

        # The cluster's roles are put together in the background, each in its own time.
        for asked, allowed in PEOPLE_MAY:
            for role in allowed:
                wait_for(partial(somebody_may, role, asked), what=f"{role} may {asked}")
        yield somebody_may
    cluster.kubectl("delete", "-f", "-", "--wait=false", input_text=yaml.safe_dump_all([*roles, *bindings]))


@pytest.mark.parametrize(
    ("asked", "allowed"),
    PEOPLE_MAY,
)
def test_should_let_people_do_with_models_what_they_may_do_with_pods(
    people: Callable[[str, str], bool], asked: str, allowed: set[str]
) -> None:
    assert {role for role in PEOPLE if people(role, asked)} == allowed


def test_should_hold_a_drain_for_operators_that_work_and_for_no_others(
    cluster, admin: ApiClient, namespace: str
) -> None:
    manifests = rendered(namespace)
    budget = chart.the(manifests, "PodDisruptionBudget")
    applied = apply(cluster, [budget])
    assert applied.returncode == 0, applied.stderr
    labels = chart.the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name, is_ready in (("works", True), ("broken", False)):
        # On a node that nobody plays, so that its state stays as it is set here.
        spec = {"containers": [{"name": "any", "image": "none"}], "nodeName": f"{namespace}-none"}
        body = {"metadata": {"name": name, "labels": labels}, "spec": {**spec, "terminationGracePeriodSeconds": 0}}
        admin.create(path, {"apiVersion": "v1", "kind": "Pod", **body})
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(is_ready)}]}
        admin.patch(f"{path}/{name}/status", {"status": status}, content_type="application/merge-patch+json")
    budget_path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{budget['metadata']['name']}"
    wait_for(lambda: (admin.get(budget_path).get("status") or {}).get("currentHealthy") == 1, what="a counted operator")

    held = evict(admin, path, "works")
    assert "violate the pod's disruption budget" in held
    # As long as one works the budget is met, and the broken one may go in any case; when none works, the policy lets them go.
    assert evict(admin, path, "broken") == ""
    broken = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    admin.patch(f"{path}/works/status", broken, content_type="application/merge-patch+json")
    wait_for(lambda: admin.get(budget_path)["status"]["currentHealthy"] == 0, what="no operator that works")
    assert evict(admin, path, "works") == ""


def evict(client: ApiClient, path: str, name: str) -> str:
    """Ask for a Pod's eviction, as `kubectl drain` does; return why it is refused, empty where it is not."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    try:
        client.create(f"{path}/{name}/eviction", eviction)
    except ApiError as error:
        return str(error)
    return ""


def test_should_give_the_lease_in_no_other_namespace(operator: ApiClient) -> None:
    assert not may(operator, "default", "get leases.coordination.k8s.io")
    with pytest.raises(ApiError, match="Forbidden"):
        operator.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/fleetpack")


def may(client: ApiClient, namespace: str, asked: str, user: str = "") -> bool:
    """Whether this connection, or somebody else, may."""
    verb, _, rest = asked.partition(" ")
    full, _, subresource = rest.partition("/")
    resource, _, group = full.partition(".")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
    }
    kind = "SubjectAccessReview" if user else "SelfSubjectAccessReview"
    review = client.create(
        f"/apis/authorization.k8s.io/v1/{kind.lower()}s",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": kind,
            "spec": {"resourceAttributes": attributes, **({"user": user} if user else {})},
        },
    )
    allowed = review["status"]["allowed"]
    assert isinstance(allowed, bool), json.dumps(review)
    return allowed

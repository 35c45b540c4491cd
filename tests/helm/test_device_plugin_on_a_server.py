"""What a real API server lets the device plugin's account do, and when a real `helm install` refuses to bring the plugin.

The account's token is bound to a Pod of a simulated node, as the token in a real plugin's Pod is: the API server itself then says which
node the caller is on.
"""

from __future__ import annotations

import copy
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import CHART, helm, rendered, set_arguments, the
from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from rights import wait_until_allowed
from simulated_nodes import SimulatedNode, create_nodes

pytestmark = pytest.mark.cluster

NAMESPACE = f"plugin-{uuid.uuid4().hex[:6]}"
"""A new one for each run: on a cluster that is kept, the last run's may still be ending."""
ACCOUNT = f"{NAMESPACE}-fleetpack-device-plugin"
ALLOCATED = "fleetpack.dev/allocated-cores"
HERE, ELSEWHERE = f"{NAMESPACE}-here", f"{NAMESPACE}-elsewhere"


@pytest.fixture(scope="module")
def administrator(cluster) -> Iterator[ApiClient]:
    with cluster.client() as client:
        yield client


@pytest.fixture(scope="module")
def installed(cluster, administrator: ApiClient) -> Iterator[list[dict[str, Any]]]:
    """The plugin's account, role and policy, and two nodes."""
    manifests = [
        own
        for own in rendered("devicePlugin.enabled=true", release=NAMESPACE, namespace=NAMESPACE)
        if own["metadata"]["name"].startswith(ACCOUNT) and own["kind"] != "DaemonSet"
    ]
    cluster.kubectl("create", "namespace", NAMESPACE)
    applied = cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(manifests))
    assert applied.returncode == 0, applied.stderr
    create_nodes(administrator, SimulatedNode(name=HERE), SimulatedNode(name=ELSEWHERE))
    yield manifests
    cluster.kubectl("delete", "-f", "-", "--wait=false", input_text=yaml.safe_dump_all(manifests))
    # Before their nodes go: nobody would end them there.
    cluster.kubectl("-n", NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("delete", "node", HERE, ELSEWHERE, "--wait=false")


@pytest.fixture(scope="module")
def make_pod(administrator: ApiClient, installed: list[dict[str, Any]]) -> Callable[..., str]:
    def make(name: str, node: str, account: str = "default") -> str:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        wait_for(lambda: there(administrator, f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}"))
        if not there(administrator, f"{path}/{name}"):
            spec = {
                "nodeName": node,
                "serviceAccountName": account,
                "containers": [{"name": "server", "image": "none"}],
            }
            body = {"metadata": {"name": name, "labels": {"a": "b"}, "annotations": {"mine": "1"}}, "spec": spec}
            administrator.create(path, {"apiVersion": "v1", "kind": "Pod", **body})
        return f"{path}/{name}"

    return make


@pytest.fixture(scope="module")
def plugin(
    cluster,
    administrator: ApiClient,
    installed: list[dict[str, Any]],
    make_pod: Callable[..., str],
    tmp_path_factory,
) -> Iterator[ApiClient]:
    """Return a connection with a token that belongs to the plugin's Pod on the node HERE."""
    pod = administrator.get(make_pod("plugin", HERE, ACCOUNT))
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "plugin", "uid": pod["metadata"]["uid"]}
    with connected(cluster, administrator, tmp_path_factory.mktemp("token"), {"boundObjectRef": bound}) as client:
        # The API server takes up roles and each of the policies in its own time: one may hold a second before the other.
        forbidden = {"metadata": {"annotations": {"x": "y"}}}
        elsewhere = make_pod("elsewhere", ELSEWHERE)
        wait_until_allowed(client, installed)
        wait_for(lambda: "of its own node" in refusal(client, elsewhere, forbidden), what="the policy of Pods")
        wait_for(
            lambda: "its own node" in refusal(client, f"/api/v1/nodes/{ELSEWHERE}", forbidden), what="that of nodes"
        )
        yield client


def connected(cluster, administrator: ApiClient, folder: Path, token: dict[str, Any]) -> ApiClient:
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": token}
    answer = administrator.create(path, request)
    kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": answer["status"]["token"]}
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig))
    return ApiClient(file)


def there(client: ApiClient, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


def refusal(client: ApiClient, path: str, change: dict[str, Any]) -> str:
    """Return why a patch is refused; empty where it is not."""
    try:
        client.patch(path, change, content_type="application/strategic-merge-patch+json")
    except ApiError as error:
        return str(error)
    return ""


def annotations(**pairs: str | None) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {ALLOCATED if name == "cores" else name: value for name, value in pairs.items()}}
    }


def test_should_write_the_cores_of_a_pod_of_its_own_node(
    plugin: ApiClient, administrator: ApiClient, make_pod: Callable[..., str]
) -> None:
    pod = make_pod("own", HERE)
    for cores in ("8-15", "0,2-3", "7"):
        assert refusal(plugin, pod, annotations(cores=cores)) == ""
        assert administrator.get(pod)["metadata"]["annotations"][ALLOCATED] == cores
    assert refusal(plugin, pod, annotations(cores=None)) == ""


def test_should_write_nothing_on_pods_of_other_nodes(plugin: ApiClient, make_pod: Callable[..., str]) -> None:
    assert f"only on Pods of its own node ('{HERE}'); this one is on '{ELSEWHERE}'" in refusal(
        plugin, make_pod("elsewhere", ELSEWHERE), annotations(cores="0-1")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (annotations(cores="0-1", other="x"), "fleetpack.dev/allocated-cores only"),
        (annotations(mine="2"), "fleetpack.dev/allocated-cores only"),
        (annotations(mine=None), "fleetpack.dev/allocated-cores only"),
        (annotations(cores="all of them"), "must be core ranges"),
        ({"metadata": {"labels": {"a": "c"}}}, "may change nothing else"),
        ({"metadata": {"labels": {"a": None}}}, "may change nothing else"),
        ({"metadata": {"finalizers": ["example.com/keep"]}}, "may change nothing else"),
        (
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}]}},
            "may change nothing else",
        ),
        ({"spec": {"activeDeadlineSeconds": 1}}, "may change nothing else"),
        ({"spec": {"containers": [{"name": "server", "image": "other"}]}}, "may change nothing else"),
    ],
)
def test_should_change_nothing_else_of_a_pod(
    plugin: ApiClient, make_pod: Callable[..., str], change: dict[str, Any], message: str
) -> None:
    assert message in refusal(plugin, make_pod("own", HERE), change)


def test_should_write_nothing_with_a_token_that_belongs_to_no_pod(
    cluster, administrator: ApiClient, plugin: ApiClient, make_pod: Callable[..., str], tmp_path: Path
) -> None:
    with connected(cluster, administrator, tmp_path, {}) as stranger:
        message = refusal(stranger, make_pod("own", HERE), annotations(cores="0-1"))
    assert "only on Pods of its own node ('')" in message


@pytest.mark.parametrize("subresource", ["status", "ephemeralcontainers", "resize"])
def test_should_reach_no_subresource_of_a_pod(
    plugin: ApiClient, make_pod: Callable[..., str], subresource: str
) -> None:
    assert "Forbidden" in refusal(plugin, f"{make_pod('own', HERE)}/{subresource}", annotations(cores="0-1"))


def node_annotations(**pairs: str | None) -> dict[str, Any]:
    return {
        "metadata": {
            "annotations": {
                "fleetpack.dev/unhealthy-cores" if name == "cores" else name: v for name, v in pairs.items()
            }
        }
    }


def test_should_write_on_its_own_node_which_cores_are_out(plugin: ApiClient, administrator: ApiClient) -> None:
    node = f"/api/v1/nodes/{HERE}"
    for cores in ("6-7", "0,2-3"):
        assert refusal(plugin, node, node_annotations(cores=cores)) == ""
        assert administrator.get(node)["metadata"]["annotations"]["fleetpack.dev/unhealthy-cores"] == cores
    assert refusal(plugin, node, node_annotations(cores=None)) == ""
    assert "fleetpack.dev/unhealthy-cores" not in administrator.get(node)["metadata"].get("annotations", {})


def test_should_write_nothing_on_another_node(plugin: ApiClient) -> None:
    message = refusal(plugin, f"/api/v1/nodes/{ELSEWHERE}", node_annotations(cores="0"))
    assert f"only on its own node ('{HERE}'), not on '{ELSEWHERE}'" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (node_annotations(cores="0-1", other="x"), "fleetpack.dev/unhealthy-cores only"),
        (node_annotations(cores="broken"), "must be core ranges"),
        ({"metadata": {"labels": {"fleetpack.dev/pool": "other"}}}, "may change nothing else"),
        ({"metadata": {"finalizers": ["example.com/keep"]}}, "may change nothing else"),
        ({"spec": {"unschedulable": True}}, "may change nothing else"),
        ({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, "may change nothing else"),
    ],
)
def test_should_change_nothing_else_of_its_node(plugin: ApiClient, change: dict[str, Any], message: str) -> None:
    assert message in refusal(plugin, f"/api/v1/nodes/{HERE}", change)


def test_should_reach_no_subresource_of_its_node(plugin: ApiClient) -> None:
    assert "Forbidden" in refusal(plugin, f"/api/v1/nodes/{HERE}/status", node_annotations(cores="0-1"))


def test_should_hinder_nobody_else(administrator: ApiClient, plugin: ApiClient, make_pod: Callable[..., str]) -> None:
    assert refusal(administrator, make_pod("own", HERE), {"metadata": {"labels": {"a": "d"}}}) == ""
    assert refusal(administrator, make_pod("own", HERE), {"metadata": {"labels": {"a": "b"}}}) == ""


def install_dry(cluster, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [helm(), "install", "second", CHART, "--namespace", "default", "--dry-run=server"]
    # What a cluster for tests has already belongs to no release.
    settings = ("crds.enabled=false", "priorityClasses.create=false", *settings)
    command += [f"--kubeconfig={cluster.kubeconfig}", *set_arguments(*settings)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def daemon(cluster, name: str, *, namespace: str = "kube-system", image: str = "none") -> AbstractContextManager[None]:
    """A DaemonSet that runs nowhere."""
    labels = {"name": "neuron-device-plugin-ds"}
    pod = {"containers": [{"name": "plugin", "image": image}], "nodeSelector": {"none": "such"}}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    metadata = {"name": name, "namespace": namespace}
    return applied(cluster, {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec})


@contextmanager
def applied(cluster, manifest: dict[str, Any]) -> Iterator[None]:
    text = yaml.safe_dump(manifest)
    created = cluster.kubectl("apply", "-f", "-", input_text=text)
    assert created.returncode == 0, created.stderr
    try:
        yield
    finally:
        cluster.kubectl("delete", "-f", "-", input_text=text)


@pytest.fixture
def foreign_plugin(cluster) -> Iterator[str]:
    """AWS's DaemonSet, as its manifest names it."""
    name = "neuron-device-plugin-daemonset"
    with daemon(cluster, name):
        yield name


AWS_IMAGE = "public.ecr.aws/neuron/neuron-device-plugin:2.26.26.0"


@pytest.mark.parametrize(
    ("name", "elsewhere", "image"),
    [
        ("neuron-device-plugin-daemonset", False, "none"),
        ("neuron-device-plugin", False, "none"),
        ("neuron-device-plugin", True, "none"),
        ("accelerators", True, AWS_IMAGE),
        ("accelerators", True, "mirror.example:5000/neuron-device-plugin@sha256:" + "a" * 64),
    ],
)
def test_should_refuse_to_serve_what_another_plugin_serves(
    cluster, namespace: str, name: str, elsewhere: bool, image: str
) -> None:
    place = namespace if elsewhere else "kube-system"
    with daemon(cluster, name, namespace=place, image=image):
        refused = install_dry(cluster, "devicePlugin.enabled=true")
    assert refused.returncode != 0
    assert f"DaemonSet {place}/{name}) already serves aws.amazon.com/neuroncore" in refused.stderr
    assert f"kubectl -n {place} delete daemonset {name}" in refused.stderr
    assert "devicePlugin.allowBesideNeuronPlugin=true" in refused.stderr


def test_should_take_neither_another_daemon_nor_its_own_for_aws_plugin(cluster, namespace: str) -> None:
    with daemon(cluster, "neuron-monitor", namespace=namespace, image="public.ecr.aws/neuron/neuron-monitor:1.3.0"):
        other = install_dry(cluster, "devicePlugin.enabled=true")
    assert other.returncode == 0, other.stderr
    with daemon(cluster, "neuron-device-plugin", namespace=namespace):
        own = install_dry(
            cluster, "devicePlugin.enabled=true", "fullnameOverride=neuron", f"devicePlugin.namespace={namespace}"
        )
    # helm's own word: an object of this name is there, of no release.
    assert "already serves" not in own.stderr


def plugin_of_release(release: str, namespace: str) -> dict[str, Any]:
    """The chart's own DaemonSet as another release brings it, on no node."""
    manifests = rendered("devicePlugin.enabled=true", release=release, namespace=namespace)
    daemon_set = copy.deepcopy(the(manifests, "DaemonSet"))
    daemon_set["spec"]["template"]["spec"]["nodeSelector"] = {"none": "such"}
    return daemon_set


@pytest.mark.parametrize("release", ["first", "second"])
def test_should_refuse_to_serve_what_another_release_serves(cluster, namespace: str, release: str) -> None:
    other = plugin_of_release(release, namespace)
    with applied(cluster, other):
        refused = install_dry(cluster, "devicePlugin.enabled=true")
        beside = install_dry(cluster, "devicePlugin.enabled=true", "devicePlugin.allowBesideNeuronPlugin=true")
        without = install_dry(cluster)
    assert refused.returncode != 0
    place = f"DaemonSet {namespace}/{other['metadata']['name']}"
    assert f"another fleetpack release ({release}) already serves aws.amazon.com/neuroncore" in refused.stderr
    assert place in refused.stderr
    assert "Set devicePlugin.enabled=false in one of the two" in refused.stderr
    assert (beside.returncode, without.returncode) == (0, 0), beside.stderr + without.stderr


def test_should_refuse_to_serve_what_a_driver_gives_through_claims(cluster) -> None:
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "neuron.aws.com"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == 'neuron.aws.com'"}}]},
    }
    with applied(cluster, device_class):
        refused = install_dry(cluster, "devicePlugin.enabled=true")
        beside = install_dry(cluster, "devicePlugin.enabled=true", "devicePlugin.allowBesideNeuronPlugin=true")
    after = install_dry(cluster, "devicePlugin.enabled=true")
    assert refused.returncode != 0
    assert "AWS's Neuron DRA driver (DeviceClass neuron.aws.com) already gives out" in refused.stderr
    assert (beside.returncode, after.returncode) == (0, 0), beside.stderr + after.stderr


def test_should_move_its_own_plugin_to_another_name_or_namespace(cluster, namespace: str) -> None:
    own = plugin_of_release("second", namespace)
    own["metadata"]["annotations"] = {
        "meta.helm.sh/release-name": "second",
        "meta.helm.sh/release-namespace": "default",
    }
    with applied(cluster, own):
        moved = install_dry(cluster, "devicePlugin.enabled=true")
    assert moved.returncode == 0, moved.stderr


def test_should_install_beside_a_plugin_for_other_resources(cluster, namespace: str) -> None:
    other = plugin_of_release("nvidia", namespace)
    other["spec"]["template"]["spec"]["containers"][0]["command"] = ["nvidia-device-plugin"]
    with applied(cluster, other):
        installed = install_dry(cluster, "devicePlugin.enabled=true")
    assert installed.returncode == 0, installed.stderr


def test_should_install_beside_another_plugin_when_told_so_or_without_its_own(cluster, foreign_plugin: str) -> None:
    beside = install_dry(cluster, "devicePlugin.enabled=true", "devicePlugin.allowBesideNeuronPlugin=true")
    without = install_dry(cluster)
    assert (beside.returncode, without.returncode) == (0, 0), beside.stderr + without.stderr


def test_should_install_where_no_other_plugin_is(cluster) -> None:
    answer = install_dry(cluster, "devicePlugin.enabled=true")
    assert answer.returncode == 0, answer.stderr

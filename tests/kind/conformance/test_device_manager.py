"""The device plugin on real kubelets, check by check as Kubernetes' own suite has them (test/e2e_node/device_plugin_test.go), and more.

The plugin is the chart's DaemonSet from its image; Pods really run, and hold their cores under a lock that all containers of a
node share. What is compared is always what four parties say: the kubelet's checkpoint, its PodResources, the container's environment
and the annotation. Each test leaves the node as it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster_fixtures import wait_for
from control_plane.api_client import STRATEGIC_MERGE_PATCH, ApiClient
from core_timeline import CORE_RESOURCE, cores_of_text
from kind_core_pods import CorePods, visible_cores_inside
from kind_device_plugin import InstalledPlugin, installed_plugin
from kind_fixtures import KindCluster
from kind_images import KindImages

pytestmark = pytest.mark.kind

CORES = {"inf2.24xlarge": 12, "inf2.48xlarge": 24, "trn1.32xlarge": 32}
PLUGIN_LABEL = "fleetpack.dev/device-plugin"
RIVALS = ["rival-0", "rival-1"]
STAND_IN = "aws.amazon.com/stand-in"
STAND_INS = ["stand-in-0", "stand-in-1"]


@pytest.fixture(scope="module")
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    with installed_plugin(kind_cluster, kind_images.fleetpack, watched="inf2.24xlarge") as installed:
        yield installed


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    """Pods on the smallest node, which is free before and after."""
    node = plugin.cluster.node_of("inf2.24xlarge")
    found = CorePods(plugin=plugin, client=kind_admin, namespace=kind_namespace, node=node)
    yield found
    found.delete_all()


def test_should_show_the_cores_of_each_machine(plugin: InstalledPlugin) -> None:
    for instance_type, cores in CORES.items():
        plugin.wait_for_counts(plugin.cluster.node_of(instance_type), CORE_RESOURCE, cores, cores)


def test_should_give_each_pod_cores_of_its_own(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("first", 1)
    pods.create("second", 1)
    pods.create("planned", 4, planned="4-7")

    first, second, planned = (pods.agreed_cores(name) for name in ("first", "second", "planned"))

    assert (len(first), len(second), planned) == (1, 1, cores_of_text("4-7"))
    assert not first & second | first & planned | second & planned
    inside = visible_cores_inside(plugin.cluster.kubectl, pods.namespace, "planned", "server")
    # Two whole devices: counted from 0 inside.
    assert inside == "0-3"


def test_should_keep_cores_over_restarts_of_everything(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("model", 4, planned="2-5")
    before = pods.agreed_cores("model")

    plugin.cluster.kubectl.read("-n", pods.namespace, "exec", "model", "--", "sh", "-c", "kill -TERM 1")
    wait_for(lambda: _restarts(pods, "model") == 1, what="a restarted container")
    after_container = pods.agreed_cores("model")
    plugin.restart_kubelet(pods.node)
    after_kubelet = pods.agreed_cores("model")
    plugin.restart(pods.node)
    plugin.wait_until_registered(pods.node)
    after_plugin = pods.agreed_cores("model")
    pods.create("next", 4)

    assert before == after_container == after_kubelet == after_plugin == cores_of_text("2-5")
    assert not pods.agreed_cores("next") & before
    # Neither kubelet nor plugin has touched the container.
    assert _restarts(pods, "model") == 1


def test_should_take_unhealthy_cores_out_of_allocatable_only(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("model", 2, planned="0-1")
    held = pods.agreed_cores("model")

    try:
        plugin.say_unhealthy(pods.node, "neuron-0, neuron-1  # two of six")
        plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 8)
        # kube-scheduler takes what is held from what is allocatable, although the held cores are out.
        pods.create("next", 6)
        beside = pods.agreed_cores("next")
        kept = pods.agreed_cores("model")
    finally:
        plugin.say_unhealthy(pods.node, "")
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 12)

    assert held == kept == cores_of_text("0-1")
    assert beside < cores_of_text("4-11")


def test_should_follow_the_condition_of_the_node(pods: CorePods, plugin: InstalledPlugin) -> None:
    condition = {"type": "NeuronHealth", "status": "True", "message": "errors on /dev/neuron5"}
    try:
        _set_condition(pods, condition | {"reason": "NeuronHasError_HBM_UNCORRECTABLE_ERROR"})
        plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 10)
    finally:
        _set_condition(pods, condition | {"status": "False", "reason": "NeuronHasNoError"})
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 12)


def test_should_refuse_what_cannot_be_given(pods: CorePods, plugin: InstalledPlugin) -> None:
    before = plugin.reading(pods.node)

    unknown = plugin.call_plugin(pods.node, CORE_RESOURCE, "allocate", ["neuroncore-99"])
    torn = plugin.call_plugin(pods.node, CORE_RESOURCE, "allocate", ["neuroncore-0", "neuroncore-3"])

    assert unknown.startswith("NOT_FOUND aws.amazon.com/neuroncore: device 'neuroncore-99' is not on this node")
    assert torn.startswith("FAILED_PRECONDITION aws.amazon.com/neuroncore: cores 0,3 may not serve one container")
    assert plugin.reading(pods.node) == before


def test_should_fail_a_pod_for_which_no_legal_set_is_left(pods: CorePods) -> None:
    pods.create("middle", 2, planned="4-5")
    pods.agreed_cores("middle")

    pods.create("wide", 8)
    status = wait_for(lambda: _failed_status(pods, "wide"), limit_seconds=40.0, what="a Pod that has failed")

    assert status["reason"] == "UnexpectedAdmissionError"
    assert "no legal set of 8 cores is free on this inf2.24xlarge (free cores: 0-3,6-11)" in status["message"]


def test_should_register_again_when_its_socket_is_lost(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("model", 2, planned="8-9")
    before = pods.agreed_cores("model")
    registered = plugin.registrations(pods.node)

    socket = "/var/lib/kubelet/device-plugins/fleetpack-neuroncore.sock"
    plugin.cluster.execute(pods.node, "rm", socket)
    wait_for(lambda: plugin.registrations(pods.node) == registered + 1, limit_seconds=30.0, what="a second Register")
    pods.create("next", 2)

    assert not pods.agreed_cores("next") & before
    assert pods.agreed_cores("model") == before
    assert plugin.device_counts(pods.node, CORE_RESOURCE)[0] == 12


def test_should_win_its_node_back_from_another_plugin(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("model", 4, planned="2-5")
    before = pods.agreed_cores("model")
    registered, reasons = plugin.registrations(pods.node), plugin.reasons_to_register(pods.node)

    # It has ended before we can have noticed: the kubelet counts its devices and calls it, and still listens to us.
    with plugin.other_plugin(pods.node, CORE_RESOURCE, *RIVALS):
        counted_meanwhile = plugin.counted_devices(pods.node, CORE_RESOURCE)
    wait_for(
        lambda: plugin.registrations(pods.node) > registered,
        limit_seconds=60.0,
        what="a second Register, with a reason in the log",
    )
    pods.create("next", 4)

    assert counted_meanwhile == RIVALS
    assert plugin.reasons_to_register(pods.node)[len(reasons) :] == [
        "the kubelet counts other devices than ours: another plugin has registered them"
    ]
    assert plugin.counted_devices(pods.node, CORE_RESOURCE) == sorted(f"neuroncore-{core}" for core in range(12))
    assert not pods.agreed_cores("next") & before
    assert pods.agreed_cores("model") == before
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 12)


def test_should_change_nothing_when_the_same_list_comes_again(pods: CorePods, plugin: InstalledPlugin) -> None:
    # Our plugin sends no list twice, so this is another one, with a resource of its own; what the kubelet does with it is the same.
    with plugin.other_plugin(pods.node, STAND_IN, *STAND_INS) as other:
        plugin.wait_for_counts(pods.node, STAND_IN, 2, 2)
        create_sleeper(pods, "first")
        first = stand_ins_held(pods, "first")
        before = plugin.reading(pods.node)

        other.send_again()
        other.send_again()
        # Longer than a kubelet here waits before it writes a change into its node's status.
        time.sleep(3.0)

        assert plugin.reading(pods.node) == before
        assert plugin.counted_devices(pods.node, STAND_IN) == STAND_INS
        assert plugin.device_counts(pods.node, STAND_IN) == (2, 2)
        create_sleeper(pods, "second")
        assert sorted(first + stand_ins_held(pods, "second")) == STAND_INS
        pods.delete_all()


def test_should_tell_of_a_swap_and_write_the_truth(
    pods: CorePods, plugin: InstalledPlugin, kind_admin: ApiClient
) -> None:
    before = _disagreements(plugin, pods.node)
    gate = [{"name": "test/order"}]
    pods.create("elder", 2, planned="0-1", schedulingGates=gate)
    # Ages are whole seconds.
    time.sleep(1.1)
    pods.create("younger", 2, planned="10-11", schedulingGates=gate)

    # The kubelet asks for the younger first; the answer comes when the plugin knows both.
    plugin.send_signal(pods.node, "STOP")
    try:
        _open_gate(pods, "younger")
        wait_for(lambda: pods.get("younger")["spec"].get("nodeName"), what="a bound Pod")
        time.sleep(1.0)
        _open_gate(pods, "elder")
        wait_for(lambda: pods.get("elder")["spec"].get("nodeName"), what="a bound Pod")
    finally:
        plugin.send_signal(pods.node, "CONT")
    younger, elder = pods.agreed_cores("younger"), pods.agreed_cores("elder")

    assert (younger, elder) == (cores_of_text("0-1"), cores_of_text("10-11"))
    assert _events(kind_admin, pods.namespace) == {("elder", "CoresSwapped"), ("younger", "CoresSwapped")}
    swapped = 'fleetpack_device_plugin_disagreements_total{kind="CoresSwapped"}'
    assert _disagreements(plugin, pods.node).get(swapped, 0.0) == before.get(swapped, 0.0) + 2


def test_should_keep_a_foreign_pod_off_the_cores_that_a_plan_waits_for(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("alone", 2)
    first = min(pods.agreed_cores("alone"))
    pods.delete_all()
    planned = f"{first}-{first + 3}"
    pods.create("planned", 4, planned=planned, schedulingGates=[{"name": "test/order"}])

    # The kubelet asks for the foreign Pod first; the answer comes when the plugin knows of the plan.
    plugin.send_signal(pods.node, "STOP")
    try:
        pods.create("foreign", 2)
        wait_for(lambda: pods.get("foreign")["spec"].get("nodeName"), what="a bound Pod")
        time.sleep(1.0)
        _open_gate(pods, "planned")
        wait_for(lambda: pods.get("planned")["spec"].get("nodeName"), what="a bound Pod")
    finally:
        plugin.send_signal(pods.node, "CONT")

    assert pods.agreed_cores("planned") == cores_of_text(planned)
    assert not pods.agreed_cores("foreign") & cores_of_text(planned)


def test_should_tell_of_other_cores_and_write_the_truth(
    pods: CorePods, plugin: InstalledPlugin, kind_admin: ApiClient
) -> None:
    before = _disagreements(plugin, pods.node)
    pods.create("holder", 4, planned="0-3")
    pods.agreed_cores("holder")

    pods.create("late", 4, planned="2-5")
    cores = pods.agreed_cores("late")

    assert not cores & cores_of_text("0-3")
    assert _events(kind_admin, pods.namespace) == {("late", "CoresMoved")}
    moved = 'fleetpack_device_plugin_disagreements_total{kind="CoresMoved"}'
    assert _disagreements(plugin, pods.node).get(moved, 0.0) == before.get(moved, 0.0) + 1


def test_should_leave_allocatable_and_then_capacity_when_the_plugin_is_gone(
    pods: CorePods, plugin: InstalledPlugin
) -> None:
    pods.create("model", 4, planned="6-9")
    before = pods.agreed_cores("model")

    _label_node(pods, "false")
    try:
        plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 0)
        plugin.cluster.execute(pods.node, "systemctl", "restart", "kubelet")
        plugin.wait_for_counts(pods.node, CORE_RESOURCE, 0, 0)
        pods.create("next", 2)
        running = pods.get("model")["status"]["phase"]
    finally:
        _label_node(pods, None)
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 12)

    assert running == "Running"
    assert pods.agreed_cores("model") == before
    assert _restarts(pods, "model") == 0
    assert not pods.agreed_cores("next") & before


def create_sleeper(pods: CorePods, name: str) -> None:
    """Create a Pod with one stand-in and nothing else to do."""
    container = {
        "name": "server",
        "image": pods.plugin.image,
        "command": ["python3", "-S", "-c", "import signal; signal.pause()"],
        "resources": {"limits": {STAND_IN: "1"}},
    }
    pods.create(name, 1, resource=STAND_IN, containers=[container], terminationGracePeriodSeconds=0)


def stand_ins_held(pods: CorePods, name: str) -> list[str]:
    """Return the stand-ins of a Pod once it runs, as the kubelet lists them."""
    wait_for(lambda: pods.get(name)["status"]["phase"] == "Running", limit_seconds=40.0, what=f"Pod {name} running")
    found: list[str] = pods.plugin.reading(pods.node)["pod_resources"][f"{pods.namespace}/{name}/server/{STAND_IN}"]
    return found


def _restarts(pods: CorePods, name: str) -> int:
    statuses = pods.get(name)["status"].get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount", 0)) if statuses[0].get("ready") else -1


def _failed_status(pods: CorePods, name: str) -> dict[str, str] | None:
    status = pods.get(name)["status"]
    return status if status["phase"] == "Failed" else None


def _disagreements(plugin: InstalledPlugin, node: str) -> dict[str, float]:
    return {series: value for series, value in plugin.metrics(node).items() if "_disagreements_total" in series}


def _events(client: ApiClient, namespace: str) -> set[tuple[str, str]]:
    found = client.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    return {(event["regarding"]["name"], event["reason"]) for event in found if event["reason"].startswith("Cores")}


def _open_gate(pods: CorePods, name: str) -> None:
    pods.client.patch(f"{pods.path}/{name}", {"spec": {"schedulingGates": []}})


def _set_condition(pods: CorePods, condition: dict[str, str]) -> None:
    body = {"status": {"conditions": [condition]}}
    pods.client.patch(f"/api/v1/nodes/{pods.node}/status", body, content_type=STRATEGIC_MERGE_PATCH)


def _label_node(pods: CorePods, value: str | None) -> None:
    pods.client.patch(f"/api/v1/nodes/{pods.node}", {"metadata": {"labels": {PLUGIN_LABEL: value}}})

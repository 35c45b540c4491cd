"""The plugin's whole process beside a real API server, with the chart's account and policy, and the kubelet's side of a test.

`fleetpack device-plugin` runs as its DaemonSet would run it: its token belongs to a Pod of the node, so the admission policy of the
chart holds it to the Pods of that node. The node has no kubelet: a Pod that is bound to it stays Pending, and the test gives devices
out in the kubelet's place.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import rendered
from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient
from eventually import eventually
from kubelet_side import CORE, KubeletSide

pytestmark = pytest.mark.cluster

NAMESPACE = f"plugin-process-{uuid.uuid4().hex[:6]}"
ACCOUNT = f"{NAMESPACE}-fleetpack-device-plugin"
NODE = f"{NAMESPACE}-node"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture(scope="module")
def administrator(cluster) -> Iterator[ApiClient]:
    with cluster.client() as client:
        yield client


@pytest.fixture(scope="module")
def kubeconfig(cluster, administrator: ApiClient, tmp_path_factory) -> Iterator[Path]:
    """The plugin's account with a token of its Pod, as it would have on this node."""
    manifests = [
        own
        for own in rendered("devicePlugin.enabled=true", release=NAMESPACE, namespace=NAMESPACE)
        if own["metadata"]["name"].startswith(ACCOUNT) and own["kind"] != "DaemonSet"
    ]
    cluster.kubectl("create", "namespace", NAMESPACE)
    applied = cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(manifests))
    assert applied.returncode == 0, applied.stderr
    labels = {"node.kubernetes.io/instance-type": "inf2.24xlarge"}
    administrator.create(
        "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}
    )
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    wait_for(lambda: {one["metadata"]["name"] for one in administrator.get(accounts)["items"]} >= {"default", ACCOUNT})
    owner = create_pod(administrator, "plugin", account=ACCOUNT)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "plugin", "uid": owner["metadata"]["uid"]}
    answer = administrator.create(
        f"{accounts}/{ACCOUNT}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}},
    )
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": answer["status"]["token"]}
    file = tmp_path_factory.mktemp("token") / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    yield file
    cluster.kubectl("delete", "-f", "-", "--wait=false", input_text=yaml.safe_dump_all(manifests))
    cluster.kubectl("-n", NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("delete", "node", NODE, "--wait=false")


def create_pod(client: ApiClient, name: str, cores: str = "", count: int = 0, account: str = "default") -> Any:
    container: dict[str, Any] = {"name": "server", "image": "none"}
    if count:
        container["resources"] = {"limits": {CORE: str(count)}}
    annotations = {"fleetpack.dev/cores": cores} if cores else {}
    spec = {"nodeName": NODE, "serviceAccountName": account, "containers": [container]}
    body = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
    return client.create(PODS, {"apiVersion": "v1", "kind": "Pod", **body})


class Plugin:
    """A running `fleetpack device-plugin`."""

    def __init__(self, kubelet: KubeletSide, kubeconfig: Path, folder: Path) -> None:
        self.kubelet = kubelet
        self.unhealthy_file = folder / "unhealthy"
        self._log = (folder / "log").open("w+")
        command = [
            str(Path(sys.executable).with_name("fleetpack")),
            "device-plugin",
            f"--node-name={NODE}",
            f"--kubeconfig={kubeconfig}",
            "--source=simulated",
            f"--plugin-folder={kubelet.folder}",
            f"--pod-resources-socket={kubelet.pod_resources_socket}",
            f"--unhealthy-file={self.unhealthy_file}",
            "--http-host=127.0.0.1",
            "--http-port=0",
        ]
        self.process = subprocess.Popen(command, stderr=self._log)

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the plugin's own port."""
        port = self.log().partition("/livez and /readyz on port ")[2].split()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def metrics(self) -> dict[str, float]:
        """Return series to value."""
        _, page = await asyncio.to_thread(self.get, "/metrics")
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}

    async def stop(self) -> None:
        """Ask it to end, as a kubelet does, and wait."""
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 15.0)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()


@pytest.fixture
async def plugin(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Plugin]:
    folder = tmp_path / "kubelet"
    folder.mkdir()
    kubelet = KubeletSide(folder)
    await kubelet.start()
    running = Plugin(kubelet, kubeconfig, tmp_path)
    try:
        await eventually(lambda: kubelet.allocatable() == 12, within_seconds=60.0, what="a registered plugin")
        yield running
    finally:
        print(running.log())
        await running.stop()
        await kubelet.stop()


def written(client: ApiClient, name: str) -> str | None:
    annotations = client.get(f"{PODS}/{name}")["metadata"].get("annotations") or {}
    return annotations.get("fleetpack.dev/allocated-cores")


async def test_should_write_down_what_the_kubelet_gave(plugin: Plugin, administrator: ApiClient) -> None:
    create_pod(administrator, "planned", "4-7", 4)
    create_pod(administrator, "foreign", count=2)
    planned = await plugin.kubelet.admit(f"{NAMESPACE}/planned", 4)
    foreign = await plugin.kubelet.admit(f"{NAMESPACE}/foreign", 2)
    await eventually(lambda: written(administrator, "planned") == "4-7", what="the annotation")
    first = min(int(core.removeprefix("neuroncore-")) for core in foreign.ids)
    await eventually(lambda: written(administrator, "foreign") == f"{first}-{first + 1}", what="the annotation")
    assert planned.ids == {"neuroncore-4", "neuroncore-5", "neuroncore-6", "neuroncore-7"}
    metrics = await plugin.metrics()
    held = f'fleetpack_device_plugin_allocated_cores{{container="server",namespace="{NAMESPACE}",pod="planned",resource="{CORE}"}}'
    assert metrics[held] == 4.0
    assert 'instance_info{instance_name="' + NODE + '",instance_type="inf2.24xlarge"}' in metrics
    assert [plugin.get(path)[0] for path in ("/livez", "/readyz")] == [200, 200]


async def test_should_accept_a_swap_and_tell_of_it(plugin: Plugin, administrator: ApiClient, cluster) -> None:
    create_pod(administrator, "left", "0-1", 2)
    create_pod(administrator, "right", "2-3", 2)
    await plugin.kubelet.allocate(f"{NAMESPACE}/left", ["neuroncore-2", "neuroncore-3"])
    await plugin.kubelet.allocate(f"{NAMESPACE}/right", ["neuroncore-0", "neuroncore-1"])
    await eventually(lambda: written(administrator, "left") == "2-3", what="the annotation")
    await eventually(lambda: written(administrator, "right") == "0-1", what="the annotation")
    events = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"

    def told() -> set[str]:
        found = administrator.get(events)["items"]
        return {one["regarding"]["name"] for one in found if one["reason"] == "CoresSwapped"}

    await eventually(lambda: told() == {"left", "right"}, what="an event for each")
    assert (await plugin.metrics())['fleetpack_device_plugin_disagreements_total{kind="CoresSwapped"}'] == 2.0


async def test_should_write_each_annotation_once(plugin: Plugin, administrator: ApiClient, cluster) -> None:
    start_at = cluster.audit_position()
    create_pod(administrator, "quiet", "8-9", 2)
    await plugin.kubelet.admit(f"{NAMESPACE}/quiet", 2)
    await eventually(lambda: written(administrator, "quiet") == "8-9", what="the annotation")
    await asyncio.sleep(7.0)
    user = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    own = {write: count for write, count in cluster.writes(start_at=start_at).items() if write.user == user}
    assert [(write.verb, write.resource, count) for write, count in own.items()] == [("patch", "pods", 1)]


async def test_should_take_devices_out_and_back_by_file_signal_and_node_condition(
    plugin: Plugin, administrator: ApiClient
) -> None:
    async def allocatable(count: int, what: str) -> None:
        await eventually(lambda: plugin.kubelet.allocatable() == count, what=f"{count} allocatable after {what}")

    def out() -> str | None:
        annotations = administrator.get(f"/api/v1/nodes/{NODE}")["metadata"].get("annotations") or {}
        return annotations.get("fleetpack.dev/unhealthy-cores")

    plugin.unhealthy_file.write_text("neuron-0, neuroncore-5  # under repair\n")
    await allocatable(9, "a file")
    await eventually(lambda: out() == "0-1,5", what="the node says which cores are out")
    plugin.unhealthy_file.write_text("neuron-99")
    await asyncio.sleep(1.5)
    assert plugin.kubelet.allocatable() == 9, "a file that cannot be read changes nothing"
    plugin.unhealthy_file.unlink()
    await allocatable(12, "the file is gone")
    plugin.process.send_signal(signal.SIGUSR1)
    await allocatable(0, "SIGUSR1")
    plugin.process.send_signal(signal.SIGUSR2)
    await allocatable(12, "SIGUSR2")
    report(administrator, "NeuronHasError_DMA_ERROR", "NEURON_HW_ERR=DMA_ERROR on /dev/neuron5")
    await allocatable(10, "a condition")
    report(administrator, "NeuronHasNoError", "")
    await allocatable(12, "a good condition")
    await eventually(lambda: out() is None, what="the node says that all are well")
    assert plugin.kubelet.capacity() == 12


def report(client: ApiClient, reason: str, message: str) -> None:
    condition = {"type": "NeuronHealth", "status": "True", "reason": reason, "message": message}
    client.patch(
        f"/api/v1/nodes/{NODE}/status",
        {"status": {"conditions": [condition]}},
        content_type="application/strategic-merge-patch+json",
    )


async def test_should_end_at_once_where_the_machine_has_no_neuron_cores(kubeconfig: Path) -> None:
    command = [str(Path(sys.executable).with_name("fleetpack")), "device-plugin", f"--node-name={NODE}"]
    command += [f"--kubeconfig={kubeconfig}", "--instance-type=p5.48xlarge"]
    answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60.0)
    assert answer.returncode == 1
    assert "instance type 'p5.48xlarge' has no Neuron cores (it offers nvidia.com/gpu)" in answer.stderr

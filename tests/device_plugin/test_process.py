"""The plugin's whole process beside a real API server, with the chart's account and policy, and the kubelet's side of a test."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control_plane.api_client import ApiClient
from eventually import WAIT_LIMIT_SECONDS, eventually
from kubelet_side import CORE, KubeletSide
from plugin_process import PluginAccount, PluginProcess, plugin_account
from scripted_server import always, http_answer, scripted_server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def administrator(cluster) -> Iterator[ApiClient]:
    with cluster.client() as client:
        yield client


@pytest.fixture(scope="module")
def account(cluster, administrator: ApiClient, tmp_path_factory) -> Iterator[PluginAccount]:
    with plugin_account(cluster, administrator, tmp_path_factory.mktemp("token")) as account:
        yield account


@pytest.fixture
async def monitor_url() -> AsyncIterator[str]:
    """Serve a neuron-monitor's page."""
    async with scripted_server(always(http_answer('neuroncore_utilization_ratio{neuroncore="4"} 0.5\n'))) as port:
        yield f"http://127.0.0.1:{port}/metrics"


@pytest.fixture
async def plugin(account: PluginAccount, monitor_url: str, tmp_path: Path) -> AsyncIterator[PluginProcess]:
    folder = tmp_path / "kubelet"
    folder.mkdir()
    kubelet = KubeletSide(folder)
    await kubelet.start()
    option = f"--neuron-monitor-url={monitor_url}"
    running = PluginProcess(kubelet, account.node, account.kubeconfig, tmp_path, option)
    try:
        await eventually(lambda: kubelet.allocatable() == 12, what="a registered plugin")
        yield running
    finally:
        print(running.log())
        await running.stop()
        await kubelet.stop()


async def test_should_write_down_what_the_kubelet_gave(plugin: PluginProcess, account: PluginAccount) -> None:
    account.create_pod("planned", "4-7", 4)
    account.create_pod("foreign", count=2)
    planned = await plugin.kubelet.admit(f"{account.namespace}/planned", 4)
    foreign = await plugin.kubelet.admit(f"{account.namespace}/foreign", 2)
    await eventually(lambda: account.annotation("planned") == "4-7", what="the annotation")
    first = min(int(core.removeprefix("neuroncore-")) for core in foreign.ids)
    await eventually(lambda: account.annotation("foreign") == f"{first}-{first + 1}", what="the annotation")
    assert planned.ids == {"neuroncore-4", "neuroncore-5", "neuroncore-6", "neuroncore-7"}
    metrics = await plugin.metrics()
    labels = f'container="server",namespace="{account.namespace}",pod="planned",resource="{CORE}"'
    assert metrics[f"fleetpack_device_plugin_allocated_cores{{{labels}}}"] == 4.0
    # What neuron-monitor measures of a core, with the Pod that has it.
    holder = f'container="server",namespace="{account.namespace}",neuroncore="4",pod="planned"'
    measured = f"neuroncore_utilization_ratio{{{holder}}} 0.5"
    await eventually(lambda: measured in plugin.get("/metrics")[1], what="the series of a core with its Pod")
    assert 'instance_info{instance_name="' + account.node + '",instance_type="inf2.24xlarge"}' in metrics
    assert [plugin.get(path)[0] for path in ("/livez", "/readyz")] == [200, 200]


async def test_should_accept_a_swap_and_tell_of_it(plugin: PluginProcess, account: PluginAccount, cluster) -> None:
    account.create_pod("left", "0-1", 2)
    account.create_pod("right", "2-3", 2)
    await plugin.kubelet.allocate(f"{account.namespace}/left", ["neuroncore-2", "neuroncore-3"])
    await plugin.kubelet.allocate(f"{account.namespace}/right", ["neuroncore-0", "neuroncore-1"])
    await eventually(lambda: account.annotation("left") == "2-3", what="the annotation")
    await eventually(lambda: account.annotation("right") == "0-1", what="the annotation")
    events = f"/apis/events.k8s.io/v1/namespaces/{account.namespace}/events"

    def told() -> set[str]:
        found = account.administrator.get(events)["items"]
        return {one["regarding"]["name"] for one in found if one["reason"] == "CoresSwapped"}

    await eventually(lambda: told() == {"left", "right"}, what="an event for each")
    # Counted once the event is posted.
    counted = 'fleetpack_device_plugin_disagreements_total{kind="CoresSwapped"}'
    async with asyncio.timeout(WAIT_LIMIT_SECONDS):
        while (await plugin.metrics()).get(counted) != 2.0:  # noqa: ASYNC110 (a page has no event)
            await asyncio.sleep(0.05)


async def test_should_write_each_annotation_once(plugin: PluginProcess, account: PluginAccount, cluster) -> None:
    start_at = cluster.audit_position()
    account.create_pod("quiet", "8-9", 2)
    await plugin.kubelet.admit(f"{account.namespace}/quiet", 2)
    await eventually(lambda: account.annotation("quiet") == "8-9", what="the annotation")
    await asyncio.sleep(7.0)
    user = account.user
    own = {write: count for write, count in cluster.writes(start_at=start_at).items() if write.user == user}
    assert [(write.verb, write.resource, count) for write, count in own.items()] == [("patch", "pods", 1)]


async def test_should_take_devices_out_and_back_by_file_signal_and_node_condition(
    plugin: PluginProcess, account: PluginAccount
) -> None:
    async def allocatable(count: int, what: str) -> None:
        await eventually(lambda: plugin.kubelet.allocatable() == count, what=f"{count} allocatable after {what}")

    def out() -> str | None:
        annotations = account.administrator.get(f"/api/v1/nodes/{account.node}")["metadata"].get("annotations") or {}
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
    report(account, "NeuronHasError_DMA_ERROR", "NEURON_HW_ERR=DMA_ERROR on /dev/neuron5")
    await allocatable(10, "a condition")
    report(account, "NeuronHasNoError", "")
    await allocatable(12, "a good condition")
    await eventually(lambda: out() is None, what="the node says that all are well")
    assert plugin.kubelet.capacity() == 12


async def test_should_announce_no_silicon_that_a_condition_takes_out_when_it_starts(
    account: PluginAccount, tmp_path: Path, cluster
) -> None:
    node = f"/api/v1/nodes/{account.node}"
    account.administrator.patch(node, {"metadata": {"annotations": {"fleetpack.dev/unhealthy-cores": "10-11"}}})
    report(account, "NeuronHasError_DMA_ERROR", "NEURON_HW_ERR=DMA_ERROR on /dev/neuron5")
    start_at = cluster.audit_position()
    folder = tmp_path / "kubelet"
    folder.mkdir()
    kubelet = KubeletSide(folder)
    await kubelet.start()
    running = PluginProcess(kubelet, account.node, account.kubeconfig, tmp_path)
    try:
        await eventually(lambda: kubelet.capacity() == 12, what="a registered plugin")
        first = kubelet.endpoints[CORE].first
        await asyncio.sleep(3.0)
    finally:
        print(running.log())
        await running.stop()
        await kubelet.stop()
        report(account, "NeuronHasNoError", "")
        account.administrator.patch(node, {"metadata": {"annotations": {"fleetpack.dev/unhealthy-cores": None}}})
    assert first == {f"neuroncore-{core}" for core in range(10)}
    written = [write for write in cluster.writes(start_at=start_at) if write.user == account.user]
    assert written == [], "the annotation says already what is out"


def report(account: PluginAccount, reason: str, message: str) -> None:
    condition = {"type": "NeuronHealth", "status": "True", "reason": reason, "message": message}
    account.administrator.patch(
        f"/api/v1/nodes/{account.node}/status",
        {"status": {"conditions": [condition]}},
        content_type="application/strategic-merge-patch+json",
    )


async def test_should_end_at_once_where_the_machine_has_no_neuron_cores(account: PluginAccount) -> None:
    command = [str(Path(sys.executable).with_name("fleetpack")), "device-plugin", f"--node-name={account.node}"]
    command += [f"--kubeconfig={account.kubeconfig}", "--instance-type=p5.48xlarge"]
    answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120.0)
    assert answer.returncode == 1
    assert "instance type 'p5.48xlarge' has no Neuron cores (it offers nvidia.com/gpu)" in answer.stderr

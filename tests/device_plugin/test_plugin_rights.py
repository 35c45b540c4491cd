"""The device plugin asks for exactly what the chart grants it: as tests/end_to_end/test_rights.py has it for the operator."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from background import ThreadedProxy, proxy_running
from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from eventually import eventually
from kubelet_side import KubeletSide
from plugin_process import PluginAccount, PluginProcess, plugin_account
from rights import (
    Impostor,
    Right,
    first_of_each,
    missing_right_message,
    refused_and_granted_later,
    rights_of,
    trial,
    withhold_once,
)

pytestmark = pytest.mark.cluster

TELLING_THE_TYPE: Right = ("", "nodes", "get")


@pytest.fixture
def account(cluster: Cluster, admin: ApiClient, tmp_path: Path) -> Iterator[PluginAccount]:
    with plugin_account(cluster, admin, tmp_path) as account:
        yield account


@pytest.fixture
def proxy(account: PluginAccount) -> Iterator[ThreadedProxy]:
    with proxy_running(account.kubeconfig) as proxy:
        yield proxy


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[KubeletSide]:
    folder = tmp_path / "kubelet"
    folder.mkdir()
    kubelet = KubeletSide(folder)
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


async def test_should_ask_for_exactly_what_the_chart_grants_and_miss_each_right(
    account: PluginAccount,
    proxy: ThreadedProxy,
    kubelet: KubeletSide,
    cluster: Cluster,
    admin: ApiClient,
    tmp_path: Path,
) -> None:
    rights = rights_of(account.manifests)
    kubeconfig = proxy.write_kubeconfig(tmp_path / "proxy")
    withhold_once(proxy, {TELLING_THE_TYPE})
    ended = await end_of(account, kubeconfig)
    withhold_once(proxy, rights - {TELLING_THE_TYPE})
    log = await serve(account, kubelet, kubeconfig, tmp_path, until=lambda: granted_again(proxy) == rights)

    requests = first_of_each(proxy.requests)
    assert requests.keys() == rights
    assert granted_again(proxy) == rights
    assert ended.returncode == 1
    assert "cannot tell the instance type of this node: get /api/v1/nodes/" in ended.stderr
    told = ended.stderr + log
    assert [right for right, one in requests.items() if not re.search(rf"{one.verb} {one.path} \(HTTP 403", told)] == []
    with (
        Impostor(cluster.kubeconfig) as impostor,
        trial(admin, impostor, rights, name=account.namespace) as users,
    ):
        answers = {right: users.answer(one, without=right) for right, one in requests.items()}
    assert {right: said for right, said in answers.items() if missing_right_message(right) not in said} == {}


def granted_again(proxy: ThreadedProxy) -> set[Right]:
    return refused_and_granted_later(proxy.requests)


async def end_of(account: PluginAccount, kubeconfig: Path) -> subprocess.CompletedProcess[str]:
    """Run a plugin that ends by itself."""
    command = [str(Path(sys.executable).with_name("fleetpack")), "device-plugin", "--source=simulated"]
    command += [f"--node-name={account.node}", f"--kubeconfig={kubeconfig}"]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120.0)


async def serve(account: PluginAccount, kubelet: KubeletSide, kubeconfig: Path, folder: Path, *, until) -> str:
    """Run a plugin that has to write all that it ever does until something is so; return its log."""
    plugin = PluginProcess(kubelet, account.node, kubeconfig, folder)
    try:
        await eventually(lambda: kubelet.allocatable() == 12, what="a registered plugin")
        plugin.unhealthy_file.write_text("neuron-5")
        for name, planned in (("left", "0-1"), ("right", "2-3")):
            account.create_pod(name, planned, 2)
        # The planned cores of one another: an event for each.
        await kubelet.allocate(f"{account.namespace}/left", ["neuroncore-2", "neuroncore-3"])
        await kubelet.allocate(f"{account.namespace}/right", ["neuroncore-0", "neuroncore-1"])
        await eventually(until, what=f"every right asked for again\n{plugin.log()}")
    finally:
        log = plugin.log()
        print(log)
        await plugin.stop()
    return log

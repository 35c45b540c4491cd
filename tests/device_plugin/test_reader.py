"""The kubelet's list is read whatever the API server does, and is missed aloud where it cannot be read; in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.cluster.errors import DeliveryUnknown
from fleetpack.device_plugin import process as process_module
from fleetpack.device_plugin import registration as registration_module
from fleetpack.device_plugin.accounts import Holding, Reading
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.node_pods import NodeRow
from fleetpack.device_plugin.plugin import ReadingUnavailableError
from fleetpack.device_plugin.process import ADMISSION_SECONDS, _Process
from fleetpack.device_plugin.registration import KUBELET_SOCKET
from fleetpack.device_plugin.settings import PluginSettings
from fleetpack.device_plugin.silicon import NeuronResource
from fleetpack.device_plugin.sources import SimulatedDevices, machine_of
from plugin_world import PodBoard, node_pod
from virtual_time import in_virtual_time

PODS = 30
PATCH_SECONDS = 4.0
"""What a write may take before the client gives it up."""


class LateServer:
    """An API server from which no write gets an answer in time."""

    def __init__(self) -> None:
        self.asked_for: list[str] = []

    async def patch(self, path: str, body: Any) -> None:
        del body
        await asyncio.sleep(PATCH_SECONDS)
        self.asked_for.append(path.rpartition("/")[2])
        raise DeliveryUnknown("patch", path, "sent, and no answer")


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=now, time=now)
    for module in (process_module, registration_module):
        monkeypatch.setattr(module, "time", clock)


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_should_read_on_and_stay_alive_while_every_write_is_late() -> None:
    server = LateServer()
    process, readings = process_with_pods(server)
    task = asyncio.create_task(process._keep_reading())
    alive = []
    for _ in range(300):
        await asyncio.sleep(1.0)
        alive.append(process.liveness()["reader"]()[0])
    task.cancel()
    assert alive == [True] * 300
    assert max(later - earlier for earlier, later in pairwise(readings)) < 15.0
    assert set(server.asked_for) == {f"p{number:02}" for number in range(PODS)}, "each Pod has its turn"


@in_virtual_time
async def test_should_leave_the_list_alone_right_after_an_answer_that_came_during_a_late_write() -> None:
    process, readings = process_with_pods(LateServer())
    process.pods.node.return_value = NodeRow(instance_type="", conditions=(), unhealthy_cores="0-1")  # type: ignore[attr-defined]
    task = asyncio.create_task(process._keep_reading())
    await asyncio.sleep(PATCH_SECONDS - 0.1)
    process.plugin.asked_at = answered_at = now()
    await asyncio.sleep(1.0)
    task.cancel()
    assert readings == pytest.approx([answered_at + ADMISSION_SECONDS])


@in_virtual_time
async def test_should_ask_for_a_restart_where_the_list_could_not_be_read_for_minutes_beside_a_kubelet(
    tmp_path: Path,
) -> None:
    (tmp_path / KUBELET_SOCKET).touch()
    assert await liveness_of_reader_without_list(tmp_path, 299.0) == (True, "the kubelet's list was asked for 1 s ago")
    alive, why = await liveness_of_reader_without_list(tmp_path, 303.0)
    assert (alive, why.partition(":")[0]) == (False, "the kubelet's list could not be read for 303 s")
    assert "seen only when it is remounted" in why


@in_virtual_time
async def test_should_not_mind_a_list_that_cannot_be_read_where_there_is_no_kubelet(tmp_path: Path) -> None:
    assert (await liveness_of_reader_without_list(tmp_path, 1000.0))[0]


async def liveness_of_reader_without_list(folder: Path, seconds: float) -> tuple[bool, str]:
    """Return what a plugin says of its reader that has found no list for so long."""
    process = _Process(
        PluginSettings(node_name="n", plugin_folder=folder, pod_resources_socket=folder / "nothing.sock"),
        Mock(),
        SimulatedDevices(instance_type=machine_of(load_catalog(), "trn1.32xlarge")),
        PluginMetrics(),
    )
    process.plugin._pods = PodBoard()
    process.plugin._read = AsyncMock(side_effect=ReadingUnavailableError("no such socket"))
    task = asyncio.create_task(process._serve())
    await asyncio.sleep(seconds)
    task.cancel()
    return process.liveness()["reader"]()


def process_with_pods(server: LateServer) -> tuple[_Process, list[float]]:
    """Return a process whose kubelet lists thirty Pods without annotations, and the times of its readings."""
    machine = machine_of(load_catalog(), "trn1.32xlarge")
    process = _Process(PluginSettings(node_name="n"), Mock(), SimulatedDevices(instance_type=machine), PluginMetrics())
    process.truth._client = server  # type: ignore[assignment]
    pods = tuple(replace(node_pod(f"p{number:02}", count=1), phase="Running") for number in range(PODS))
    holdings = tuple(
        Holding(pod=pod.key, container="server", resource=NeuronResource.CORE, cores=1 << number)
        for number, pod in enumerate(pods)
    )
    readings: list[float] = []

    async def read() -> Reading:
        readings.append(now())
        return Reading(started_at=now(), holdings=holdings)

    process.plugin._read = read
    process.pods = Mock(cached=Mock(return_value=pods), node=Mock(return_value=None))
    return process, readings

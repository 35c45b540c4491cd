"""How often registration is tried with a kubelet that does not answer, and how soon with one that has come back; in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import pytest

from fleetpack.device_plugin import registration
from fleetpack.device_plugin.kubelet_server import ResourceServer
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.registration import KUBELET_SOCKET, Registrar
from virtual_time import in_virtual_time


class Refused(Registrar):
    """A registrar whose kubelet refuses until the test says otherwise; it notes the times of its tries."""

    def __init__(self, folder: Path) -> None:
        self.server = Mock(start=AsyncMock(), stop=AsyncMock(), is_serving=True, seconds_without_stream=0.0)
        self.server.socket = folder / "fleetpack-neuroncore.sock"
        super().__init__((self.server,), folder, PluginMetrics(), AsyncMock(return_value=None))
        self.refuses = True
        self.started = asyncio.get_running_loop().time()
        self.tried_after_seconds: list[float] = []

    async def _register(self, server: ResourceServer) -> None:
        del server
        self.tried_after_seconds.append(asyncio.get_running_loop().time() - self.started)
        if self.refuses:
            raise ConnectionRefusedError("nobody listens")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """What a kubelet that was killed leaves behind."""
    return made(tmp_path / KUBELET_SOCKET)


def made(socket: Path) -> Path:
    socket.touch()
    return socket


def removed(socket: Path) -> None:
    socket.unlink()


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(registration, "time", clock)


@in_virtual_time
async def test_should_try_less_and_less_often_to_register_with_a_kubelet_that_is_stopped(socket: Path) -> None:
    registrar = Refused(socket.parent)
    task = asyncio.create_task(registrar.run())
    await asyncio.sleep(40.0)
    task.cancel()
    # The pauses double from a quarter of a second to ten.
    assert registrar.tried_after_seconds == pytest.approx([0.0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 25.75, 35.75])


@in_virtual_time
async def test_should_register_at_once_with_a_kubelet_that_has_come_back(socket: Path) -> None:
    registrar = Refused(socket.parent)
    task = asyncio.create_task(registrar.run())
    await asyncio.sleep(300.1)
    before = len(registrar.tried_after_seconds)

    registrar.refuses = False
    removed(socket)
    await asyncio.sleep(0.5)
    made(socket)
    await asyncio.sleep(60.0)

    task.cancel()
    assert registrar.tried_after_seconds[before:] == [300.75]
    assert registrar.readiness() == (True, "registered with the kubelet")


@in_virtual_time
async def test_should_begin_with_short_pauses_again_after_a_registration(socket: Path) -> None:
    registrar = Refused(socket.parent)
    task = asyncio.create_task(registrar.run())
    await asyncio.sleep(30.0)
    registrar.refuses = False
    await asyncio.sleep(10.1)
    before = len(registrar.tried_after_seconds)

    registrar.refuses = True
    registrar.server.is_serving = False
    await asyncio.sleep(2.0)

    task.cancel()
    assert registrar.tried_after_seconds[before:] == pytest.approx([40.25, 40.5, 41.0, 42.0])


@in_virtual_time
async def test_should_ask_for_a_restart_where_no_kubelet_was_seen_for_minutes(tmp_path: Path) -> None:
    registrar = Refused(tmp_path)
    registrar.refuses = False
    task = asyncio.create_task(registrar.run())
    await asyncio.sleep(299.0)
    before = registrar.liveness()[0]
    await asyncio.sleep(2.0)
    after = registrar.liveness()
    made(tmp_path / KUBELET_SOCKET)
    await asyncio.sleep(1.0)
    task.cancel()
    assert (before, registrar.liveness()[0]) == (True, True)
    assert after == (
        False,
        f"no kubelet: {tmp_path / KUBELET_SOCKET} does not exist, for 301 s: a folder that was made anew is seen only when it "
        "is remounted, by a restart of this container",
    )


@in_virtual_time
async def test_should_ask_for_a_restart_where_nobody_listens_for_minutes(socket: Path) -> None:
    registrar = Refused(socket.parent)
    registrar.refuses = False
    task = asyncio.create_task(registrar.run())
    await asyncio.sleep(1000.0)
    registered = registrar.liveness()[0]
    # The folder with the kubelet's socket was renamed: its socket is still there.
    registrar.refuses, registrar.server.is_serving = True, False
    await asyncio.sleep(299.0)
    soon = registrar.liveness()[0]
    await asyncio.sleep(2.0)
    task.cancel()
    assert (registered, soon, registrar.liveness()[0]) == (True, True, False)

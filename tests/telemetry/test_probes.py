"""The probes of operator and device plugin as the kubelet sees them: 503 and the reason when a part of the process hangs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
from prometheus_client import CollectorRegistry

from eventually import eventually
from fleetpack.catalog import load_catalog
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.control_loop import FAILING_SECONDS, ControlLoop, Trigger
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.process import STALLED_SECONDS, _Process, run_device_plugin
from fleetpack.device_plugin.registration import REGISTER_SECONDS
from fleetpack.device_plugin.settings import PluginSettings, SourceKind
from fleetpack.device_plugin.sources import CoreNumbering, SimulatedDevices, machine_of
from fleetpack.main import STALE_CACHE_SECONDS, _Operator
from fleetpack.settings import Settings
from fleetpack.telemetry import FleetMetrics, Probe, serve_telemetry

NOWHERE = "http://127.0.0.1:1"
"""No API server is there, and none is asked."""


async def ask(probes: Mapping[str, Probe]) -> tuple[int, dict[str, tuple[bool, str]]]:
    """Ask as the kubelet does; the status, and each check by name."""
    async with serve_telemetry(CollectorRegistry(), live=probes, ready={}, host="127.0.0.1", port=0) as port:
        return await fetch(port, "/livez")


def seconds_in(message: str, form: str) -> float:
    """Return the number of seconds in a message; a busy machine may have taken some between setting and asking."""
    before, _, after = form.partition("{}")
    found = re.fullmatch(rf"{re.escape(before)}(\d+(?:\.\d+)?){re.escape(after)}", message)
    assert found is not None, message
    return float(found[1])


async def fetch(port: int, path: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code, {one["name"]: (one["ok"], one["message"]) for one in answer.json()["checks"]}


# --- The operator


@pytest.fixture
async def operator() -> AsyncIterator[_Operator]:
    """An operator whose caches are complete and fresh, and whose last pass was just now."""
    async with KubernetesClient.from_url(NOWHERE) as client:
        operator = _Operator(Settings(), client, FleetMetrics())
        caches = operator.caches
        for one in (*caches.reflectors.values(), caches.deployments, caches.pools):
            one.synced.set()
        hear(operator, ago_seconds=0.0)
        operator.loop = control_loop(operator)
        yield operator


def hear(operator: _Operator, *, ago_seconds: float) -> None:
    for reflector in operator.caches.reflectors.values():
        reflector._last_sign_of_life_seconds = time.monotonic() - ago_seconds


def control_loop(operator: _Operator, **parts: Any) -> ControlLoop:
    return ControlLoop(
        **{
            "catalog": load_catalog(),
            "caches": operator.caches,
            "trigger": Trigger(),
            "reader": Mock(),
            "secrets": AsyncMock(),
            "actuator": Mock(),
            "teller": Mock(tell=AsyncMock()),
            "is_leading": lambda: False,
            "clock": time.time,
            **parts,
        }
    )


async def test_should_be_alive_while_passes_end_and_caches_hear(operator: _Operator) -> None:
    status, checks = await ask(operator.liveness())
    assert status == 200
    assert {name: ok for name, (ok, _) in checks.items()} == {"control-loop": True, "caches": True}


async def test_should_say_that_no_pass_has_ended_for_a_minute(operator: _Operator) -> None:
    assert operator.loop is not None
    operator.loop.last_pass_at = time.monotonic() - FAILING_SECONDS - 1
    status, checks = await ask(operator.liveness())
    assert (status, checks["control-loop"][0], checks["caches"][0]) == (503, False, True)
    assert 61.0 <= seconds_in(checks["control-loop"][1], "last pass {} s ago") < 90.0


async def test_should_say_which_cache_time_has_passed_without_news(operator: _Operator) -> None:
    hear(operator, ago_seconds=STALE_CACHE_SECONDS + 1)
    status, checks = await ask(operator.liveness())
    assert (status, checks["control-loop"][0]) == (503, True)
    assert not checks["caches"][0]
    assert 91.0 <= seconds_in(checks["caches"][1], "oldest cache heard from the API server {} s ago") < 120.0


async def test_should_take_the_oldest_cache_for_all(operator: _Operator) -> None:
    operator.caches.nodes._last_sign_of_life_seconds = time.monotonic() - STALE_CACHE_SECONDS - 1
    status, checks = await ask(operator.liveness())
    assert (status, checks["caches"][0]) == (503, False)


async def test_should_wait_for_the_first_lists_alive_and_not_ready(operator: _Operator) -> None:
    operator.caches.pods.synced.clear()
    assert operator.loop is not None
    operator.loop.last_pass_at = time.monotonic() - FAILING_SECONDS - 1
    live, _ = await ask(operator.liveness())
    ready, checks = await ask(operator.readiness())
    assert (live, ready) == (200, 503)
    assert checks == {"synced": (False, "waiting for pods")}


async def hang(*_: object) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("read", "leading", "status"),
    [
        pytest.param(hang, True, 503, id="a pass that hangs"),
        pytest.param(AsyncMock(side_effect=RuntimeError("no plan")), True, 503, id="passes that fail"),
        pytest.param(hang, False, 200, id="a standby, which reads nothing"),
    ],
)
async def test_should_count_only_passes_that_end_well(
    operator: _Operator, read: Any, leading: bool, status: int
) -> None:
    reads = 0

    def note_and_read(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(*arguments)

    loop = control_loop(operator, reader=Mock(read=note_and_read), is_leading=lambda: leading)
    long_ago = loop.last_pass_at = time.monotonic() - FAILING_SECONDS - 1
    operator.loop = loop
    stopping = asyncio.Event()
    task = asyncio.create_task(loop.run(stopping))
    await eventually(lambda: reads or loop.last_pass_at > long_ago, what="the middle of a pass, or its end")
    await asyncio.sleep(0.05)
    answer, checks = await ask(operator.liveness())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (answer, checks["control-loop"][0]) == (status, status == 200)


# --- The device plugin


@pytest.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[_Process]:
    settings = PluginSettings(
        node_name="a",
        source=SourceKind.SIMULATED,
        plugin_folder=tmp_path,
        pod_resources_socket=tmp_path / "none.sock",
    )
    source = SimulatedDevices(
        instance_type=machine_of(load_catalog(), "inf2.24xlarge"), core_numbering=CoreNumbering.CONTAINER
    )
    async with KubernetesClient.from_url(NOWHERE) as client:
        yield _Process(settings, client, source, PluginMetrics())


async def test_should_be_alive_and_not_ready_right_after_the_start(plugin: _Process) -> None:
    live, _ = await ask(plugin.liveness())
    ready, checks = await ask(plugin.readiness())
    assert (live, ready) == (200, 503)
    assert checks == {
        "registered": (False, "not registered yet"),
        "kubelet-list": (False, "the kubelet's list was never read"),
    }


async def test_should_say_that_nobody_reads_the_kubelets_list(plugin: _Process) -> None:
    plugin._read_at = time.monotonic() - STALLED_SECONDS - 1
    status, checks = await ask(plugin.liveness())
    assert (status, checks["registration"][0]) == (503, True)
    assert not checks["reader"][0]
    assert 61.0 <= seconds_in(checks["reader"][1], "the kubelet's list was asked for {} s ago") < 90.0


async def test_should_say_that_nobody_looks_at_the_kubelets_socket(plugin: _Process) -> None:
    plugin.registrar._looked_at = time.monotonic() - 4 * REGISTER_SECONDS - 1
    status, checks = await ask(plugin.liveness())
    assert (status, checks["reader"][0]) == (503, True)
    assert not checks["registration"][0]
    assert 61.0 <= seconds_in(checks["registration"][1], "looked at the kubelet's socket {} s ago") < 90.0


async def test_should_move_both_clocks_while_it_works(plugin: _Process) -> None:
    long_ago = plugin._read_at = plugin.registrar._looked_at = time.monotonic() - STALLED_SECONDS - 1
    tasks = [asyncio.create_task(plugin.registrar.run()), asyncio.create_task(plugin._keep_reading())]
    await eventually(lambda: min(plugin._read_at, plugin.registrar._looked_at) > long_ago, what="both clocks moved")
    status, _ = await ask(plugin.liveness())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert status == 200


KUBECONFIG = f"""\
apiVersion: v1
kind: Config
clusters: [{{name: a, cluster: {{server: "{NOWHERE}"}}}}]
contexts: [{{name: a, context: {{cluster: a, user: a}}}}]
users: [{{name: a, user: {{}}}}]
current-context: a
"""


async def test_should_serve_probes_before_an_api_server_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    settings = PluginSettings(
        node_name="a", kubeconfig=tmp_path / "kubeconfig", http_host="127.0.0.1", http_port=0, plugin_folder=tmp_path
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(run_device_plugin(settings, stopping))
    await eventually(lambda: "cannot read node a, trying again" in caplog.text, what="a try")
    [port] = [int(found) for found in re.findall(r"/readyz on port (\d+)", caplog.text)]

    live, why = await fetch(port, "/livez")
    ready, unready = await fetch(port, "/readyz")
    monkeypatch.setattr("fleetpack.device_plugin.process.STALLED_SECONDS", 0.0)
    stalled, _ = await fetch(port, "/livez")
    stopping.set()
    await asyncio.wait_for(running, 60.0)

    assert (live, ready, stalled) == (200, 503, 503)
    assert why["machine"][0]
    assert seconds_in(why["machine"][1], "the API server was asked for the node {} s ago") < 60.0
    assert unready == {"machine": (False, "waiting for the API server to tell the node's instance type")}

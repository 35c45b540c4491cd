"""`fleetpack-sim serve` and `load` as programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_fixtures import wait_for
from control_plane.ports import free_ports
from fleetpack_simulator.cli import main

ENGINE = {
    "FLEETPACK_ENGINE_MODEL": "tiny",
    "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "1",
    "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
    "NEURON_RT_VISIBLE_CORES": "2-5",
}


def invoke(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a replica that runs as its own program, as in a container."""
    command = [sys.executable, "-m", "fleetpack_simulator.cli", "serve", "--port", "0"]
    environment = {**os.environ, **ENGINE, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        yield int(first_line.rpartition(" ")[2])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_should_serve_in_a_container_and_write_the_summary_of_a_load(port: int, tmp_path: Path) -> None:
    summary_path = tmp_path / "summary.json"

    result = invoke(
        "load",
        *("--generator", "constant", "--option", "rate_per_second=20", "--option", "output_tokens=5"),
        *("--duration", "1", "--address", f"127.0.0.1:{port}", "--json", str(summary_path)),
    )

    summary = json.loads(summary_path.read_text())
    assert summary["completed"] == summary["requests"] > 5
    assert result.exit_code == (0 if summary["is_valid"] else 1), result.output
    assert "time to first token" in result.output


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: it is ours, so that nobody else opens it meanwhile, and we do not listen."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_should_tell_its_queue_while_no_replica_answers_and_sum_up_when_it_is_stopped(closed_port: int) -> None:
    # Below the ports that the kernel gives to whoever connects to something.
    status_port = free_ports(("status",))["status"]
    arguments = ("--generator", "constant", "--address", f"127.0.0.1:{closed_port}", "--status-port", str(status_port))
    command = [sys.executable, "-m", "fleetpack_simulator.cli", "load", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        waiting = wait_for(lambda: read_waiting(status_port), what="a held request")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)

    assert waiting >= 1
    assert process.returncode == 0
    assert "0 of 0 requests completed" in output


def read_waiting(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
            waiting: int = json.load(response)["waiting"]
            return waiting
    except OSError:
        return 0


@pytest.mark.parametrize(
    ("arguments", "visible", "message"),
    [
        ([], None, "NEURON_RT_VISIBLE_CORES is not set: this container was given no cores"),
        ([], "", "NEURON_RT_VISIBLE_CORES is not set: this container was given no cores"),
        ([], "2-", "NEURON_RT_VISIBLE_CORES is '2-'"),
        (["--cores", "2"], "0-3", "made for 2 cores (FLEETPACK_ENGINE_CORES), and the container was given 4"),
        (["--device-folder", "/nowhere"], "0-3", "but there is no /dev/neuron* in this container"),
        (["--device-folder", "/nowhere", "--cores", "2"], None, "this container was given no cores"),
    ],
)
def test_should_refuse_to_start_without_the_cores_that_it_needs(
    arguments: list[str], visible: str | None, message: str
) -> None:
    result = invoke(
        *("serve", "--model-parameters-billions", "1", "--accelerator", "inferentia2", *arguments),
        NEURON_RT_VISIBLE_CORES=visible,
    )

    assert result.exit_code == 3
    assert message in result.output


@pytest.mark.parametrize(("name", "estimated"), [("my-model", True), ("meta-llama/Llama-3.2-1B-Instruct", False)])
def test_should_say_when_it_serves_a_shape_that_is_estimated(
    monkeypatch: pytest.MonkeyPatch, name: str, estimated: bool
) -> None:
    async def stop_at_once(*arguments: object, **options: object) -> None:
        return None

    monkeypatch.setattr("fleetpack_simulator.cli._serve_until_stopped", stop_at_once)
    arguments = ("--model", name, "--model-parameters-billions", "1.24", "--accelerator", "inferentia2", "--cores", "2")

    result = invoke("serve", *arguments, NEURON_RT_VISIBLE_CORES=None)

    assert (result.exit_code, "the model's shape is estimated" in result.output) == (0, estimated)


def test_should_say_how_to_start_outside_a_cluster() -> None:
    result = invoke("serve", NEURON_RT_VISIBLE_CORES=None)

    assert "; outside a cluster use --cores N" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load"], "give exactly one of --trace and --generator"),
        (["load", "--generator", "sine"], "give --deployment NAMESPACE/NAME with --kubeconfig, or --address HOST:PORT"),
        (
            ["load", "--generator", "sine", "--address", "a:1", "--option", "color=red"],
            "with what sine takes: duration_seconds, output_tokens, peak_rate_per_second",
        ),
        (
            ["load", "--generator", "constant", "--address", "a:1", "--option", "period_seconds=60"],
            "--option period_seconds=60: it must be NAME=VALUE with what constant takes: duration_seconds",
        ),
        (
            ["load", "--trace", __file__, "--address", "a:1", "--option", "seed=1"],
            "--option seed=1: it does nothing with --trace",
        ),
        (["load", "--generator", "sine", "--address", "a:1", "--option", "seed=red"], "'red' is no int"),
        (["load", "--generator", "sine", "--address", "a:1", "--speed", "0"], "speed is 0.0, it must be above zero"),
        (["serve", "--cores", "2", "--accelerator", "inferentia2"], "PARAMETERS_BILLIONS is not set"),
        (
            ["serve", "--cores", "2", "--model-parameters-billions", "8", "--accelerator", "inferentia"],
            "do not fit 2 cores",
        ),
    ],
)
def test_should_say_what_is_wrong_and_exit_with_2(arguments: list[str], message: str) -> None:
    result = invoke(*arguments, NEURON_RT_VISIBLE_CORES=None)

    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_should_say_which_package_a_command_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    for name in [
        name
        for name in sys.modules
        if name.startswith(("fleetpack_simulator.report", "fleetpack_simulator.policies.bound"))
    ]:
        monkeypatch.delitem(sys.modules, name)

    helped, called = invoke("--help"), invoke("compare", "--help")

    assert helped.exit_code == 0
    assert "Not here: the Python package highspy is not installed." in helped.output
    assert called.exit_code == 2
    assert "the Python package highspy is not installed: install fleetpack[simulator]" in called.output

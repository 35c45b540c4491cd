"""The real operator as a process of its own, under a test's thumb: started, asked, killed, started again.

Concept: what runs is what a user runs, `fleetpack operator run`, with the credentials of the chart's service account and a Lease of
its own name, so that what another run left behind neither holds it up nor is fought with. `Engines` is the one process that plays
the engine of every simulated replica. Boundary: processes and their probes; what they do in the cluster is for tests to look at.
Failure: a process that ends by itself, or is not ready in time, raises with the end of its log; a test that fails shows the log.

Importing the operator takes seconds on a slow machine. Where a test needs hundreds of them, `ForkedOperator` starts from a process
that has imported everything already: as real a process, to be killed like any other, half a second after it was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

import pytest

from control_plane.ports import free_ports

READY_LIMIT_SECONDS = 120.0
"""Generous: the machine may be busy with other things."""


class Running(Protocol):
    """What is asked of a child process, however it was started."""

    @property
    def pid(self) -> int | None:
        """Its process id."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


@dataclass(slots=True, kw_only=True)
class OperatorProcess:
    """One operator; `start` may be called again after it has ended, and `log` then goes on."""

    kubeconfig: Path
    log: Path
    lease_name: str
    identity: str
    record_file: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _log_start: int = 0

    def start(self) -> OperatorProcess:
        """Start the process; `wait_ready` says when it has seen the cluster."""
        assert not self.running, f"operator {self.identity} runs already"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.prefix) / "bin" / "fleetpack"), *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return self

    def arguments(self) -> list[str]:
        """Return the arguments of the `fleetpack` command."""
        return [
            "operator",
            "run",
            f"--kubeconfig={self.kubeconfig}",
            f"--lease-name={self.lease_name}",
            f"--identity={self.identity}",
            "--http-host=127.0.0.1",
            "--http-port=0",
            *([] if self.record_file is None else [f"--record={self.record_file}"]),
        ]

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self) -> OperatorProcess:
        """Wait until /readyz says that every cache is complete."""
        deadline = time.monotonic() + READY_LIMIT_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise AssertionError(f"operator {self.identity} ended by itself:\n{self.log_end()}")
            if self._port() and _answers(f"{self.url}/readyz"):
                return self
            time.sleep(0.05)
        raise AssertionError(
            f"operator {self.identity} was not ready in {READY_LIMIT_SECONDS:.0f} s:\n{self.log_end()}"
        )

    @property
    def url(self) -> str:
        """Where it serves /metrics, /livez and /readyz."""
        return f"http://127.0.0.1:{self._port()}"

    def metrics(self) -> str:
        """Return its metrics page."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60.0) as answer:
            text: str = answer.read().decode()
        return text

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        assert self._process is not None, f"operator {self.identity} was never started"
        self._process.terminate()
        try:
            return self._process.wait(timeout=READY_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"operator {self.identity} did not end in {READY_LIMIT_SECONDS:.0f} s:\n{self.log_end()}"
            ) from None

    def restart(self) -> OperatorProcess:
        """Start it again, under the same identity."""
        return self.start().wait_ready()

    def log_end(self, lines: int = 60) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def errors(self) -> list[str]:
        """Return the lines of the log that tell of a bug; kopf calls a connection that it takes up again an error, too."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if re.search(r"Traceback| ERROR +fleetpack", line)]

    def _port(self) -> int:
        if not self.log.exists():
            return 0
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            found = re.findall(rb"/readyz on port (\d+)", file.read())
        return int(found[-1]) if found else 0


@contextlib.contextmanager
def operator_running(operator: OperatorProcess, request: pytest.FixtureRequest) -> Iterator[OperatorProcess]:
    """Start an operator for a fixture and end it with it; its log is shown where a test of the fixture failed."""
    failed_before = request.session.testsfailed
    try:
        yield operator.start().wait_ready()
    finally:
        operator.kill()
        if request.session.testsfailed > failed_before:
            print(f"\n--- log of operator {operator.identity} ---\n{operator.log_end(200)}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass(slots=True, kw_only=True)
class ForkedOperator:
    """An operator forked from a process that has imported it already, so that hundreds of starts are affordable."""

    kubeconfig: Path
    log: Path
    lease_name: str
    identity: str
    _process: ForkServerProcess | None = field(default=None)

    def start(self) -> ForkedOperator:
        """Start the process."""
        assert not self.running, f"operator {self.identity} runs already"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fleetpack.main", "fleetpack.cli"])
        self._process = context.Process(target=_run_forked, args=(self,), daemon=True)
        self._process.start()
        return self

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def kill_from_elsewhere(self) -> None:
        """Send SIGKILL without waiting; for other threads than the one that started it."""
        if self._process is not None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def log_end(self, lines: int = 60) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def _run_forked(operator: ForkedOperator) -> None:
    """Run in the child: the log in place of the terminal, then what the command does."""
    from fleetpack.cli import configure_logging
    from fleetpack.main import run_operator
    from fleetpack.settings import Settings

    descriptor = os.open(operator.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    configure_logging("text")
    settings = Settings(
        kubeconfig=operator.kubeconfig,
        lease_name=operator.lease_name,
        identity=operator.identity,
        http_host="127.0.0.1",
        http_port=0,
    )
    asyncio.run(run_operator(settings))


@dataclass(slots=True, kw_only=True)
class Engines:
    """The process that plays every simulated replica's engine, each at its Pod's own address and this port."""

    kubeconfig: Path
    log: Path
    port: int = field(default_factory=lambda: free_ports(("engines",))["engines"])
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Engines:
        """Start the process and wait until it listens."""
        command = [str(Path(sys.prefix) / "bin" / "fleetpack-sim"), "serve"]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, f"--kubeconfig={self.kubeconfig}", f"--port={self.port}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        deadline = time.monotonic() + READY_LIMIT_SECONDS
        while b"serving on port" not in self.log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the engines do not serve:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def load(self, address: str, requests: int, output_tokens: int = 8000) -> Iterator[None]:
        """Keep so many long streaming requests open at one replica; leaving ends them."""
        sockets = [self._ask(address, output_tokens) for _ in range(requests)]
        try:
            yield
        finally:
            for own in sockets:
                own.close()

    def _ask(self, address: str, output_tokens: int) -> socket.socket:
        body = f'{{"model": "any", "prompt": "hello", "max_tokens": {output_tokens}, "stream": true}}'
        connection = socket.create_connection((address, self.port), timeout=60.0)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return connection

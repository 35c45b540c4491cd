"""The demo on a control plane of this machine's own: simulated nodes, and one process that answers for every replica.

Boundary: starts and ends the control plane and the demo's processes. Failure: a process of ours that ends early is an error with the
end of its log.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from control_plane import cluster
from control_plane.api_client import ApiClient
from control_plane.folders import cluster_folder
from control_plane.identities import mint_service_account
from control_plane.ports import free_ports
from demonstration.processes import DemoProcess
from demonstration.site import Load, LoadPlan, Say
from installation import NAMESPACE, REPOSITORY, SERVICE_ACCOUNT, install


@dataclass(slots=True)
class OwnLoad:
    """A replayer on this machine that finds the Ready Pods by itself."""

    process: DemoProcess
    json_path: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.running

    async def wait(self) -> object:
        """Wait for its end."""
        return await self.process.wait()

    async def result(self) -> dict[str, Any]:
        """Return the replayer's summary."""
        if not self.json_path.exists():
            raise RuntimeError(f"{self.process.name} ended without a result; see {self.process.log}")
        result: dict[str, Any] = json.loads(self.json_path.read_text())
        return result

    async def end(self) -> None:
        """End it early."""
        await self.process.end()


@dataclass(slots=True)
class OwnSite:
    """etcd, API server, scheduler, controller manager and kwok on loopback."""

    name: str
    folder: Path
    trace: Path | None
    load_seconds: float
    admin: Path = Path()
    _processes: list[DemoProcess] = field(default_factory=list)
    _operator_port: int = 0

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Pool and models."""
        return (REPOSITORY / "examples/demo/pool.yaml", REPOSITORY / "examples/demo/models.yaml")

    @property
    def load_plans(self) -> tuple[LoadPlan, ...]:
        """Two stretches of the trace, one for each model."""
        return (
            LoadPlan(deployment="llama-8b", start_seconds=0.0, speed=1.3, duration_seconds=self.load_seconds),
            LoadPlan(deployment="llama-1b", start_seconds=600.0, speed=2.0, duration_seconds=self.load_seconds),
        )

    @property
    def about_load(self) -> str:
        """What people are told of cold starts and arrivals."""
        return "only the arrivals are compressed, cold starts are 5 and 8 s"

    @property
    def about_start(self) -> str:
        """What people are told while it comes up."""
        return (
            "bring up a control plane: etcd, API server, scheduler, controller manager, kwok (built once, then seconds)"
        )

    async def bring_up(self, say: Say) -> None:
        """Start the control plane, install, start the operator and the process that plays every replica's engine."""
        state = await asyncio.to_thread(cluster.up, self.name, cluster_folder(self.name))
        say("install definitions and roles, start the operator and the simulated engines")
        self.admin = state.layout.admin_kubeconfig
        kubeconfig = await asyncio.to_thread(self._install, state)
        self._operator_port = free_ports(("operator",))["operator"]
        await self._start(
            "operator",
            "fleetpack",
            "operator",
            "run",
            f"--kubeconfig={kubeconfig}",
            "--http-host=127.0.0.1",
            f"--http-port={self._operator_port}",
        )
        await self._start("engines", "fleetpack-sim", "serve", f"--kubeconfig={self.admin}", "--port=8000")

    async def start_load(self, plan: LoadPlan) -> Load:
        """Start a replayer."""
        json_path = self.folder / f"load-{plan.deployment}.json"
        process = await DemoProcess.start(
            f"load-{plan.deployment}",
            self.folder,
            "fleetpack-sim",
            "load",
            *load_arguments(self.trace, plan),
            f"--deployment=default/{plan.deployment}",
            f"--kubeconfig={self.admin}",
            f"--json={json_path}",
        )
        return OwnLoad(process, json_path)

    async def operator_metrics(self) -> str:
        """Return the operator's page."""
        url = f"http://127.0.0.1:{self._operator_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.text()

    def require_running(self) -> None:
        """Raise if operator or engines have ended."""
        for process in self._processes:
            process.require_running()

    async def take_down(self, say: Say) -> None:
        """End processes and control plane."""
        say("end operator, engines and control plane")
        for process in reversed(self._processes):
            await process.end()
        await asyncio.to_thread(cluster.down, cluster_folder(self.name))

    def how_to_go_on(self) -> str:
        """Return what to type when it was kept."""
        return f"  export KUBECONFIG={self.admin}\n{GO_ON}end it with: make demo-down"

    def _install(self, state: Any) -> Path:
        with ApiClient(state.layout.admin_kubeconfig) as client:
            install(client)
            return Path(mint_service_account(client, state.layout, namespace=NAMESPACE, name=SERVICE_ACCOUNT))

    async def _start(self, name: str, *command: str) -> None:
        self._processes.append(await DemoProcess.start(name, self.folder, *command))


GO_ON = """\
  kubectl get infd,accpool -A
  kubectl describe infd llama-8b
  kubectl scale infd llama-8b --replicas=3   (after spec.mode: Manual)
"""


def load_arguments(trace: Path | None, plan: LoadPlan) -> list[str]:
    """Return what `fleetpack-sim load` is told of the arrivals."""
    generated = ["--generator=production-chat", "--option=duration_seconds=1800"]
    source = generated if trace is None else [f"--trace={trace}"]
    return [
        *source,
        f"--start={plan.start_seconds}",
        f"--speed={plan.speed}",
        f"--duration={plan.duration_seconds}",
    ]

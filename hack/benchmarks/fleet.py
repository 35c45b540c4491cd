"""A running fleet to measure on: control plane, operator with its own credentials, engines, and watches on everything."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from control_plane import cluster
from control_plane.api_client import ApiClient
from control_plane.folders import cluster_folder
from control_plane.identities import mint_service_account
from demonstration.processes import DemoProcess
from demonstration.world import PATHS, World
from fleetpack.cluster.api_client import KubernetesClient
from installation import NAMESPACE, SERVICE_ACCOUNT, apply, install

OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"


def model_manifest(name: str, *, maximum_replicas: int, startup_seconds: int) -> dict[str, Any]:
    """Return a small model of two cores per replica that runs on the simulated engine."""
    environment = {
        "FLEETPACK_ENGINE_MODEL": name,
        "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "1.24",
        "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
        "FLEETPACK_ENGINE_MAX_BATCH": "16",
    }
    container = {
        "name": "server",
        "image": "example.com/simulated-engine:1",
        "ports": [{"containerPort": 8000}],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }
    return {
        "apiVersion": "fleetpack.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": {"annotations": {"fleetpack.dev/simulated-startup-seconds": str(startup_seconds)}},
                "spec": {"containers": [container]},
            },
            "variants": [
                {
                    "name": "inf2",
                    "accelerator": "inferentia2",
                    "cores": 2,
                    "performance": {"maxConcurrency": 16, "requestsPerSecond": "2", "startup": f"{startup_seconds}s"},
                }
            ],
            "scaling": {
                "maxReplicas": maximum_replicas,
                "signals": [{"name": "engine", "podMetrics": {"port": 8000}}],
            },
        },
    }


def pool_manifest(nodes: int) -> dict[str, Any]:
    """Return a pool of simulated inf2.48xlarge nodes that boot at once."""
    return {
        "apiVersion": "fleetpack.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": "inferentia2"},
        "spec": {
            "provider": "Simulated",
            "instanceTypes": ["inf2.48xlarge"],
            "limits": {"nodes": nodes},
            "headroom": {"cores": 24},
            "simulation": {"bootDelay": "0s"},
        },
    }


class Fleet:
    """The parts of a measurement, and what is seen of them."""

    def __init__(self, admin: Path, world: World) -> None:
        self.admin = admin
        self.world = world
        self._waiting: dict[str, asyncio.Future[float]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path, name: str, *, nodes: int) -> AsyncIterator["Fleet"]:
        """Start everything, and take it down at the end."""
        state_folder = cluster_folder(name)
        state = await asyncio.to_thread(cluster.up, name, state_folder)
        admin = state.layout.admin_kubeconfig
        try:
            async with contextlib.AsyncExitStack() as stack:
                with ApiClient(admin) as client:
                    await asyncio.to_thread(install, client)
                    account = mint_service_account(client, state.layout, namespace=NAMESPACE, name=SERVICE_ACCOUNT)
                    apply(client, pool_manifest(nodes))
                fleet = cls(admin, World())
                watcher = await stack.enter_async_context(await KubernetesClient.from_kubeconfig(admin))
                for resource in PATHS:
                    task = asyncio.create_task(fleet.world.follow(watcher, resource))
                    stack.callback(task.cancel)
                fleet.world.on_event = fleet._note
                for process in (
                    (
                        "operator",
                        "fleetpack",
                        "operator",
                        "run",
                        f"--kubeconfig={account}",
                        "--http-host=127.0.0.1",
                        "--http-port=0",
                    ),
                    ("engines", "fleetpack-sim", "serve", f"--kubeconfig={admin}", "--port=8000"),
                ):
                    started = await DemoProcess.start(process[0], folder, *process[1:])
                    stack.push_async_callback(started.end)
                yield fleet
        finally:
            await asyncio.to_thread(cluster.down, state_folder)

    def _note(self, resource: str, kind: str, own: dict[str, Any]) -> None:
        """Tell whoever waits for the next Pod of a deployment."""
        if resource == "pods" and kind == "ADDED":
            name = own["metadata"].get("labels", {}).get("fleetpack.dev/deployment", "")
            waiting = self._waiting.pop(name, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(time.monotonic())

    def next_added(self, name: str) -> "asyncio.Future[float]":
        """Return a future of when the next Pod of a deployment is seen (monotonic seconds)."""
        self._waiting[name] = asyncio.get_running_loop().create_future()
        return self._waiting[name]

    async def apply(self, manifest: dict[str, Any]) -> None:
        """Apply a manifest as the administrator."""
        with ApiClient(self.admin) as client:
            await asyncio.to_thread(apply, client, manifest)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the Pods of a deployment, whatever their state."""
        return [
            pod
            for pod in self.world.all("pods")
            if pod["metadata"].get("labels", {}).get("fleetpack.dev/deployment") == name
        ]

    def ready_pods(self, name: str) -> list[dict[str, Any]]:
        """Return the ready Pods of a deployment."""
        return [
            pod
            for pod in self.world.all("pods")
            if pod["metadata"].get("labels", {}).get("fleetpack.dev/deployment") == name
            and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
        ]

    async def until(self, holds: Callable[[], bool], what: str, limit_seconds: float = 90.0) -> None:
        """Wait until something holds of what is seen."""
        deadline = time.monotonic() + limit_seconds
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not so after {limit_seconds:.0f} s")
            await asyncio.sleep(0.1)

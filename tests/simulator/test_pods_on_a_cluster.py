"""Server and replayer against Pods of the real API server, as kwok runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from fleetpack_simulator.load import PodEndpoints, Replayer
from fleetpack_simulator.pods import DEPLOYMENT_LABEL, PodView, PodWatcher, watching
from fleetpack_simulator.registry import PodRegistry
from fleetpack_simulator.server import start_server
from fleetpack_simulator.workload import Request
from simulated_nodes import SimulatedNode

pytestmark = pytest.mark.cluster


def pod(name: str, node: str, cores: str) -> dict[str, Any]:
    environment = {"FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "1", "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {DEPLOYMENT_LABEL: "chat", "fleetpack.dev/serving": "true"},
            "annotations": {"fleetpack.dev/cores": cores, "fleetpack.dev/simulated-startup-seconds": "0"},
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "server",
                    "image": "none",
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                }
            ],
        },
    }


async def under_load(replayer: Replayer, watcher: PodWatcher, name: str) -> PodView:
    """Wait until requests are being served, and return the view of the Pod."""
    while replayer.live.completed < 5:  # noqa: ASYNC110 (a counter has no event)
        await asyncio.sleep(0.01)
    return next(view for view in watcher.pods.values() if f"{view.namespace}/{view.name}" == name)


async def test_should_serve_pods_and_survive_that_one_is_deleted_under_load(
    cluster: Cluster, admin: ApiClient, namespace: str, simulated_nodes: Callable[..., None]
) -> None:
    node = f"node-{namespace}"
    await asyncio.to_thread(simulated_nodes, SimulatedNode(name=node))
    requests = [Request(arrival_seconds=index * 0.02, prompt_tokens=20, output_tokens=200) for index in range(100)]
    async with watching(cluster.kubeconfig, label_selector=DEPLOYMENT_LABEL) as every_pod:
        server = await start_server(PodRegistry(every_pod), port=0)
        selector = f"{DEPLOYMENT_LABEL}=chat,fleetpack.dev/serving=true"
        async with watching(cluster.kubeconfig, label_selector=selector, namespace=namespace) as ready_pods:
            replayer = Replayer(PodEndpoints(ready_pods, port=server.port))
            running = asyncio.create_task(replayer.run(requests))
            for number in range(2):
                manifest = pod(f"chat-{number}", node, f"{4 * number}-{4 * number + 3}")
                await asyncio.to_thread(admin.create, f"/api/v1/namespaces/{namespace}/pods", manifest)
            victim = await under_load(replayer, every_pod, f"{namespace}/chat-0")
            await asyncio.to_thread(admin.delete, f"/api/v1/namespaces/{namespace}/pods/chat-0")
            summary = await running
            url = f"http://{victim.ip}:{server.port}/health"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                reason = (await answer.json())["error"]["message"]
        await server.close()

    assert (summary.completed, summary.refused, summary.gave_up) == (100, 0, 0)
    assert len({record.replica for record in replayer.records}) == 2
    assert summary.retries > 0
    assert reason == f"no Pod has the address {victim.ip}"

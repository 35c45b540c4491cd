"""Server and replayer against Pods of the real API server, as kwok runs them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from eventually import WAIT_LIMIT_SECONDS, eventually
from fleetpack_simulator.load import LiveCounts, PodEndpoints, Replayer
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


def until_one_is_sent_again(live: LiveCounts) -> Iterator[Request]:
    """Fifty requests a second, each longer than the next one's wait, for as long as none had to go elsewhere."""
    for index in itertools.count():
        if live.retries:
            return
        yield Request(arrival_seconds=index * 0.02, prompt_tokens=20, output_tokens=200)


async def serving(replayer: Replayer, watcher: PodWatcher, name: str) -> PodView:
    """Wait until a Pod has served a request, and return its view."""

    def view() -> PodView | None:
        replicas = {(record.replica or "").partition(":")[0] for record in replayer.records}
        named = (view for view in watcher.pods.values() if f"{view.namespace}/{view.name}" == name)
        return next((view for view in named if view.ip in replicas), None)

    await eventually(view, what=f"a request served by {name}")
    found = view()
    assert found is not None
    return found


async def test_should_serve_pods_and_survive_that_one_is_deleted_under_load(
    cluster: Cluster, admin: ApiClient, namespace: str, simulated_nodes: Callable[..., None]
) -> None:
    node = f"node-{namespace}"
    await asyncio.to_thread(simulated_nodes, SimulatedNode(name=node))
    async with watching(cluster.kubeconfig, label_selector=DEPLOYMENT_LABEL) as every_pod:
        server = await start_server(PodRegistry(every_pod), port=0)
        selector = f"{DEPLOYMENT_LABEL}=chat,fleetpack.dev/serving=true"
        async with watching(cluster.kubeconfig, label_selector=selector, namespace=namespace) as ready_pods:
            replayer = Replayer(PodEndpoints(ready_pods, port=server.port))
            running = asyncio.create_task(replayer.run(until_one_is_sent_again(replayer.live)))
            for number in range(2):
                manifest = pod(f"chat-{number}", node, f"{4 * number}-{4 * number + 3}")
                await asyncio.to_thread(admin.create, f"/api/v1/namespaces/{namespace}/pods", manifest)
            victim = await serving(replayer, every_pod, f"{namespace}/chat-0")
            await serving(replayer, every_pod, f"{namespace}/chat-1")
            await asyncio.to_thread(admin.delete, f"/api/v1/namespaces/{namespace}/pods/chat-0")
            async with asyncio.timeout(WAIT_LIMIT_SECONDS):
                summary = await running
            await eventually(lambda: victim.uid not in every_pod.pods, what="a server that knows of the end of chat-0")
            url = f"http://{victim.ip}:{server.port}/health"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                reason = (await answer.json())["error"]["message"]
        await server.close()

    assert (summary.completed, summary.refused, summary.gave_up) == (summary.requests, 0, 0)
    assert len({record.replica for record in replayer.records}) == 2
    assert summary.retries > 0
    assert reason == f"no Pod has the address {victim.ip}"

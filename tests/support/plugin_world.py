"""A device plugin and its surroundings for tests: Pods as the API server would show them, rows of Pods, and a running plugin.

Concept: `node_pod` builds one row; `PodBoard` is what the API server says (its watch can be held back); `running_plugin` serves and
registers a plugin with the kubelet's side of a test. Boundary: real gRPC, a stand-in for the API server only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from fleetpack.catalog import load_catalog
from fleetpack.core.cores import parse_cores
from fleetpack.device_plugin.kubelet_server import ResourceServer
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.plugin import DevicePlugin, Offer, PodsUnavailableError
from fleetpack.device_plugin.pod_resources import PodResources
from fleetpack.device_plugin.pods import ContainerRequest, NodePod
from fleetpack.device_plugin.registration import Patience, Registrar
from fleetpack.device_plugin.silicon import NeuronResource
from fleetpack.device_plugin.sources import CoreNumbering, SimulatedDevices, machine_of

_created_at = itertools.count(1)


def node_pod(name: str, planned: str = "", *, count: int | None = None, whole_devices: bool = False) -> NodePod:
    """Return a Pod that waits on the node; younger than all made before."""
    mask = parse_cores(planned)
    resource = NeuronResource.DEVICE if whole_devices else NeuronResource.CORE
    return NodePod(
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        created_at=float(next(_created_at)),
        planned=mask,
        written=None,
        phase="Pending",
        terminating=False,
        requests=(
            ContainerRequest(container="server", resource=resource, units=mask.bit_count() if count is None else count),
        ),
        init_requests=False,
    )


class PodBoard:
    """What the API server knows of the node, and how much of it the watch has brought."""

    def __init__(self, *pods: NodePod) -> None:
        self.truth: dict[str, NodePod] = {pod.name: pod for pod in pods}
        self.watch_is_held = False
        self.answers = True
        self.asked = 0
        self._seen = dict(self.truth)

    def put(self, *pods: NodePod) -> None:
        """Create or change Pods."""
        self.truth |= {pod.name: pod for pod in pods}

    def start(self, name: str) -> None:
        """Let a Pod run."""
        self.truth[name] = replace(self.truth[name], phase="Running")

    def remove(self, name: str) -> None:
        """Delete a Pod."""
        self.truth.pop(name, None)

    def cached(self) -> tuple[NodePod, ...]:
        """Return what the watch has brought."""
        if not self.watch_is_held:
            self._seen = dict(self.truth)
        return tuple(self._seen[name] for name in sorted(self._seen))

    def is_current(self) -> bool:
        """A watch that is held says so only later: it still counts as current."""
        return self.answers

    async def ask(self) -> tuple[NodePod, ...]:
        """Return everything."""
        self.asked += 1
        if not self.answers:
            raise PodsUnavailableError("no connection")
        return tuple(self.truth[name] for name in sorted(self.truth))


@dataclass(frozen=True, kw_only=True)
class RunningPlugin:
    """A plugin that serves; its kubelet's list is read when the test says so."""

    plugin: DevicePlugin
    registrar: Registrar
    metrics: PluginMetrics


@contextlib.asynccontextmanager
async def running_plugin(
    folder: Path,
    board: PodBoard,
    instance_type: str = "inf2.24xlarge",
    *,
    whole_devices: bool = False,
    with_numa: bool = False,
    core_numbering: CoreNumbering = CoreNumbering.CONTAINER,
) -> AsyncIterator[RunningPlugin]:
    """Serve and register with the kubelet's side in this folder, looking every 20 ms."""
    machine = machine_of(load_catalog(), instance_type)
    metrics = PluginMetrics()
    resources = tuple(NeuronResource) if whole_devices else (NeuronResource.CORE,)
    reader = PodResources(folder / "pod-resources.sock", machine, time.monotonic, resources)
    plugin = DevicePlugin(
        SimulatedDevices(instance_type=machine, core_numbering=core_numbering),
        Offer(resources=resources, with_numa=with_numa),
        pods=board,
        read=reader.read,
        clock=time.monotonic,
        metrics=metrics,
    )
    await plugin.start()
    servers = tuple(ResourceServer(plugin, resource, folder) for resource in resources)
    patience = Patience(poll_seconds=0.02, compare_seconds=0.1, silence_seconds=1.0)
    registrar = Registrar(servers, folder, metrics, reader.counted, patience)
    task = asyncio.create_task(registrar.run())
    try:
        yield RunningPlugin(plugin=plugin, registrar=registrar, metrics=metrics)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await registrar.stop_serving()

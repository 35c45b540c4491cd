"""The device plugin's process: what is wired to what, and in which order it starts and stops.

Start: the port for machines (a start without the API server is then waited for, not killed), which machine (flag, or the node's
label), what was given out before (the kubelet's list), then serve and register. From then on: the kubelet's list is read every 5 s,
soon after each Allocate and after each change of a Pod; health is looked at every second.
Stop (SIGTERM): the servers end, and the kubelet counts the devices as unhealthy until the next plugin registers; Pods keep theirs.

SIGUSR1 takes every device out, SIGUSR2 brings them back. Failure: what is missing at the start is said and waited for, never guessed;
`SourceError` and a taken port end the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fleetpack.catalog import InstanceType, load_catalog
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.errors import Forbidden, KubernetesError, NotFound
from fleetpack.cluster.rate_limit import RateLimit
from fleetpack.device_plugin.health import all_cores, cores_out_by_condition, named_cores
from fleetpack.device_plugin.kubelet_server import ResourceServer
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.monitor import NeuronMonitor
from fleetpack.device_plugin.node_pods import NodePods, read_instance_type
from fleetpack.device_plugin.plugin import Bell, DevicePlugin, Offer, ReadingUnavailableError
from fleetpack.device_plugin.pod_resources import PodResources
from fleetpack.device_plugin.pods import planned_pods
from fleetpack.device_plugin.registration import REMOUNT_SECONDS, Registrar
from fleetpack.device_plugin.settings import PluginSettings, SourceKind
from fleetpack.device_plugin.silicon import NeuronResource
from fleetpack.device_plugin.sources import (
    DeviceSource,
    NeuronDevices,
    SimulatedDevices,
    SourceError,
    found_devices,
    machine_of,
    unlisted_machine,
)
from fleetpack.device_plugin.truth import TruthWriter
from fleetpack.telemetry.server import Probe, serve_telemetry

_logger = logging.getLogger(__name__)

READ_PERIOD_SECONDS = 5.0
GRANTED_READ_PERIOD_SECONDS = 1.0
"""While the kubelet's list does not show what was granted."""
SETTLE_SECONDS = 0.1
"""The kubelet writes down what it was granted right after our answer; changes of Pods come in groups."""
ADMISSION_SECONDS = 0.3
"""From the kubelet's question to the end of its admission: its list is left alone so long (`DevicePlugin.asked_at`)."""
HEALTH_PERIOD_SECONDS = 1.0
RETRY_SECONDS = 2.0
NODE_SECONDS = 2.0
"""How long registering waits for the node's conditions: silicon that they take out should not be announced as well first. Longer
would keep a node without cores while the API server is away."""
STALLED_SECONDS = 60.0
"""The reader passes every few seconds, whatever fails; one that has not for this long hangs."""
WRITES = RateLimit(requests_per_second=20.0, burst=40)
"""Of one node: its Pods are few."""
SIGNAL = "signal"
FILE = "file"
CONDITION = "node condition"


async def run_device_plugin(settings: PluginSettings, stopping: asyncio.Event | None = None) -> None:
    """Run one device plugin until it is told to stop."""
    stopping = stopping or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with await KubernetesClient.from_kubeconfig(settings.kubeconfig) as client:
        metrics, search = PluginMetrics(), _Search()
        # The server looks at both anew for each question: the process's own probes take the place of the search's.
        live: dict[str, Probe] = {"machine": search.searching}
        ready: dict[str, Probe] = {"machine": search.found}
        async with serve_telemetry(
            metrics.registry, live=live, ready=ready, host=settings.http_host, port=settings.http_port
        ) as port:
            _logger.info("serving /metrics, /livez and /readyz on port %d", port)
            finding = asyncio.create_task(find_source(settings, client, search.tried), name="find the machine")
            if not await _finishes(finding, stopping):
                return
            process = _Process(settings, client.with_writes(limit=WRITES), finding.result(), metrics)
            for shown, own in ((live, process.liveness()), (ready, process.readiness())):
                shown.clear()
                shown.update(own)
            await process.run(stopping)


class _Search:
    """What is said of a process that does not know its machine yet."""

    def __init__(self) -> None:
        self._tried_at = time.monotonic()

    def tried(self) -> None:
        """Note that the API server is asked."""
        self._tried_at = time.monotonic()

    def searching(self) -> tuple[bool, str]:
        seconds = time.monotonic() - self._tried_at
        return seconds < STALLED_SECONDS, f"the API server was asked for the node {seconds:.0f} s ago"

    def found(self) -> tuple[bool, str]:
        return False, "waiting for the API server to tell the node's instance type"


async def find_source(
    settings: PluginSettings, client: KubernetesClient, on_try: Callable[[], None] = lambda: None
) -> DeviceSource:
    """Return the node's devices; waits for the API server where only it can tell, raises `SourceError` on a contradiction."""
    name = settings.instance_type
    while not name:
        on_try()
        try:
            name = await read_instance_type(client, settings.node_name)
        except (NotFound, Forbidden) as error:
            raise SourceError(f"cannot tell the instance type of this node: {error}; set --instance-type") from error
        except KubernetesError as error:
            _logger.warning("cannot read node %s, trying again: %s", settings.node_name, error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if not name and not settings.cores_per_device:
            raise SourceError(f"node {settings.node_name} has no instance type label; set --instance-type")
        name = name or settings.node_name
    machine = _machine(settings, name)
    if settings.source is SourceKind.SIMULATED:
        return SimulatedDevices(instance_type=machine, core_numbering=settings.core_numbering)
    return NeuronDevices(
        instance_type=machine, core_numbering=settings.core_numbering, device_folder=settings.device_folder
    )


def _machine(settings: PluginSettings, name: str) -> InstanceType:
    if not settings.cores_per_device:
        return machine_of(load_catalog(), name)
    devices = max(found_devices(settings.device_folder), default=-1) + 1
    return unlisted_machine(name, devices=devices, cores_per_device=settings.cores_per_device)


class _Process:
    """The parts of one process."""

    def __init__(
        self, settings: PluginSettings, client: KubernetesClient, source: DeviceSource, metrics: PluginMetrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.metrics.show_machine(source.instance_type, settings.node_name)
        self._api_changes = Bell()
        self.pods = NodePods(client, settings.node_name, self._pods_changed)
        resources = (NeuronResource.CORE, NeuronResource.DEVICE) if settings.whole_devices else (NeuronResource.CORE,)
        reader = PodResources(settings.pod_resources_socket, source.instance_type, time.monotonic, resources)
        self.plugin = DevicePlugin(
            source,
            Offer(resources=resources, with_numa=settings.with_numa),
            pods=self.pods,
            read=reader.read,
            clock=time.monotonic,
            metrics=self.metrics,
        )
        self.truth = TruthWriter(client, settings.node_name, self.metrics)
        servers = tuple(ResourceServer(self.plugin, resource, settings.plugin_folder) for resource in resources)
        self.registrar = Registrar(servers, settings.plugin_folder, self.metrics, reader.counted)
        self.monitor = NeuronMonitor(lambda: self.plugin.accounts.shown)
        self.metrics.registry.register(self.monitor)
        self._read_at = self._has_read_at = time.monotonic()
        self._file_error = ""

    def liveness(self) -> dict[str, Probe]:
        """Return what must hold for the process to be worth keeping."""
        return {"registration": self.registrar.liveness, "reader": self._reading}

    def readiness(self) -> dict[str, Probe]:
        """Return what must hold for Pods to get cores here."""
        return {"registered": self.registrar.readiness, "kubelet-list": self._has_read}

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; a part that ends by itself ends the process with its error."""
        loop = asyncio.get_running_loop()
        everything = all_cores(self.plugin.source.instance_type)
        loop.add_signal_handler(signal.SIGUSR1, functools.partial(self.plugin.set_out, SIGNAL, everything))
        loop.add_signal_handler(signal.SIGUSR2, functools.partial(self.plugin.set_out, SIGNAL, 0))
        jobs: list[Coroutine[Any, Any, None]] = [reflector.run() for reflector in self.pods.reflectors]
        jobs += [
            self._watch_health(),
            self._serve(),
            *([self.monitor.run(url)] if (url := self.settings.neuron_monitor_url) else []),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(job) for job in jobs]
                await stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self.registrar.stop_serving()
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                loop.remove_signal_handler(number)

    async def _serve(self) -> None:
        """Learn what is given out, then register and keep reading."""
        no_later_than = asyncio.get_running_loop().time() + NODE_SECONDS
        while True:
            self._read_at = time.monotonic()
            try:
                await self.plugin.start()
                self._has_read_at = time.monotonic()
                break
            except ReadingUnavailableError as error:
                _logger.warning("not serving yet: %s", error)
            self.registrar.glance()
            await asyncio.sleep(RETRY_SECONDS)
        await self._hear_of_node(no_later_than)
        self._look_at_health()
        await asyncio.gather(self.registrar.run(), self._keep_reading())

    async def _hear_of_node(self, no_later_than: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(no_later_than):
                while True:
                    ring = self._api_changes.next_ring()
                    if self.pods.node() is not None:
                        return
                    await ring.wait()

    async def _keep_reading(self) -> None:
        """Follow the kubelet's list, and write what it says on the Pods."""
        complaining = False
        while True:
            self.plugin.attention.clear()
            self._read_at = time.monotonic()
            node = self.pods.node()
            if node is not None:
                # What is written must have heard of the node's conditions, which may have come this moment.
                self._look_at_health()
                await self.truth.write_health(node.unhealthy_cores, self.plugin.unhealthy)
            await self._let_the_kubelet_admit()
            try:
                reading = await self.plugin.refresh()
                self._has_read_at = time.monotonic()
                self.metrics.show_reading(time.time())
                await self.truth.write(planned_pods(self.pods.cached()), reading)
                complaining = False
            except ReadingUnavailableError as error:
                if not complaining:
                    _logger.warning("%s; trying again", error)
                complaining = True
            period = GRANTED_READ_PERIOD_SECONDS if self.plugin.accounts.grants else READ_PERIOD_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.plugin.attention.wait(), period)
            await asyncio.sleep(SETTLE_SECONDS)

    async def _let_the_kubelet_admit(self) -> None:
        """Wait while the kubelet may be about to call Allocate, a second at most; right before its list is read."""
        began_at = time.monotonic()
        while (quiet_seconds := self.plugin.asked_at + ADMISSION_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(min(quiet_seconds, ADMISSION_SECONDS))
            if time.monotonic() - began_at > GRANTED_READ_PERIOD_SECONDS:
                break

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_PERIOD_SECONDS)
            before = self.plugin.unhealthy
            self._look_at_health()
            if self.plugin.unhealthy != before:
                self.plugin.attention.set()

    def _look_at_health(self) -> None:
        """Ask every cause which cores are out now; one that cannot tell keeps what it said last."""
        self.plugin.look_for_devices()
        instance_type = self.plugin.source.instance_type
        node = self.pods.node()
        if node is not None:
            self.plugin.set_out(CONDITION, cores_out_by_condition(instance_type, node.health_conditions))
        path = self.settings.unhealthy_file
        if path is None:
            return
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            self._complain_of_file(f"cannot read {path}: {error}")
            return
        try:
            self.plugin.set_out(FILE, named_cores(instance_type, text))
        except ValueError as error:
            self._complain_of_file(f"{path}: {error}")
        else:
            self._file_error = ""

    def _complain_of_file(self, message: str) -> None:
        if message != self._file_error:
            _logger.error("%s; what it said before still holds", message)
        self._file_error = message

    def _pods_changed(self) -> None:
        self._api_changes.ring()
        self.plugin.attention.set()

    def _reading(self) -> tuple[bool, str]:
        now = time.monotonic()
        seconds = now - self._read_at
        in_vain_seconds = min(now - self._has_read_at, self.registrar.seconds_with_kubelet)
        if in_vain_seconds > REMOUNT_SECONDS:
            return False, (
                f"the kubelet's list could not be read for {in_vain_seconds:.0f} s: a pod-resources folder that was made anew is "
                "seen only when it is remounted, by a restart of this container"
            )
        return seconds < STALLED_SECONDS, f"the kubelet's list was asked for {seconds:.0f} s ago"

    def _has_read(self) -> tuple[bool, str]:
        known = self.plugin.reading is not None
        return known, "the kubelet's list is known" if known else "the kubelet's list was never read"


async def _finishes(task: asyncio.Task[Any], stopping: asyncio.Event) -> bool:
    """Wait for a task or for the end of the process, whichever comes first; the task is ended with it."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return task.done() and not task.cancelled()

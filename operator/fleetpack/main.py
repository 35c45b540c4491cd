"""The operator process: what is wired to what, and in which order it starts and stops.

Start: connect, caches, kopf, Lease, loop. Stop (SIGTERM): no new plan, writes on their way end, the Lease is given back, kopf ends.
A loss of the Lease stops planning at once and keeps the caches. An API server that is away is waited for; caches that hear nothing for
long turn the probe red, the kubelet starts the process anew once, and that one waits for its first lists. What else kopf cannot
bear ends the process with an error. Nothing is lost, since the cluster holds all state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import kopf

from fleetpack.catalog import load_catalog
from fleetpack.cluster.actuation import Actuator
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.caches import Caches
from fleetpack.cluster.control_loop import ControlLoop, Observer, Trigger
from fleetpack.cluster.handlers import configure, make_registry
from fleetpack.cluster.lease import LeaseElector, LeaseSettings, unique_identity
from fleetpack.cluster.observing import CountingWriteObserver, MetricsObserver, show_reflectors
from fleetpack.cluster.rate_limit import RateLimit
from fleetpack.cluster.recorder import PassRecorder
from fleetpack.cluster.secrets import SecretReader
from fleetpack.cluster.telling import Teller
from fleetpack.settings import Settings
from fleetpack.signals import open_signal_reader
from fleetpack.telemetry.metrics import FleetMetrics
from fleetpack.telemetry.server import Probe, serve_telemetry

_logger = logging.getLogger(__name__)

STALE_CACHE_SECONDS = 90.0
"""The probe turns red after this long without news; planning has stopped a minute before."""

TELLING_SHARE = 0.5
"""Status, events, Services and budgets have a bucket of their own of this part of what actions have: a fleet's worth of them, as when a
process takes over, keeps no action waiting."""


async def run_operator(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Run one operator until it is told to stop."""
    stopping = stopping or asyncio.Event()
    async with _Operator.open(settings) as operator:
        await operator.run(stopping)


class _Operator:
    """The parts of one process."""

    def __init__(self, settings: Settings, client: KubernetesClient, metrics: FleetMetrics) -> None:
        self.metrics = metrics
        self.shown = MetricsObserver(metrics)
        self.trigger = Trigger()
        self.client = client
        self.caches = Caches(client, self.trigger.pull)
        identity = settings.identity or unique_identity()
        self.identity = identity
        self.elector = LeaseElector(
            client,
            LeaseSettings(namespace=settings.lease_namespace, name=settings.lease_name, identity=identity),
            on_started_leading=self._on_started_leading,
            on_stopped_leading=self._on_stopped_leading,
        )
        self.writer = client.with_writes(
            fence=self.elector.may_write,
            limit=RateLimit(requests_per_second=settings.writes_per_second, burst=settings.write_burst),
            observer=CountingWriteObserver(metrics),
        )
        self.actuator = Actuator(self.writer, time.time)
        telling = RateLimit(
            requests_per_second=settings.writes_per_second * TELLING_SHARE,
            burst=max(1, round(settings.write_burst * TELLING_SHARE)),
        )
        self.teller = Teller(self.writer.with_writes(limit=telling), time.time, identity)
        self.settings = settings
        self.loop: ControlLoop | None = None
        self.loop_stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[_Operator]:
        """Connect, and close everything at the end."""
        metrics = FleetMetrics()
        async with await KubernetesClient.from_kubeconfig(settings.kubeconfig) as client:
            operator = cls(settings, client, metrics)
            async with open_signal_reader(time.time) as reader:
                operator.loop = ControlLoop(
                    catalog=load_catalog(),
                    caches=operator.caches,
                    trigger=operator.trigger,
                    reader=reader,
                    secrets=SecretReader(client),
                    actuator=operator.actuator,
                    teller=operator.teller,
                    is_leading=lambda: operator.elector.is_leading,
                    clock=time.time,
                    observer=_observer(settings, operator.shown),
                )
                async with serve_telemetry(
                    metrics.registry,
                    live=operator.liveness(),
                    ready=operator.readiness(),
                    host=settings.http_host,
                    port=settings.http_port,
                ) as port:
                    _logger.info("serving /metrics, /livez and /readyz on port %d", port)
                    yield operator

    async def run(self, stopping: asyncio.Event) -> None:
        """Run kopf, which starts and stops everything else."""
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings)
        await kopf.operator(
            registry=make_registry(self.client, self.caches, self.start, self.stop),
            settings=kopf_settings,
            clusterwide=True,
            standalone=True,
            # Left to itself kopf asks for the user's name, and a container's user has none.
            identity=self.identity,  # type: ignore[arg-type]  # a NewType of str that kopf keeps to itself
            stop_flag=stopping,
        )

    async def start(self) -> None:
        """Start caches, Lease and loop."""
        assert self.loop is not None
        self.caches.start()
        self._tasks = [
            asyncio.create_task(self.elector.run(), name="lease"),
            asyncio.create_task(self.loop.run(self.loop_stopping), name="control loop"),
            asyncio.create_task(self._watch_ages(), name="ages"),
        ]

    async def stop(self) -> None:
        """Stop planning, let writes end, give the Lease back."""
        self.loop_stopping.set()
        self.trigger.pull()
        await asyncio.wait(self._tasks[1:2], timeout=8.0)
        await self.elector.stop()
        await self.caches.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def liveness(self) -> dict[str, Probe]:
        """Return what must hold for the process to be worth keeping."""
        return {"control-loop": self._progressing, "caches": self._caches_alive}

    def readiness(self) -> dict[str, Probe]:
        """Return what must hold for the process to take over."""
        return {"synced": self._synced}

    def _progressing(self) -> tuple[bool, str]:
        if self.loop is None or self.caches.waiting_for:
            return True, "not started: the first lists are not complete"
        return self.loop.progressing()

    def _caches_alive(self) -> tuple[bool, str]:
        if self.caches.waiting_for:
            return True, "the first lists are not complete"
        age_seconds = self.caches.age_seconds()
        return age_seconds < STALE_CACHE_SECONDS, f"oldest cache heard from the API server {age_seconds:.0f} s ago"

    def _synced(self) -> tuple[bool, str]:
        waiting = self.caches.waiting_for
        return not waiting, f"waiting for {', '.join(waiting)}" if waiting else "every cache is complete"

    async def _watch_ages(self) -> None:
        started = time.monotonic()
        while True:
            show_reflectors(self.metrics, self.caches.reflectors, time.monotonic(), started)
            await asyncio.sleep(5.0)

    def _on_started_leading(self) -> None:
        _logger.info("this process holds the Lease: it plans and writes")
        self.metrics.show_leader(True)
        self.trigger.pull()

    def _on_stopped_leading(self) -> None:
        _logger.warning("this process no longer holds the Lease: it watches")
        self.metrics.show_leader(False)
        self.shown.forget()


def _observer(settings: Settings, shown: MetricsObserver) -> Observer:
    return PassRecorder(settings.record_file, shown) if settings.record_file is not None else shown

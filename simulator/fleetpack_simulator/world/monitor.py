"""The metrics system of a policy that is not fleetpack's: what it has read by now, as late, as incomplete and as wrong as that is.

It asks the Pods that are ready at the interval of the deployment's own Pod signal, and the gateway as often, and besides whenever the
policy decides, as originals do that ask their own proxy then. It does not depend on fleetpack's operator: it goes on while that is
down. A failed read leaves the last answer, and says so; what that means, each original decides for itself.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import ReplicaPhase
from fleetpack_simulator.world.cluster import SimulatedCluster, SimulatedPod
from fleetpack_simulator.world.events import Clock
from fleetpack_simulator.world.faults import Fault, FaultKind
from fleetpack_simulator.world.metrics import is_due
from fleetpack_simulator.world.pages import WrongCounters
from fleetpack_simulator.world.traffic import Traffic

_DEFAULT_INTERVAL_SECONDS = 2.0
"""Where a deployment has no signal from its Pods; the default of such a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodReading:
    """One answer of one Pod."""

    asked_at_seconds: float
    read_at_seconds: float
    waiting: float
    running: float
    kv_cache_usage: float
    finished_total: float
    prompt_tokens_total: float
    generated_tokens_total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReading:
    """One answer of one model's gateway."""

    asked_at_seconds: float
    read_at_seconds: float
    held: float
    outstanding: float
    arrived_total: float


class PolicyMonitor:
    """Asks, and remembers the last answers and the last failures; Pods go by their UID, gateways by their deployment."""

    def __init__(self, cluster: SimulatedCluster, traffic: Traffic, clock: Clock, seed: int) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._clock = clock
        self._random = random.Random(f"{seed}/monitor")
        self._pods: dict[str, PodReading] = {}
        self._gateways: dict[str, GatewayReading] = {}
        self._failed_at: dict[str, float] = {}
        """By UID or deployment: when the last read was asked for that failed."""
        self._asked_at: dict[str, float] = {}
        """By deployment, for its Pods."""
        self._gateways_asked_at = -math.inf
        self._coming: deque[tuple[float, str, PodReading | GatewayReading]] = deque()
        self._wrong: dict[str, WrongCounters] = {}

    def pod(self, uid: str) -> tuple[PodReading | None, bool]:
        """Return the last answer of a Pod, and whether its newest read did not fail."""
        reading = self._pods.get(uid)
        return reading, not self._has_failed(uid, reading)

    def gateway(self, deployment: str) -> tuple[GatewayReading | None, bool]:
        """Return the last answer of a gateway, and whether there is one and its newest read did not fail."""
        reading = self._gateways.get(deployment)
        return reading, reading is not None and not self._has_failed(deployment, reading)

    def tick(self) -> None:
        """Ask everything that is due, and forget the Pods that are gone."""
        now = self._clock.now
        self.look()
        alive = {pod.seen.uid for pod in self._cluster.pods.values()}
        for known in (self._pods, self._wrong, self._failed_at):
            for uid in [uid for uid in known if uid not in alive and uid not in self._cluster.models]:
                del known[uid]
        ready: dict[str, list[SimulatedPod]] = {}
        for pod in self._cluster.pods.values():
            if pod.seen.phase is ReplicaPhase.READY:
                ready.setdefault(pod.seen.deployment, []).append(pod)
        for key, deployment in self._cluster.deployments.items():
            if is_due(self._asked_at.get(key), now, _interval_seconds(deployment)):
                self._asked_at[key] = now
                self._ask_pods(key, ready.get(key, []))

    def look(self) -> None:
        """Ask the gateways, unless that was done at this very moment, and take in what has come late."""
        now = self._clock.now
        self._take_late()
        if self._gateways_asked_at == now:
            return
        self._gateways_asked_at = now
        for key in self._cluster.deployments:
            missing, late, wrong = self._faults(key)
            if self._fails(key, missing):
                continue
            gateway = self._traffic.gateways[self._cluster.models[key]]
            factor = 1.0 if wrong is None else wrong.factor
            (arrived,) = self._counted(key, wrong, (gateway.arrived,))
            delay_seconds = self._delay_seconds(late)
            reading = GatewayReading(
                asked_at_seconds=now,
                read_at_seconds=now + delay_seconds,
                held=len(gateway.held) * factor,
                outstanding=gateway.outstanding * factor,
                arrived_total=arrived,
            )
            self._answer(key, reading)

    def _ask_pods(self, deployment: str, pods: list[SimulatedPod]) -> None:
        missing, late, wrong = self._faults(deployment)
        factor = 1.0 if wrong is None else wrong.factor
        now = self._clock.now
        for pod in pods:
            uid = pod.seen.uid
            if pod.serving is None:
                # Its machine has died and nobody has noticed yet: nothing answers there.
                self._failed_at[uid] = now
                continue
            if self._fails(uid, missing):
                continue
            true = pod.serving.engine.counters()
            totals = (true.finished + true.aborted, true.prompt_tokens, true.generated_tokens)
            finished, prompt_tokens, generated_tokens = self._counted(uid, wrong, totals)
            reading = PodReading(
                asked_at_seconds=now,
                read_at_seconds=now + self._delay_seconds(late),
                waiting=true.waiting * factor,
                running=true.running * factor,
                kv_cache_usage=true.kv_cache_usage * factor,
                finished_total=finished,
                prompt_tokens_total=prompt_tokens,
                generated_tokens_total=generated_tokens,
            )
            self._answer(uid, reading)

    def _faults(self, deployment: str) -> tuple[Fault | None, Fault | None, Fault | None]:
        weather, now = self._cluster.weather, self._clock.now
        return (
            weather.active(FaultKind.METRICS_MISSING, now, deployment),
            weather.active(FaultKind.METRICS_LATE, now, deployment),
            weather.active(FaultKind.METRICS_WRONG, now, deployment),
        )

    def _fails(self, source: str, missing: Fault | None) -> bool:
        if missing is None or self._random.random() >= missing.share:
            return False
        self._failed_at[source] = self._clock.now
        return True

    def _delay_seconds(self, late: Fault | None) -> float:
        return late.seconds if late is not None and self._random.random() < late.share else 0.0

    def _counted(self, source: str, wrong: Fault | None, totals: tuple[int, ...]) -> tuple[float, ...]:
        counters = self._wrong.get(source)
        if counters is None:
            if wrong is None:
                return totals
            counters = self._wrong[source] = WrongCounters()
        return counters.shown(None if wrong is None else wrong.factor, totals)

    def _answer(self, source: str, reading: PodReading | GatewayReading) -> None:
        """Take an answer in now or, if it comes late, when it comes."""
        if reading.read_at_seconds > self._clock.now:
            self._coming.append((reading.read_at_seconds, source, reading))
        else:
            self._take(source, reading)

    def _take_late(self) -> None:
        now = self._clock.now
        if not self._coming:
            return
        # Two delays may hold one after the other, so the order of asking need not be that of coming.
        for _, source, reading in sorted((one for one in self._coming if one[0] <= now), key=lambda one: one[:2]):
            self._take(source, reading)
        self._coming = deque(one for one in self._coming if one[0] > now)

    def _take(self, source: str, reading: PodReading | GatewayReading) -> None:
        """Remember an answer, unless one to a later question is there already."""
        if isinstance(reading, PodReading):
            pod = self._pods.get(source)
            if pod is None or pod.asked_at_seconds <= reading.asked_at_seconds:
                self._pods[source] = reading
        else:
            gateway = self._gateways.get(source)
            if gateway is None or gateway.asked_at_seconds <= reading.asked_at_seconds:
                self._gateways[source] = reading

    def _has_failed(self, source: str, reading: PodReading | GatewayReading | None) -> bool:
        failed_at = self._failed_at.get(source)
        return failed_at is not None and (reading is None or reading.asked_at_seconds <= failed_at)


def _interval_seconds(deployment: Deployment) -> float:
    return next((signal.interval_seconds for signal in deployment.signals if signal.in_pods), _DEFAULT_INTERVAL_SECONDS)

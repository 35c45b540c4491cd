"""Reading metrics pages and outside sources at their real cadence, with what can be wrong with the answers.

A Pod is asked while the operator's cache shows it as serving or draining. An answer may be late (it then shows what was true when the
page was made), missing, or wrong. A source outside the Pods is the gateway: it counts what waits there because no replica is ready.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

from fleetpack.core.deployments import Deployment, SignalSpecification
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.samples import Sample
from fleetpack_simulator.engine import EngineCounters
from fleetpack_simulator.serving_metrics import TTFT_BUCKETS_SECONDS
from fleetpack_simulator.world.cluster import SimulatedCluster
from fleetpack_simulator.world.events import EPOCH_SECONDS, Clock
from fleetpack_simulator.world.faults import Fault, FaultKind
from fleetpack_simulator.world.traffic import Traffic

_EARLY_FRACTION = 0.1
"""A source is due this part of its interval early, as in the operator's reader: ticks must not cost a whole interval by rounding."""
_RATE_WINDOW_SECONDS = 30.0
_ASKED = (ReplicaPhase.READY, ReplicaPhase.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodReading:
    """The last good answer of one Pod."""

    at_seconds: float
    counters: EngineCounters
    factor: float


class Scraper:
    """Asks all sources of all deployments."""

    def __init__(self, cluster: SimulatedCluster, traffic: Traffic, clock: Clock, seed: int) -> None:
        self.latest: dict[str, PodReading] = {}
        """By Pod UID."""
        self._cluster = cluster
        self._traffic = traffic
        self._clock = clock
        self._random = random.Random(f"{seed}/metrics")
        self._asked_at: dict[tuple[str, str], float] = {}
        self._late: list[tuple[float, Sample]] = []
        self._arrived: dict[str, list[tuple[float, int]]] = {}

    def read(self, deployments: Iterable[Deployment], replicas: Iterable[Replica]) -> tuple[Sample, ...]:
        """Return what has been answered since the last call."""
        now = self._clock.now
        asked: dict[str, list[Replica]] = {}
        for replica in replicas:
            if replica.phase in _ASKED:
                asked.setdefault(replica.deployment, []).append(replica)
        found: list[Sample] = []
        for deployment in deployments:
            missing = self._cluster.weather.active(FaultKind.METRICS_MISSING, now, deployment.key)
            wrong = self._cluster.weather.active(FaultKind.METRICS_WRONG, now, deployment.key)
            for signal in deployment.signals:
                if not self._due(deployment.key, signal, now):
                    continue
                if not signal.in_pods:
                    found.append(self._outside(deployment.key, signal, missing))
                    continue
                pods = asked.get(deployment.key, ())
                wants_latency = deployment.latency_target is not None
                found.extend(self._pod(replica, signal, (missing, wrong), wants_latency) for replica in pods)
        return self._delayed(found, now)

    def forget(self, alive: set[str]) -> None:
        """Drop readings of Pods that are gone."""
        for uid in [uid for uid in self.latest if uid not in alive]:
            del self.latest[uid]

    def _due(self, deployment: str, signal: SignalSpecification, now: float) -> bool:
        key = (deployment, signal.name)
        last = self._asked_at.get(key)
        if last is not None and now - last < signal.interval_seconds * (1 - _EARLY_FRACTION):
            return False
        self._asked_at[key] = now
        return True

    def _pod(
        self,
        replica: Replica,
        signal: SignalSpecification,
        faults: tuple[Fault | None, Fault | None],
        wants_latency: bool,
    ) -> Sample:
        missing, wrong = faults
        key = f"{replica.deployment.partition('/')[0]}/{replica.name}"
        pod = self._cluster.pods.get(key)
        if pod is None or pod.seen.uid != replica.uid or pod.serving is None:
            return self._sample(replica.deployment, signal.name, replica.uid, error="connection refused")
        if missing is not None and self._random.random() < missing.share:
            return self._sample(replica.deployment, signal.name, replica.uid, error="timed out")
        counters = pod.serving.engine.counters()
        factor = 1.0 if wrong is None else wrong.factor
        self.latest[replica.uid] = PodReading(at_seconds=self._clock.now, counters=counters, factor=factor)
        return Sample(
            deployment=replica.deployment,
            signal=signal.name,
            pod_uid=replica.uid,
            observed_at=EPOCH_SECONDS + self._clock.now,
            waiting=counters.waiting * factor,
            running=counters.running * factor,
            finished_total=float(counters.finished + counters.aborted),
            arrival_rate_per_second=None,
            ttft_seconds=None,
            ttft_buckets=_histogram(pod.serving.ttft_counts) if wants_latency else (),
        )

    def _outside(self, deployment: str, signal: SignalSpecification, missing: Fault | None) -> Sample:
        if missing is not None and self._random.random() < missing.share:
            return self._sample(deployment, signal.name, "", error="timed out")
        gateway = self._traffic.gateways[self._cluster.models[deployment]]
        if signal.measures == "waiting":
            return self._sample(deployment, signal.name, "", waiting=float(len(gateway.held)))
        if signal.measures == "running":
            return self._sample(deployment, signal.name, "", running=float(gateway.outstanding - len(gateway.held)))
        if signal.measures == "arrivalRate":
            return self._sample(deployment, signal.name, "", rate=self._rate(deployment, gateway.arrived))
        return self._sample(
            deployment, signal.name, "", error=f"the simulated gateway does not measure {signal.measures}"
        )

    def _rate(self, deployment: str, arrived: int) -> float:
        now = self._clock.now
        history = self._arrived.setdefault(deployment, [(0.0, 0)])
        history.append((now, arrived))
        while len(history) > 2 and history[1][0] <= now - _RATE_WINDOW_SECONDS:
            history.pop(0)
        seconds = now - history[0][0]
        return (arrived - history[0][1]) / seconds if seconds > 0 else 0.0

    def _delayed(self, found: list[Sample], now: float) -> tuple[Sample, ...]:
        """Keep back what comes late; deliver what was kept back and is due, with the time at which it came."""
        due = [sample for at, sample in self._late if at <= now]
        self._late = [entry for entry in self._late if entry[0] > now]
        prompt: list[Sample] = []
        for sample in found:
            late = self._cluster.weather.active(FaultKind.METRICS_LATE, now, sample.deployment)
            if late is None or sample.error or self._random.random() >= late.share:
                prompt.append(sample)
            else:
                self._late.append((now + late.seconds, _moved(sample, late.seconds)))
        return (*due, *prompt)

    def _sample(
        self,
        deployment: str,
        signal: str,
        pod_uid: str,
        *,
        waiting: float | None = None,
        running: float | None = None,
        rate: float | None = None,
        error: str = "",
    ) -> Sample:
        return Sample(
            deployment=deployment,
            signal=signal,
            pod_uid=pod_uid,
            observed_at=EPOCH_SECONDS + self._clock.now,
            waiting=waiting,
            running=running,
            finished_total=None,
            arrival_rate_per_second=rate,
            ttft_seconds=None,
            error=error,
        )


def _histogram(counts: list[int]) -> tuple[tuple[float, float], ...]:
    """Return cumulative buckets, as the operator reads them from a page."""
    bounds = (*TTFT_BUCKETS_SECONDS, math.inf)
    return tuple(zip(bounds, map(float, accumulate(counts)), strict=True))


def _moved(sample: Sample, seconds: float) -> Sample:
    return replace(sample, observed_at=sample.observed_at + seconds)

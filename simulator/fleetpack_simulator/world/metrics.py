"""Reading metrics pages and outside sources at their real cadence, with what can be wrong with the answers.

This is what fleetpack reads; `monitor` does the same for other policies. A Pod is asked while the operator's cache shows it as
serving or draining. An answer may be late (it then shows what was true when the page was made), missing, or wrong (`pages`). A source
outside the Pods is the gateway: it counts what waits there because no replica is ready.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate

from fleetpack.core.deployments import Deployment, SignalSpecification
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.samples import Sample
from fleetpack_simulator.serving_metrics import TTFT_BUCKETS_SECONDS
from fleetpack_simulator.world.cluster import SimulatedCluster
from fleetpack_simulator.world.events import EPOCH_SECONDS, Clock
from fleetpack_simulator.world.faults import Fault, FaultKind
from fleetpack_simulator.world.pages import WrongCounters, WrongTimes
from fleetpack_simulator.world.traffic import ServingReplica, Traffic

_EARLY_FRACTION = 0.1
"""A source is due this part of its interval early, as in the operator's reader: ticks must not cost a whole interval by rounding."""
_RATE_WINDOW_SECONDS = 30.0
_ASKED = (ReplicaPhase.READY, ReplicaPhase.DRAINING)


class Scraper:
    """Asks all sources of all deployments."""

    def __init__(self, cluster: SimulatedCluster, traffic: Traffic, clock: Clock, seed: int) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._clock = clock
        self._random = random.Random(f"{seed}/metrics")
        self._asked_at: dict[tuple[str, str], float] = {}
        self._late: list[tuple[float, Sample]] = []
        self._arrived: dict[str, list[tuple[float, int]]] = {}
        self._wrong: dict[str, tuple[WrongCounters, WrongTimes]] = {}
        """By UID, of Pods whose pages are or were wrong."""

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
                    found.append(self._outside(deployment.key, signal, (missing, wrong)))
                    continue
                pods = asked.get(deployment.key, ())
                wants_latency = deployment.latency_target is not None
                found.extend(self._pod(replica, signal, (missing, wrong), wants_latency) for replica in pods)
        return self._delayed(found, now)

    def forget(self, alive: set[str]) -> None:
        """Drop what is known of Pods that are gone."""
        for uid in [uid for uid in self._wrong if uid not in alive]:
            del self._wrong[uid]

    def _due(self, deployment: str, signal: SignalSpecification, now: float) -> bool:
        key = (deployment, signal.name)
        if not is_due(self._asked_at.get(key), now, signal.interval_seconds):
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
        finished, ttft_counts = self._counted(pod.serving, replica.uid, counters.finished + counters.aborted, wrong)
        return Sample(
            deployment=replica.deployment,
            signal=signal.name,
            pod_uid=replica.uid,
            observed_at=EPOCH_SECONDS + self._clock.now,
            waiting=counters.waiting * factor,
            running=counters.running * factor,
            finished_total=finished,
            arrival_rate_per_second=None,
            ttft_seconds=None,
            ttft_buckets=_histogram(ttft_counts) if wants_latency else (),
        )

    def _counted(self, serving: ServingReplica, uid: str, ended: int, wrong: Fault | None) -> tuple[float, list[int]]:
        """Return requests that have ended and the buckets of their first tokens, as the page shows them."""
        page = self._wrong.get(uid)
        if page is None:
            if wrong is None:
                return float(ended), serving.ttft_counts
            page = self._wrong[uid] = (WrongCounters(), WrongTimes())
        counters, times = page
        factor = None if wrong is None else wrong.factor
        return counters.shown(factor, (ended,))[0], times.shown(factor, serving.ttft_counts)

    def _outside(
        self, deployment: str, signal: SignalSpecification, faults: tuple[Fault | None, Fault | None]
    ) -> Sample:
        missing, wrong = faults
        if missing is not None and self._random.random() < missing.share:
            return self._sample(deployment, signal.name, "", error="timed out")
        gateway = self._traffic.gateways[self._cluster.models[deployment]]
        factor = 1.0 if wrong is None else wrong.factor
        if signal.measures == "waiting":
            return self._sample(deployment, signal.name, "", waiting=len(gateway.held) * factor)
        if signal.measures == "running":
            running = gateway.outstanding - len(gateway.held)
            return self._sample(deployment, signal.name, "", running=running * factor)
        if signal.measures == "arrivalRate":
            return self._sample(deployment, signal.name, "", rate=self._rate(deployment, gateway.arrived) * factor)
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


def is_due(last_seconds: float | None, now_seconds: float, interval_seconds: float) -> bool:
    """Whether a source that was asked last at some time, or never, is to be asked again."""
    return last_seconds is None or now_seconds - last_seconds >= interval_seconds * (1 - _EARLY_FRACTION)


def _histogram(counts: list[int]) -> tuple[tuple[float, float], ...]:
    """Return cumulative buckets, as the operator reads them from a page."""
    bounds = (*TTFT_BUCKETS_SECONDS, math.inf)
    return tuple(zip(bounds, map(float, accumulate(counts)), strict=True))


def _moved(sample: Sample, seconds: float) -> Sample:
    return replace(sample, observed_at=sample.observed_at + seconds)

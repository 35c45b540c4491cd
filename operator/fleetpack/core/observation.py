"""Step 1, observe: from raw samples to what is known about one deployment now.

Sources inside the Pods are summed over the ready replicas; a source outside them (a broker, a gateway) counts work that no
Pod has seen yet, so it is added. A number older than its signal's limit is stale, not zero: stale parts make the observation
partial, and with no fresh part at all there is no observation. A replica that is still loading is not an idle one: it is
simply not asked. Arrivals are counted by conservation: what finished plus the change of what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetpack.api.conditions import Reason
from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.deployments import Deployment, SignalSpecification
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.latency import Counts, increase, merged, remember_misses, remember_unqueued
from fleetpack.core.samples import Sample
from fleetpack.core.state import DeploymentState, Flow, Reading

FLOW_WINDOW_SECONDS = 120.0
"""How long arrivals are remembered: the longest window that demand looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFlow:
    """What one replica did between its last two readings."""

    variant: str
    seconds: float
    finished: float
    running: float
    saturated: bool
    """It had requests waiting at both ends, and had since it finished as many requests as it runs at once: it worked at its
    capacity. Before that a batch is being filled, and completions lag behind by their service time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is known about one deployment at one moment."""

    waiting: Measurement | NoData
    running: Measurement | NoData
    ttft_seconds: Measurement | None = None
    """Only where a source outside the Pods measures the percentile itself; else latency takes it from histograms."""
    arrival_rate_per_second: Measurement | NoData
    """Only where a source measures it itself; else demand takes it from the flows."""
    ready_replicas: int
    complete: bool
    """Every ready replica and every source has a fresh number."""
    missing: str = ""
    """What is stale or silent, for people."""
    waiting_outside: float = 0.0
    """The part of `waiting` that no Pod has yet: a replica that comes can take it, the rest stays where it is."""
    work: dict[str, float]
    """Work (waiting + running) of each Pod with a fresh reading, by UID: a drained replica with none may go."""
    pod_flows: tuple[PodFlow, ...] = ()

    def measured_rate(self, rate_per_second: float) -> Measurement:
        """Return an arrival rate with the age of what it was taken from."""
        ages = [part.age_seconds for part in (self.waiting, self.running) if isinstance(part, Measurement)]
        return Measurement(value=rate_per_second, age_seconds=max(ages, default=0.0))


def build_observation(
    deployment: Deployment,
    replicas: tuple[Replica, ...],
    samples: tuple[Sample, ...],
    state: DeploymentState,
    now: float,
) -> tuple[Observation, DeploymentState]:
    """Merge new samples into what is remembered, and say what is known now."""
    by_uid = {replica.uid: replica for replica in replicas if replica.uid}
    signals = {signal.name: signal for signal in deployment.signals}
    readings = {(reading.signal, reading.pod_uid): reading for reading in state.readings}
    arrivals = finished = 0.0
    counted = False
    ttft: list[Counts] = []
    unqueued: list[Counts] = []
    answered: list[Counts] = []
    pod_flows: list[PodFlow] = []
    for sample in sorted(samples, key=lambda sample: (sample.observed_at, sample.signal, sample.pod_uid)):
        known = sample.signal in signals and (not sample.pod_uid or sample.pod_uid in by_uid)
        previous = readings.get((sample.signal, sample.pod_uid))
        if sample.error or not known or (previous and sample.observed_at <= previous.at):
            continue
        if sample.pod_uid:
            stale_after_seconds = signals[sample.signal].stale_after_seconds
            came, left, pod_flow = _flow_of(sample, previous, by_uid[sample.pod_uid], state, stale_after_seconds)
            arrivals += came
            finished += left
            counted = counted or sample.finished_total is not None
            pod_flows.extend([pod_flow] if pod_flow else [])
        unbroken = _unbroken(sample, previous, signals[sample.signal].stale_after_seconds)
        if deployment.latency_target is None:
            sample = replace(sample, ttft_buckets=())
        elif previous is not None:
            new, calm, empty = _latencies(sample, previous, deployment.target_queue_depth)
            answered.append(new)
            ttft.extend([new] if calm else [])
            unqueued.extend([new] if empty and unbroken else [])
        readings[sample.signal, sample.pod_uid] = _reading(sample, previous if unbroken else None)
    kept = _still_asked_for(readings, signals, by_uid)
    ready = tuple(replica for replica in replicas if replica.phase is ReplicaPhase.READY)
    observation = _summarise(signals, ready, kept, now)
    flows = tuple(flow for flow in state.flows if flow.at > now - FLOW_WINDOW_SECONDS)
    if counted:
        # A pass that counted nothing is kept too: it says until when nothing came.
        busy = observation.running.value if isinstance(observation.running, Measurement) else 0.0
        flows += (Flow(at=now, arrivals=arrivals, finished=finished, running=busy, ttft=merged(ttft)),)
    silent = isinstance(observation.waiting, NoData) and isinstance(observation.running, NoData)
    since = None if silent else state.observing_since if state.observing_since is not None else now
    return (
        replace(observation, pod_flows=tuple(pod_flows)),
        replace(
            state,
            readings=kept,
            flows=flows,
            observing_since=since,
            misses=remember_misses(state.misses, merged(answered), deployment.latency_target, now),
            ttft_unqueued=remember_unqueued(state.ttft_unqueued, merged(unqueued)),
        ),
    )


def _still_asked_for(
    readings: Mapping[tuple[str, str], Reading], signals: Mapping[str, SignalSpecification], pods: Mapping[str, Replica]
) -> tuple[Reading, ...]:
    """Return the readings whose signal and Pod are still there, in order."""
    return tuple(
        reading
        for _, reading in sorted(readings.items())
        if reading.signal in signals and (not reading.pod_uid or reading.pod_uid in pods)
    )


def _latencies(sample: Sample, previous: Reading, target_queue_depth: float) -> tuple[Counts, bool, bool]:
    """Return the times to first token since the reading before, whether they tell of today, and whether nobody waited.

    What stood in one Pod's long queue tells of the past: no number of replicas shortens that queue.
    """
    longest = max(sample.waiting or 0.0, previous.waiting or 0.0)
    return increase(sample, previous), longest <= target_queue_depth, longest == 0.0


def _unbroken(sample: Sample, previous: Reading | None, stale_after_seconds: float) -> bool:
    """Whether nothing can have happened unseen between two readings: neither a gap nor a restart of the counters."""
    if previous is None:
        return False
    fell = (sample.finished_total or 0.0) < (previous.finished_total or 0.0)
    return not fell and sample.observed_at - previous.at <= stale_after_seconds


def _reading(sample: Sample, previous: Reading | None) -> Reading:
    """Return what is remembered of a sample; `previous` only where nothing is missing between them."""
    saturated_from = None
    if (sample.waiting or 0.0) > 0:
        saturated_from = previous.saturated_from if previous is not None else None
        if saturated_from is None:
            saturated_from = sample.finished_total
    return Reading(
        signal=sample.signal,
        pod_uid=sample.pod_uid,
        at=sample.observed_at,
        waiting=sample.waiting,
        running=sample.running,
        finished_total=sample.finished_total,
        arrival_rate_per_second=sample.arrival_rate_per_second,
        ttft_seconds=sample.ttft_seconds,
        ttft_buckets=sample.ttft_buckets,
        saturated_from=saturated_from,
    )


def _flow_of(
    sample: Sample,
    previous: Reading | None,
    replica: Replica,
    state: DeploymentState,
    stale_after_seconds: float,
) -> tuple[float, float, PodFlow | None]:
    """Arrivals and completions between two readings of one Pod, and whether it was saturated meanwhile.

    A counter that fell was reset by a restart: what it shows now came since. A Pod that was made while we watched is
    counted from zero; one that was there before us has a past that is not ours to count, also when it becomes ready again.
    """
    if sample.finished_total is None:
        return 0.0, 0.0, None
    inside = (sample.waiting or 0.0) + (sample.running or 0.0)
    if previous is None or previous.finished_total is None:
        watched = state.observing_since is not None and replica.created_at >= state.observing_since
        return (sample.finished_total + inside, sample.finished_total, None) if watched else (0.0, 0.0, None)
    finished = sample.finished_total - previous.finished_total
    inside_before = (previous.waiting or 0.0) + (previous.running or 0.0)
    if finished < 0:
        finished, inside_before = sample.finished_total, 0.0
    # Over a gap or a restart nobody knows that it was busy all the time, and a capacity learnt there would be too small.
    turned_over = (
        previous.saturated_from is not None
        and previous.finished_total - previous.saturated_from >= (previous.running or 0.0)
        and _unbroken(sample, previous, stale_after_seconds)
    )
    flow = PodFlow(
        variant=replica.variant,
        seconds=sample.observed_at - previous.at,
        finished=finished,
        running=((sample.running or 0.0) + (previous.running or 0.0)) / 2,
        saturated=turned_over and (sample.waiting or 0.0) > 0,
    )
    return max(0.0, finished + inside - inside_before), finished, flow


def _summarise(
    signals: Mapping[str, SignalSpecification],
    ready: tuple[Replica, ...],
    readings: tuple[Reading, ...],
    now: float,
) -> Observation:
    by_key = {(reading.signal, reading.pod_uid): reading for reading in readings}
    waiting: list[tuple[float, float]] = []
    waiting_outside = 0.0
    running: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    latencies: list[tuple[float, float]] = []
    work: dict[str, float] = {}
    missing: list[str] = []
    for signal in signals.values():
        expected = (
            [(signal.name, replica.uid, replica.name) for replica in ready]
            if signal.in_pods
            else [(signal.name, "", "")]
        )
        for name, uid, replica_name in expected:
            reading = by_key.get((name, uid))
            age_seconds = now - reading.at if reading else None
            if reading is None or age_seconds is None or age_seconds > signal.stale_after_seconds:
                source = f"signal {name}" + (f" of {replica_name}" if replica_name else "")
                missing.append(
                    f"{source}: " + ("no answer yet" if age_seconds is None else f"last answer {age_seconds:.0f} s ago")
                )
                continue
            waiting_outside += 0.0 if signal.in_pods else reading.waiting or 0.0
            for value, into in (
                (reading.waiting, waiting),
                (reading.running, running),
                (reading.arrival_rate_per_second, rates),
                (reading.ttft_seconds, latencies),
            ):
                if value is not None:
                    into.append((value, age_seconds))
    for reading in readings:
        signal = signals[reading.signal]
        if reading.pod_uid and now - reading.at <= signal.stale_after_seconds:
            work[reading.pod_uid] = (reading.waiting or 0.0) + (reading.running or 0.0)
    return Observation(
        waiting=_total(waiting, missing, signals, ready),
        running=_total(running, missing, signals, ready),
        ttft_seconds=_largest(latencies),
        arrival_rate_per_second=_total(rates, missing, signals, ready),
        ready_replicas=len(ready),
        complete=not missing and bool(signals),
        missing="; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else ""),
        waiting_outside=waiting_outside,
        work=work,
    )


def _largest(parts: list[tuple[float, float]]) -> Measurement | None:
    """Return the largest of several latencies: percentiles do not add up, and the worst one is the promise that is broken."""
    if not parts:
        return None
    value, age_seconds = max(parts)
    return Measurement(value=value, age_seconds=age_seconds)


def _total(
    parts: list[tuple[float, float]],
    missing: list[str],
    signals: Mapping[str, SignalSpecification],
    ready: tuple[Replica, ...],
) -> Measurement | NoData:
    if parts:
        return Measurement(value=sum(value for value, _ in parts), age_seconds=max(age for _, age in parts))
    if not signals:
        return NoData(
            reason=Reason.NO_SIGNAL, message="spec.scaling.signals is empty: nothing says how much work there is"
        )
    if not ready and all(signal.in_pods for signal in signals.values()):
        return NoData(
            reason=Reason.NO_READY_REPLICA, message="no replica is ready yet, and the signals are read from replicas"
        )
    return NoData(reason=Reason.NO_FRESH_SIGNAL, message="; ".join(missing[:3]) or "no source measures this")

"""The time to first token: what was measured of it, and what the target asks of the number of replicas.

Engines report a cumulative histogram per Pod. The increase between two readings of one Pod is what its requests took meanwhile; all
Pods' increases of the last minute together give the percentile. Increases between two readings with an empty queue hold requests
that did not wait: their percentile is what the engine itself needs, and no number of replicas shortens it. Those sums fade.

Too few requests for the percentile, or no histogram at all, is `NoData`, and the queue decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fleetpack.api.conditions import Reason
from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.deployments import LatencyTarget
from fleetpack.core.samples import Sample
from fleetpack.core.state import DeploymentState, Misses, Reading

Counts = tuple[tuple[float, float], ...]
"""Requests by the upper bound of their bucket in seconds, ascending; not cumulative."""

WINDOW_SECONDS = 60.0
"""Twice the window of the arrival rate: a percentile needs more requests than a mean."""
REQUESTS_BEYOND = 5.0
"""So many requests must lie beyond a percentile for it to mean something: 100 for the 95th."""
MISSES_HALF_LIFE_SECONDS = 1800.0
"""A target is kept over an hour or so, not in each minute: with this half-life the sums hold 43 minutes of requests."""
UNQUEUED_HALF_LIFE_REQUESTS = 2000.0
"""After so many new requests without a queue an old one weighs half: prompts change within hours, not within minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What is known of the time to first token at the target's percentile."""

    target: LatencyTarget
    measured: Measurement | NoData
    """Over the last minute with today's replicas, the wait included."""
    unqueued_seconds: float | None
    """Without any wait; None: not measured yet."""

    @property
    def wait_at_most_seconds(self) -> float:
        """What the target leaves for the wait in the queue; 0 or less: replicas cannot keep it."""
        return self.target.ttft_seconds - (self.unqueued_seconds or 0.0)


def increase(sample: Sample, previous: Reading) -> Counts:
    """Return the requests between two readings by bucket; a histogram that fell was reset, and counts from zero."""
    before = dict(previous.ttft_buckets)
    total_before = previous.ttft_buckets[-1][1] if previous.ttft_buckets else 0.0
    if not sample.ttft_buckets or not previous.ttft_buckets:
        return ()
    if sample.ttft_buckets[-1][1] < total_before:
        before = {}
    counts = []
    below = 0.0
    for bound, cumulative in sample.ttft_buckets:
        new = cumulative - before.get(bound, 0.0)
        counts.append((bound, max(0.0, new - below)))
        below = max(below, new)
    return tuple(counts) if any(count > 0 for _, count in counts) else ()


def merged(parts: Iterable[Counts]) -> Counts:
    """Return the sum of several counts."""
    total: dict[float, float] = {}
    for part in parts:
        for bound, count in part:
            total[bound] = total.get(bound, 0.0) + count
    return tuple(sorted(total.items()))


def percentile_seconds(counts: Counts, percentile: float) -> float | None:
    """Return a percentile by linear interpolation in its bucket, as Prometheus' `histogram_quantile`; None: too few requests.

    Beyond the last finite bound only that bound is known: the result is then a lower bound.
    """
    total = sum(count for _, count in counts)
    if total * (1.0 - percentile / 100.0) < REQUESTS_BEYOND:
        return None
    rank, below, lower = total * percentile / 100.0, 0.0, 0.0
    for bound, count in counts:
        if below + count >= rank:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return lower


def beyond(counts: Counts, seconds: float) -> float:
    """Return how many requests took longer, by linear interpolation in the bucket; beyond the last finite bound all did."""
    found, lower = 0.0, 0.0
    for bound, count in counts:
        if lower >= seconds or math.isinf(bound):
            found += count
        elif bound > seconds:
            found += count * (bound - seconds) / (bound - lower)
        lower = bound
    return found


def remember_unqueued(known: Counts, new: Counts) -> Counts:
    """Add requests that did not wait to the fading sums."""
    if not new:
        return known
    fade = 0.5 ** (sum(count for _, count in new) / UNQUEUED_HALF_LIFE_REQUESTS)
    return merged([tuple((bound, count * fade) for bound, count in known), new])


def remember_misses(known: Misses | None, new: Counts, target: LatencyTarget | None, now: float) -> Misses | None:
    """Add what was answered to the fading sums of those that kept the target and those that missed it."""
    if target is None:
        return None
    if known is None or known.ttft_seconds != target.ttft_seconds:
        if not new:
            return None
        known = Misses(since=now, at=now, ttft_seconds=target.ttft_seconds, requests=0.0, missed=0.0)
    fade = 0.5 ** ((now - known.at) / MISSES_HALF_LIFE_SECONDS)
    return replace(
        known,
        at=now,
        requests=known.requests * fade + sum(count for _, count in new),
        missed=known.missed * fade + beyond(new, target.ttft_seconds),
    )


def with_ready_replicas(state: DeploymentState, ready: int, now: float) -> DeploymentState:
    """Remember since when this number of replicas serves: latencies measured before belong to another number."""
    if state.latency_ready_replicas == ready:
        return state
    return replace(state, latency_ready_replicas=ready, latency_since=now)


def known_latency(target: LatencyTarget, state: DeploymentState, direct: Measurement | None, now: float) -> Latency:
    """Return what is known; `direct` is a source that measures the percentile itself."""
    since = max(now - WINDOW_SECONDS, state.latency_since)
    counts = merged(flow.ttft for flow in state.flows if flow.at > since)
    measured: Measurement | NoData
    seconds = percentile_seconds(counts, target.percentile)
    if direct is not None:
        measured = direct
    elif seconds is None:
        message = f"too few requests within {WINDOW_SECONDS:.0f} s for the percentile {target.percentile}"
        measured = NoData(reason=Reason.NO_FRESH_SIGNAL, message=message)
    else:
        measured = Measurement(value=seconds, age_seconds=0.0)
    return Latency(
        target=target,
        measured=measured,
        unqueued_seconds=percentile_seconds(state.ttft_unqueued, target.percentile),
    )

"""Step 4, size: how many replicas the forecast needs.

Five bounds, the largest wins and is named. With the arrival rate a at the end of the lead time, capacity m requests per second and
concurrency c of one replica, backlog W and running requests R, target queue depth q per replica, drain time D:

* capacity:    n >= (a - 1.5 s) / (m * 0.8): no replica runs hot all the time; s is the deviation of a by chance
* backlog:     W - q*n <= (m*n - a) * D, so n >= (W + a*D) / (m*D + q): the queue is at its target D seconds after the new replicas are
  ready; W is what waits outside the Pods, because a request inside a Pod is served by that Pod or by nobody
* concurrency: n >= (W + R) / (c + q): everything inside is either being served or in a queue of the wanted depth; where queues are
  inside Pods and the rate is known, at most twice what a needs, which relieves full Pods of nearly all that arrives
* observed:    the same with c = R / ready, where nothing at all is known of the variant
* latency:     where there is a target for the time to first token, n such that the percentile of the wait (`queueing`) and of the
  engine's own time without a queue together keep it; one more where the measured percentile is above the target although the
  queue is short; and a queue counts as long as soon as draining it would take the time that the target leaves

Each has a twin that says how many replicas must be *kept*; it is larger, so that noise around a boundary moves nothing. Apart from the
queue that is expected outside, all of them are independent of how many replicas exist: a slow start never makes the next answer larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from fleetpack.api.conditions import Reason
from fleetpack.core.absent import Measurement
from fleetpack.core.decision import Factor
from fleetpack.core.demand import RATE_WINDOW_SECONDS
from fleetpack.core.forecast import DemandForecast
from fleetpack.core.latency import Latency
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.queueing import replicas_for_wait

START_UTILIZATION = 0.80
"""Above this a queue of Poisson arrivals grows fast even with several servers (Erlang C), so more replicas start."""
KEEP_UTILIZATION = 0.75
"""Replicas are given up only if the rest would run below this: the band between both is the hysteresis."""
START_DEVIATIONS = 1.5
KEEP_DEVIATIONS = 2.0
"""A rate counts as higher only beyond what chance explains, and as lower only well beyond: nothing shows a real fall but time."""
KEEP_LATENCY_FRACTION = 0.8
"""A replica is not given up while the measured percentile is above this share of its target: fewer would be slower."""
DRAIN_SECONDS = 15.0
DRAIN_LEADS = 0.5
"""A backlog should be gone so long after the new replicas are ready, or half as long as they took to come: what drains it sooner
would be kept longer than it is of use."""
RELIEF = 2.0
"""Replicas beside Pods with long queues, as a multiple of what the arrivals need: with twice as many, even a Service that spreads at
random sends a full Pod half of what it serves."""
COLD_STARTS_OF_RENT = 2.0
"""A cold start, from wanting a replica to its serving, is paid for once, and once more for the requests that wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """How many replicas are needed, and how many must at least be kept (never fewer than needed)."""

    replicas: int
    keep_replicas: int
    bound_by: str
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    reason: str
    needed: float
    kept: float


def break_even_seconds(lead_seconds: float) -> float:
    """Return how long a surplus replica is kept; never shorter than the window that its idleness is measured over."""
    return max(RATE_WINDOW_SECONDS, COLD_STARTS_OF_RENT * lead_seconds)


def size(
    forecast: DemandForecast, profile: ServiceProfile, target_queue_depth: float, latency: Latency | None = None
) -> Recommendation:
    """Return the number of replicas for a forecast; never below 1 while there is work, 0 when all is idle."""
    demand = forecast.demand
    target_queue_depth = _queue_depth(profile, target_queue_depth, latency)
    bounds = _bounds(forecast, profile, target_queue_depth)
    if latency is not None:
        bounds = (*bounds, *_latency_bounds(forecast, profile, latency, target_queue_depth))
    largest = max(bounds, key=lambda bound: (bound.needed, bound.reason))
    floor = 0 if demand.idle else 1
    needed = max(floor, _whole(largest.needed))
    factors = [
        Factor(name="arrival_rate_per_second", value=demand.arrival_rate_per_second),
        Factor(name="waiting", value=demand.waiting),
        Factor(name="running", value=demand.running),
        Factor(name="arrival_rate_at_horizon_per_second", value=forecast.arrival_rate_per_second),
        Factor(name="waiting_at_horizon", value=forecast.waiting),
        Factor(name="horizon_seconds", value=forecast.horizon_seconds),
    ]
    if profile.requests_per_second is not None:
        factors.append(Factor(name="requests_per_second_per_replica", value=profile.requests_per_second))
    if profile.concurrency is not None:
        factors.append(Factor(name="concurrency_per_replica", value=profile.concurrency))
    if latency is not None:
        factors.extend(_latency_factors(latency))
    return Recommendation(
        replicas=needed,
        keep_replicas=max(needed, _whole(max(bound.kept for bound in bounds))),
        bound_by=largest.reason,
        factors=tuple(factors),
    )


def _bounds(forecast: DemandForecast, profile: ServiceProfile, target_queue_depth: float) -> tuple[_Bound, ...]:
    bounds = [_Bound(reason=Reason.DEMAND_BELOW_CAPACITY, needed=0.0, kept=0.0)]
    rate, concurrency = profile.requests_per_second, profile.concurrency
    if rate:
        bounds.append(_capacity_bound(forecast, rate))
        bounds.append(_backlog_bound(forecast, rate, target_queue_depth))
    if concurrency:
        bounds.append(_concurrency_bound(forecast, rate, concurrency, target_queue_depth))
    if not rate and not concurrency:
        bounds.append(_observed_bound(forecast, target_queue_depth))
    return tuple(bounds)


def _keep_deviations(lead_seconds: float) -> float:
    """Return how far above its mean a rate is taken for what must be kept.

    The most of a whole window of stabilisation counts, and the largest of n half minutes lies above their mean by itself: by the
    normal quantile at (n - 0.375) / (n + 0.25) deviations (Blom 1958).
    """
    windows = max(1.0, break_even_seconds(lead_seconds) / RATE_WINDOW_SECONDS)
    return max(0.0, KEEP_DEVIATIONS - NormalDist().inv_cdf((windows - 0.375) / (windows + 0.25)))


def _capacity_bound(forecast: DemandForecast, rate: float) -> _Bound:
    arrival_rate, deviation = forecast.arrival_rate_per_second, forecast.demand.rate_deviation_per_second
    return _Bound(
        reason=Reason.DEMAND_ABOVE_CAPACITY,
        needed=max(0.0, arrival_rate - START_DEVIATIONS * deviation) / (rate * START_UTILIZATION),
        kept=(arrival_rate + _keep_deviations(forecast.horizon_seconds) * deviation) / (rate * KEEP_UTILIZATION),
    )


def _backlog_bound(forecast: DemandForecast, rate: float, target_queue_depth: float) -> _Bound:
    """Return what drains the queue that new replicas can take from; what waits inside a Pod is served by that Pod or by nobody."""
    demand = forecast.demand
    inside_pods = demand.waiting - demand.waiting_outside if demand.rate_known else 0.0
    movable = forecast.waiting - inside_pods
    if movable <= 0.0 or (demand.rate_known and not demand.waiting_outside):
        return _Bound(reason=Reason.BACKLOG_DRAINING, needed=0.0, kept=0.0)
    drain_seconds = max(DRAIN_SECONDS, DRAIN_LEADS * forecast.horizon_seconds)
    arrivals = forecast.arrival_rate_per_second * drain_seconds
    needed = (movable + arrivals) / (rate * drain_seconds + target_queue_depth)
    return _Bound(reason=Reason.BACKLOG_DRAINING, needed=needed, kept=needed)


def _concurrency_bound(
    forecast: DemandForecast, rate: float | None, concurrency: float, target_queue_depth: float
) -> _Bound:
    """Return what holds everything inside; of what waits inside Pods only as many as relieve those Pods of new arrivals."""
    demand = forecast.demand
    room, busy = concurrency + target_queue_depth, concurrency * KEEP_UTILIZATION
    inside = demand.waiting + demand.running
    needed, kept = inside / room, inside / busy
    if rate and demand.rate_known:
        relief = demand.waiting_outside / room + RELIEF * demand.arrival_rate_per_second / rate
        needed, kept = (
            min(needed, max(demand.running / room, relief)),
            min(kept, max(demand.running / busy, relief)),
        )
    return _Bound(reason=Reason.DEMAND_ABOVE_CAPACITY, needed=needed, kept=kept)


def _observed_bound(forecast: DemandForecast, target_queue_depth: float) -> _Bound:
    """Nothing is known of the variant: what the ready replicas run at this moment is all there is to go by."""
    demand = forecast.demand
    ready = demand.ready_replicas
    if ready == 0:
        needed = demand.waiting / target_queue_depth
        return _Bound(reason=Reason.QUEUE_ABOVE_TARGET, needed=needed, kept=needed)
    if demand.waiting <= target_queue_depth * ready:
        # Below the target nobody knows how much room is left: keep what works while there is work.
        return _Bound(reason=Reason.ON_TARGET, needed=0.0, kept=0.0 if demand.idle else float(ready))
    needed = (demand.waiting + demand.running) / (demand.running / ready + target_queue_depth)
    return _Bound(reason=Reason.QUEUE_ABOVE_TARGET, needed=needed, kept=max(needed, float(ready)))


def _queue_depth(profile: ServiceProfile, target_queue_depth: float, latency: Latency | None) -> float:
    """Return the queue per replica that is short enough: the user's depth, or less where that would take too long to serve."""
    if latency is None or not profile.requests_per_second or latency.wait_at_most_seconds <= 0:
        return target_queue_depth
    return min(target_queue_depth, profile.requests_per_second * latency.wait_at_most_seconds)


def _latency_bounds(
    forecast: DemandForecast, profile: ServiceProfile, latency: Latency, target_queue_depth: float
) -> tuple[_Bound, ...]:
    """Return what the latency target asks for; nothing where the engine alone takes longer than the target."""
    demand = forecast.demand
    allowed = latency.wait_at_most_seconds
    if allowed <= 0 or demand.idle:
        return ()
    bounds = []
    rate, concurrency = profile.requests_per_second, profile.concurrency
    if rate and concurrency:
        deviation = demand.rate_deviation_per_second
        least, most = (
            replicas_for_wait(
                max(0.0, forecast.arrival_rate_per_second + deviations * deviation),
                rate,
                max(1, int(concurrency)),
                fraction=latency.target.fraction,
                wait_at_most_seconds=allowed,
            )
            for deviations in (-START_DEVIATIONS, _keep_deviations(forecast.horizon_seconds))
        )
        bounds.append(_Bound(reason=Reason.LATENCY_ABOVE_TARGET, needed=float(least), kept=float(most)))
    if isinstance(latency.measured, Measurement) and demand.ready_replicas:
        seconds, ready = latency.measured.value, float(demand.ready_replicas)
        # A long queue is the other bounds' affair: they know how many replicas drain it, and until then every wait is long.
        missed = seconds > latency.target.ttft_seconds and demand.waiting <= target_queue_depth * ready
        near = seconds > KEEP_LATENCY_FRACTION * latency.target.ttft_seconds and seconds > (
            latency.unqueued_seconds or 0.0
        )
        needed = ready + 1.0 if missed else 0.0
        bounds.append(
            _Bound(reason=Reason.LATENCY_ABOVE_TARGET, needed=needed, kept=max(needed, ready if near else 0.0))
        )
    return tuple(bounds)


def _latency_factors(latency: Latency) -> list[Factor]:
    factors = [Factor(name="ttft_target_seconds", value=latency.target.ttft_seconds)]
    if isinstance(latency.measured, Measurement):
        factors.append(Factor(name="ttft_seconds", value=latency.measured.value))
    if latency.unqueued_seconds is not None:
        factors.append(Factor(name="ttft_unqueued_seconds", value=latency.unqueued_seconds))
    return factors


def _whole(replicas: float) -> int:
    """Round up; a rounding error of the division is not a replica."""
    return math.ceil(replicas - 1e-9)

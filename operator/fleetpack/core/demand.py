"""Step 2, demand: what a model needs now.

The arrival rate comes from a source that measures it, else from flows (conservation of requests): the mean of half a minute, or
of the last few seconds where a queue builds and those are so much higher that chance cannot explain it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.observation import Observation
from fleetpack.core.state import DeploymentState

RATE_WINDOW_SECONDS = 30.0
"""Long enough that a rate of a few requests per second is known within a fifth, short enough to follow a ramp."""
BURST_WINDOW_SECONDS = 6.0
"""Three readings at the default interval: a step shows here long before it fills the window above."""
ENOUGH_ARRIVALS = 20.0
"""With fewer in all, the standard deviation of the rate is more than a fifth of it (1/sqrt(n))."""
DISPERSION_WINDOWS = 19
"""Just below two minutes, which is how long flows are remembered."""
BURST_DEVIATIONS = 3.0
"""Poisson arrivals exceed their mean by three standard deviations once in 700 windows; only a queue makes it believable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one model needs now."""

    arrival_rate_per_second: float
    rate_deviation_per_second: float = 0.0
    """Standard deviation of the rate by chance alone: Poisson arrivals over the window. 0 where a source measures the rate."""
    waiting: float
    waiting_outside: float = 0.0
    """The part of `waiting` that no Pod has yet."""
    running: float
    ready_replicas: int
    complete: bool
    """Nothing was missing; else the numbers are a lower bound."""
    rate_known: bool
    """Enough has been counted; before that, and where nobody counts what has finished, the rate is a lower bound."""

    @property
    def idle(self) -> bool:
        """No request anywhere, as far as is known."""
        return self.waiting + self.running + self.arrival_rate_per_second == 0.0


def estimate_demand(
    observation: Observation, state: DeploymentState, target_queue_depth: float, now: float
) -> Demand | NoData:
    """Return the demand now, or why it is not known; a queue beyond `target_queue_depth` per replica bears witness of a burst."""
    waiting, running, measured = observation.waiting, observation.running, observation.arrival_rate_per_second
    if isinstance(waiting, NoData) and isinstance(running, NoData) and isinstance(measured, NoData):
        return waiting
    waiting_now = waiting.value if isinstance(waiting, Measurement) else 0.0
    if isinstance(measured, Measurement):
        rate, deviation = measured.value, 0.0
    else:
        queue_builds = waiting_now > target_queue_depth * observation.ready_replicas
        rate, deviation = arrival_rate(state, now, queue_builds=queue_builds)
    return Demand(
        arrival_rate_per_second=rate,
        rate_deviation_per_second=deviation,
        waiting=waiting_now,
        waiting_outside=min(waiting_now, observation.waiting_outside),
        running=running.value if isinstance(running, Measurement) else 0.0,
        ready_replicas=observation.ready_replicas,
        complete=observation.complete,
        rate_known=isinstance(measured, Measurement) or _counted_enough(state),
    )


def arrival_rate(state: DeploymentState, now: float, *, queue_builds: bool) -> tuple[float, float]:
    """Return rate and deviation of the long window, or of the short one where a queue builds and chance cannot explain it."""
    arrivals, seconds = counted(state, now, RATE_WINDOW_SECONDS)
    recent, recent_seconds = counted(state, now, BURST_WINDOW_SECONDS)
    before, before_seconds = arrivals - recent, max(seconds - recent_seconds, 1e-9)
    expected = before * recent_seconds / before_seconds
    bursts = dispersion(state, now)
    if queue_builds and recent > expected + BURST_DEVIATIONS * math.sqrt(bursts * max(expected, 1.0)):
        return recent / recent_seconds, math.sqrt(bursts * recent) / recent_seconds
    return arrivals / seconds, math.sqrt(bursts * arrivals) / seconds


def dispersion(state: DeploymentState, now: float) -> float:
    """Return how much more arrivals vary than Poisson arrivals would: variance over mean of what comes in 6 s; at least 1.

    From differences of neighbouring windows, so that growth is not taken for bursts (von Neumann 1941).
    """
    counts = [0.0] * DISPERSION_WINDOWS
    for flow in state.flows:
        age = int((now - flow.at) / BURST_WINDOW_SECONDS)
        if age < DISPERSION_WINDOWS:
            counts[age] += flow.arrivals
    mean = sum(counts) / DISPERSION_WINDOWS
    if mean <= 0.0 or not state.flows or now - state.flows[0].at < (DISPERSION_WINDOWS - 1) * BURST_WINDOW_SECONDS:
        return 1.0
    squares = sum((after - before) ** 2 for before, after in pairwise(counts))
    return max(1.0, squares / (2.0 * (DISPERSION_WINDOWS - 1) * mean))


def counted(state: DeploymentState, now: float, window_seconds: float) -> tuple[float, float]:
    """Return what arrived in a window, and how long that window really was.

    A flow covers the time since the one before it, so the window reaches back to the last flow outside it, however the passes fell.
    The first flow of all covers a time that nobody knows: once enough came after it, that counts without it. Before that the window
    is taken as full: a lower bound, not a guess.
    """
    inside = [flow for flow in state.flows if flow.at > now - window_seconds]
    outside = [flow.at for flow in state.flows if flow.at <= now - window_seconds]
    if inside and not outside and _counted_enough(state):
        outside, inside = [inside[0].at], inside[1:]
    arrivals = sum(flow.arrivals for flow in inside)
    if not inside or not outside:
        return arrivals, window_seconds
    return arrivals, max(inside[-1].at - outside[-1], 1.0)


def _counted_enough(state: DeploymentState) -> bool:
    """Whether the rate is known: the long window is full, or the short one is and chance makes no more than a fifth of the rate."""
    if not state.flows:
        return False
    seconds = state.flows[-1].at - state.flows[0].at
    arrivals = sum(flow.arrivals for flow in state.flows[1:])
    return seconds >= RATE_WINDOW_SECONDS or (seconds >= BURST_WINDOW_SECONDS and arrivals >= ENOUGH_ARRIVALS)

"""Step 3, forecast: the demand at the moment when a replica that is asked for now would serve.

Three things are foreseen. *When* that is: the lead time, measured from wanting a replica to its being Ready, its machine included.
*How much will arrive* then: today's rate, and its growth as far as chance cannot explain it and earlier growth came true (below).
*How much will wait*: today's queue, and what arrives meanwhile, less what ready replicas serve and what those serve that are on their
way, each from when it is expected.

The growth is the slope of a least-squares line through four blocks of time. A step is no growth: it shows in one or two of the three
differences, so each must have a share of the slope. What the line says is multiplied by a weight that it has to earn: each prediction
is kept until it is due, and the weight is the coefficient that would have made the past ones best (Bayesian linear regression
through the origin; the prior is belief, with doubt). On a load that turns within one lead time the weight falls to zero: then today's
rate is the better guess. A fall is never foreseen; giving up replicas waits until it has come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fleetpack.core.demand import RATE_WINDOW_SECONDS, Demand, dispersion
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.state import DeploymentState, Prediction, Raise

BLOCKS = 4
BLOCK_SECONDS = (10.0, 20.0, 30.0)
"""A slope over 40, 80 or 120 s: short ones see a turn early, long ones a slow rise. With 5 requests per second the deviation of the
longest is a seventh of the rate per minute (20 a / b, its root over 10 b)."""
ENOUGH_ARRIVALS = 20.0
"""With fewer than five in a block chance is lopsided, and one deviation is no rare thing any more."""
STEP_SHARE = 0.15
"""Each difference between neighbouring blocks has at least this share of the slope, or it is no growth but a step."""
GROWTH_DEVIATIONS = 1.0
"""What growth must exceed to be more than chance."""
EXTRAPOLATION = 5.0
"""A line is carried on for at most so many times as long as it was seen: what rose for 40 s says nothing of the sixth minute."""
PRIOR_WEIGHT = 1.0
PRIOR_DEVIATION = 0.5
"""How far growth is believed before any prediction was due: in full, with doubt that a few predictions can outweigh."""
PREDICTION_SECONDS = 10.0
"""How often a prediction is kept for its test: neighbours share most of their windows, so more would be no more evidence."""
FADE_PREDICTIONS = 120.0
"""After so many predictions an old one weighs half: 20 minutes, a few lead times of a large model."""
LEADS_REMEMBERED = 5
LEADS_CUT = 2
"""The second longest counts: growth mostly needs a machine, and one that came late once is no rule."""
LOST_RAISE_SECONDS = 900.0
"""What has not come in a quarter of an hour says nothing about lead times: there is no room or no money for it."""
OVERDUE_SHARE = 0.1
"""A replica that is later than expected is expected within this share of a cold start."""
STEPS = 20
"""Steps of the integration of the queue until the horizon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What serves, and what will."""

    ready: int
    coming_seconds: tuple[float, ...] = ()
    """In how many seconds each replica that is wanted and not yet Ready is expected, ascending."""

    def ready_in(self, seconds: float) -> int:
        """How many replicas are expected to serve then."""
        return self.ready + sum(coming <= seconds for coming in self.coming_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """How the arrival rate grows."""

    growth_per_second: float
    """In requests per second per second."""
    deviation_per_second: float
    """Of the growth, by chance."""
    window_seconds: float
    """Over how long it was seen."""


NO_GROWTH = Slope(growth_per_second=0.0, deviation_per_second=0.0, window_seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandForecast:
    """What is expected when a replica that is asked for now would be ready."""

    demand: Demand
    horizon_seconds: float
    arrival_rate_per_second: float
    """The rate expected then; never below today's: a fall is seen when it has come."""
    waiting: float
    """The backlog expected then."""

    @property
    def growth(self) -> float:
        """The rate expected then, as a multiple of today's."""
        now = self.demand.arrival_rate_per_second
        return self.arrival_rate_per_second / now if now > 0.0 else 1.0


def lead_seconds(profile: ServiceProfile, state: DeploymentState) -> float:
    """Return how long it takes from wanting a replica to its being Ready; at least its cold start."""
    leads = sorted(state.leads_seconds)
    measured = leads[-min(LEADS_CUT, len(leads))] if leads else 0.0
    return max(profile.startup_seconds, measured)


def supply_of(replicas: tuple[Replica, ...], profile: ServiceProfile, state: DeploymentState, now: float) -> Supply:
    """Return what serves, what starts, and what was wanted and waits for a machine."""
    startup = profile.startup_seconds
    starting = [
        max(startup - (now - replica.created_at), OVERDUE_SHARE * startup)
        for replica in replicas
        if replica.phase in (ReplicaPhase.REQUESTED, ReplicaPhase.UNBOUND, ReplicaPhase.STARTING)
        and not replica.outcome_unknown
    ]
    ready = sum(replica.phase is ReplicaPhase.READY for replica in replicas)
    without_pod = max(0, (state.desired or 0) - ready - len(starting))
    asked_at = max((entry.at for entry in state.raised), default=now)
    for_machine = max(lead_seconds(profile, state) - (now - asked_at), startup)
    return Supply(ready=ready, coming_seconds=tuple(sorted([*starting, *[for_machine] * without_pod])))


def forecast(
    demand: Demand, profile: ServiceProfile, supply: Supply, state: DeploymentState, now: float
) -> tuple[DemandForecast, DeploymentState]:
    """Return the demand at the end of the lead time, and remember what was predicted."""
    horizon_seconds = lead_seconds(profile, state)
    seen = slope(state, now)
    # The rate is a mean over its window: it is as old as the middle of that.
    ahead_seconds = min(horizon_seconds + RATE_WINDOW_SECONDS / 2, EXTRAPOLATION * seen.window_seconds)
    growth = seen.growth_per_second * ahead_seconds
    state = _backtest(state, demand.arrival_rate_per_second, growth, horizon_seconds, now)
    certain = max(0.0, growth - GROWTH_DEVIATIONS * seen.deviation_per_second * ahead_seconds)
    rate = demand.arrival_rate_per_second + (certain * earned_weight(state) if demand.rate_known else 0.0)
    return DemandForecast(
        demand=demand,
        horizon_seconds=horizon_seconds,
        arrival_rate_per_second=rate,
        waiting=queue_then(demand, rate, profile.requests_per_second, supply, horizon_seconds),
    ), state


def slope(state: DeploymentState, now: float) -> Slope:
    """Return how the arrival rate grows; 0 where it is a step.

    Of several lengths of blocks the one that says most beyond chance: short ones see a turn early, long ones see a slow rise.
    """
    bursts = dispersion(state, now)
    slopes = [_slope_of(state, now, seconds, bursts) for seconds in BLOCK_SECONDS]
    return max(slopes, key=lambda seen: abs(seen.growth_per_second) - GROWTH_DEVIATIONS * seen.deviation_per_second)


def _slope_of(state: DeploymentState, now: float, block_seconds: float, bursts: float) -> Slope:
    """Least squares through the means r1..r4 of four blocks of b seconds: (3 (r4 - r1) + (r3 - r2)) / (10 b).

    With Poisson arrivals each mean has the variance a / b.
    """
    edge = now - BLOCKS * block_seconds
    if not state.flows or state.flows[0].at > edge + block_seconds / 2:
        return NO_GROWTH
    sums = [0.0] * BLOCKS
    for flow in state.flows:
        if flow.at > edge:
            # A flow covers the time before it, so one on a border belongs to the block that ends there.
            sums[min(BLOCKS, math.ceil((flow.at - edge) / block_seconds)) - 1] += flow.arrivals
    first, second, third, fourth = (total / block_seconds for total in sums)
    growth = (3.0 * (fourth - first) + third - second) / (10.0 * block_seconds)
    if sum(sums) < ENOUGH_ARRIVALS:
        return NO_GROWTH
    mean = (first + second + third + fourth) / BLOCKS
    deviation = math.sqrt(20.0 * bursts * mean / block_seconds) / (10.0 * block_seconds)
    least = STEP_SHARE * abs(growth) * block_seconds
    sign = math.copysign(1.0, growth)
    steady = all(
        sign * (after - before) >= least for before, after in ((first, second), (second, third), (third, fourth))
    )
    return Slope(
        growth_per_second=growth if steady else 0.0,
        deviation_per_second=deviation,
        window_seconds=BLOCKS * block_seconds,
    )


def earned_weight(state: DeploymentState) -> float:
    """Return how far growth is believed: between 0 and 1, by what became of earlier predictions."""
    prior = 1.0 / PRIOR_DEVIATION**2
    return min(1.0, max(0.0, (PRIOR_WEIGHT * prior + state.trend_agreement) / (prior + state.trend_evidence)))


def follow_lead(state: DeploymentState, before: int | None, ready: int, now: float) -> DeploymentState:
    """Note that more is wanted, and how long it took until it was there; `before` is what the last pass wanted."""
    wanted = state.desired or 0
    raised = tuple(entry for entry in state.raised if entry.replicas <= wanted and now - entry.at <= LOST_RAISE_SECONDS)
    if wanted > (before if before is not None else ready):
        raised = (*raised, Raise(at=now, replicas=wanted))
    leads = (*state.leads_seconds, *(now - entry.at for entry in raised if entry.replicas <= ready and entry.at < now))
    return replace(
        state,
        raised=tuple(entry for entry in raised if entry.replicas > ready),
        leads_seconds=leads[-LEADS_REMEMBERED:],
    )


def _backtest(
    state: DeploymentState, rate: float, growth: float, horizon_seconds: float, now: float
) -> DeploymentState:
    """Hold what is due against what came, and keep today's prediction until it is due."""
    agreement, evidence = state.trend_agreement, state.trend_evidence
    fade = 0.5 ** (1.0 / FADE_PREDICTIONS)
    for prediction in state.predictions:
        if prediction.due > now or now - prediction.due > PREDICTION_SECONDS:
            continue
        # In units of what chance does to a difference of two windows.
        noise = max(rate + prediction.rate_per_second, 1.0 / RATE_WINDOW_SECONDS) / RATE_WINDOW_SECONDS
        share = PREDICTION_SECONDS / RATE_WINDOW_SECONDS
        agreement = agreement * fade + share * prediction.growth * (rate - prediction.rate_per_second) / noise
        evidence = evidence * fade + share * prediction.growth**2 / noise
    pending = tuple(prediction for prediction in state.predictions if prediction.due > now)
    last_made = pending[-1].made_at if pending else -math.inf
    if growth and now - last_made >= PREDICTION_SECONDS:
        made = Prediction(due=now + horizon_seconds, made_at=now, rate_per_second=rate, growth=growth)
        pending = tuple(sorted((*pending, made), key=lambda prediction: (prediction.due, prediction.made_at)))
    return replace(state, predictions=pending, trend_agreement=agreement, trend_evidence=evidence)


def queue_then(
    demand: Demand, rate_then: float, capacity: float | None, supply: Supply, horizon_seconds: float
) -> float:
    """Return the queue at the horizon: it grows by what arrives and shrinks by what is served, and is never negative."""
    waiting = demand.waiting
    if not capacity or (waiting <= 0.0 and rate_then <= capacity * supply.ready):
        return waiting
    step_seconds = horizon_seconds / STEPS
    rate_now = demand.arrival_rate_per_second
    for step in range(STEPS):
        middle = (step + 0.5) / STEPS
        rate = rate_now + (rate_then - rate_now) * middle
        served = capacity * supply.ready_in(middle * horizon_seconds)
        waiting = max(0.0, waiting + (rate - served) * step_seconds)
    return waiting

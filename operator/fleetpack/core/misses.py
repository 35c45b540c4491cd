"""Between steps 4 and 5: a latency target is a share of requests, so some may miss it, and no replica is bought for those.

What missed the target lately is counted from the engines' histograms (`latency.remember_misses`). As long as that and the queue that
is to be expected stay within half of what the target permits, a burst starts no replica, and a surplus one is kept only as far as it
is needed, without a margin for chance. Nothing is spent where it is not known what may be: before the sums are full, with a part of
the numbers missing, without a histogram or a target. And nothing on a load whose growth has come true: there a replica that is
asked for early comes in time, and misses can be avoided; after a burst it comes too late for those that missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fleetpack.api.conditions import Reason
from fleetpack.core.decision import Factor
from fleetpack.core.demand import counted
from fleetpack.core.deployments import LatencyTarget
from fleetpack.core.forecast import DemandForecast, Supply, earned_weight, queue_then
from fleetpack.core.latency import MISSES_HALF_LIFE_SECONDS
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.sizing import START_DEVIATIONS, Recommendation
from fleetpack.core.state import DeploymentState, Misses

SPENT_SHARE = 0.5
"""Of what may be missed, so much is missed on purpose; the rest is for what nobody foresees: a crowd, a lost node, a late machine."""
FORESEEABLE_WEIGHT = 0.1
"""Where growth is believed for more than this, it has come true at least in part."""
MEAN_SECONDS = 120.0
"""As long as flows are remembered: a burst of some seconds is little in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One model: what is promised, and what serves."""

    target: LatencyTarget | None
    profile: ServiceProfile
    supply: Supply
    wanted: int
    """How many replicas the last pass wanted."""


def let_miss(
    recommendation: Recommendation, expected: DemandForecast, serving: Serving, state: DeploymentState, now: float
) -> Recommendation:
    """Return what is needed when some requests may miss the target; never more than what was recommended."""
    target, misses = serving.target, state.misses
    if target is None or misses is None or not _known(expected, serving, state, misses, now):
        return recommendation
    permitted = SPENT_SHARE * (1.0 - target.fraction) * misses.requests
    fewest = _fewest(recommendation, expected, serving, state, permitted - misses.missed)
    if fewest >= recommendation.keep_replicas:
        return recommendation
    if recommendation.replicas > serving.wanted >= fewest:
        needed, kept, bound_by = serving.wanted, serving.wanted, str(Reason.MISSES_WITHIN_TARGET)
    else:
        needed, bound_by = recommendation.replicas, recommendation.bound_by
        kept = max(fewest, needed)
    factors = (
        Factor(name="replicas_without_misses", value=float(recommendation.replicas)),
        Factor(name="missed_percent", value=100.0 * misses.missed / misses.requests),
        Factor(name="permitted_percent", value=100.0 - target.percentile),
    )
    return replace(
        recommendation,
        replicas=needed,
        keep_replicas=kept,
        bound_by=bound_by,
        factors=(*recommendation.factors, *factors),
    )


def _known(expected: DemandForecast, serving: Serving, state: DeploymentState, misses: Misses, now: float) -> bool:
    """Whether it is known what may be missed, and that it could not have been avoided by foresight."""
    return (
        now - misses.since >= MISSES_HALF_LIFE_SECONDS
        and misses.requests > 0.0
        and expected.demand.complete
        and expected.demand.rate_known
        and serving.supply.ready > 0
        and serving.profile.requests_per_second is not None
        and earned_weight(state) <= FORESEEABLE_WEIGHT
    )


def _fewest(
    recommendation: Recommendation,
    expected: DemandForecast,
    serving: Serving,
    state: DeploymentState,
    left: float,
) -> int:
    """Return the fewest replicas with which no more than `left` requests wait at the end of the lead time."""
    demand, supply, capacity = expected.demand, serving.supply, serving.profile.requests_per_second
    most = max(recommendation.keep_replicas, recommendation.replicas)
    if demand.waiting > left:
        return most
    arrivals, seconds = counted(state, state.flows[-1].at if state.flows else 0.0, MEAN_SECONDS)
    # The mean of two minutes, or what is surely above it: what came in some seconds does not come for a whole lead time.
    surely = demand.arrival_rate_per_second - START_DEVIATIONS * demand.rate_deviation_per_second
    rate = max(arrivals / seconds, surely)
    rate_then = rate + expected.arrival_rate_per_second - demand.arrival_rate_per_second
    calm = replace(demand, arrival_rate_per_second=rate)
    for replicas in range(1, most):
        coming = supply.coming_seconds[: max(0, replicas - supply.ready)]
        serves = Supply(ready=min(replicas, supply.ready), coming_seconds=coming)
        if queue_then(calm, rate_then, capacity, serves, expected.horizon_seconds) <= left:
            return replicas
    return most

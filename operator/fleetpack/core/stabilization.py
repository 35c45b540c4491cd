"""Step 5, stabilise: the only damping in the system.

Up is at once, to the recommended size. Down is a ski-rental decision: a surplus replica costs its rent each second, giving it
up costs a cold start when it is needed again, so it is kept until its idle rent equals that price and then given up; this never
costs more than twice what the best choice in hindsight would have. Since both sides are paid at the same price per second, the
break-even is a multiple of the cold start, measured or expected. Without numbers nothing moves; with a part of them only up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fleetpack.api.conditions import Reason
from fleetpack.core.absent import NoData
from fleetpack.core.decision import Factor
from fleetpack.core.demand import Demand
from fleetpack.core.deployments import Deployment, Mode
from fleetpack.core.forecast import lead_seconds
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.sizing import Recommendation, break_even_seconds
from fleetpack.core.state import DeploymentState, Recommended


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredReplicas:
    """How many replicas are wanted, before money and room are looked at."""

    replicas: int
    automatic: int
    """What Auto wants; differs from `replicas` in the other modes."""
    reason: str
    message: str
    factors: tuple[Factor, ...] = ()
    holding: bool = False
    """Numbers are missing, so the last size is kept."""


_FOR_WHAT: dict[str, str] = {
    Reason.LATENCY_ABOVE_TARGET: " for spec.scaling.latencyTarget",
    Reason.COST_TARGET: ", more is not paid for by spec.cost.targetUSDPerMillionRequests",
}


def stabilize(
    deployment: Deployment,
    recommendation: Recommendation | NoData,
    demand: Demand | NoData,
    profile: ServiceProfile,
    state: DeploymentState,
    now: float,
) -> tuple[DesiredReplicas, DeploymentState]:
    """Return the wanted number of replicas and the remembered recommendations."""
    current = state.desired if state.desired is not None else deployment.replicas
    if isinstance(recommendation, NoData) or isinstance(demand, NoData):
        missing = recommendation if isinstance(recommendation, NoData) else demand
        assert isinstance(missing, NoData)
        automatic = _within_bounds(deployment, max(current, 1) if state.desired is None else current)
        held = DesiredReplicas(
            replicas=automatic,
            automatic=automatic,
            reason=missing.reason,
            message=f"holding {automatic}: {missing.message}",
            holding=True,
        )
        return held, replace(state, recommended=(), desired=automatic, last_demand_at=state.last_demand_at or now)
    hold_seconds = break_even_seconds(lead_seconds(profile, state))
    keep = recommendation.keep_replicas if demand.complete else max(recommendation.keep_replicas, current)
    history = _remember(state.recommended, Recommended(at=now, keep_replicas=keep), hold_seconds)
    last_demand_at = now if not demand.idle or state.last_demand_at is None else state.last_demand_at
    settled = state.observing_since is not None and now - state.observing_since >= hold_seconds
    desired = _choose(deployment, recommendation, current, history[0].keep_replicas if settled else None)
    desired = _zero_or_one(deployment, desired, current, now - last_demand_at)
    return desired, replace(state, recommended=history, desired=desired.automatic, last_demand_at=last_demand_at)


def obey(deployment: Deployment, automatic: DesiredReplicas) -> DesiredReplicas:
    """Return what the mode makes of the automatic choice: Manual and Advisory obey `spec.replicas`."""
    if deployment.mode is Mode.AUTO:
        return automatic
    if deployment.mode is Mode.PAUSED:
        return replace(
            automatic, replicas=deployment.replicas, reason=Reason.PAUSED, message="paused: nothing is touched"
        )
    if deployment.mode is Mode.MANUAL:
        message = f"spec.replicas asks for {deployment.replicas}"
        return replace(automatic, replicas=deployment.replicas, reason=Reason.MANUAL_REPLICAS, message=message)
    message = f"spec.replicas asks for {deployment.replicas}; Auto would run {automatic.automatic}: {automatic.message}"
    return replace(automatic, replicas=deployment.replicas, reason=Reason.ADVISORY, message=message)


def _remember(history: tuple[Recommended, ...], latest: Recommended, hold_seconds: float) -> tuple[Recommended, ...]:
    """Keep what the maximum over the window needs: a falling staircase, its head the maximum."""
    kept = [
        entry for entry in history if entry.at > latest.at - hold_seconds and entry.keep_replicas > latest.keep_replicas
    ]
    return (*kept, latest)


def _choose(
    deployment: Deployment, recommendation: Recommendation, current: int, kept_all_window: int | None
) -> DesiredReplicas:
    """Up at once, down when the whole window agrees, else stay."""
    wanted, reason = recommendation.replicas, recommendation.bound_by
    if wanted > current:
        message = f"{wanted} needed{_when(recommendation)}{_FOR_WHAT.get(reason, '')}"
    elif kept_all_window is not None and kept_all_window < current:
        wanted, reason = kept_all_window, Reason.DEMAND_BELOW_CAPACITY
        message = f"no more than {kept_all_window} needed for as long as a cold start is worth{_missed(recommendation)}"
    elif wanted == current and reason == Reason.COST_TARGET:
        message = f"{wanted} kept{_FOR_WHAT[reason]}"
    elif wanted == current and reason == Reason.MISSES_WITHIN_TARGET:
        without = _factors(recommendation)["replicas_without_misses"]
        message = f"{wanted} kept, {without:.0f} needed to miss less{_missed(recommendation)}"
    elif wanted == current:
        reason, message = Reason.ON_TARGET, f"{wanted} needed{_FOR_WHAT.get(reason, '')}"
    elif kept_all_window is None:
        reason, message = (
            Reason.HOLDING_WINDOW_FILLING,
            f"{wanted} needed, {current} kept: measured for too short a time",
        )
        wanted = current
    else:
        reason, message = Reason.HOLDING_STABLE, f"{wanted} needed, {current} kept: cheaper than another cold start"
        wanted = current
    bounded = _within_bounds(deployment, wanted)
    if bounded < wanted:
        reason, message = Reason.AT_MAXIMUM_REPLICAS, f"{wanted} wanted, spec.scaling.maxReplicas allows {bounded}"
    elif bounded > wanted:
        reason, message = Reason.AT_MINIMUM_REPLICAS, f"{wanted} wanted, spec.scaling.minReplicas asks for {bounded}"
    return DesiredReplicas(
        replicas=bounded, automatic=bounded, reason=reason, message=message, factors=recommendation.factors
    )


def _when(recommendation: Recommendation) -> str:
    """Say whether today's demand or an expected one is met."""
    known = _factors(recommendation)
    rate, rate_then = known.get("arrival_rate_per_second", 0.0), known.get("arrival_rate_at_horizon_per_second", 0.0)
    if rate_then <= rate:
        return " now"
    return (
        f" in {known['horizon_seconds']:.0f} s, when {rate_then:.3g} requests per second are expected ({rate:.3g} now)"
    )


def _factors(recommendation: Recommendation) -> dict[str, float]:
    return {factor.name: factor.value for factor in recommendation.factors}


def _missed(recommendation: Recommendation) -> str:
    """Say what misses the latency target on purpose; nothing where nothing does."""
    known = _factors(recommendation)
    if "missed_percent" not in known:
        return ""
    missed, permitted = known["missed_percent"], known["permitted_percent"]
    return f"; {missed:.2g} % of requests missed spec.scaling.latencyTarget lately, {permitted:.3g} % may"


def _zero_or_one(
    deployment: Deployment, desired: DesiredReplicas, current: int, idle_seconds: float
) -> DesiredReplicas:
    """The last replica goes only after `scaleToZeroAfter` without any work."""
    if desired.automatic > 0 or current == 0:
        return desired
    if idle_seconds >= deployment.scale_to_zero_after_seconds:
        message = f"no work for {idle_seconds:.0f} s, spec.scaling.scaleToZeroAfter is {deployment.scale_to_zero_after_seconds:.0f} s"
        return replace(desired, reason=Reason.IDLE, message=message)
    message = (
        f"no work for {idle_seconds:.0f} s; the last replica stays until {deployment.scale_to_zero_after_seconds:.0f} s"
    )
    return replace(desired, replicas=1, automatic=1, reason=Reason.HOLDING_STABLE, message=message)


def _within_bounds(deployment: Deployment, replicas: int) -> int:
    return max(deployment.minimum_replicas, min(replicas, deployment.maximum_replicas))

"""The HorizontalPodAutoscaler and KEDA.

HPA: kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale ("Algorithm details", "Configurable scaling behavior"), and
pkg/controller/podautoscaler in kubernetes/kubernetes. Every 15 s: ceil(current · metric / target), nothing within a tolerance of 0.1.
Pods that run without a metric (an engine that loads its model answers nobody) count as 0 on the way up and as the target on the way
down; pending ones as 0 on the way up, and not at all on the way down; neither turns the direction around. A Pod whose scrape failed
has no metric (Prometheus marks its series stale at once); with no metric at all the number stays. A Deployment makes all its Pods at
once, so a replica that is wanted and has no machine yet is a pending Pod. Up at once by at most 100 % or 4 Pods (the larger) in 15 s;
down to the highest recommendation of 300 s.

KEDA: keda.sh/docs/latest/concepts/scaling-deployments. KEDA itself only goes between 0 and 1: it looks every 30 s and lets 300 s
(`cooldownPeriod`) go by since the last activity before it takes the last replica; between 1 and N an HPA acts on KEDA's external
metric, a total over the target. The HPA is on queue depth, KEDA on ongoing requests at the gateway, which exist with no replica too.
When the gateway does not answer, neither does anything (`isError` without `fallback`, which is off by default: no activation, and no
way to zero; the HPA fails to get its metric).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fleetpack_simulator.policies.controllers import PerModelPolicy, bounded
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

SYNC_SECONDS = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
TOLERANCE = 0.1
"""`--horizontal-pod-autoscaler-tolerance`."""
DOWN_STABILIZATION_SECONDS = 300.0
POLLING_SECONDS = 30.0
"""KEDA's `pollingInterval`."""
COOLDOWN_SECONDS = 300.0
"""KEDA's `cooldownPeriod`."""


class Unit(StrEnum):
    """What the value of a scaling policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """At most so much change in so many seconds."""

    unit: Unit
    value: int
    period_seconds: float


DEFAULT_UP = (
    ScalingPolicy(unit=Unit.PERCENT, value=100, period_seconds=15.0),
    ScalingPolicy(unit=Unit.PODS, value=4, period_seconds=15.0),
)
DEFAULT_DOWN = (ScalingPolicy(unit=Unit.PERCENT, value=100, period_seconds=15.0),)


class Behavior:
    """`spec.behavior`: stabilisation, then rates; the policy that permits most change counts."""

    def __init__(
        self,
        *,
        up: tuple[ScalingPolicy, ...] = DEFAULT_UP,
        down: tuple[ScalingPolicy, ...] = DEFAULT_DOWN,
        down_stabilization_seconds: float = DOWN_STABILIZATION_SECONDS,
    ) -> None:
        self._up = up
        self._down = down
        self._down_stabilization_seconds = down_stabilization_seconds
        self._recommendations: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []

    def apply(self, now_seconds: float, current: int, recommended: int) -> int:
        """Return what may be done about a recommendation now, and remember it."""
        if not self._recommendations:
            # The controller takes the number that it finds for its first recommendation.
            self._recommendations.append((now_seconds, current))
        self._recommendations.append((now_seconds, recommended))
        oldest = now_seconds - self._down_stabilization_seconds
        self._recommendations = [one for one in self._recommendations if one[0] > oldest]
        if recommended < current:
            highest = max((replicas for _, replicas in self._recommendations), default=recommended)
            recommended = min(current, highest)
        allowed = self._limited(now_seconds, current, recommended)
        if allowed != current:
            self._changes.append((now_seconds, allowed - current))
        return allowed

    def _limited(self, now_seconds: float, current: int, wanted: int) -> int:
        if wanted > current:
            return min(wanted, max(current, *(self._limit(policy, now_seconds, current, 1) for policy in self._up)))
        if wanted < current:
            return max(wanted, min(current, *(self._limit(policy, now_seconds, current, -1) for policy in self._down)))
        return current

    def _limit(self, policy: ScalingPolicy, now_seconds: float, current: int, direction: int) -> int:
        """Return the replicas that one policy permits, counted from where its period began."""
        oldest = now_seconds - policy.period_seconds
        # What was taken away within the period counts as well as what was added.
        begun = current - sum(change for at, change in self._changes if at > oldest)
        if policy.unit is Unit.PODS:
            return begun + direction * policy.value
        share = 1.0 + direction * policy.value / 100.0
        # Upstream rounds both ways towards more change: 10 % of 72 Pods are 8.
        return math.ceil(begun * share) if direction > 0 else int(begun * share)


def per_pod_recommendation(
    values: Mapping[str, float], target: float, current: int, *, missing: int = 0, pending: int = 0
) -> int | None:
    """Return what a Pods metric recommends: `values` of Pods by name; None: no Pod has a value.

    `missing` Pods run and have none: those that load, and those that did not answer; `pending` ones do not run yet.
    """
    if not values:
        return None
    ratio = sum(values.values()) / (len(values) * target)
    ignored = pending if ratio > 1.0 else 0
    if ignored + missing == 0:
        return current if abs(ratio - 1.0) <= TOLERANCE else math.ceil(ratio * len(values))
    assumed = target * missing if ratio < 1.0 else 0.0
    count = len(values) + missing + ignored
    again = (sum(values.values()) + assumed) / (count * target)
    if abs(again - 1.0) <= TOLERANCE or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return current
    recommended = math.ceil(again * count)
    turned = (again < 1.0 and recommended > current) or (again > 1.0 and recommended < current)
    return current if turned else recommended


def total_recommendation(total: float, target: float, current: int) -> int:
    """Return what an external metric with an average target recommends: total / target, tolerance around the current number."""
    if abs(total / (target * current) - 1.0) <= TOLERANCE:
        return current
    return math.ceil(total / target)


class QueueDepthAutoscaler:
    """An HPA on the mean number of waiting requests per Pod (`vllm:num_requests_waiting`)."""

    def __init__(self) -> None:
        self._behavior = Behavior()

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Recommend, then damp."""
        current = model.desired_replicas
        if current == 0:
            # An HPA is off at zero replicas; somebody else has to start the first.
            return max(1, model.minimum_replicas)
        values = {pod.name: pod.waiting for pod in model.pods if pod.read_at_seconds is not None and pod.answered}
        missing = model.starting_replicas + len(model.pods) - len(values)
        pending = max(0, current - len(model.pods) - model.starting_replicas)
        recommended = per_pod_recommendation(
            values, model.target_queue_depth, current, missing=missing, pending=pending
        )
        if recommended is None:
            return None
        return self._behavior.apply(now_seconds, current, bounded(max(1, recommended), model))


class KedaAutoscaler:
    """A ScaledObject and the HPA that it makes, on ongoing requests at the gateway."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._behavior = Behavior()
        self._polled_seconds = -math.inf
        self._active_seconds = -math.inf

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Poll for activity every other sync; between one and the maximum, be an HPA."""
        current = model.desired_replicas
        if now_seconds - self._polled_seconds >= POLLING_SECONDS:
            self._polled_seconds = now_seconds
            if not model.gateway_answered:
                return None
            if model.outstanding > 0:
                self._active_seconds = now_seconds
            if current == 0:
                return 1 if model.outstanding > 0 else None
            if model.minimum_replicas == 0 and now_seconds - self._active_seconds > COOLDOWN_SECONDS:
                return 0
        if current == 0 or not model.gateway_answered:
            return None
        recommended = total_recommendation(float(model.outstanding), self._target, current)
        return self._behavior.apply(now_seconds, current, max(1, bounded(recommended, model)))


def hpa(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return an HPA per model, on queue depth."""
    return PerModelPolicy("hpa", SYNC_SECONDS, targets, lambda _: QueueDepthAutoscaler())


def keda(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return a ScaledObject per model."""
    return PerModelPolicy("keda", SYNC_SECONDS, targets, lambda of: KedaAutoscaler(of.ongoing_requests))

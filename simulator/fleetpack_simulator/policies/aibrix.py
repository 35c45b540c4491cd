"""AIBrix's APA: proportional to use per Pod, outside a tolerance, by a factor of two at most.

vllm-project/aibrix pkg/controller/podautoscaler/algorithm/apa.go (`computeTargetReplicas`), its controller (resync 10 s,
`stabilizeRecommendation`), api/autoscaling/v1alpha1 (`observeWindowSeconds` 180). Tolerances 0.1, up and down by a factor of 2, no
cooldown on the way up, 300 s on the way down, in which the highest recommendation counts (as its documentation says; the source of 2026
takes the lowest, which is no cooldown at all). While replicas are on their way `applyPendingReplicaGuard` of autoscaler.go takes them
for idle on the way up and for just at the target on the way down. Use is ongoing requests per Pod, read from the Pods, averaged over
the window; with no Pod there is no value, and it waits. Pods that do not answer are left out of the mean; when none answers, nothing is
decided (metrics/collector.go, `CollectMetrics`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fleetpack_simulator.policies.controllers import PerModelPolicy, Window, bounded, ongoing_in_pods
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

RESYNC_SECONDS = 10.0
WINDOW_SECONDS = 180.0
UP_TOLERANCE = 0.1
DOWN_TOLERANCE = 0.1
MAXIMUM_UP_RATE = 2.0
MAXIMUM_DOWN_RATE = 2.0
DOWN_COOLDOWN_SECONDS = 300.0


def recommendation(current: int, use: float, target: float) -> int:
    """Return the recommended replicas for a use per Pod."""
    ratio = use / target
    if ratio > 1.0 + UP_TOLERANCE:
        return min(math.ceil(current * ratio), math.ceil(MAXIMUM_UP_RATE * current))
    if ratio < 1.0 - DOWN_TOLERANCE:
        return max(math.ceil(current * ratio), math.floor(current / MAXIMUM_DOWN_RATE))
    return current


def guarded(current: int, ready: int, use: float, target: float) -> int:
    """Return the recommendation for a use per ready Pod while `current - ready` replicas are on their way."""
    recommended = recommendation(current, use, target)
    pending = current - min(ready, current)
    if pending == 0 or recommended == current:
        return recommended
    if recommended > current:
        return min(recommended, max(current, math.ceil(use * (current - pending) / target)))
    return max(recommended, min(current, math.ceil((use * (current - pending) + target * pending) / target)))


class AibrixAutoscaler:
    """One PodAutoscaler with the strategy APA."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._use = Window(WINDOW_SECONDS)
        self._recommendations = Window(DOWN_COOLDOWN_SECONDS)

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Recommend, and go down only to what has sufficed for the whole cooldown."""
        if not model.pods:
            return None if model.desired_replicas else model.minimum_replicas or None
        answering = [pod for pod in model.pods if pod.answered]
        if not answering:
            return None
        self._use.add(now_seconds, ongoing_in_pods(answering) / len(answering))
        current = model.desired_replicas
        wanted = bounded(guarded(current, len(model.pods), self._use.mean, self._target), model)
        self._recommendations.add(now_seconds, wanted)
        return wanted if wanted >= current else min(current, int(self._recommendations.highest))


def aibrix(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return an APA per model."""
    return PerModelPolicy("aibrix-apa", RESYNC_SECONDS, targets, lambda of: AibrixAutoscaler(of.ongoing_requests))

"""Knative's KPA: a stable window of 60 s, a panic window of 6 s, a decision every 2 s.

knative/serving pkg/autoscaler/scaling/autoscaler.go (`Scale`) and multiscaler.go (tick), docs/scaling/SYSTEM.md;
knative.dev/docs/serving/autoscaling/kpa-specific for the defaults: panic at 200 % of the ready Pods, up by a factor of 1000 at most,
down by a factor of 2. While it panics it never goes down; it calms down once nothing has crossed the threshold for a stable window.
Concurrency is what the gateway holds and the replicas have, as activator and queue-proxy report it, sampled at each tick (the
original: each second). When nobody reports, the windows go on over what is left in them, an empty panic window is 0, and with an empty
stable window there is no decision; a report after a gap makes the gap one of zeros (pkg/autoscaler/aggregation/bucketing.go).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fleetpack_simulator.policies.controllers import PerModelPolicy, Window
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

TICK_SECONDS = 2.0
STABLE_WINDOW_SECONDS = 60.0
PANIC_WINDOW_SECONDS = 6.0
PANIC_THRESHOLD = 2.0
MAXIMUM_UP_RATE = 1000.0
MAXIMUM_DOWN_RATE = 2.0


class KnativeAutoscaler:
    """One revision's autoscaler."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._stable = Window(STABLE_WINDOW_SECONDS)
        self._panic = Window(PANIC_WINDOW_SECONDS)
        self._panic_since_seconds: float | None = None
        self._panic_replicas = 0
        self._started = False
        self._silent_at: list[float] = []
        """Ticks without a sample since the last one that had one."""

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Sample the concurrency and scale."""
        windows = (self._stable, self._panic)
        for window in windows:
            window.forget(now_seconds)
        if model.gateway_answered:
            for window in windows:
                if not window.is_empty:
                    for silent_at in self._silent_at:
                        window.add(silent_at, 0.0)
                window.add(now_seconds, model.outstanding)
            self._silent_at.clear()
        else:
            self._silent_at.append(now_seconds)
        if self._stable.is_empty:
            return None
        panic = 0.0 if self._panic.is_empty else self._panic.mean
        return self.scale(now_seconds, self._stable.mean, panic, len(model.pods))

    def scale(self, now_seconds: float, stable: float, panic: float, ready: int) -> int:
        """Return the wanted replicas for the concurrency of both windows."""
        if not self._started:
            # An autoscaler that restarts has no history: it keeps at least what it finds until a stable window is over.
            self._started = True
            if ready > 1:
                self._panic_since_seconds, self._panic_replicas = now_seconds, ready
        base = max(1, ready)
        most, least = math.ceil(MAXIMUM_UP_RATE * base), math.floor(base / MAXIMUM_DOWN_RATE)
        wanted_stable = min(max(math.ceil(stable / self._target), least), most)
        unlimited_panic = math.ceil(panic / self._target)
        wanted_panic = min(max(unlimited_panic, least), most)
        if unlimited_panic / base >= PANIC_THRESHOLD:
            self._panic_since_seconds = now_seconds
        elif self._panic_since_seconds is not None and self._panic_since_seconds + STABLE_WINDOW_SECONDS < now_seconds:
            self._panic_since_seconds, self._panic_replicas = None, 0
        if self._panic_since_seconds is None:
            return wanted_stable
        self._panic_replicas = max(self._panic_replicas, wanted_stable, wanted_panic)
        return self._panic_replicas


def knative(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return a KPA per model."""
    return PerModelPolicy("knative", TICK_SECONDS, targets, lambda of: KnativeAutoscaler(of.ongoing_requests))

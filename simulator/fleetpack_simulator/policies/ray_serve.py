"""Ray Serve: ongoing requests over the target, acted upon after 30 s of asking for more or 600 s of asking for less.

ray-project/ray python/ray/serve/autoscaling_policy.py (`_core_replica_queue_length_policy`, `_apply_delay_logic`,
`_get_cold_start_scale_up_replicas`) and `AutoscalingConfig` (docs.ray.io): mean over a look-back of 30 s, `upscale_delay_s` 30,
`downscale_delay_s` 600, also for the last replica. One opposite decision begins the count anew. While no replica runs it asks for one
at once and for no more until that runs (`current_num_replicas` counts running ones). The original decides every 0.1 s on metrics that
come every 10 s; here it decides every 2 s, so a delay is exact to 2 s. When no report comes the last one counts, for two of the 10 s
that reports are apart, and then there are no requests (autoscaling_state.py, `drop_stale_handle_metrics`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fleetpack_simulator.policies.controllers import PerModelPolicy, Window, bounded
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

INTERVAL_SECONDS = 2.0
LOOK_BACK_SECONDS = 30.0
UP_DELAY_SECONDS = 30.0
DOWN_DELAY_SECONDS = 600.0
SILENCE_SECONDS = 20.0
"""Twice `metrics_interval_s`, after which a report is dropped."""


class RayServeAutoscaler:
    """One deployment's autoscaler."""

    def __init__(self, target: float, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._target = target
        self._up_decisions = int(UP_DELAY_SECONDS / interval_seconds)
        self._down_decisions = int(DOWN_DELAY_SECONDS / interval_seconds)
        self._ongoing = Window(LOOK_BACK_SECONDS)
        self._counter = 0
        self._heard_seconds = -math.inf

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Average over the look-back, then decide."""
        if model.gateway_answered:
            self._heard_seconds = now_seconds
            self._ongoing.add(now_seconds, model.outstanding)
        elif now_seconds - self._heard_seconds >= SILENCE_SECONDS:
            self._ongoing.clear()
        return self.scale(0.0 if self._ongoing.is_empty else self._ongoing.mean, model)

    def scale(self, ongoing: float, model: ModelView) -> int:
        """Return the wanted replicas for a mean of ongoing requests."""
        current = model.desired_replicas
        if not model.pods:
            return max(1, current) if ongoing > 0.0 else current
        # Running replicas cancel out of "running · (ongoing / (target · running))".
        wanted = bounded(math.ceil(ongoing / self._target), model)
        if wanted > current:
            self._counter = max(self._counter, 0) + 1
            if self._counter > self._up_decisions:
                self._counter = 0
                return wanted
        elif wanted < current:
            self._counter = min(self._counter, 0) - 1
            if self._counter < -self._down_decisions:
                self._counter = 0
                # To zero only from one.
                return wanted if current == 1 else max(1, wanted)
        else:
            self._counter = 0
        return current


def ray_serve(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return Ray Serve's autoscaler per model."""
    return PerModelPolicy("ray-serve", INTERVAL_SECONDS, targets, lambda of: RayServeAutoscaler(of.ongoing_requests))

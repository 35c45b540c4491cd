"""KubeAI: the mean of active requests over ten minutes, over the target.

substratusai/kubeai internal/modelautoscaler/autoscaler.go, internal/modelclient/scale.go, internal/movingaverage (a ring that begins
with zeros) and the chart's values: every 10 s, 60 samples, `scaleDownDelaySeconds` 30, so three decisions in a row before it goes
down. From zero the proxy asks for one replica at once; here at the next decision. When its own proxies' pages cannot be read, a
decision is left out, and the mean gets no sample.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from fleetpack_simulator.policies.controllers import PerModelPolicy, bounded
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

INTERVAL_SECONDS = 10.0
SAMPLES = 60
DOWN_DECISIONS = 3


class MovingAverage:
    """A ring of samples that begins with zeros."""

    def __init__(self, samples: int) -> None:
        self._ring = deque([0.0] * samples, maxlen=samples)

    def add(self, value: float) -> float:
        """Take a sample and return the mean."""
        self._ring.append(value)
        return sum(self._ring) / len(self._ring)


class KubeaiAutoscaler:
    """One model's autoscaler."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._average = MovingAverage(SAMPLES)
        self._downs = 0

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Average, divide, round up; go down only when asked often enough in a row."""
        if not model.gateway_answered:
            return None
        current = model.desired_replicas
        wanted = bounded(math.ceil(self._average.add(float(model.outstanding)) / self._target), model)
        if current == 0 and model.outstanding > 0:
            return max(1, wanted)
        if current > wanted:
            if self._downs < DOWN_DECISIONS:
                self._downs += 1
                return None
        else:
            self._downs = 0
        return wanted


def kubeai(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return KubeAI's autoscaler per model."""
    return PerModelPolicy("kubeai", INTERVAL_SECONDS, targets, lambda of: KubeaiAutoscaler(of.ongoing_requests))

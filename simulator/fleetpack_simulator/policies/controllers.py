"""What all baselines share: one controller per model, at one cadence, and windows of samples.

A `Controller` decides one model's replicas from what it sees at one moment and from its own memory; `PerModelPolicy` makes a world's
policy of controllers. A controller returns None where its original does nothing. Bounds of the deployment are given to it, because some
originals apply them before their own damping; the world applies them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView, PodView, PolicyView


class Controller(Protocol):
    """Decides the replicas of one model."""

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Return the wanted replicas; None: no change."""
        ...


class PerModelPolicy:
    """A policy that looks at each model by itself."""

    def __init__(
        self,
        name: str,
        interval_seconds: float,
        targets: Mapping[str, ReplicaTargets],
        make: Callable[[ReplicaTargets], Controller],
    ) -> None:
        self._name = name
        self._interval_seconds = interval_seconds
        self._controllers = {deployment: make(of) for deployment, of in sorted(targets.items())}

    @property
    def name(self) -> str:
        """How tables call it."""
        return self._name

    @property
    def interval_seconds(self) -> float:
        """How often it decides."""
        return self._interval_seconds

    def decide(self, view: PolicyView) -> Mapping[str, int]:
        """Ask each model's controller."""
        wanted = {
            model.deployment: self._controllers[model.deployment].decide(view.now_seconds, model)
            for model in view.models
        }
        return {deployment: replicas for deployment, replicas in wanted.items() if replicas is not None}


class Window:
    """Samples of the last so many seconds."""

    __slots__ = ("_length_seconds", "_samples")

    def __init__(self, length_seconds: float) -> None:
        self._length_seconds = length_seconds
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, now_seconds: float, value: float) -> None:
        """Take a sample, and forget those that are a whole window old."""
        self._samples.append((now_seconds, value))
        self.forget(now_seconds)

    def forget(self, now_seconds: float) -> None:
        """Forget samples that are a whole window old, also when no other one has come."""
        while self._samples and self._samples[0][0] <= now_seconds - self._length_seconds:
            self._samples.popleft()

    def clear(self) -> None:
        """Forget all samples."""
        self._samples.clear()

    @property
    def is_empty(self) -> bool:
        """Whether there is no sample."""
        return not self._samples

    @property
    def mean(self) -> float:
        """Mean of the samples, of which there must be one."""
        return sum(value for _, value in self._samples) / len(self._samples)

    @property
    def highest(self) -> float:
        """Highest of the samples, of which there must be one."""
        return max(value for _, value in self._samples)


def ongoing_in_pods(pods: Iterable[PodView]) -> float:
    """Return requests in engines, as the Pods' own metrics last said."""
    return sum(pod.waiting + pod.running for pod in pods)


def bounded(replicas: int, model: ModelView) -> int:
    """Return `replicas` within the bounds of the deployment."""
    return max(model.minimum_replicas, min(replicas, model.maximum_replicas))

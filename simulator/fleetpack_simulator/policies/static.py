"""A fixed number of replicas: what a fleet without any scaler costs, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping

from fleetpack_simulator.world.policy import PolicyView


class StaticPolicy:
    """Always wants the same number of replicas, of every model."""

    def __init__(self, replicas: int) -> None:
        if replicas < 0:
            raise ValueError(f"static: replicas is {replicas}, it must be 0 or more")
        self._replicas = replicas

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"static-{self._replicas}"

    @property
    def interval_seconds(self) -> float:
        """How often it says the same."""
        return 60.0

    def decide(self, view: PolicyView) -> Mapping[str, int]:
        """Want the same again."""
        return {model.deployment: self._replicas for model in view.models}

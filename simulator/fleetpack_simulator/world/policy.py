"""What a scaling policy is: it sees what such a policy may see, and says how many replicas each model should have.

fleetpack's own planner is no `Policy`: it decides numbers and places in one. For every other policy the same planner places what the
policy wants (mode Manual), so that policies differ in their numbers only. A policy keeps its own memory, has no clock but `now`, and
draws nothing at random unless from a seed that it was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """One ready replica as its metrics page last showed it, two seconds old at most while nothing is wrong.

    A number may be late, or wrong; a read that fails leaves the last numbers, and says so in `answered`.
    """

    name: str
    variant: str
    ready_since_seconds: float
    read_at_seconds: float | None
    """When the last good answer came; None: never yet, and then all numbers are 0."""
    answered: bool = True
    """Whether the newest read has not failed."""
    waiting: float = 0.0
    running: float = 0.0
    kv_cache_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    finished_total: float = 0.0
    prompt_tokens_total: float = 0.0
    generated_tokens_total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model as a policy may see it."""

    deployment: str
    """`namespace/name`."""
    minimum_replicas: int
    maximum_replicas: int
    target_queue_depth: float
    prior_concurrency: int | None
    prior_requests_per_second: float | None
    objective_ttft_seconds: float | None
    desired_replicas: int
    """What was asked for last."""
    starting_replicas: int
    """Created and not yet Ready."""
    pods: tuple[PodView, ...]
    """Ready replicas, by name."""
    held: float
    """Requests at the gateway that wait because no replica is ready, as its page last showed them; the same goes for the next two."""
    outstanding: float
    """Requests at the gateway that have come and not ended, the held ones included."""
    arrived_total: float
    """Requests that have come to the gateway since the start."""
    gateway_answered: bool = True
    """Whether the gateway has answered, and its newest read has not failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """All models at one moment."""

    now_seconds: float
    models: tuple[ModelView, ...]


class Policy(Protocol):
    """Decides numbers of replicas."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    @property
    def interval_seconds(self) -> float:
        """How often it decides."""
        ...

    def decide(self, view: PolicyView) -> Mapping[str, int]:
        """Return the wanted replicas by deployment; models left out keep what they have. Bounds are applied by the world."""
        ...

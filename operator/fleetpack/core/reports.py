"""What a plan tells about each deployment and pool: the numbers and conditions that status, metrics and people see.

Pure values; the adapters decide when a change is worth a write.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.decision import Decision
from fleetpack.core.deployments import LearnedProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition as Kubernetes knows it, without its times."""

    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant of a deployment."""

    name: str
    replicas: int
    ready: int
    measured: LearnedProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementReport:
    """Where one replica is."""

    replica: str
    variant: str
    node: str
    cores: str
    """`8-15`; empty where devices have no ids."""
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """One deployment after this pass."""

    deployment: str
    mode: str
    desired_replicas: int
    """What is wanted and paid for, before the fleet's room is looked at."""
    automatic_replicas: int
    """What Auto wants, whatever the mode."""
    replicas: int
    ready_replicas: int
    queue_depth: Measurement | NoData
    running: Measurement | NoData
    arrival_rate_per_second: Measurement | NoData
    usd_per_hour: float
    variants: tuple[VariantReport, ...]
    placements: tuple[PlacementReport, ...]
    unplaced: tuple[tuple[str, int], ...]
    """Replicas without a place, by what excluded the most nodes."""
    conditions: tuple[Condition, ...]
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """One node of a pool, with the cores that are taken."""

    name: str
    instance_type: str
    ready: bool
    cores: int
    free_cores: int
    largest_free_range: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One pool after this pass."""

    pool: str
    nodes: tuple[NodeReport, ...]
    cores: int
    used_cores: int
    free_cores: int
    largest_free_range: int
    usd_per_hour: float
    conditions: tuple[Condition, ...]

"""Everything that a plan is made from: one value, recordable as it stands."""

from __future__ import annotations

from dataclasses import dataclass

from fleetpack.core.decision import Action, Decision, IssuedAction
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import FleetSnapshot
from fleetpack.core.reports import DeploymentReport, PoolReport
from fleetpack.core.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is known at `now` (seconds since the epoch)."""

    now: float
    deployments: tuple[Deployment, ...] = ()
    snapshot: FleetSnapshot
    samples: tuple[Sample, ...] = ()
    """New since the last pass."""
    issued: tuple[IssuedAction, ...] = ()
    """Issued and not yet seen in the snapshot; what failed is here once."""
    cache_age_seconds: float = 0.0
    """Age of the oldest cache: how long ago the API server last proved that nothing was missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, why, and what to tell."""

    actions: tuple[Action, ...] = ()
    decisions: tuple[Decision, ...] = ()
    deployments: tuple[DeploymentReport, ...] = ()
    pools: tuple[PoolReport, ...] = ()

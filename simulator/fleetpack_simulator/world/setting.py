"""Everything that a simulation is made from: one value, plus its seed.

Manifests and traces have been read and understood by others; here are models with their engines and loads, pools, machines that
are there from the start, delays and faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import Node, Pool
from fleetpack_simulator.engine.serving import ServingProfile
from fleetpack_simulator.workload import Request
from fleetpack_simulator.world.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSetting:
    """One model: what was asked for, how its replicas really behave, and who comes."""

    deployment: Deployment
    engines: Mapping[str, ServingProfile]
    """By variant: the truth, whatever the priors say."""
    startup_seconds: Mapping[str, float]
    """By variant: loading (and compiling) once the image is there."""
    image: str
    load: tuple[Request, ...]
    load_start_seconds: float = 0.0
    objective_ttft_seconds: float | None = None
    objective_percentile: int = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class BootBehaviour:
    """How launches of one pool go."""

    delay_seconds: float = 60.0
    jitter_seconds: float = 0.0
    failure_rate: float = 0.0
    insufficient_capacity: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long the cluster's own steps take."""

    watch_seconds: float = 0.05
    """From a change to the operator's cache; a healthy watch takes tens of milliseconds."""
    write_seconds: float = 0.03
    bind_seconds: float = 0.1
    image_pull_seconds: float = 0.0
    """For the first Pod of an image on a node; the next ones find it there."""
    compile_seconds: float = 0.0
    """For the first replica of a variant in the whole fleet; the next ones find its artefacts in the compile cache."""
    startup_jitter_fraction: float = 0.1
    """Model loads differ by up to this share, either way."""
    termination_seconds: float = 2.0
    failure_detection_seconds: float = 50.0
    """Silence after which a node is NotReady: kube-controller-manager `--node-monitor-grace-period`, 50 s since Kubernetes 1.32."""
    node_removal_seconds: float = 60.0
    """From NotReady until the cloud controller removes the Node of a machine that is gone."""
    spot_notice_seconds: float = 120.0
    """EC2 gives two minutes (docs.aws.amazon.com, Spot Instance interruption notices)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecChange:
    """Somebody edits an InferenceDeployment, deletes it, or makes it anew."""

    at_seconds: float
    deployment: str
    """`namespace/name`."""
    fields: tuple[tuple[str, Any], ...] = ()
    """Fields of the spec and their new values."""
    template_hash: str = ""
    """Another Pod template for all variants; empty: the same."""
    deleted: bool = False
    """Deleted; a later change of the same deployment makes it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSetting:
    """A whole simulation."""

    models: tuple[ModelSetting, ...]
    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...] = ()
    """Machines that are there from the start."""
    boots: Mapping[str, BootBehaviour]
    """By pool."""
    faults: tuple[Fault, ...] = ()
    changes: tuple[SpecChange, ...] = ()
    delays: Delays = Delays()
    duration_seconds: float
    """How long requests may come."""
    tail_seconds: float = 300.0
    """How long the simulation goes on at most for requests that are still inside."""
    tick_seconds: float = 2.0
    seed: int = 0

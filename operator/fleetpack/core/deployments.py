"""What users ask for, in exact values: one `Deployment` per InferenceDeployment.

The API types hold what was written; these hold what it means: seconds, USD as numbers, merged Pod requests, a hash of what the
Pod would be. `interpretation.py` makes one from the other. A deployment that cannot be understood is still here, with its
`problems`: it then keeps what it has, and the rest of the fleet goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fleetpack.core.fleet import Labels, Problem, Resources, Toleration
from fleetpack.core.windows import Window

ONE_POD = Resources(pods=1)
"""A Pod that asks for nothing still takes one of the node's places."""


class Mode(StrEnum):
    """Who decides the number of replicas."""

    AUTO = "Auto"
    ADVISORY = "Advisory"
    """Obeys `spec.replicas`, and shows what Auto would do."""
    MANUAL = "Manual"
    """Obeys `spec.replicas`."""
    PAUSED = "Paused"
    """Touches nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the model; `cores` or `devices` is positive, the other 0."""

    name: str
    accelerator: str
    cores: int = 0
    devices: int = 0
    prior_concurrency: int | None = None
    """Requests that one replica serves at once, as the user expects; None: not said."""
    prior_requests_per_second: float | None = None
    prior_startup_seconds: float | None = None
    requests: Resources = ONE_POD
    node_selector: Labels = ()
    tolerations: tuple[Toleration, ...] = ()
    template_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSpecification:
    """How old a number of this signal may be, and what the source measures."""

    name: str
    in_pods: bool
    """Whether every ready replica is read; else the source lies outside the Pods."""
    measures: str = "engine"
    """`waiting`, `running`, `arrivalRate`, `ttft`; `engine` for all that an engine's own metrics hold."""
    interval_seconds: float = 2.0
    stale_after_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """How many replicas may be missing for a change of ours, and how long one may drain."""

    maximum_unavailable: int | None = None
    """A plain number; None: the share below counts."""
    maximum_unavailable_fraction: float = 0.1
    """Rounded up: a tenth of three replicas is one."""
    drain_seconds: float = 120.0
    windows: tuple[Window, ...] = ()
    """When a template may be rolled; none: at any time."""

    def allowed(self, replicas: int) -> int:
        """How many of `replicas` may be unavailable at once."""
        if self.maximum_unavailable is not None:
            return self.maximum_unavailable
        return -int(-(self.maximum_unavailable_fraction * replicas) // 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTarget:
    """A promise: `percentile` percent of the requests get their first token within `ttft_seconds`."""

    ttft_seconds: float
    percentile: float = 95.0

    @property
    def fraction(self) -> float:
        """The percentile as a share of 1."""
        return self.percentile / 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One InferenceDeployment, understood."""

    namespace: str
    name: str
    uid: str
    mode: Mode = Mode.AUTO
    replicas: int = 1
    """`spec.replicas`: the last decision in Auto, the order to obey in Manual and Advisory."""
    minimum_replicas: int = 1
    maximum_replicas: int = 10
    target_queue_depth: float = 4.0
    scale_to_zero_after_seconds: float = 600.0
    signals: tuple[SignalSpecification, ...] = ()
    latency_target: LatencyTarget | None = None
    """None: the queue alone decides."""
    maximum_usd_per_hour: float | None = None
    target_usd_per_million_requests: float | None = None
    """Latency and spare capacity are not bought above this; None: at any price."""
    disruption: Disruption = Disruption()
    variants: tuple[Variant, ...]
    priority: int = 0
    deleting: bool = False
    problems: tuple[Problem, ...] = ()
    """Why it cannot be served at all."""
    warnings: tuple[Problem, ...] = ()
    """Why some of its variants cannot be used; the others serve."""
    learned: tuple[LearnedProfile, ...] = ()
    """What an earlier process learnt and wrote to status; the start for a process that knows nothing yet."""

    @property
    def key(self) -> str:
        """`namespace/name`, as used in every other value."""
        return f"{self.namespace}/{self.name}"

    def variant(self, name: str) -> Variant | None:
        """The variant of that name; None where the spec has dropped it."""
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedProfile:
    """What has been measured of one variant; None: not yet."""

    variant: str
    requests_per_second: float | None = None
    """Completions per second of one saturated replica."""
    concurrency: float | None = None
    """Requests that one saturated replica serves at once."""
    startup_seconds: float | None = None
    """From the creation of the Pod to Ready: the cold start."""

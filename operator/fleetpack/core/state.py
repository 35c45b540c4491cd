"""What the core remembers between two plans.

All of it is derived: windows of readings, history of recommendations, what was learnt, back-offs. An operator that starts anew
with an empty `State` (and with what status kept of the learning) plans safely: it goes up at once and holds down until its
windows are full. States are values: each pass returns a new one. Every tuple is ordered by its first field.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The last good sample of one signal (of one Pod, where it is read there)."""

    signal: str
    pod_uid: str
    at: float
    waiting: float | None = None
    running: float | None = None
    finished_total: float | None = None
    arrival_rate_per_second: float | None = None
    ttft_seconds: float | None = None
    ttft_buckets: tuple[tuple[float, float], ...] = ()
    """The cumulative histogram, kept only where a latency target needs it."""
    saturated_from: float | None = None
    """What `finished_total` was when the Pod began to be saturated without a break; None: it is not saturated now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What came and went in one pass, over all replicas."""

    at: float
    arrivals: float
    finished: float
    running: float = 0.0
    """How many requests ran at the end of the pass."""
    ttft: tuple[tuple[float, float], ...] = ()
    """Requests by the upper bound of their time to first token in seconds; only where there is a latency target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """How the latency target was kept lately: sums that fade with `core.latency.MISSES_HALF_LIFE_SECONDS`."""

    since: float
    """When counting began."""
    at: float
    ttft_seconds: float
    """What the target was: requests that missed another one say nothing of it."""
    requests: float
    missed: float
    """Those whose first token came later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """One past recommendation: the most replicas that could then not yet be given up."""

    at: float
    keep_replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """More replicas were wanted, and are not all Ready yet."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the trend of the arrival rate said of a later moment."""

    due: float
    made_at: float
    rate_per_second: float
    """The rate when it was made."""
    growth: float
    """By how much it would be higher when due, in requests per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Running sums from which one variant's service profile is measured; they fade with `core.profiles.FADE_SECONDS`."""

    variant: str
    saturated_seconds: float = 0.0
    saturated_finished: float = 0.0
    saturated_running_seconds: float = 0.0
    startups_seconds: tuple[float, ...] = ()
    """The last few measured cold starts, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """What is remembered of one deployment."""

    deployment: str
    observing_since: float | None = None
    """Since when every pass had fresh numbers; None: there are none now."""
    readings: tuple[Reading, ...] = ()
    flows: tuple[Flow, ...] = ()
    recommended: tuple[Recommended, ...] = ()
    learning: tuple[Learning, ...] = ()
    ttft_unqueued: tuple[tuple[float, float], ...] = ()
    """Fading counts of requests that met no queue, by the upper bound of their time to first token in seconds."""
    misses: Misses | None = None
    """None: nothing was counted, or there is no latency target."""
    latency_ready_replicas: int | None = None
    latency_since: float = 0.0
    """Since when that many replicas are ready: what was measured before belongs to another number."""
    raised: tuple[Raise, ...] = ()
    leads_seconds: tuple[float, ...] = ()
    """The last few measured times from wanting a replica to its being Ready, oldest first."""
    predictions: tuple[Prediction, ...] = ()
    """Those that are not due yet."""
    trend_agreement: float = 0.0
    trend_evidence: float = 0.0
    """Fading sums over the predictions that were due: growth times what came, and growth squared, in units of chance."""
    started_uids: tuple[str, ...] = ()
    """Pods whose cold start has been counted."""
    desired: int | None = None
    """What the last pass wanted; None before the first."""
    last_demand_at: float | None = None
    """When there was work last; None: never seen any."""
    failures: int = 0
    """Failed Pods in a row; a Ready one clears it."""
    retry_at: float = 0.0
    """No Pod is created before this time: the back-off after failures."""
    refusal: str = ""
    """What the API server said of the last Pod that it refused; empty once one was taken."""
    failed_uids: tuple[str, ...] = ()
    """Failed Pods that have been counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A node that the scheduler refused for a variant, until a time; the reason may lie in the Pod, so no other model is kept away."""

    deployment: str
    variant: str
    node: str
    until: float
    refusals: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """An instance type of a pool that could not be launched, until a time."""

    pool: str
    instance_type: str
    until: float
    refusals: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenName:
    """A name that a new replica could not have, until a time: its bearer may be a Pod that the snapshot does not show."""

    namespace: str
    name: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that the core remembers."""

    last_now: float = 0.0
    deployments: tuple[DeploymentState, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    taken_names: tuple[TakenName, ...] = ()
    empty_since: tuple[tuple[str, float], ...] = ()
    """Nodes without a replica, and since when."""
    unplaced_since: tuple[tuple[str, float], ...] = ()
    """Deployments that need more replicas than have a place, though others are less important; and since when."""

"""All `fleetpack_*` metrics, each once, with its unit in its name.

The registry is our own, so nothing that a library registers globally slips in. Gauges of one deployment or pool are shown as a
whole: what the new numbers do not have (a variant that is gone, a queue depth that nobody knows) loses its series, so a
dashboard never shows yesterday's number. `forget_deployment` and `forget_pool` remove the rest when the object is deleted.

Labels are bounded: names of objects and of what their specs list, reasons of `api.conditions`, verbs, resources and status codes.
A deployment is `namespace/name` in one label: a `namespace` label would collide with the one that Prometheus adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from fleetpack.api.conditions import Reason

_REASONS = frozenset(reason.value for reason in Reason)
OTHER_REASON = "Other"
"""Stands for a reason that is not in `api.conditions.Reason`: a defect of ours must not make series without end."""

PLAN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

# Without this each counter and histogram has a second series that tells when it was made; nobody asks.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantNumbers:
    """Replicas of one variant."""

    variant: str
    desired: int
    placed: int
    ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentNumbers:
    """What is shown of one deployment; None: not known now."""

    deployment: str
    """`namespace/name`."""
    variants: tuple[VariantNumbers, ...]
    queue_depth_requests: float | None
    arrival_rate_per_second: float | None
    usd_per_hour: float | None
    signal_ages_seconds: tuple[tuple[str, float], ...] = ()
    """Of each signal that ever answered."""
    silent_sources: tuple[tuple[str, int], ...] = ()
    """Of each signal that somebody is asked for."""
    unplaced_replicas: tuple[tuple[str, int], ...] = ()
    """By what excluded the most nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNumbers:
    """What is shown of one pool; None: not known now."""

    pool: str
    nodes: tuple[tuple[str, int], ...]
    """By instance type."""
    cores: int
    used_cores: int
    free_cores: int
    largest_free_range_cores: int
    usd_per_hour: float | None
    nodes_without_cores: tuple[str, ...] = ()
    """Those that take Pods and offer no core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDescription:
    """One metric, for its documentation."""

    name: str
    """As on the page."""
    kind: str
    labels: tuple[str, ...]
    help: str


Labels = tuple[str, ...]


class _OwnedGauge:
    """A gauge whose first label is its owner, and whose series of one owner are replaced together."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: dict[str, set[Labels]] = {}

    def replace(self, owner: str, values: Iterable[tuple[Labels, float | None]]) -> None:
        """Set the owner's series, and remove those that have no value any more."""
        known = {(owner, *labels): value for labels, value in values if value is not None}
        for labels in self._shown.pop(owner, set()) - known.keys():
            self._gauge.remove(*labels)
        for labels, value in known.items():
            self._gauge.labels(*labels).set(value)
        if known:
            self._shown[owner] = set(known)


class _Declarations:
    """Makes metrics, and remembers how each is described."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.descriptions: list[MetricDescription] = []

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", text, labels)
        return Gauge(name, text, labels, registry=self.registry)

    def owned_gauge(self, name: str, text: str, *labels: str) -> _OwnedGauge:
        return _OwnedGauge(self.gauge(name, text, *labels))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        self._describe(name, "counter", text, labels)
        return Counter(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        self._describe(name, "histogram", text, ())
        return Histogram(name, text, registry=self.registry, buckets=buckets)

    def _describe(self, name: str, kind: str, text: str, labels: Labels) -> None:
        self.descriptions.append(MetricDescription(name=name, kind=kind, labels=labels, help=text))


class FleetMetrics:
    """The metrics of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        declare = _Declarations(self.registry)
        self._declare_deployments(declare)
        self._declare_pools(declare)
        self._declare_operator(declare)
        self.descriptions = tuple(declare.descriptions)
        """All of them, in the order of the documentation."""

    def _declare_deployments(self, declare: _Declarations) -> None:
        self._desired = declare.owned_gauge(
            "fleetpack_desired_replicas", "Replicas that the last plan wants.", "deployment", "variant"
        )
        self._placed = declare.owned_gauge(
            "fleetpack_placed_replicas",
            "Replicas that own cores of a node, whether they serve yet or not.",
            "deployment",
            "variant",
        )
        self._ready = declare.owned_gauge(
            "fleetpack_ready_replicas", "Replicas that are ready.", "deployment", "variant"
        )
        self._unplaced = declare.owned_gauge(
            "fleetpack_unplaced_replicas",
            "Replicas without a place, by what excluded the most nodes.",
            "deployment",
            "exclusion",
        )
        self._queue_depth = declare.owned_gauge(
            "fleetpack_queue_depth_requests",
            "Requests that wait, over all replicas and outside sources; no series while no fresh signal tells.",
            "deployment",
        )
        self._arrival_rate = declare.owned_gauge(
            "fleetpack_arrival_rate_requests_per_second",
            "Requests that arrive; no series while no fresh signal tells.",
            "deployment",
        )
        self._deployment_cost = declare.owned_gauge(
            "fleetpack_deployment_cost_usd_per_hour",
            "Cost of the deployment's replicas by their share of their nodes; no series where a price is not known.",
            "deployment",
        )
        self._signal_age = declare.owned_gauge(
            "fleetpack_signal_age_seconds", "Age of the oldest last answer of a signal.", "deployment", "signal"
        )
        self._silent_sources = declare.owned_gauge(
            "fleetpack_signal_silent_sources",
            "Ready replicas, or services outside, that are asked for a signal and have told nothing within its staleAfter.",
            "deployment",
            "signal",
        )
        self._deployment_gauges = (
            self._desired,
            self._placed,
            self._ready,
            self._unplaced,
            self._queue_depth,
            self._arrival_rate,
            self._deployment_cost,
            self._signal_age,
            self._silent_sources,
        )
        self._decisions = declare.counter(
            "fleetpack_decisions_total",
            "Decisions told to people, by reason; one that stays the same is counted once.",
            "deployment",
            "reason",
        )

    def _declare_pools(self, declare: _Declarations) -> None:
        self._nodes = declare.owned_gauge("fleetpack_pool_nodes", "Nodes of the pool.", "pool", "instance_type")
        self._cores = declare.owned_gauge("fleetpack_pool_capacity_cores", "Cores of all nodes of the pool.", "pool")
        self._used_cores = declare.owned_gauge("fleetpack_pool_used_cores", "Cores that replicas own.", "pool")
        self._free_cores = declare.owned_gauge(
            "fleetpack_pool_free_cores", "Cores that no replica owns, on nodes that take new ones.", "pool"
        )
        self._largest_range = declare.owned_gauge(
            "fleetpack_pool_largest_free_range_cores",
            "Cores of the largest free range of any node: the largest replica that has a place now.",
            "pool",
        )
        self._pool_cost = declare.owned_gauge(
            "fleetpack_pool_cost_usd_per_hour",
            "Cost of the pool's nodes, idle shares included; no series where a price is not known.",
            "pool",
        )
        self._without_cores = declare.owned_gauge(
            "fleetpack_pool_node_without_cores",
            "1 for a node that takes Pods and offers no core, though neither all are out nor in use as whole devices.",
            "pool",
            "node",
        )
        self._pool_gauges = (
            self._nodes,
            self._cores,
            self._used_cores,
            self._free_cores,
            self._largest_range,
            self._pool_cost,
            self._without_cores,
        )

    def _declare_operator(self, declare: _Declarations) -> None:
        self._actions = declare.counter("fleetpack_actions_total", "Actions carried out.", "kind", "outcome")
        self._writes = declare.counter(
            "fleetpack_writes_total",
            "Writes to the Kubernetes API; code is ok, the status code of a refusal, or a word where no answer came.",
            "verb",
            "resource",
            "code",
        )
        self._plan_duration = declare.histogram(
            "fleetpack_plan_duration_seconds", "Time that one call of plan() took.", PLAN_SECONDS
        )
        self._loop_lag = declare.histogram(
            "fleetpack_loop_lag_seconds", "By how much a tick of the control loop came late.", LAG_SECONDS
        )
        self._last_plan = declare.gauge(
            "fleetpack_last_plan_timestamp_seconds",
            "When the last plan was made, in seconds since the epoch; 0 before the first.",
        )
        self._reflector_age = declare.gauge(
            "fleetpack_reflector_age_seconds",
            "Time since the cache last heard from the API server, or since the start of a process that never has.",
            "resource",
        )
        self._reflector_failures = declare.counter(
            "fleetpack_reflector_failures_total", "Lists and watches of the API server that failed.", "resource"
        )
        self._reflector_failures_seen: dict[str, int] = {}
        self._leader = declare.gauge("fleetpack_leader", "1 while this process holds the Lease and writes, else 0.")

    def show_deployment(self, numbers: DeploymentNumbers) -> None:
        """Show these numbers of a deployment and no others."""
        key = numbers.deployment
        self._desired.replace(key, [((variant.variant,), variant.desired) for variant in numbers.variants])
        self._placed.replace(key, [((variant.variant,), variant.placed) for variant in numbers.variants])
        self._ready.replace(key, [((variant.variant,), variant.ready) for variant in numbers.variants])
        self._unplaced.replace(key, [((exclusion,), count) for exclusion, count in numbers.unplaced_replicas])
        self._queue_depth.replace(key, [((), numbers.queue_depth_requests)])
        self._arrival_rate.replace(key, [((), numbers.arrival_rate_per_second)])
        self._deployment_cost.replace(key, [((), numbers.usd_per_hour)])
        self._signal_age.replace(key, [((signal,), age) for signal, age in numbers.signal_ages_seconds])
        self._silent_sources.replace(key, [((signal,), count) for signal, count in numbers.silent_sources])

    def show_pool(self, numbers: PoolNumbers) -> None:
        """Show these numbers of a pool and no others."""
        key = numbers.pool
        self._nodes.replace(key, [((instance_type,), count) for instance_type, count in numbers.nodes])
        self._cores.replace(key, [((), numbers.cores)])
        self._used_cores.replace(key, [((), numbers.used_cores)])
        self._free_cores.replace(key, [((), numbers.free_cores)])
        self._largest_range.replace(key, [((), numbers.largest_free_range_cores)])
        self._pool_cost.replace(key, [((), numbers.usd_per_hour)])
        self._without_cores.replace(key, [((node,), 1) for node in numbers.nodes_without_cores])

    def forget_deployment(self, deployment: str) -> None:
        """Remove every series of a deleted deployment."""
        for gauge in self._deployment_gauges:
            gauge.replace(deployment, ())
        self._decisions.remove_by_labels({"deployment": deployment})

    def forget_pool(self, pool: str) -> None:
        """Remove every series of a deleted pool."""
        for gauge in self._pool_gauges:
            gauge.replace(pool, ())

    def count_decision(self, deployment: str, reason: str) -> None:
        """Count one decision; the caller counts it when it changes, as it tells it."""
        self._decisions.labels(deployment, reason if reason in _REASONS else OTHER_REASON).inc()

    def count_action(self, kind: str, outcome: str) -> None:
        """Count one action: the kind is its class's name, the outcome one of `core.decision.Outcome`."""
        self._actions.labels(kind, outcome).inc()

    def count_write(self, verb: str, resource: str, code: str) -> None:
        """Count one write to the Kubernetes API."""
        self._writes.labels(verb, resource, code).inc()

    def plan_made(self, at: float, took_seconds: float) -> None:
        """Note one call of plan()."""
        self._plan_duration.observe(took_seconds)
        self._last_plan.set(at)

    def tick_was_late(self, seconds: float) -> None:
        """Note by how much a tick came late; 0 for one on time."""
        self._loop_lag.observe(max(0.0, seconds))

    def show_reflector_age(self, resource: str, seconds: float) -> None:
        """Show how old a cache is."""
        self._reflector_age.labels(resource).set(seconds)

    def show_reflector_failures(self, resource: str, total: int) -> None:
        """Show how often a cache's lists and watches have failed since its start."""
        self._reflector_failures.labels(resource).inc(total - self._reflector_failures_seen.get(resource, 0))
        self._reflector_failures_seen[resource] = total

    def show_leader(self, leading: bool) -> None:
        """Show whether this process is the writer."""
        self._leader.set(1 if leading else 0)

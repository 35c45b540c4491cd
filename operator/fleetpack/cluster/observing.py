"""What each pass leaves in metrics and in the log. Nothing is decided, and nothing is written to the cluster."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fleetpack.api.conditions import QUIET_REASONS
from fleetpack.cluster.actuation import ActionResult
from fleetpack.cluster.api_client import Write
from fleetpack.cluster.control_loop import Observer
from fleetpack.cluster.errors import KubernetesError
from fleetpack.cluster.reflector import Reflector
from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.decision import Decision
from fleetpack.core.fleet import FleetSnapshot, ReplicaPhase
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.reports import DeploymentReport, PoolReport
from fleetpack.core.state import State
from fleetpack.telemetry.metrics import DeploymentNumbers, FleetMetrics, PoolNumbers, VariantNumbers

_logger = logging.getLogger("fleetpack.decisions")


class MetricsObserver(Observer):
    """Shows each plan in the metrics, and logs decisions when they change."""

    def __init__(self, metrics: FleetMetrics) -> None:
        self._metrics = metrics
        self._known: dict[str, tuple[int, str]] = {}
        self._pools: set[str] = set()

    def ticked(self, late_seconds: float) -> None:
        """Show by how much the loop is late."""
        self._metrics.tick_was_late(late_seconds)

    def planned(self, inputs: Inputs, state: State, found: Plan, seconds: float) -> None:
        """Show the numbers of a plan."""
        self._metrics.plan_made(inputs.now, seconds)
        ages, silent = _signal_ages(state, inputs.now), _silent_sources(inputs, state)
        for report in found.deployments:
            numbers = _deployment_numbers(report, ages.get(report.deployment, ()), silent.get(report.deployment, ()))
            self._metrics.show_deployment(numbers)
        without_cores = _nodes_without_cores(inputs.snapshot)
        for pool in found.pools:
            self._metrics.show_pool(_pool_numbers(pool, without_cores.get(pool.pool, ())))
        for decision in found.decisions:
            self._count(decision)
        present = {report.deployment for report in found.deployments}
        for gone in [subject for subject in self._known if "/" in subject and subject not in present | self._pools]:
            if not gone.startswith("pool/"):
                self._metrics.forget_deployment(gone)
                del self._known[gone]
        pools = {pool.pool for pool in found.pools}
        for gone in self._pools - pools:
            self._metrics.forget_pool(gone)
        self._pools = pools

    def forget(self) -> None:
        """Take away what only the Lease holder knows: a standby that showed its last numbers would show an older truth."""
        for subject in self._known:
            if not subject.startswith("pool/"):
                self._metrics.forget_deployment(subject)
        for pool in self._pools:
            self._metrics.forget_pool(pool)
        self._known, self._pools = {}, set()

    def acted(self, result: ActionResult) -> None:
        """Count an action."""
        self._metrics.count_action(type(result.action).__name__, result.outcome)

    def _count(self, decision: Decision) -> None:
        # Noise turns one quiet reason into another all the time; that is no decision.
        quiet = decision.reason in QUIET_REASONS and decision.before == decision.after
        now = (decision.after, "" if quiet else decision.reason)
        if self._known.get(decision.subject) == now:
            return
        self._known[decision.subject] = now
        if not decision.subject.startswith("pool/"):
            self._metrics.count_decision(decision.subject, decision.reason)
        numbers = " ".join(f"{factor.name}={factor.value:.4g}" for factor in decision.factors)
        _logger.info(
            "%s: %d to %d: %s: %s %s",
            decision.subject,
            decision.before,
            decision.after,
            decision.reason,
            decision.message,
            numbers,
        )


def _signal_ages(state: State, now: float) -> dict[str, tuple[tuple[str, float], ...]]:
    """Return the age of the oldest last answer of each signal, by deployment."""
    ages: dict[str, tuple[tuple[str, float], ...]] = {}
    for entry in state.deployments:
        oldest: dict[str, float] = {}
        for reading in entry.readings:
            oldest[reading.signal] = max(oldest.get(reading.signal, 0.0), now - reading.at)
        ages[entry.deployment] = tuple(sorted(oldest.items()))
    return ages


def _silent_sources(inputs: Inputs, state: State) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return how many sources of each signal the plan missed, by deployment: those that `core.observation` says are missing.

    It needs no memory of its own, so an operator that takes over says at once what the one before it said.
    """
    answered = {
        (entry.deployment, reading.signal, reading.pod_uid): reading.at
        for entry in state.deployments
        for reading in entry.readings
    }
    for sample in inputs.samples:
        if not sample.error:
            key = (sample.deployment, sample.signal, sample.pod_uid)
            answered[key] = max(sample.observed_at, answered.get(key, -math.inf))
    ready: dict[str, list[str]] = {}
    for replica in inputs.snapshot.replicas:
        if replica.phase is ReplicaPhase.READY:
            ready.setdefault(replica.deployment, []).append(replica.uid)
    silent: dict[str, tuple[tuple[str, int], ...]] = {}
    for deployment in inputs.deployments:
        counts: list[tuple[str, int]] = []
        for signal in deployment.signals:
            sources = ready.get(deployment.key, []) if signal.in_pods else [""]
            last = [answered.get((deployment.key, signal.name, source), -math.inf) for source in sources]
            if last:
                counts.append((signal.name, sum(inputs.now - at > signal.stale_after_seconds for at in last)))
        silent[deployment.key] = tuple(counts)
    return silent


def _deployment_numbers(
    report: DeploymentReport, ages: tuple[tuple[str, float], ...], silent: tuple[tuple[str, int], ...]
) -> DeploymentNumbers:
    # What is wanted is one number per deployment; it is shown with its first variant, and 0 with the others.
    first = report.variants[0].name if report.variants else ""
    return DeploymentNumbers(
        deployment=report.deployment,
        variants=tuple(
            VariantNumbers(
                variant=variant.name,
                desired=report.desired_replicas if variant.name == first else 0,
                placed=variant.replicas,
                ready=variant.ready,
            )
            for variant in report.variants
        ),
        unplaced_replicas=report.unplaced,
        queue_depth_requests=_known(report.queue_depth),
        arrival_rate_per_second=_known(report.arrival_rate_per_second),
        usd_per_hour=report.usd_per_hour,
        signal_ages_seconds=ages,
        silent_sources=silent,
    )


def _known(number: Measurement | NoData) -> float | None:
    return number.value if isinstance(number, Measurement) else None


def _nodes_without_cores(snapshot: FleetSnapshot) -> dict[str, tuple[str, ...]]:
    """Return the nodes that no device plugin seems to serve, by pool.

    Cores that are out, and those of a chip that is given out as a whole, are not allocatable either: for these there are other words.
    """
    whole = {pod.node for pod in snapshot.foreign_pods if pod.whole_devices}
    found: dict[str, tuple[str, ...]] = {}
    for node in sorted(snapshot.nodes, key=lambda node: node.name):
        working_cores = node.instance_type.cores - node.broken_cores.bit_count()
        if node.ready and node.name not in whole and working_cores > 0 and node.allocatable.accelerator_cores == 0:
            found[node.pool] = (*found.get(node.pool, ()), node.name)
    return found


def _pool_numbers(report: PoolReport, nodes_without_cores: tuple[str, ...]) -> PoolNumbers:
    types: dict[str, int] = {}
    for node in report.nodes:
        types[node.instance_type] = types.get(node.instance_type, 0) + 1
    return PoolNumbers(
        pool=report.pool,
        nodes=tuple(sorted(types.items())),
        cores=report.cores,
        used_cores=report.used_cores,
        free_cores=report.free_cores,
        largest_free_range_cores=report.largest_free_range,
        usd_per_hour=report.usd_per_hour,
        nodes_without_cores=nodes_without_cores,
    )


def show_reflectors(
    metrics: FleetMetrics, reflectors: Mapping[str, Reflector[Any]], now_seconds: float, started_seconds: float
) -> None:
    """Show how old each cache is; one that was never filled is as old as the process: a list that always fails is to be seen."""
    for name, reflector in reflectors.items():
        age_seconds = reflector.age_seconds(now_seconds)
        metrics.show_reflector_age(name, now_seconds - started_seconds if age_seconds is None else age_seconds)
        metrics.show_reflector_failures(name, reflector.counts.failures)


class CountingWriteObserver:
    """Counts every write to the API server."""

    def __init__(self, metrics: FleetMetrics) -> None:
        self._metrics = metrics

    def before_write(self, write: Write) -> None:
        """Nothing is known of it yet."""

    def after_write(self, write: Write, error: BaseException | None) -> None:
        """Count it by what came of it."""
        if error is None:
            code = "ok"
        elif isinstance(error, KubernetesError):
            code = str(error.status or type(error).__name__)
        else:
            code = type(error).__name__
        self._metrics.count_write(write.verb, _resource(write.path), code)


def _resource(path: str) -> str:
    """Return the plural and subresource in a path, without names: series must stay few."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join(part for index, part in enumerate(parts) if index != 1)

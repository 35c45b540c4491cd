"""What of a report is worth a write: status as a value, and the rule for when it replaces the one that is stored.

A status changes at once when something happened: replicas, conditions, placements, a decision that moved a number. Numbers that
always move a little (queue depth, arrival rate, USD per hour, measurements, the words of a message) are written at most every
30 s and only when one of them moved by a tenth; so a fleet in a steady state, idle or under constant load, costs the API server
nothing but those.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeGuard

from fleetpack.api.accelerator_pool import AcceleratorPool, AcceleratorPoolStatus
from fleetpack.api.conditions import ConditionType, Reason
from fleetpack.api.inference_deployment import (
    InferenceDeployment,
    InferenceDeploymentStatus,
    LastDecision,
    PlacementStatus,
    VariantStatus,
)
from fleetpack.api.meta import Condition, ConditionStatus
from fleetpack.api.values import Duration, Money, Rate
from fleetpack.cluster import names
from fleetpack.cluster.rendering import service_url
from fleetpack.core import reports
from fleetpack.core.absent import Measurement, NoData
from fleetpack.core.deployments import Mode

COARSE_SECONDS = 30.0
COARSE_SHARE = 0.1
MAXIMUM_PLACEMENTS = 100
"""The truth is on the Pods; status shows a fleet's worth that a person can read."""
TOO_LARGE = 999_999_999.0
"""Decimal values have nine digits before the point (api/values.py); a number beyond them is left out of status as unknown."""


def deployment_status(
    resource: InferenceDeployment,
    report: reports.DeploymentReport,
    now: float,
    obstacles: Mapping[str, str] | None = None,
) -> InferenceDeploymentStatus:
    """Return the status that a report amounts to; times of unchanged conditions are kept.

    `obstacles` are the kinds of which the deployment has no object because somebody else has its name (`Companions.obstacles`).
    """
    before, obstacles = resource.status, obstacles or {}
    wanted = _with_obstacles(report.conditions, obstacles)
    conditions = _conditions(before.conditions, wanted, resource.metadata.generation, now)
    moved = report.decision.before != report.decision.after
    turned = _essence(before.conditions) != _essence(conditions)
    # Advisory obeys spec.replicas; what Auto would do is the news.
    desired = report.automatic_replicas if report.mode is Mode.ADVISORY else report.desired_replicas
    decision = before.last_decision
    if decision is None or moved or turned or before.desired_replicas != desired:
        decision = LastDecision(
            time=rfc3339(now), reason=report.decision.reason, message=report.decision.message[:1024]
        )
    rate = report.arrival_rate_per_second
    per_million = None
    if isinstance(rate, Measurement) and rate.value > 0:
        per_million = _money(report.usd_per_hour / (rate.value * 3600.0) * 1e6)
    return InferenceDeploymentStatus(
        observed_generation=resource.metadata.generation,
        replicas=report.replicas,
        ready_replicas=report.ready_replicas,
        desired_replicas=desired,
        url=(service_url(resource) or None) if "Service" not in obstacles else None,
        queue_depth=_whole(report.queue_depth),
        arrival_rate=_rate(rate.value) if isinstance(rate, Measurement) else None,
        usd_per_hour=_money(report.usd_per_hour),
        usd_per_million_requests=per_million,
        variants=tuple(_variant(variant) for variant in report.variants),
        placements=tuple(
            PlacementStatus(pod=entry.replica, variant=entry.variant, node=entry.node, cores=entry.cores)
            for entry in report.placements[:MAXIMUM_PLACEMENTS]
        ),
        last_decision=decision,
        conditions=conditions,
        selector=f"{names.DEPLOYMENT_LABEL}={resource.metadata.name}",
    )


def pool_status(resource: AcceleratorPool, report: reports.PoolReport, now: float) -> AcceleratorPoolStatus:
    """Return the status that a report amounts to."""
    return AcceleratorPoolStatus(
        observed_generation=resource.metadata.generation,
        nodes=len(report.nodes),
        ready_nodes=sum(node.ready for node in report.nodes),
        cores=report.cores,
        cores_used=report.used_cores,
        cores_free=report.free_cores,
        largest_free_range=report.largest_free_range,
        usd_per_hour=_money(report.usd_per_hour),
        conditions=_conditions(resource.status.conditions, report.conditions, resource.metadata.generation, now),
    )


def _variant(report: reports.VariantReport) -> VariantStatus:
    measured = report.measured
    startup_seconds = measured.startup_seconds
    return VariantStatus(
        name=report.name,
        replicas=report.replicas,
        ready=report.ready,
        measured_requests_per_second=_rate(measured.requests_per_second),
        measured_concurrency=_rate(measured.concurrency),
        measured_startup=Duration.of(startup_seconds) if _can_be_written(startup_seconds) else None,
    )


def _money(usd: float) -> Money | None:
    return Money.of(usd) if _can_be_written(usd) else None


def _rate(number: float | None) -> Rate | None:
    return Rate.of(number) if _can_be_written(number) else None


def _whole(number: Measurement | NoData) -> int | None:
    return round(number.value) if isinstance(number, Measurement) and _can_be_written(number.value) else None


def _can_be_written(number: float | None) -> TypeGuard[float]:
    """Whether status has a notation for a number: a gateway's rate that fades away makes a million requests cost any amount."""
    return number is not None and 0 <= number < TOO_LARGE


def rfc3339(seconds: float) -> str:
    """Write a time as Kubernetes does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(
    before: tuple[Condition, ...], wanted: tuple[reports.Condition, ...], generation: int, now: float
) -> tuple[Condition, ...]:
    known = {condition.type: condition for condition in before}
    conditions = []
    for entry in wanted:
        status = ConditionStatus.TRUE if entry.status else ConditionStatus.FALSE
        old = known.get(entry.type)
        since = old.last_transition_time if old is not None and old.status == status else rfc3339(now)
        conditions.append(
            Condition(
                type=entry.type,
                status=status,
                reason=entry.reason,
                message=entry.message[:1024],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return tuple(sorted(conditions, key=lambda condition: condition.type))


def _with_obstacles(
    conditions: tuple[reports.Condition, ...], obstacles: Mapping[str, str]
) -> tuple[reports.Condition, ...]:
    """Take back that a spec can be served as written; what else speaks against it goes first."""
    if not obstacles:
        return conditions
    others = tuple(own for own in conditions if own.type != ConditionType.ACCEPTED or not own.status)
    if any(own.type == ConditionType.ACCEPTED for own in others):
        return conditions
    message = "; ".join(obstacles[kind] for kind in sorted(obstacles))
    taken = reports.Condition(type=ConditionType.ACCEPTED, status=False, reason=Reason.NAME_TAKEN, message=message)
    return (*others, taken)


def _essence(conditions: tuple[Condition, ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple(sorted((condition.type, condition.status, condition.reason) for condition in conditions))


def worth_writing(
    stored: InferenceDeploymentStatus | AcceleratorPoolStatus,
    wanted: InferenceDeploymentStatus | AcceleratorPoolStatus,
    seconds_since_write: float,
) -> bool:
    """Whether `wanted` should replace `stored` now."""
    if _settled(stored) != _settled(wanted):
        return True
    if seconds_since_write < COARSE_SECONDS:
        return False
    return any(_moved(old, new) for old, new in zip(_volatile(stored), _volatile(wanted), strict=False)) or len(
        _volatile(stored)
    ) != len(_volatile(wanted))


def _settled(status: InferenceDeploymentStatus | AcceleratorPoolStatus) -> tuple[object, ...]:
    """Return the part of a status that is news whenever it changes."""
    essence = _essence(status.conditions)
    if isinstance(status, AcceleratorPoolStatus):
        return (
            status.observed_generation,
            status.nodes,
            status.ready_nodes,
            status.cores,
            status.cores_used,
            status.largest_free_range,
            essence,
        )
    return (
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.desired_replicas,
        status.url,
        status.placements,
        tuple((variant.name, variant.replicas, variant.ready) for variant in status.variants),
        status.selector,
        status.last_decision.reason if status.last_decision else None,
        essence,
    )


def _volatile(status: InferenceDeploymentStatus | AcceleratorPoolStatus) -> tuple[float | None, ...]:
    """Return the numbers that always move a little."""
    if isinstance(status, AcceleratorPoolStatus):
        return (_number(status.usd_per_hour),)
    return (
        _number(status.queue_depth),
        _number(status.arrival_rate),
        _number(status.usd_per_hour),
        *(
            number
            for variant in status.variants
            for number in (
                _number(variant.measured_requests_per_second),
                _number(variant.measured_concurrency),
                variant.measured_startup.seconds if variant.measured_startup else None,
            )
        ),
    )


def _number(value: Money | Rate | int | None) -> float | None:
    return None if value is None else float(value)


def _moved(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > COARSE_SHARE * max(abs(old), abs(new), 1e-9)

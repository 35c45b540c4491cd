"""What came of a run, in the numbers that users and whoever pays care about.

Percentiles are nearest-rank over all completed requests. The share in the objective is over all requests that came, so one that
failed or never ended counts against it. Money of a model is its replicas' shares of their nodes; what whole nodes cost, idle parts
included, is the fleet's. A scale action is a change of the wanted number; an oscillation is one that turns back a change of the
other direction made less than five minutes before. Absent numbers are None: nothing was measured, or no objective was set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fleetpack_simulator.world.simulation import Point, RunResult
from fleetpack_simulator.world.traffic import RequestState

OSCILLATION_SECONDS = 300.0
"""HPA's default stabilisation window: what turns back sooner than this, its authors call flapping."""
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of some durations."""

    p50_seconds: float
    p95_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """One model."""

    deployment: str
    requests: int
    completed: int
    failed: int
    refused: int
    unfinished: int
    objective_ttft_seconds: float | None
    objective_percentile: int
    in_objective: float | None
    """Share of requests whose time to first token kept the objective."""
    time_to_first_token: Percentiles | None
    latency: Percentiles | None
    output_tokens: int
    usd: float
    usd_per_hour: float
    usd_per_million_requests: float | None
    usd_per_million_output_tokens: float | None
    replica_hours: float
    mean_ready_replicas: float
    peak_live_replicas: int
    scale_actions: int
    oscillations: int
    projected: tuple[str, ...]
    """Variants whose engine rests on no published measurement."""
    estimated: tuple[str, ...]
    """Variants whose model's shape is not known: it is that of the published model nearest in size."""

    @property
    def objective_kept(self) -> bool | None:
        """Whether the promised percentile of requests kept the objective; None: there is none."""
        return None if self.in_objective is None else self.in_objective * 100 >= self.objective_percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A whole run."""

    scenario: str
    policy: str
    seed: int
    simulated_seconds: float
    models: tuple[ModelSummary, ...]
    nodes_usd: float
    nodes_usd_per_hour: float
    node_hours: float
    retries: int
    plans: int
    actions: int
    events: int
    violations: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, with camelCase names."""
        content: dict[str, Any] = _camel(asdict(self))
        return content


def summarize(result: RunResult, *, scenario: str, policy: str) -> RunSummary:
    """Return the summary of a run."""
    by_model: list[list[int]] = [[] for _ in result.setting.models]
    for index, model in enumerate(result.log.model):
        by_model[model].append(index)
    hours = result.ended_seconds / 3600.0
    nodes_usd = sum(result.cluster.node_costs.spent_usd(pool) for pool in sorted(result.cluster.pools))
    return RunSummary(
        scenario=scenario,
        policy=policy,
        seed=result.setting.seed,
        simulated_seconds=result.ended_seconds,
        models=tuple(_model(result, index, requests) for index, requests in enumerate(by_model)),
        nodes_usd=nodes_usd,
        nodes_usd_per_hour=nodes_usd / hours if hours else 0.0,
        node_hours=sum(result.cluster.node_costs.item_hours(pool) for pool in sorted(result.cluster.pools)),
        retries=result.retries,
        plans=result.plans,
        actions=result.actions,
        events=result.events,
        violations=tuple(str(violation) for violation in result.violations),
    )


def _model(result: RunResult, index: int, requests: Sequence[int]) -> ModelSummary:
    model, log = result.setting.models[index], result.log
    key = model.deployment.key
    states = [0, 0, 0, 0]
    for request in requests:
        states[log.state[request]] += 1
    completed = [one for one in requests if log.state[one] == RequestState.COMPLETED]
    ttft = sorted(log.first_token_seconds[one] - log.arrival_seconds[one] for one in completed)
    latency = sorted(log.finished_seconds[one] - log.arrival_seconds[one] for one in completed)
    tokens = sum(log.output_tokens[one] for one in completed)
    objective = model.objective_ttft_seconds
    usd = result.cluster.replica_costs.spent_usd(key)
    hours = result.ended_seconds / 3600.0
    series = result.series[key]
    actions, oscillations = changes_of(series)
    return ModelSummary(
        deployment=key,
        requests=len(requests),
        completed=states[RequestState.COMPLETED],
        failed=states[RequestState.FAILED],
        refused=states[RequestState.REFUSED],
        unfinished=states[RequestState.DUE],
        objective_ttft_seconds=objective,
        objective_percentile=model.objective_percentile,
        in_objective=None if objective is None or not requests else _share_below(ttft, objective, len(requests)),
        time_to_first_token=percentiles_of(ttft),
        latency=percentiles_of(latency),
        output_tokens=tokens,
        usd=usd,
        usd_per_hour=usd / hours if hours else 0.0,
        usd_per_million_requests=usd / len(completed) * 1e6 if completed else None,
        usd_per_million_output_tokens=usd / tokens * 1e6 if tokens else None,
        replica_hours=result.cluster.replica_costs.item_hours(key),
        mean_ready_replicas=sum(point.ready for point in series) / len(series) if series else 0.0,
        peak_live_replicas=max((point.live for point in series), default=0),
        scale_actions=actions,
        oscillations=oscillations,
        projected=tuple(name for name, engine in sorted(model.engines.items()) if engine.coefficients.projected),
        estimated=tuple(name for name, engine in sorted(model.engines.items()) if engine.model.estimated),
    )


def changes_of(series: Iterable[Point]) -> tuple[int, int]:
    """Return how often the wanted number changed, and how often a change turned a recent one back."""
    actions = oscillations = 0
    before: int | None = None
    last_direction, last_at = 0, -math.inf
    for point in series:
        if before is not None and point.desired != before:
            direction = 1 if point.desired > before else -1
            actions += 1
            if direction == -last_direction and point.at_seconds - last_at < OSCILLATION_SECONDS:
                oscillations += 1
            last_direction, last_at = direction, point.at_seconds
        before = point.desired
    return actions, oscillations


def percentiles_of(ordered: Sequence[float]) -> Percentiles | None:
    """Return nearest-rank percentiles of ascending seconds; None: there are none."""
    if not ordered:
        return None
    ranks = [ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] for percent in _PERCENTILES]
    return Percentiles(p50_seconds=ranks[0], p95_seconds=ranks[1], p99_seconds=ranks[2])


def _share_below(ordered: Sequence[float], limit_seconds: float, of: int) -> float:
    return sum(value <= limit_seconds for value in ordered) / of


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel_name(name): _camel(inner) for name, inner in value.items()}
    return [_camel(inner) for inner in value] if isinstance(value, list | tuple) else value


def _camel_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join("USD" if part == "usd" else part.capitalize() for part in rest)

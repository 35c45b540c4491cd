"""What is kept of one run: its summary, its bounds and, where it will be drawn, its series, placements and decisions in few bytes.

A record is a plain value that one process can hand to another. The total of several models is computed from the requests themselves,
because percentiles do not add up. The bound asks for the share of requests that the very run kept in the objective, and covers the
replicas' shares of their machines; what a machine costs while part of it is idle no policy decides, so it stands apart. A bound that
cannot be had says why.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from fleetpack.core.cores import format_cores
from fleetpack_simulator.policies.bound import BoundError, clairvoyant_bound, problem_of
from fleetpack_simulator.report.downsampling import BUCKETS, arrival_rates, downsample
from fleetpack_simulator.scenarios.summary import ModelSummary, Percentiles, RunSummary, percentiles_of
from fleetpack_simulator.world.simulation import Point, RunResult
from fleetpack_simulator.world.traffic import RequestState

MOST_DECISIONS = 700
"""Of one run in a report; the rest is counted. A page of eleven runs should open on a phone, so it has at most 5 MB: at 260 bytes a
decision, 85 a placement and 70 a machine, and 30 kB of series for each model."""
MOST_PLACEMENTS = 1200
"""Of one run, those that lasted longest; the rest is counted. What is left out of a day is narrower than a pixel."""
MOST_MACHINES = 1000
"""The same for machines."""
_SERIES = ("desired", "live", "ready", "waiting", "running", "usd_per_hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBound:
    """The least that one model could have cost, or why that is not known."""

    deployment: str
    usd: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run."""

    policy: str
    seed: int
    summary: RunSummary
    total: ModelSummary
    """All models together."""
    bounds: tuple[ModelBound, ...]
    seconds_taken: float
    detail: dict[str, Any] | None
    """What is drawn, as plain values."""


def record_of(result: RunResult, summary: RunSummary, *, detailed: bool, bounded: bool, started: float) -> RunRecord:
    """Return the record of a run that began at `started` of the performance counter."""
    bounds = bounds_of(result, summary) if bounded else ()
    return RunRecord(
        policy=summary.policy,
        seed=summary.seed,
        summary=summary,
        total=total_of(result, summary),
        bounds=bounds,
        seconds_taken=time.perf_counter() - started,
        detail=detail_of(result) if detailed else None,
    )


def bounds_of(result: RunResult, summary: RunSummary) -> tuple[ModelBound, ...]:
    """Return the bound of each model at the share of requests that it kept in the objective."""
    setting = result.setting
    end_seconds = setting.duration_seconds + setting.tail_seconds
    found = []
    for model in summary.models:
        key = model.deployment
        try:
            if model.in_objective is None:
                raise BoundError("it has no objective of time to first token, or no requests came")
            problem = problem_of(setting, key, share=model.in_objective, end_seconds=end_seconds)
            bound = clairvoyant_bound(problem, whole_replicas=False)
            found.append(ModelBound(deployment=key, usd=bound.usd))
        except BoundError as error:
            found.append(ModelBound(deployment=key, usd=None, reason=str(error).removeprefix("bound: ")))
    return tuple(found)


def total_of(result: RunResult, summary: RunSummary) -> ModelSummary:
    """Return the summary of all models as if they were one; of its objective only the share is meaningful."""
    if len(summary.models) == 1:
        return replace(summary.models[0], deployment="total")
    log, models = result.log, summary.models
    completed = [index for index in range(len(log)) if log.state[index] == RequestState.COMPLETED]
    judged = [model for model in models if model.in_objective is not None]
    kept = sum((model.in_objective or 0.0) * model.requests for model in judged)
    usd, tokens = sum(model.usd for model in models), sum(model.output_tokens for model in models)
    return ModelSummary(
        deployment="total",
        requests=sum(model.requests for model in models),
        completed=len(completed),
        failed=sum(model.failed for model in models),
        refused=sum(model.refused for model in models),
        unfinished=sum(model.unfinished for model in models),
        objective_ttft_seconds=None,
        objective_percentile=0,
        in_objective=kept / sum(model.requests for model in judged) if judged else None,
        time_to_first_token=_percentiles(
            [log.first_token_seconds[one] - log.arrival_seconds[one] for one in completed]
        ),
        latency=_percentiles([log.finished_seconds[one] - log.arrival_seconds[one] for one in completed]),
        output_tokens=tokens,
        usd=usd,
        usd_per_hour=sum(model.usd_per_hour for model in models),
        usd_per_million_requests=usd / len(completed) * 1e6 if completed else None,
        usd_per_million_output_tokens=usd / tokens * 1e6 if tokens else None,
        replica_hours=sum(model.replica_hours for model in models),
        mean_ready_replicas=sum(model.mean_ready_replicas for model in models),
        peak_live_replicas=sum(model.peak_live_replicas for model in models),
        scale_actions=sum(model.scale_actions for model in models),
        oscillations=sum(model.oscillations for model in models),
        projected=tuple(f"{model.deployment}: {name}" for model in models for name in model.projected),
        estimated=tuple(f"{model.deployment}: {name}" for model in models for name in model.estimated),
    )


def _percentiles(seconds: list[float]) -> Percentiles | None:
    return percentiles_of(sorted(seconds))


def detail_of(result: RunResult) -> dict[str, Any]:
    """Return what is drawn of a run: per model its series, then machines, placements, and decisions."""
    end_seconds = result.ended_seconds
    decisions = _decisions(result)
    kept, left_out = decisions[:MOST_DECISIONS], len(decisions) - MOST_DECISIONS
    return {
        "endSeconds": round(end_seconds, 3),
        "series": {key: _series(points, end_seconds) for key, points in sorted(result.series.items())},
        "machines": [
            [one["node"], one["instanceType"], one["cores"], _time(one["fromSeconds"]), _time(one["toSeconds"])]
            for one in _longest(result.cluster.machines, MOST_MACHINES, end_seconds)
        ],
        "machinesLeftOut": max(0, len(result.cluster.machines) - MOST_MACHINES),
        "placements": _placements(result),
        "placementsLeftOut": max(0, len(result.cluster.placements) - MOST_PLACEMENTS),
        "decisions": sorted(kept, key=lambda one: one[0]),
        "decisionsLeftOut": max(0, left_out),
    }


def load_of(result: RunResult) -> dict[str, Any]:
    """Return the load of each model in requests per second; its total is the number of requests."""
    arrivals: list[list[float]] = [[] for _ in result.setting.models]
    for index, model in enumerate(result.log.model):
        arrivals[model].append(result.log.arrival_seconds[index])
    end_seconds, step = result.ended_seconds, result.setting.tick_seconds
    found = {}
    for setting, of in zip(result.setting.models, arrivals, strict=True):
        rates = arrival_rates(of, step, end_seconds)
        times = [number * step for number in range(len(rates))]
        found[setting.deployment.key] = {
            "requests": len(of),
            "requestsPerBucket": _counts(of, end_seconds),
            "requestsPerSecond": downsample(times, rates, end_seconds).as_json(),
        }
    return found


def _counts(arrivals: list[float], end_seconds: float) -> list[int]:
    counts = [0] * BUCKETS
    for arrival in arrivals:
        counts[min(BUCKETS - 1, int(arrival / end_seconds * BUCKETS))] += 1
    return counts


def _series(points: list[Point], end_seconds: float) -> dict[str, Any]:
    times = [point.at_seconds for point in points]
    return {
        "usdPerHour" if name == "usd_per_hour" else name: downsample(
            times, [getattr(point, name) for point in points], end_seconds
        ).as_json()
        for name in _SERIES
    }


def _decisions(result: RunResult) -> list[list[Any]]:
    """Return decisions, those that changed something before those that only said something."""
    entries = [
        [
            _time(entry.at_seconds),
            entry.decision.subject,
            entry.decision.kind,
            entry.decision.before,
            entry.decision.after,
            str(entry.decision.reason),
            entry.decision.message,
        ]
        for entry in result.decisions
    ]
    return sorted(entries, key=lambda one: (one[3] == one[4], one[0]))


def _placements(result: RunResult) -> list[list[Any]]:
    """Return where replicas were and when."""
    return [
        [
            one["replica"],
            one["deployment"],
            one["node"],
            format_cores(one["cores"]),
            _time(one["fromSeconds"]),
            _time(one["toSeconds"]),
        ]
        for one in _longest(result.cluster.placements, MOST_PLACEMENTS, result.ended_seconds)
    ]


def _longest(entries: list[dict[str, Any]], most: int, end_seconds: float) -> list[dict[str, Any]]:
    """Return so many entries at most, those that lasted longest, in the order in which they came."""

    def lasted(one: dict[str, Any]) -> float:
        return float((end_seconds if one["toSeconds"] is None else one["toSeconds"]) - one["fromSeconds"])

    numbered = list(enumerate(entries))
    kept = sorted(numbered, key=lambda entry: (-lasted(entry[1]), entry[0]))[:most]
    return [one for _, one in sorted(kept, key=lambda entry: entry[0])]


def _time(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)

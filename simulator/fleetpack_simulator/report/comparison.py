"""Policies beside each other: each plays the same scenario with each seed, and the rows of a table come of it.

A row is one policy in total, or for one of several models; each of its numbers is the median over seeds with the least and the most of
them. All policies see the same requests, engines, delays and faults of a seed. Runs are spread over processes and put together in
the order of policies and seeds, so that the result does not depend on who finished first. A run whose rules were broken stays in the
table and is named; a scenario that cannot be played is a `ScenarioError`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any

from fleetpack_simulator.policies import POLICIES, PolicyError, build_policy
from fleetpack_simulator.report.records import ModelBound, RunRecord, load_of, record_of
from fleetpack_simulator.scenarios.loading import Scenario, TraceFiles, load_scenario
from fleetpack_simulator.scenarios.manifests import ScenarioError
from fleetpack_simulator.scenarios.summary import ModelSummary, Percentiles, RunSummary, summarize
from fleetpack_simulator.world.policy import Policy
from fleetpack_simulator.world.simulation import RunResult, simulate

FLEETPACK = "fleetpack"
DEFAULT_POLICIES = (FLEETPACK, *POLICIES)
TOTAL = "total"
_LOOK_SECONDS = 0.25
"""How often the progress of other processes is looked at."""

Tell = Callable[[str, float], None]
"""Called with the name of a run and the share of it that is done; 1.0: it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run to be made."""

    scenario: Path
    traces: TraceFiles
    policy: str
    seed: int | None
    detailed: bool
    """Whether it will be drawn."""
    bounded: bool

    @property
    def name(self) -> str:
        """How a progress bar calls it."""
        return self.policy if self.seed is None else f"{self.policy}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One number over all seeds."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy, in total or for one model."""

    policy: str
    deployment: str
    """`total` for all models."""
    objective_kept: bool | None
    """Whether the promised share was kept with every seed; None: none is promised, or several."""
    values: dict[str, Spread | None]
    """By the keys of `METRICS`; None: it was not to be had with any seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that was found out."""

    scenario: Scenario
    records: tuple[RunRecord, ...]
    """By policy, as they were asked for, then by seed."""
    rows: tuple[Row, ...]
    load: dict[str, Any]
    """Of the first seed."""


Measured = tuple[ModelSummary, RunSummary, float | None]
"""A model (or the total), its run, and the bound in USD."""


def _seconds(percentiles: Percentiles | None, name: str) -> float | None:
    return None if percentiles is None else float(getattr(percentiles, name))


METRICS: dict[str, Callable[[Measured], float | None]] = {
    "inObjective": lambda one: one[0].in_objective,
    "ttftP50Seconds": lambda one: _seconds(one[0].time_to_first_token, "p50_seconds"),
    "ttftP95Seconds": lambda one: _seconds(one[0].time_to_first_token, "p95_seconds"),
    "ttftP99Seconds": lambda one: _seconds(one[0].time_to_first_token, "p99_seconds"),
    "latencyP50Seconds": lambda one: _seconds(one[0].latency, "p50_seconds"),
    "latencyP95Seconds": lambda one: _seconds(one[0].latency, "p95_seconds"),
    "latencyP99Seconds": lambda one: _seconds(one[0].latency, "p99_seconds"),
    "usdPerHour": lambda one: one[0].usd_per_hour,
    "machinesUSDPerHour": lambda one: one[1].nodes_usd_per_hour if one[0].deployment == TOTAL else None,
    "usdPerMillionRequests": lambda one: one[0].usd_per_million_requests,
    "usdPerMillionOutputTokens": lambda one: one[0].usd_per_million_output_tokens,
    "timesBound": lambda one: one[0].usd / one[2] if one[2] else None,
    "boundUSDPerHour": lambda one: (
        one[2] / (one[1].simulated_seconds / 3600.0) if one[2] is not None and one[1].simulated_seconds else None
    ),
    "replicaHours": lambda one: one[0].replica_hours,
    "scaleActions": lambda one: float(one[0].scale_actions),
    "oscillations": lambda one: float(one[0].oscillations),
    "notServed": lambda one: float(one[0].requests - one[0].completed),
}
"""Every number of a row, by its name in the JSON."""


def compare(tasks: Sequence[Task], *, jobs: int, tell: Tell | None = None) -> Comparison:
    """Make all runs in so many processes at most, and put them side by side."""
    records, load = _in_processes(tasks, jobs, tell) if jobs > 1 and len(tasks) > 1 else _one_by_one(tasks, tell)
    first = tasks[0]
    return Comparison(
        scenario=load_once(first.scenario, first.seed, first.traces),
        records=tuple(records),
        rows=tuple(rows_of(records)),
        load=load,
    )


def play(task: Task, progress: Callable[[float], None] | None = None) -> tuple[RunRecord, dict[str, Any] | None]:
    """Make one run; with its load, where it will be drawn."""
    scenario = load_once(task.scenario, task.seed, task.traces)
    policy = policy_named(task.policy, scenario)
    started = time.perf_counter()
    duration, last = scenario.setting.duration_seconds, [0.0]

    def show(now_seconds: float, _: int) -> None:
        if progress is not None and now_seconds - last[0] >= duration / 100:
            last[0] = now_seconds
            progress(min(0.99, now_seconds / duration))

    result = simulate(scenario.setting, policy=policy, progress=show)
    record = recorded(scenario, policy, result, task, started)
    return record, load_of(result) if task.detailed else None


def recorded(scenario: Scenario, policy: Policy | None, result: RunResult, task: Task, started: float) -> RunRecord:
    """Return the record of a result."""
    summary = summarize(result, scenario=scenario.name, policy=FLEETPACK if policy is None else policy.name)
    return record_of(result, summary, detailed=task.detailed, bounded=task.bounded, started=started)


def policy_named(name: str, scenario: Scenario) -> Policy | None:
    """Return a new policy of that name; None: the operator's own, which is no `Policy`."""
    if name == FLEETPACK:
        return None
    try:
        return build_policy(name, scenario.setting)
    except PolicyError as error:
        raise ScenarioError(f"{error}, and {FLEETPACK}") from error


@lru_cache(maxsize=1)
def load_once(path: Path, seed: int | None, traces: TraceFiles) -> Scenario:
    """Read a scenario; the last one is kept, because reading a day's trace takes seconds."""
    return load_scenario(path, seed=seed, traces=traces)


def rows_of(records: Iterable[RunRecord]) -> list[Row]:
    """Return the rows of runs: per policy its total, then each model where there are several."""
    by_policy: dict[str, list[RunRecord]] = {}
    for record in records:
        by_policy.setdefault(record.policy, []).append(record)
    rows = []
    for policy, runs in by_policy.items():
        rows.append(_row(policy, [(run.total, run.summary, _sum_of(run.bounds)) for run in runs]))
        models = len(runs[0].summary.models)
        rows.extend(
            _row(policy, [(run.summary.models[index], run.summary, _bound(run, index)) for run in runs])
            for index in range(models if models > 1 else 0)
        )
    return rows


def _row(policy: str, measured: list[Measured]) -> Row:
    kept = [one[0].objective_kept for one in measured if one[0].objective_ttft_seconds is not None]
    return Row(
        policy=policy,
        deployment=measured[0][0].deployment,
        objective_kept=all(kept) if kept else None,
        values={name: _spread([read(one) for one in measured]) for name, read in METRICS.items()},
    )


def _spread(values: list[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(median=median(known), lowest=min(known), highest=max(known)) if known else None


def _bound(run: RunRecord, index: int) -> float | None:
    return run.bounds[index].usd if run.bounds else None


def _sum_of(bounds: tuple[ModelBound, ...]) -> float | None:
    if not bounds or any(bound.usd is None for bound in bounds):
        return None
    return sum(bound.usd or 0.0 for bound in bounds)


# --- one after the other, or side by side


def _one_by_one(tasks: Sequence[Task], tell: Tell | None) -> tuple[list[RunRecord], dict[str, Any]]:
    records: list[RunRecord] = []
    load: dict[str, Any] = {}
    for task in tasks:
        record, own_load = play(task, None if tell is None else partial(tell, task.name))
        load = load or own_load or {}
        records.append(record)
        if tell is not None:
            tell(task.name, 1.0)
    return records, load


_to_parent: Any = None
"""In a worker: the queue of progress."""


def _begin_worker(queue: Any) -> None:
    global _to_parent
    _to_parent = queue


def _work(task: Task) -> tuple[RunRecord, dict[str, Any] | None]:
    return play(task, lambda share: _to_parent.put((task.name, share)))


def _in_processes(tasks: Sequence[Task], jobs: int, tell: Tell | None) -> tuple[list[RunRecord], dict[str, Any]]:
    # Forking a process with threads (a progress bar has one) is unsafe; spawning costs a second per worker, once.
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(queue,)) as pool:
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            _watch(futures, tasks, queue, tell)
            done = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [record for record, _ in done], next((load for _, load in done if load), {})


def _watch(futures: list[Future[Any]], tasks: Sequence[Task], queue: Any, tell: Tell | None) -> None:
    """Pass progress on until all runs have ended or one has failed."""
    names = {future: task.name for future, task in zip(futures, tasks, strict=True)}
    open_runs = set(futures)
    while open_runs:
        ended, open_runs = wait(open_runs, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        while not queue.empty():
            name, share = queue.get()
            if tell is not None:
                tell(name, share)
        for future in ended:
            future.result()
            if tell is not None:
                tell(names[future], 1.0)


def tasks_for(task: Task, policies: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """Return the runs of policies and seeds; those of the first seed will be drawn."""
    return [
        replace(task, policy=policy, seed=seed, detailed=task.detailed and seed == seeds[0])
        for policy in policies
        for seed in seeds
    ]

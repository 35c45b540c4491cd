"""How fast the simulator is: a million requests through some 50 replicas, and days of production traces where they are at hand.

Each measurement is a process of its own, so that its peak memory is nobody else's, and everything counts: reading the scenario,
drawing or reading the load, playing it. Seconds are those of the processor ("on one core"): other work on the machine does not
count, and there is only one thread. With FLEETPACK_BENCH_TRACES=FOLDER the day-long scenarios of examples/scenarios/traces whose trace
is in that folder are played too. A broken rule makes the measurement fail.
"""

import multiprocessing
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import REPOSITORY, Figure
from fleetpack_simulator.scenarios.loading import TraceFiles, load_scenario
from fleetpack_simulator.scenarios.manifests import ScenarioError
from fleetpack_simulator.world import simulate

MILLION = REPOSITORY / "bench" / "million-requests.yaml"
DAYS = REPOSITORY / "examples" / "scenarios" / "traces"
TRACES_VARIABLE = "FLEETPACK_BENCH_TRACES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One scenario, played."""

    requests: int
    events: int
    plans: int
    mean_ready_replicas: float
    simulated_seconds: float
    processor_seconds: float
    wall_seconds: float
    peak_memory_gib: float
    violations: tuple[str, ...]


def measure() -> list[Figure]:
    """Return the figures of this machine."""
    million, days = _apart(MILLION, None), _days()
    violations = [f"{path.stem}: {one}" for path, day in days for one in day.violations] + list(million.violations)
    return [
        Figure(name="simulation_million_requests_seconds", value=million.processor_seconds, detail=_detail(million)),
        Figure(name="simulation_requests_per_second", value=million.requests / million.processor_seconds),
        Figure(name="simulation_events_per_second", value=million.events / million.processor_seconds),
        Figure(name="simulation_peak_memory_gib", value=million.peak_memory_gib),
        Figure(name="simulation_violations", value=len(violations), detail="; ".join(violations[:3])),
        *(
            Figure(name="simulation_day_seconds", value=day.processor_seconds, detail=f"{path.stem}: {_detail(day)}")
            for path, day in days
        ),
    ]


def _detail(played: Played) -> str:
    return (
        f"{played.requests} requests, {played.plans} plans, {played.mean_ready_replicas:.1f} ready replicas on average, "
        f"{played.simulated_seconds:.0f} simulated seconds; wall clock {played.wall_seconds:.1f} s"
    )


def _days() -> list[tuple[Path, Played]]:
    """Play each day whose trace is at hand."""
    folder = os.environ.get(TRACES_VARIABLE)
    played = []
    for path in sorted(DAYS.glob("*-day.yaml")) if folder else ():
        traces = TraceFiles(folder=Path(str(folder)))
        try:
            load_scenario(path, traces=traces)
        except ScenarioError:
            # Its trace is not among those that there are.
            continue
        played.append((path, _apart(path, traces)))
    return played


def _apart(scenario: Path, traces: TraceFiles | None) -> Played:
    """Play a scenario in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(play, (scenario, traces))


def play(path: Path, traces: TraceFiles | None) -> Played:
    """Play a scenario and take the figures of this process."""
    started, started_wall = time.process_time(), time.perf_counter()
    scenario = load_scenario(path, traces=traces)
    result = simulate(scenario.setting)
    points = [point for series in result.series.values() for point in series]
    ticks = max(len(series) for series in result.series.values())
    return Played(
        requests=len(result.log),
        events=result.events,
        plans=result.plans,
        mean_ready_replicas=sum(point.ready for point in points) / ticks,
        simulated_seconds=result.ended_seconds,
        processor_seconds=time.process_time() - started,
        wall_seconds=time.perf_counter() - started_wall,
        # Linux counts in KiB (getrusage(2)).
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        violations=tuple(str(one) for one in result.violations),
    )

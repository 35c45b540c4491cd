"""How fast the simulator is: a million requests through some 50 replicas, and days of production traces where they are at hand.

Each measurement is a process of its own, so that its peak memory is nobody else's, and everything counts: reading the scenario,
drawing or reading the load, playing it. Seconds are those of the processor ("on one core"): other work on the machine does not
count, and there is only one thread. With FLEETPACK_BENCH_TRACES=FOLDER the scenarios of examples/scenarios/traces whose trace is
in that folder are played too, for a day each. A broken rule makes the measurement fail.
"""

import multiprocessing
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import REPOSITORY, Figure
from fleetpack_simulator.scenarios.loading import load_scenario
from fleetpack_simulator.world import simulate

MILLION = REPOSITORY / "bench" / "million-requests.yaml"


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
    million = _apart(MILLION)
    detail = (
        f"{million.requests} requests, {million.plans} plans, {million.mean_ready_replicas:.1f} ready replicas on average, "
        f"{million.simulated_seconds:.0f} simulated seconds; wall clock {million.wall_seconds:.1f} s"
    )
    return [
        Figure(name="simulation_million_requests_seconds", value=million.processor_seconds, detail=detail),
        Figure(name="simulation_requests_per_second", value=million.requests / million.processor_seconds),
        Figure(name="simulation_events_per_second", value=million.events / million.processor_seconds),
        Figure(name="simulation_peak_memory_gib", value=million.peak_memory_gib),
        Figure(name="simulation_violations", value=len(million.violations), detail="; ".join(million.violations[:3])),
    ]


def _apart(scenario: Path) -> Played:
    """Play a scenario in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(play, (scenario,))


def play(path: Path) -> Played:
    """Play a scenario and take the figures of this process."""
    started, started_wall = time.process_time(), time.perf_counter()
    scenario = load_scenario(path)
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

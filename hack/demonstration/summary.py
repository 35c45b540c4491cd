"""What a run of the demo amounts to: requests, latency, money, replicas over time, and the independent checker's word."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table

from fleetpack_simulator.checking import CheckReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """The result of one run."""

    seconds: float
    loads: dict[str, dict[str, Any]]
    """By model: the replayer's summary."""
    replicas_over_time: dict[str, tuple[int, ...]]
    """By model: ready replicas, once a second."""
    check: CheckReport

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes this run a failure."""
        found = [str(violation) for violation in self.check.violations]
        if not self.check.placements_checked:
            found.append("the checker saw no placement")
        for name, load in self.loads.items():
            if not load["is_valid"]:
                found.append(
                    f"{name}: the replayer itself was late (p99 above {load['lag_limit_seconds'] * 1000:.0f} ms): void"
                )
            if load["completed"] < load["requests"]:
                found.append(
                    f"{name}: {load['requests'] - load['completed']} of {load['requests']} requests were not served"
                )
        for name, numbers in self.replicas_over_time.items():
            rises = any(later > earlier for earlier, later in pairwise(numbers))
            falls = any(later < earlier for earlier, later in pairwise(numbers))
            if not (rises and falls):
                found.append(f"{name}: replicas did not go up and down")
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "passed": not self.problems,
            "problems": list(self.problems),
            "seconds": self.seconds,
            "loads": self.loads,
            "replicasOverTime": {name: list(numbers) for name, numbers in self.replicas_over_time.items()},
            "check": self.check.as_json(),
        }


def summarize(
    check: CheckReport,
    loads: dict[str, dict[str, Any]],
    replicas_over_time: dict[str, tuple[int, ...]],
    seconds: float,
) -> DemoSummary:
    """Put a summary together."""
    return DemoSummary(seconds=seconds, loads=loads, replicas_over_time=replicas_over_time, check=check)


def show(summary: DemoSummary, console: Console) -> None:
    """Print the summary for people."""
    table = Table(title=f"the run in numbers ({summary.seconds:.0f} s)")
    table.add_column("model")
    headings = (
        "requests",
        "served",
        "TTFT p50",
        "p95",
        "p99",
        "queue wait p95",
        "replicas",
        "USD spent",
        "replay lag p99",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    spent = {cost.deployment.partition("/")[2]: cost.usd_spent for cost in summary.check.deployments}
    for name, load in summary.loads.items():
        ttft, wait, lag = load["time_to_first_token"], load["queue_wait"], load["lag"]
        numbers = summary.replicas_over_time.get(name, (0,))
        table.add_row(
            name,
            str(load["requests"]),
            str(load["completed"]),
            *(f"{ttft[key]:.2f} s" for key in ("p50_seconds", "p95_seconds", "p99_seconds")),
            f"{wait['p95_seconds']:.2f} s",
            f"{min(numbers)} to {max(numbers)}",
            f"{spent.get(name, 0.0):.3f}",
            f"{lag['p99_seconds'] * 1000:.0f} ms",
        )
    console.print(table)
    check = summary.check
    console.print(
        f"independent check: {check.placements_checked} placements of {check.pods_seen} Pods on {check.nodes_seen} nodes, "
        f"{len(check.violations)} violations; nodes cost {check.nodes_usd_spent:.3f} USD, replicas' share {check.usd_spent:.3f} USD",
        highlight=False,
    )
    for problem in summary.problems:
        console.print(f"[bold red]problem:[/] {problem}", highlight=False)
    if not summary.problems:
        console.print("[bold green]all invariants held[/]")

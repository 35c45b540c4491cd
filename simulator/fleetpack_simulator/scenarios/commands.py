"""`fleetpack-sim run` and `fleetpack-sim swarm`.

Exit codes: 0 done, 1 a rule was broken (the run or the seed is shown), 2 the scenario cannot be played.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fleetpack.core.cores import format_cores
from fleetpack_simulator.report.command import folder_option, trace_files, trace_option
from fleetpack_simulator.report.comparison import FLEETPACK, Comparison, policy_named, rows_of
from fleetpack_simulator.report.page import page_of
from fleetpack_simulator.report.payload import payload_of
from fleetpack_simulator.report.records import load_of, record_of
from fleetpack_simulator.scenarios.changes import change_entry
from fleetpack_simulator.scenarios.faults import fault_entry
from fleetpack_simulator.scenarios.loading import Scenario, load_scenario
from fleetpack_simulator.scenarios.manifests import ScenarioError
from fleetpack_simulator.scenarios.summary import ModelSummary, RunSummary, summarize
from fleetpack_simulator.scenarios.swarm import SwarmOutcome, play_seed
from fleetpack_simulator.settings import ESTIMATED
from fleetpack_simulator.world.policy import Policy
from fleetpack_simulator.world.simulation import LoggedDecision, RunResult, simulate


@click.command("run")
@click.argument("scenario_path", metavar="SCENARIO", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policy_name", help="Instead of the scenario's own; fleetpack is the operator's.")
@click.option("--seed", type=int, help="Instead of the scenario's own.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Write one page here.")
@click.option("--decisions", is_flag=True, help="Print every decision with its reason.")
@trace_option
@folder_option
def run(
    scenario_path: Path,
    policy_name: str | None,
    seed: int | None,
    json_path: Path | None,
    html_path: Path | None,
    decisions: bool,
    traces: tuple[str, ...],
    folder: Path | None,
) -> None:
    """Play SCENARIO in virtual time with the operator's own decisions, and say what came of it."""
    try:
        scenario = load_scenario(scenario_path, seed=seed, traces=trace_files(traces, folder))
        policy = policy_named(scenario.policy if policy_name is None else policy_name, scenario)
    except ScenarioError as error:
        raise click.UsageError(str(error)) from error
    started = time.perf_counter()
    result = play(scenario, policy)
    summary = summarize(result, scenario=scenario.name, policy=FLEETPACK if policy is None else policy.name)
    if decisions:
        print_decisions(result.decisions)
    print_summary(summary, time.perf_counter() - started)
    if json_path is not None:
        json_path.write_text(as_json_text(summary, result), encoding="utf-8")
    if html_path is not None:
        html_path.write_text(page_of(payload_of(_alone(scenario, result, summary, started))), encoding="utf-8")
    if summary.violations:
        raise SystemExit(1)


def _alone(scenario: Scenario, result: RunResult, summary: RunSummary, started: float) -> Comparison:
    """Return one run as a comparison with nobody, bound included."""
    records = (record_of(result, summary, detailed=True, bounded=True, started=started),)
    return Comparison(scenario=scenario, records=records, rows=tuple(rows_of(records)), load=load_of(result))


def play(scenario: Scenario, policy: Policy | None = None) -> RunResult:
    """Play a scenario under a progress bar."""
    total = sum(len(model.load) for model in scenario.setting.models)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(scenario.name, total=scenario.setting.duration_seconds, at="")

        def show(now_seconds: float, arrived: int) -> None:
            # Drawing costs more than a tick of the simulation, so most ticks draw nothing.
            if int(now_seconds) % 20 == 0:
                bar.update(task, completed=now_seconds, at=f"{now_seconds:.0f} s, {arrived}/{total} requests")

        return simulate(scenario.setting, policy=policy, progress=show)


def print_decisions(decisions: list[LoggedDecision]) -> None:
    """Print decisions, one a line."""
    for entry in decisions:
        decision = entry.decision
        click.echo(
            f"{entry.at_seconds:9.1f} s  {decision.subject}  {decision.kind} {decision.before} -> {decision.after}  "
            f"{decision.reason}: {decision.message}"
        )


def print_summary(summary: RunSummary, took_seconds: float) -> None:
    """Print the tables of a run."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title=f"{summary.scenario}: {summary.policy}, seed {summary.seed}")
    table.add_column("")
    for model in summary.models:
        table.add_column(model.deployment, justify="right")
    for name, text in _ROWS:
        table.add_row(name, *(text(model) for model in summary.models))
    console.print(table)
    console.print(
        f"nodes: {summary.nodes_usd_per_hour:.2f} USD per hour, {summary.node_hours:.2f} node-hours, "
        f"{summary.nodes_usd:.2f} USD in {summary.simulated_seconds:.0f} s"
    )
    requests = sum(model.requests for model in summary.models)
    console.print(
        f"{summary.plans} plans, {summary.actions} actions, {summary.retries} retried requests; simulated in "
        f"{took_seconds:.1f} s: {requests / max(took_seconds, 1e-9):,.0f} requests/s, "
        f"{summary.events / max(took_seconds, 1e-9):,.0f} events/s"
    )
    for model in summary.models:
        if model.projected:
            console.print(f"{model.deployment}: {', '.join(model.projected)}: [bold]projected[/], not calibrated")
        if model.estimated:
            console.print(f"{model.deployment}: {', '.join(model.estimated)}: {ESTIMATED}", highlight=False)
    for violation in summary.violations:
        console.print(f"[bold red]broken:[/] {violation}", highlight=False)


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _triple(percentiles: Any) -> str:
    if percentiles is None:
        return "-"
    values = (percentiles.p50_seconds, percentiles.p95_seconds, percentiles.p99_seconds)
    return " / ".join(_seconds(value) for value in values)


def _objective(model: ModelSummary) -> str:
    if model.in_objective is None:
        return "-"
    kept = "kept" if model.objective_kept else "missed"
    return (
        f"{model.in_objective:.2%} within {model.objective_ttft_seconds:g} s ({kept}: {model.objective_percentile} %)"
    )


def _usd(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


_ROWS: tuple[tuple[str, Any], ...] = (
    ("requests", lambda model: f"{model.requests:,}"),
    (
        "completed / failed / refused / unfinished",
        lambda model: f"{model.completed:,} / {model.failed:,} / {model.refused:,} / {model.unfinished:,}",
    ),
    ("in objective", _objective),
    ("time to first token p50 / p95 / p99", lambda model: _triple(model.time_to_first_token)),
    ("latency p50 / p95 / p99", lambda model: _triple(model.latency)),
    ("USD per hour (its replicas)", lambda model: _usd(model.usd_per_hour)),
    ("USD per million requests", lambda model: _usd(model.usd_per_million_requests)),
    ("USD per million output tokens", lambda model: _usd(model.usd_per_million_output_tokens)),
    ("replica-hours", lambda model: f"{model.replica_hours:.2f}"),
    ("ready replicas: mean", lambda model: f"{model.mean_ready_replicas:.1f}"),
    ("live replicas: most", lambda model: f"{model.peak_live_replicas}"),
    ("scale actions / oscillations", lambda model: f"{model.scale_actions} / {model.oscillations}"),
)


def as_json_text(summary: RunSummary, result: RunResult) -> str:
    """Return summary, faults, edits, series, placements and decisions as JSON, the same bytes for the same run."""
    content = summary.as_json()
    content["faults"] = [fault_entry(fault) for fault in result.setting.faults]
    content["changes"] = [change_entry(change) for change in result.setting.changes]
    content["series"] = {
        key: [
            [one.at_seconds, one.desired, one.live, one.ready, one.waiting, one.running, round(one.usd_per_hour, 6)]
            for one in points
        ]
        for key, points in sorted(result.series.items())
    }
    content["seriesFields"] = ["atSeconds", "desired", "live", "ready", "waiting", "running", "usdPerHour"]
    content["placements"] = [
        {**placement, "cores": format_cores(placement["cores"])} for placement in result.cluster.placements
    ]
    content["decisions"] = [
        {
            "atSeconds": entry.at_seconds,
            "subject": entry.decision.subject,
            "kind": entry.decision.kind,
            "before": entry.decision.before,
            "after": entry.decision.after,
            "reason": str(entry.decision.reason),
            "message": entry.decision.message,
        }
        for entry in result.decisions
    ]
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


@click.command("swarm")
@click.option("--seeds", type=click.IntRange(min=1), default=100, show_default=True, help="How many worlds to draw.")
@click.option("--first", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Play this one seed only, with its decisions.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write everything of --seed here."
)
def swarm(seeds: int, first: int, seed: int | None, json_path: Path | None) -> None:
    """Draw fleets, loads, options and faults from seeds; check the rules under faults, and that all ends well without them."""
    if json_path is not None and seed is None:
        raise click.UsageError("--json writes one world: name it with --seed")
    if seed is not None:
        outcome = play_seed(seed)
        print_decisions(outcome.result.decisions)
        _tell(outcome)
        for change in outcome.result.setting.changes:
            click.echo(f"  change: {json.dumps(change_entry(change), sort_keys=True)}")
        if json_path is not None:
            summary = summarize(outcome.result, scenario=f"swarm-{seed}", policy=FLEETPACK)
            json_path.write_text(as_json_text(summary, outcome.result), encoding="utf-8")
        raise SystemExit(1 if outcome.violations else 0)
    failed: list[int] = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("swarm", total=seeds)
        for number in range(first, first + seeds):
            outcome = play_seed(number)
            bar.update(task, advance=1, description=f"seed {number}, {len(failed)} failed")
            if outcome.violations:
                failed.append(number)
                _tell(outcome)
    click.echo(f"{seeds - len(failed)} of {seeds} seeds passed")
    if failed:
        click.echo(f"replay one with its decisions: fleetpack-sim swarm --seed {failed[0]}")
        raise SystemExit(1)


def _tell(outcome: SwarmOutcome) -> None:
    verdict = "failed" if outcome.violations else "passed"
    click.echo(f"seed {outcome.seed}: {verdict}: {outcome.description}")
    for violation in outcome.violations:
        click.echo(f"  {violation}")

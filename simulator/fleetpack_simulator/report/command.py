"""`fleetpack-sim compare`.

Exit codes: 0 done, 1 a rule was broken in some run (it is named), 2 the scenario cannot be played. The table goes to standard output,
progress to standard error, everything else to files.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fleetpack_simulator.report.comparison import (
    DEFAULT_POLICIES,
    Comparison,
    Task,
    compare,
    load_once,
    policy_named,
    tasks_for,
)
from fleetpack_simulator.report.page import page_of
from fleetpack_simulator.report.payload import as_text, payload_of
from fleetpack_simulator.report.tables import COLUMNS, cell, label, markdown_table, not_served_of
from fleetpack_simulator.scenarios.loading import TraceFiles
from fleetpack_simulator.scenarios.manifests import ScenarioError
from fleetpack_simulator.settings import ESTIMATED

_WIDTH = 190
"""Of a table that goes to a file or a pipe."""


def trace_files(traces: tuple[str, ...], folder: Path | None) -> TraceFiles:
    """Read `MODEL=FILE` options and the folder of traces."""
    pairs = []
    for text in traces:
        name, equals, file = text.partition("=")
        if not name or not equals or not Path(file).is_file():
            raise click.UsageError(f"--trace {text}: it must be MODEL=FILE, with a file that is there")
        pairs.append((name, Path(file)))
    return TraceFiles(folder=folder, by_model=tuple(pairs))


trace_option = click.option(
    "--trace", "traces", multiple=True, metavar="MODEL=FILE", help="Trace of a model, instead of the scenario's own."
)
folder_option = click.option(
    "--traces",
    "folder",
    envvar="FLEETPACK_TRACES",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the traces that are not beside the scenario; default: FLEETPACK_TRACES.",
)


@click.command("compare")
@click.option(
    "--scenario",
    "scenario_path",
    required=True,
    metavar="SCENARIO",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is played.",
)
@click.option(
    "--policies",
    default=",".join(DEFAULT_POLICIES),
    show_default=True,
    help="Names with commas between them; static-N for any N beside these.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many seeds each plays.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Write one page here.")
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table here, as a Markdown document has it.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time; default: one per core.")
@click.option("--bound/--no-bound", default=True, help="Compute the clairvoyant bound of every run.")
@trace_option
@folder_option
def compare_command(
    scenario_path: Path,
    policies: str,
    seeds: int,
    json_path: Path | None,
    html_path: Path | None,
    markdown_path: Path | None,
    jobs: int | None,
    bound: bool,
    traces: tuple[str, ...],
    folder: Path | None,
) -> None:
    """Play a scenario with several policies and seeds, and put them side by side."""
    names = list(dict.fromkeys(name.strip() for name in policies.split(",") if name.strip()))
    if not names:
        raise click.UsageError("--policies names none")
    files = trace_files(traces, folder)
    started = time.perf_counter()
    try:
        scenario = load_once(scenario_path, None, files)
        for name in names:
            policy_named(name, scenario)
        first = scenario.setting.seed
        task = Task(
            scenario=scenario_path,
            traces=files,
            policy=names[0],
            seed=first,
            detailed=json_path is not None or html_path is not None,
            bounded=bound,
        )
        tasks = tasks_for(task, names, range(first, first + seeds))
        comparison = _with_progress(tasks, jobs or len(os.sched_getaffinity(0)))
    except ScenarioError as error:
        raise click.UsageError(str(error)) from error
    print_comparison(comparison, time.perf_counter() - started)
    payload = payload_of(comparison)
    if json_path is not None:
        json_path.write_text(as_text(payload) + "\n", encoding="utf-8")
    if html_path is not None:
        html_path.write_text(page_of(payload), encoding="utf-8")
    if markdown_path is not None:
        markdown_path.write_text(markdown_table(comparison.rows), encoding="utf-8")
    if any(record.summary.violations for record in comparison.records):
        raise SystemExit(1)


def _with_progress(tasks: list[Task], jobs: int) -> Comparison:
    """Make the runs under one bar for all of them and one for each that is under way."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        overall = bars.add_task(f"{len(tasks)} runs", total=len(tasks))
        under_way: dict[str, TaskID] = {}
        ended: set[str] = set()

        def tell(name: str, done: float) -> None:
            if name in ended:
                return
            if name not in under_way:
                under_way[name] = bars.add_task(name, total=1.0)
            bars.update(under_way[name], completed=done)
            if done >= 1.0:
                ended.add(name)
                bars.remove_task(under_way.pop(name))
                bars.update(overall, completed=len(ended))

        return compare(tasks, jobs=jobs, tell=tell)


def print_comparison(comparison: Comparison, took_seconds: float) -> None:
    """Print the table and what it needs to be understood."""
    console = Console(width=None if Console().is_terminal else _WIDTH)
    seeds = sorted({record.seed for record in comparison.records})
    named = f"seed {seeds[0]}" if len(seeds) == 1 else f"median of seeds {seeds[0]} to {seeds[-1]} (least–most)"
    table = Table(title=f"{comparison.scenario.name}: {named}")
    table.add_column("policy")
    for column in COLUMNS:
        table.add_column(column.heading, justify="right")
    for row in comparison.rows:
        texts = [cell(row, column) for column in COLUMNS]
        table.add_row(label(row), *(f"{text}\n[dim]{spread}[/]" if spread else text for text, spread in texts))
    console.print(table)
    for note in notes_of(comparison):
        console.print(note, highlight=False)
    console.print(f"{len(comparison.records)} runs in {took_seconds:.0f} s", highlight=False)


def notes_of(comparison: Comparison) -> list[str]:
    """Return what a reader of the table has to know."""
    notes = [
        f"{model.deployment}: {model.requests:,} requests, objective: "
        + (
            "none"
            if model.objective_ttft_seconds is None
            else f"first token within {model.objective_ttft_seconds:g} s for {model.objective_percentile} %"
        )
        for model in comparison.records[0].summary.models
    ]
    notes += [
        f"{model.deployment}: {', '.join(model.projected)}: projected, not calibrated"
        for model in comparison.records[0].summary.models
        if model.projected
    ]
    notes += [
        f"{model.deployment}: {', '.join(model.estimated)}: {ESTIMATED}"
        for model in comparison.records[0].summary.models
        if model.estimated
    ]
    if not_served := not_served_of(comparison.rows):
        notes.append(not_served)
    reasons: dict[str, list[str]] = {}
    for record in comparison.records:
        for bound in record.bounds:
            if bound.usd is None:
                reasons.setdefault(f"no bound for {bound.deployment}: {bound.reason}", []).append(record.policy)
    notes += [f"{reason} ({', '.join(dict.fromkeys(policies))})" for reason, policies in reasons.items()]
    notes += [
        f"[bold red]broken[/] by {record.policy}, seed {record.seed}: {violation}"
        for record in comparison.records
        for violation in record.summary.violations[:3]
    ]
    return notes

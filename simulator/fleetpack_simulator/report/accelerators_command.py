"""`fleetpack-sim accelerators`.

Exit codes: 0 done, 1 no variant keeps the objective, 2 wrong usage. The table goes to standard output, progress to standard error.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fleetpack.api.values import Duration
from fleetpack.catalog import Catalog, load_catalog
from fleetpack_simulator.engine import ModelShape
from fleetpack_simulator.engine.published import UnknownModelError, find_decoder
from fleetpack_simulator.report.accelerators import (
    Answer,
    Question,
    answers_of,
    best_of,
    candidates_of,
    payload_of_answers,
    window_for,
    window_note,
)
from fleetpack_simulator.report.accelerators_page import (
    EXPLANATION,
    HEADINGS,
    accelerators_page,
    cells_of,
    objective_text,
)
from fleetpack_simulator.report.candidates import CatalogFileError, with_file
from fleetpack_simulator.report.fleets import Objective
from fleetpack_simulator.report.payload import as_text
from fleetpack_simulator.settings import ESTIMATED
from fleetpack_simulator.workload import Request, TraceError, compress, read_trace, within

_WIDTH = 190
_LIMITS = {"ttft": "ttft_seconds", "tpot": "tpot_seconds", "latency": "latency_seconds"}
_WINDOW_TOKENS = 131_072


@click.command("accelerators")
@click.option(
    "--model", "model_name", required=True, help="A published decoder, or any name with its size in it: Mine-9B."
)
@click.option("--weight-bits", type=click.IntRange(min=2), default=16, show_default=True)
@click.option(
    "--trace",
    "trace_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The load.",
)
@click.option("--start", default="0s", show_default=True, help="Begin at this moment of the trace.")
@click.option("--duration", help="Take this much of the trace; default: all of it.")
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="Let requests arrive this many times as fast."
)
@click.option(
    "--objective",
    "objective_text",
    default="ttft=2s,percentile=95",
    show_default=True,
    metavar="NAME=VALUE,...",
    help="ttft, tpot, latency and percentile.",
)
@click.option(
    "--catalog",
    "catalog_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own accelerators, instance types and prices.",
)
@click.option("--only", multiple=True, metavar="ACCELERATOR", help="Try this one; may be repeated. Default: all.")
@click.option(
    "--window-tokens", type=click.IntRange(min=128), help="Longest prompt plus output; default: what the trace needs."
)
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), help="Largest batch to try; may be repeated."
)
@click.option("--all", "every", is_flag=True, help="Print every variant, not only the best of each accelerator.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Write one page here.")
@click.option("--jobs", type=click.IntRange(min=1), help="Variants at a time; default: one per core.")
def accelerators_command(
    model_name: str,
    weight_bits: int,
    trace_path: Path,
    start: str,
    duration: str | None,
    speed: float,
    objective_text: str,
    catalog_path: Path | None,
    only: tuple[str, ...],
    window_tokens: int | None,
    batches: tuple[int, ...],
    every: bool,
    json_path: Path | None,
    html_path: Path | None,
    jobs: int | None,
) -> None:
    """Find the smallest fleet for a model and a load on every accelerator, and what it costs."""
    started = time.perf_counter()
    try:
        catalog = load_catalog() if catalog_path is None else with_file(load_catalog(), catalog_path)
        load = _load(trace_path, start, duration, speed)
        question = Question(
            model=_model(model_name, weight_bits),
            load=load,
            objective=read_objective(objective_text),
            window_tokens=window_tokens or window_for(load, _WINDOW_TOKENS),
            batches=batches or None,
        )
        candidates = candidates_of(catalog, own=_own(catalog), only=_checked(only, catalog))
    except (CatalogFileError, TraceError, UnknownModelError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("variants", total=len(candidates))
        answers = answers_of(
            candidates,
            question,
            jobs=jobs or len(os.sched_getaffinity(0)),
            tell=lambda done: bar.update(task, completed=done),
        )
    shown = answers if every else best_of(answers)
    print_answers(shown, question)
    Console(stderr=True).print(f"{len(answers)} variants in {time.perf_counter() - started:.0f} s", highlight=False)
    payload = payload_of_answers(answers, question, trace_path.name)
    if json_path is not None:
        json_path.write_text(as_text(payload) + "\n", encoding="utf-8")
    if html_path is not None:
        html_path.write_text(accelerators_page(payload, answers), encoding="utf-8")
    if all(answer.fleet is None for answer in answers):
        raise SystemExit(1)


def read_objective(text: str) -> Objective:
    """Read `ttft=2s,percentile=95`; at least one of ttft, tpot and latency must be there."""
    found = Objective()
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name == "percentile" and equals:
            percentile = float(value)
            if not 0 < percentile <= 100:
                raise ValueError(f"--objective: percentile is {value}, it must be above 0 and at most 100")
            found = replace(found, percentile=percentile)
        elif name in _LIMITS and equals:
            found = replace(found, **{_LIMITS[name]: Duration.parse(value).seconds})
        else:
            raise ValueError(f"--objective: {part!r} must be NAME=VALUE with one of {', '.join(_LIMITS)}, percentile")
    if all(getattr(found, field) is None for field in _LIMITS.values()):
        raise ValueError("--objective: give at least one of ttft, tpot and latency, ttft=2s for instance")
    return found


def print_answers(answers: list[Answer], question: Question) -> None:
    """Print a table of answers."""
    console = Console(width=None if Console().is_terminal else _WIDTH)
    table = Table(title=f"{question.model.name}: smallest fleet with {objective_text(question.objective)}")
    for heading, is_number in HEADINGS:
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for answer in answers:
        table.add_row(*cells_of(answer), style="" if answer.fleet is not None else "dim")
    console.print(table)
    console.print(
        f"{len(question.load):,} requests in {question.hours:.2f} hours. {window_note(question)}\n{EXPLANATION}",
        highlight=False,
    )
    if question.model.estimated:
        console.print(f"{question.model.name}: {ESTIMATED}", highlight=False)


def _model(name: str, weight_bits: int) -> ModelShape:
    return find_decoder(name, weight_bits=weight_bits).shape


def _load(path: Path, start: str, duration: str | None, speed: float) -> tuple[Request, ...]:
    length = float("inf") if duration is None else Duration.parse(duration).seconds
    load = compress(within(read_trace(path), Duration.parse(start).seconds, length), speed)
    if not load:
        raise ValueError(f"trace {path}: no request comes in the part that --start and --duration choose")
    return load


def _own(catalog: Catalog) -> list[str]:
    """Return the accelerators that the shipped catalog does not have, or has otherwise."""
    shipped = load_catalog().accelerators
    return [name for name, one in catalog.accelerators.items() if shipped.get(name) != one]


def _checked(only: tuple[str, ...], catalog: Catalog) -> tuple[str, ...]:
    if unknown := sorted(set(only) - set(catalog.accelerators)):
        raise ValueError(
            f"--only {', '.join(unknown)}: not in the catalog; known are {', '.join(sorted(catalog.accelerators))}"
        )
    return only

"""`hack/bench`: which measurements, and the exit code: 0 within budget, 1 above it."""

import asyncio
import sys

import click
from rich.console import Console
from rich.table import Table

from benchmarks import burst, planning, reaction, simulation, steady
from benchmarks.results import Figure, over_budget, remember
from demonstration.running import fresh_folder

NAMES = ("planning", "simulation", "reaction", "burst", "steady")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--steady-seconds", default=300.0, show_default=True, help="How long each steady situation is watched.")
@click.option("--warm-up-seconds", default=240.0, show_default=True, help="Constant load before it is watched.")
@click.option(
    "--remember/--forget", "keep", default=True, show_default=True, help="Append the run to bench/history.jsonl."
)
def main(names: tuple[str, ...], steady_seconds: float, warm_up_seconds: float, keep: bool) -> None:
    """Measure: planning (the pure core), simulation (a million requests), reaction (queue to Pod), burst, steady (writes)."""
    console = Console()
    folder = fresh_folder("bench")
    figures: list[Figure] = []
    for name in names or NAMES:
        console.print(f"bench: {name} ...", highlight=False)
        if name == "planning":
            figures += planning.measure()
        elif name == "simulation":
            figures += simulation.measure()
        elif name == "reaction":
            figures += asyncio.run(reaction.measure(folder))
        elif name == "burst":
            figures += asyncio.run(burst.measure(folder))
        else:
            figures += asyncio.run(steady.measure(folder, steady_seconds, warm_up_seconds))
    table = Table("figure", "value", "detail")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:.4g}", figure.detail)
    console.print(table)
    if keep:
        remember(figures)
    problems = over_budget(figures)
    for problem in problems:
        console.print(f"[bold red]over budget:[/] {problem}", highlight=False)
    sys.exit(1 if problems else 0)

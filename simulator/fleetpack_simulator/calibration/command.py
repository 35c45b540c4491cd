"""`fleetpack-sim calibrate`: the engine's predictions beside published measurements, and the fit that makes the coefficients.

Exit codes: 0 done, 2 wrong usage or a file without rows. How large the errors are decides nothing: the report is the result.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleetpack_simulator.calibration.fitting import fit
from fleetpack_simulator.calibration.report import calibrate, markdown_tables, print_report
from fleetpack_simulator.calibration.rows import RowsError, packaged_rows, read_rows
from fleetpack_simulator.engine import Coefficients

_TABLE_WIDTH = 140


@click.command("calibrate")
@click.option(
    "--rows",
    "rows_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of measurements; default: the published rows that came with the package.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--markdown", is_flag=True, help="Print the tables of docs/fidelity.md.")
@click.option(
    "--refit",
    is_flag=True,
    help="Print the coefficients that a fit on the packaged rows gives, as YAML for engine/coefficients.yaml.",
)
def calibrate_command(rows_path: Path | None, as_json: bool, markdown: bool, refit: bool) -> None:
    """Compare the engine's predictions with published measurements."""
    fitted_on = packaged_rows()
    if refit:
        click.echo(coefficients_yaml(fit(fitted_on.rows)), nl=False)
        return
    try:
        rows = fitted_on if rows_path is None else read_rows(rows_path)
    except RowsError as error:
        raise click.UsageError(str(error)) from error
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("fits without some of the rows", total=None)
        report = calibrate(rows, fitted_on, lambda done, of: bar.update(task, completed=done, total=of))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    if markdown:
        click.echo(markdown_tables(report), nl=False)
        return
    console = Console()
    # Without a terminal there is no width to obey, and a table that is cut tells nothing.
    print_report(report, console if console.is_terminal else Console(width=_TABLE_WIDTH))


def coefficients_yaml(fitted: dict[str, Coefficients]) -> str:
    """Return the `chips` part of engine/coefficients.yaml."""
    chips = {
        chip: {name: float(f"{getattr(numbers, name):.3g}") for name in Coefficients.names()}
        for chip, numbers in fitted.items()
    }
    return yaml.safe_dump({"chips": chips}, sort_keys=False)

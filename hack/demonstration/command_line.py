"""`hack/demo`: options, exit codes, and what is left running with --keep."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from demonstration.kind_site import KindSite
from demonstration.own_site import OwnSite
from demonstration.running import Demo, Options, fresh_folder
from demonstration.site import Site
from demonstration.summary import DemoSummary, show
from fleetpack.cluster.errors import KubernetesError
from fleetpack_simulator.workload import TraceError, read_trace


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Replay this trace (CSV or JSONL, gzip or not) instead of a generated load.",
)
@click.option(
    "--on-kind",
    is_flag=True,
    help="Run on a kind cluster made for it: real kubelets, replicas in containers. Needs a Docker engine, or root on Debian.",
)
@click.option("--seconds", default=105.0, show_default=True, help="How long the load is replayed.")
@click.option("--keep", is_flag=True, help="Leave cluster, operator and engines running.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary there too."
)
@click.option("--name", default="demo", show_default=True, help="Name of the cluster.")
@click.option("--plain", is_flag=True, help="Print the picture now and then instead of redrawing it.")
@click.option(
    "--picture",
    "picture_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the busiest picture as SVG.",
)
def main(
    trace: Path | None,
    on_kind: bool,
    seconds: float,
    keep: bool,
    json_path: Path | None,
    name: str,
    plain: bool,
    picture_path: Path | None,
) -> None:
    """Show fleetpack at work: a real control plane or a kind cluster, real HTTP, a replayed load, a live picture of every core."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    if trace is not None:
        _require_readable(trace)
    folder = fresh_folder(name)
    options = Options(trace=trace, keep=keep, plain=plain, picture_path=picture_path)
    site: Site
    if on_kind:
        site = KindSite(name=name, trace=trace, load_seconds=seconds, keep=keep)
    else:
        site = OwnSite(name=name, folder=folder, trace=trace, load_seconds=seconds)
    try:
        summary = asyncio.run(_run(Demo(site=site, options=options, console=console, folder=folder)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("demo: stopped before its end", highlight=False)
        sys.exit(130)
    except (RuntimeError, KubernetesError) as error:
        console.print(f"[bold red]demo: {error}[/]", highlight=False)
        sys.exit(2)
    show(summary, console)
    target = json_path or folder / "summary.json"
    target.write_text(json.dumps(summary.as_json(), indent=2) + "\n")
    console.print(f"summary: {target}; logs: {folder}", highlight=False)
    if keep:
        console.print(f"still running. Try:\n{site.how_to_go_on()}", highlight=False)
    sys.exit(1 if summary.problems else 0)


def _require_readable(trace: Path) -> None:
    """Refuse a file that is no trace before anything is started."""
    try:
        read_trace(trace)
    except TraceError as error:
        raise click.BadParameter(str(error), param_hint="--trace") from error


async def _run(demo: Demo) -> DemoSummary:
    """Run the demo; a polite end from outside takes down what was brought up, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await demo.run()

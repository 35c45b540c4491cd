"""`fleetpack-sim`: serve simulated replicas in real time, and replay loads against them.

Exit codes: 0 done, 1 the load was not served as it should be (failed requests, or the replayer lagged so that the run says
nothing), 2 wrong usage or settings, 3 a container was not given the cores that its replica needs. Progress and summaries for people go
to the terminal, machine-readable results to files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from aiohttp import web
from rich.console import Console
from rich.table import Table

from fleetpack_simulator.given_cores import (
    VISIBLE_CORES,
    CoresError,
    devices_in,
    refuse_other_number,
    refuse_unreachable,
    visible_cores,
)
from fleetpack_simulator.lazy_commands import LazyGroup
from fleetpack_simulator.load import (
    Endpoints,
    LoadSummary,
    PodEndpoints,
    Quantiles,
    Replayer,
    ReplayOptions,
    StaticEndpoints,
    summarize,
)
from fleetpack_simulator.pods import DEPLOYMENT_LABEL, SERVING_LABEL, watching
from fleetpack_simulator.punctuality import prefer_punctuality
from fleetpack_simulator.registry import PodRegistry, Registry, StaticRegistry
from fleetpack_simulator.server import start_server
from fleetpack_simulator.settings import ESTIMATED, PREFIX, ReplicaSettings, expected_cores, replica_settings
from fleetpack_simulator.workload import (
    GENERATOR_OPTIONS,
    GENERATORS,
    GeneratorOptions,
    Request,
    compress,
    generate,
    read_trace,
    within,
)

CORES_REFUSED_EXIT_CODE = 3
_PROGRESS_SECONDS = 10.0

_kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Follow the Pods of this cluster.",
)


class _Commands(LazyGroup):
    """The commands of `fleetpack-sim`."""

    lazy: Mapping[str, str] = {
        "accelerators": "fleetpack_simulator.report.accelerators_command:accelerators_command",
        "calibrate": "fleetpack_simulator.calibration.command:calibrate_command",
        "compare": "fleetpack_simulator.report.command:compare_command",
        "replay": "fleetpack_simulator.report.replay:replay_command",
        "run": "fleetpack_simulator.scenarios.commands:run",
        "swarm": "fleetpack_simulator.scenarios.commands:swarm",
    }


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def main(verbose: bool) -> None:
    """Simulated inference replicas, and loads to try them with."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


@main.command()
@click.option("--port", default=8000, show_default=True, help="Port of every replica.")
@_kubeconfig_option
@click.option("--model", help="Name of the model; default: FLEETPACK_ENGINE_MODEL.")
@click.option(
    "--model-parameters-billions", type=float, help="Size of the model; default: FLEETPACK_ENGINE_PARAMETERS_BILLIONS."
)
@click.option("--accelerator", help="Accelerator in the catalog; default: FLEETPACK_ENGINE_ACCELERATOR.")
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    help=f"Cores of the replica where no {VISIBLE_CORES} gives it any; otherwise the number that it must give.",
)
@click.option(
    "--device-folder",
    type=click.Path(path_type=Path),
    envvar=PREFIX + "DEVICE_FOLDER",
    help="Start only on cores whose device files are in this folder, as in the image; default: files are not looked at.",
)
@click.option(
    "--max-batch", type=click.IntRange(min=1), help="Largest batch; default: FLEETPACK_ENGINE_MAX_BATCH, else 32."
)
@click.option("--window-tokens", type=click.IntRange(min=1), help="Longest prompt plus output; default 8192.")
@click.option(
    "--drain-seconds", default=30.0, show_default=True, help="How long a stopping replica lets open streams end."
)
def serve(
    port: int, kubeconfig: Path | None, drain_seconds: float, device_folder: Path | None, **given: str | float | None
) -> None:
    """Serve simulated replicas.

    With --kubeconfig one process answers for every Pod that has the label fleetpack.dev/deployment, on the Pod's own (loopback)
    address, and reads each engine's settings from the Pod. Without, it is the one replica of its container, with settings from
    FLEETPACK_ENGINE_* and from the options; it ends with exit code 3 when it was given no cores, or others than it needs.
    """
    if kubeconfig is not None:
        asyncio.run(_serve_pods(kubeconfig, port))
        return
    try:
        settings = _single_replica(given, device_folder)
        registry = StaticRegistry({StaticRegistry.EVERY_ADDRESS: settings})
    except CoresError as refusal:
        hint = "" if VISIBLE_CORES in os.environ or device_folder else "; outside a cluster use --cores N"
        click.echo(f"refused: {refusal}{hint}", err=True)
        raise SystemExit(CORES_REFUSED_EXIT_CODE) from refusal
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if settings.profile.model.estimated:
        click.echo(f"{settings.model_name}: {ESTIMATED}", err=True)
    asyncio.run(_serve_until_stopped(registry, port, drain_seconds=drain_seconds, loopback_only=False))


def _single_replica(given: dict[str, str | float | None], device_folder: Path | None) -> ReplicaSettings:
    names = {
        "model": "MODEL",
        "model_parameters_billions": "PARAMETERS_BILLIONS",
        "accelerator": "ACCELERATOR",
        "cores": "CORES",
        "max_batch": "MAX_BATCH",
        "window_tokens": "WINDOW_TOKENS",
    }
    options = {PREFIX + names[name]: str(value) for name, value in given.items() if value is not None}
    environment = {**os.environ, **options}
    if VISIBLE_CORES not in os.environ and device_folder is None and given["cores"] is not None:
        # Outside a container nobody gives cores; the number stands for them.
        return replica_settings(environment, cores=None)
    cores = visible_cores(os.environ)
    refuse_other_number(cores, expected=expected_cores(environment))
    settings = replica_settings(environment, cores=cores.bit_count())
    if device_folder is not None:
        refuse_unreachable(
            cores, devices=devices_in(device_folder), cores_per_device=settings.profile.hardware.cores_per_device
        )
    return settings


async def _serve_pods(kubeconfig: Path, port: int) -> None:
    async with watching(kubeconfig, label_selector=DEPLOYMENT_LABEL) as watcher:
        registry = PodRegistry(watcher, tell=lambda text: click.echo(text, err=True))
        await _serve_until_stopped(registry, port, drain_seconds=0.0, loopback_only=True)


async def _serve_until_stopped(registry: Registry, port: int, *, drain_seconds: float, loopback_only: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await start_server(registry, port=port, loopback_only=loopback_only, drain_seconds=drain_seconds)
    prefer_punctuality()
    click.echo(f"serving on port {server.port}")
    await stopped.wait()
    await server.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _LoadOptions:
    """The options of `load`: what is replayed, against whom, and where the outcome goes."""

    trace: Path | None
    generator: str | None
    options: tuple[str, ...]
    speed: float
    start_seconds: float
    duration_seconds: float | None
    model: str | None
    deployment: str | None
    kubeconfig: Path | None
    addresses: tuple[str, ...]
    port: int
    status_port: int | None
    json_path: Path | None

    def requests(self) -> tuple[Request, ...]:
        """Read or draw the load."""
        if self.trace is not None:
            requests = read_trace(self.trace)
        else:
            assert self.generator is not None
            requests = generate(self.generator, generator_options(self.generator, self.options))
        requests = compress(within(requests, self.start_seconds, float("inf")), self.speed)
        return requests if self.duration_seconds is None else within(requests, 0, self.duration_seconds)


@main.command()
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Trace file (CSV, JSONL; gzip or not).",
)
@click.option("--generator", type=click.Choice(sorted(GENERATORS)), help="Draw the load instead of reading one.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the generator: rate_per_second=8, seed=1.",
)
@click.option("--speed", default=1.0, show_default=True, help="Let requests arrive this many times as fast.")
@click.option("--start", "start_seconds", default=0.0, help="Begin at this second of the load (before --speed).")
@click.option("--duration", "duration_seconds", type=float, help="Replay this many seconds (after --speed).")
@click.option("--model", help="Model named in the requests.")
@click.option(
    "--deployment", metavar="NAMESPACE/NAME", help="InferenceDeployment whose Pods are sent to; needs --kubeconfig."
)
@_kubeconfig_option
@click.option(
    "--address", "addresses", multiple=True, metavar="HOST:PORT", help="Send here instead of to Pods; may be repeated."
)
@click.option("--port", default=8000, show_default=True, help="Port of the Pods.")
@click.option(
    "--status-port",
    type=int,
    help='Answer here, on loopback, with {"waiting": ...}: a queue signal for scaling from zero.',
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary to this file."
)
def load(**given: Any) -> None:
    """Replay a load against the Ready replicas of an InferenceDeployment, or against given addresses."""
    options = _LoadOptions(**given)
    if (options.trace is None) == (options.generator is None):
        raise click.UsageError("give exactly one of --trace and --generator")
    if options.trace is not None and options.options:
        raise click.UsageError(f"--option {options.options[0]}: it does nothing with --trace; it is for --generator")
    if not options.addresses and (options.kubeconfig is None or "/" not in (options.deployment or "")):
        raise click.UsageError("give --deployment NAMESPACE/NAME with --kubeconfig, or --address HOST:PORT")
    try:
        requests = options.requests()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    summary = asyncio.run(_load(requests, options))
    _print_summary(summary)
    if options.json_path is not None:
        options.json_path.write_text(summary.to_json() + "\n", encoding="utf-8")
    if not summary.is_valid or summary.completed < summary.requests:
        raise SystemExit(1)


def generator_options(generator: str, pairs: tuple[str, ...]) -> GeneratorOptions:
    """Read `name=value` pairs as options of a generator; `ValueError` for what it would pass over."""
    values: dict[str, float | int] = {}
    used = GENERATOR_OPTIONS[generator]
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if name not in used or not equals:
            taken = ", ".join(sorted(used))
            raise ValueError(f"--option {pair}: it must be NAME=VALUE with what {generator} takes: {taken}")
        kind = type(getattr(GeneratorOptions(), name))
        try:
            values[name] = kind(text)
        except ValueError:
            raise ValueError(f"--option {pair}: {text!r} is no {kind.__name__}") from None
    return GeneratorOptions(**values)  # type: ignore[arg-type]


async def _load(requests: tuple[Request, ...], options: _LoadOptions) -> LoadSummary:
    async with _endpoints(options) as endpoints:
        replayer = Replayer(endpoints, ReplayOptions(model=options.model))
        runner = None if options.status_port is None else await _serve_status(replayer, options.status_port)
        prefer_punctuality()
        progress = asyncio.create_task(_tell_progress(replayer, len(requests)))
        running = asyncio.create_task(replayer.run(requests))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        try:
            return await running
        except asyncio.CancelledError:
            # Stopped by a person or a script: what has ended so far is still a result.
            live = replayer.live
            click.echo(f"stopped: {live.due - live.completed - live.failed} open requests are not counted", err=True)
            return summarize(replayer.records)
        finally:
            progress.cancel()
            if runner is not None:
                await runner.cleanup()


@contextlib.asynccontextmanager
async def _endpoints(options: _LoadOptions) -> AsyncIterator[Endpoints]:
    if options.addresses or options.kubeconfig is None or options.deployment is None:
        yield StaticEndpoints(options.addresses)
        return
    namespace, _, name = options.deployment.partition("/")
    selector = f"{DEPLOYMENT_LABEL}={name},{SERVING_LABEL}=true"
    async with watching(options.kubeconfig, label_selector=selector, namespace=namespace) as watcher:
        endpoints = PodEndpoints(watcher, port=options.port)
        await watcher.synced.wait()
        yield endpoints


async def _serve_status(replayer: Replayer, port: int) -> web.AppRunner:
    async def status(_: web.Request) -> web.Response:
        live = replayer.live
        return web.json_response(
            {"waiting": live.held, "outstanding": live.outstanding, "completed": live.completed, "failed": live.failed}
        )

    app = web.Application()
    app.router.add_get("/", status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _tell_progress(replayer: Replayer, total: int) -> None:
    console = Console(stderr=True)
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        live = replayer.live
        console.print(
            f"{live.due}/{total} due, {live.completed} completed, {live.outstanding} outstanding, {live.held} held, "
            f"{live.failed} failed, {live.retries} retries"
        )


def _print_summary(summary: LoadSummary) -> None:
    console = Console()
    table = Table(
        title=f"{summary.completed} of {summary.requests} requests completed in {summary.duration_seconds:.1f} s"
    )
    for heading in ("", "p50", "p95", "p99", "maximum"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows: tuple[tuple[str, Quantiles | None], ...] = (
        ("time to first token", summary.time_to_first_token),
        ("latency", summary.latency),
        ("queue wait", summary.queue_wait),
        ("replayer's own lag", summary.lag),
    )
    for name, values in rows:
        if values is not None:
            figures = (values.p50_seconds, values.p95_seconds, values.p99_seconds, values.maximum_seconds)
            table.add_row(name, *(f"{seconds:.3f} s" for seconds in figures))
    console.print(table)
    console.print(
        f"{summary.completed_per_second:.1f} requests/s, {summary.output_tokens} tokens, {summary.retries} retries, "
        f"{summary.refused} refused, {summary.gave_up} gave up"
    )
    if not summary.is_valid:
        console.print(
            f"[bold red]void:[/] the replayer lagged by more than {summary.lag_limit_seconds * 1000:.0f} ms at p99"
        )


if __name__ == "__main__":
    main()

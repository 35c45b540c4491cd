"""The `fleetpack` command (also `kubectl fleetpack`)."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import click

from fleetpack.cli.device_plugin import device_plugin
from fleetpack.cli.replay import plan_command
from fleetpack.listening import place_of
from fleetpack.settings import Settings


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logging(log_format: str) -> None:
    """Log to standard error, as text or as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # httpx tells of every single reading of every signal.
    logging.getLogger("httpx").setLevel(logging.WARNING)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fleetpack")
def main() -> None:
    """How many replicas inference models need, and on which accelerator cores: decided in one plan."""


main.add_command(plan_command)
main.add_command(device_plugin)


@main.group()
def operator() -> None:
    """The operator process."""


@operator.command("run")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    envvar="KUBECONFIG",
    help="Credentials; without it the service account of the Pod.",
)
@click.option(
    "--lease-namespace",
    default="fleetpack-system",
    envvar="POD_NAMESPACE",
    show_default=True,
    help="Namespace of the Lease that makes one of the running operators the writer.",
)
@click.option("--lease-name", default="fleetpack", show_default=True, help="Name of that Lease.")
@click.option(
    "--identity",
    default="",
    envvar="FLEETPACK_IDENTITY",
    help="Name in the Lease; default: host name and a random part.",
)
@click.option(
    "--http-host",
    default="",
    show_default="every address, of IPv4 and IPv6",
    help="Address for /metrics, /livez and /readyz.",
)
@click.option("--http-port", default=8080, show_default=True, help="Port for them; 0 takes a free one.")
@click.option(
    "--writes-per-second",
    default=50.0,
    show_default=True,
    help="Actions sent to the API server, sustained; status and events have half of that beside.",
)
@click.option("--write-burst", default=100, show_default=True, help="Actions sent to the API server at once.")
@click.option(
    "--record",
    "record_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append each planning pass that leads to actions to this file, for `fleetpack plan`.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(  # one parameter for each option: this is click's way
    kubeconfig: Path | None,
    lease_namespace: str,
    lease_name: str,
    identity: str,
    http_host: str,
    http_port: int,
    writes_per_second: float,
    write_burst: int,
    record_file: Path | None,
    log_format: str,
) -> None:
    """Run the operator until it is told to stop (SIGTERM)."""
    from fleetpack.cluster.errors import ConfigurationError
    from fleetpack.main import run_operator

    configure_logging(log_format)
    settings = Settings(
        kubeconfig=kubeconfig,
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        identity=identity,
        http_host=http_host,
        http_port=http_port,
        writes_per_second=writes_per_second,
        write_burst=write_burst,
        record_file=record_file,
        log_format=log_format,
    )
    try:
        asyncio.run(run_operator(settings))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"cannot serve on {place_of(http_host, http_port)}: {error}; choose another --http-port"
        ) from error

"""`fleetpack device-plugin`: the command of the DaemonSet on accelerator nodes.

Only options and their checks; what they mean is in `fleetpack.device_plugin`, which is imported when the command runs, because it needs
packages that only the extra `device-plugin` brings.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from fleetpack.listening import place_of

PLUGIN_FOLDER = "/var/lib/kubelet/device-plugins"
POD_RESOURCES_SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"


@click.command("device-plugin")
@click.option("--node-name", required=True, envvar="NODE_NAME", help="Name of the node that it runs on.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    envvar="KUBECONFIG",
    help="Credentials; without it the service account of the Pod.",
)
@click.option(
    "--source",
    type=click.Choice(["neuron", "simulated"]),
    default="neuron",
    show_default=True,
    help="The driver's /dev/neuron*, or devices that do not exist, as many as the instance type has.",
)
@click.option("--instance-type", default="", help="Machine type; default: the node's instance type label.")
@click.option(
    "--cores-per-device", default=0, help="For a machine that the catalog does not have: how many cores a device has."
)
@click.option(
    "--core-numbering",
    type=click.Choice(["container", "host"]),
    default="container",
    show_default=True,
    help="What NEURON_RT_VISIBLE_CORES counts: drivers since 2.16 number the container's own cores from 0.",
)
@click.option("--whole-devices", is_flag=True, help="Announce aws.amazon.com/neuron too, over the same silicon.")
@click.option(
    "--numa", "with_numa", is_flag=True, help="Tell NUMA nodes: a TopologyManager policy then overrides plans."
)
@click.option(
    "--plugin-folder", type=click.Path(path_type=Path), default=PLUGIN_FOLDER, show_default=True, help="Of the kubelet."
)
@click.option(
    "--pod-resources-socket",
    type=click.Path(path_type=Path),
    default=POD_RESOURCES_SOCKET,
    show_default=True,
    help="The kubelet's list of who holds what.",
)
@click.option(
    "--unhealthy-file",
    type=click.Path(path_type=Path),
    help="A file that names what is out: neuron-3, neuroncore-7, or all.",
)
@click.option("--neuron-monitor-url", default="", help="Prometheus page of the node's neuron-monitor.")
@click.option(
    "--http-host",
    default="",
    show_default="every address, of IPv4 and IPv6",
    help="Address for /metrics, /livez and /readyz.",
)
@click.option("--http-port", default=8081, show_default=True, help="Port for them; 0 takes a free one.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def device_plugin(**options: object) -> None:
    """Give replicas the cores that were planned for them, through this node's kubelet."""
    from fleetpack.cli import configure_logging

    configure_logging(str(options.pop("log_format")))
    try:
        from fleetpack.device_plugin.process import run_device_plugin
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it with: pip install 'fleetpack[device-plugin]'") from error
    from fleetpack.cluster.errors import ConfigurationError
    from fleetpack.device_plugin.settings import settings_from_options
    from fleetpack.device_plugin.sources import SourceError

    settings = settings_from_options(options)
    try:
        asyncio.run(run_device_plugin(settings))
    except (ConfigurationError, SourceError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        place = place_of(settings.http_host, settings.http_port)
        raise click.ClickException(f"cannot serve on {place}: {error}; choose another --http-port") from error

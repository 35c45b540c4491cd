"""Settings of one device plugin: command line first, then environment, then these defaults."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fleetpack.device_plugin.sources import CoreNumbering
from fleetpack.listening import EVERY_ADDRESS

PLUGIN_FOLDER = Path("/var/lib/kubelet/device-plugins")
POD_RESOURCES_SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")


class SourceKind(StrEnum):
    """Where devices come from."""

    NEURON = "neuron"
    """The Neuron driver's files under /dev."""
    SIMULATED = "simulated"
    """None that exist: as many as the instance type has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """How one device plugin runs."""

    node_name: str
    kubeconfig: Path | None = None
    """None: in-cluster credentials, else KUBECONFIG."""
    source: SourceKind = SourceKind.NEURON
    instance_type: str = ""
    """Empty: the node's label says it."""
    cores_per_device: int = 0
    """For a machine that the catalog does not have; 0: the catalog says it."""
    core_numbering: CoreNumbering = CoreNumbering.CONTAINER
    whole_devices: bool = False
    """Whether aws.amazon.com/neuron is announced too."""
    with_numa: bool = False
    plugin_folder: Path = PLUGIN_FOLDER
    pod_resources_socket: Path = POD_RESOURCES_SOCKET
    device_folder: Path = Path("/dev")
    unhealthy_file: Path | None = None
    """Names what is out; None: no file is looked at."""
    neuron_monitor_url: str = ""
    """Empty: no neuron-monitor is read. The node's address in it may stand without the brackets that IPv6 needs."""
    http_host: str = EVERY_ADDRESS
    """Empty: every address, of IPv4 and of IPv6."""
    http_port: int = 8081
    """For /metrics, /livez and /readyz; 0: a free port."""


def settings_from_options(options: dict[str, Any]) -> PluginSettings:
    """Return the settings from the command line's options, whose names are those of the fields."""
    kinds = {"source": SourceKind(options["source"]), "core_numbering": CoreNumbering(options["core_numbering"])}
    monitor = with_brackets(options["neuron_monitor_url"], os.environ.get("HOST_IP", ""))
    return PluginSettings(**{**options, **kinds, "neuron_monitor_url": monitor})


def with_brackets(url: str, host_address: str) -> str:
    """Put an IPv6 address of the node into brackets: one value of the chart serves nodes of both families.

    Who writes `http://$(HOST_IP):8000/metrics` cannot know what the kubelet will put in. Only that very address is looked for: in
    `http://fd00::8:8000` alone nobody could tell whether the last number is a port.
    """
    if ":" not in host_address:
        return url
    return re.sub(rf"//{re.escape(host_address)}(?=(:\d+)?([/?#]|$))", f"//[{host_address}]", url, count=1)

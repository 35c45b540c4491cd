"""Where devices come from: simulated ones of an instance type, or the real ones behind /dev/neuron*.

A source knows the machine's type, which devices are there now, what a container must be given to reach one, and how the driver
numbers cores inside a container. A device that the machine's type has and the source does not find counts as broken, not as absent:
capacity stays what the machine has.

Failure: a machine that cannot be told ends the start with `SourceError`, which names what was looked for and the flag that says it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fleetpack.catalog import AllocationPolicy, Catalog, InstanceType, UnknownInstanceType
from fleetpack.core.cores import core_ids, format_cores
from fleetpack.core.packing.topology import counted
from fleetpack.device_plugin.silicon import NeuronResource, devices_of

VISIBLE_CORES_VARIABLE = "NEURON_RT_VISIBLE_CORES"
"""What the Neuron runtime takes its cores from (aws-neuron-sdk, nrt configuration)."""
UNLISTED_ACCELERATOR = "neuron"

_DEVICE_NAME = re.compile(r"neuron(\d+)")


class SourceError(Exception):
    """The node's devices cannot be told; the message says what to set."""


class CoreNumbering(StrEnum):
    """What `NEURON_RT_VISIBLE_CORES` counts."""

    CONTAINER = "container"
    """From 0, over the devices that the container has: drivers since 2.16 (aws-neuron-sdk, release notes)."""
    HOST = "host"
    """The node's own core ids: earlier drivers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFile:
    """A device node that a container gets."""

    container_path: str
    host_path: str
    permissions: str = "rw"


class DeviceSource(Protocol):
    """The silicon of this node."""

    @property
    def instance_type(self) -> InstanceType:
        """The machine: devices, cores, rules."""

    @property
    def core_numbering(self) -> CoreNumbering:
        """How containers count their cores."""

    def present_devices(self) -> frozenset[int]:
        """Return the devices that can be used now; asked every second."""

    def device_file(self, device: int) -> DeviceFile:
        """Return what a container needs for this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDevices:
    """Devices that do nothing: the files in the container are copies of a harmless one of the node."""

    instance_type: InstanceType
    core_numbering: CoreNumbering = CoreNumbering.CONTAINER
    stand_in: str = "/dev/null"
    """The node's device file that stands behind every /dev/neuronN."""

    def present_devices(self) -> frozenset[int]:
        """Return every device: simulated ones break only when told to."""
        return frozenset(range(self.instance_type.devices))

    def device_file(self, device: int) -> DeviceFile:
        """Return /dev/neuronN, with the stand-in behind it."""
        return DeviceFile(container_path=f"/dev/neuron{device}", host_path=self.stand_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronDevices:
    """Real devices: what the Neuron driver shows under /dev."""

    instance_type: InstanceType
    core_numbering: CoreNumbering = CoreNumbering.CONTAINER
    device_folder: Path = Path("/dev")

    def present_devices(self) -> frozenset[int]:
        """Return the devices whose files are there."""
        return found_devices(self.device_folder)

    def device_file(self, device: int) -> DeviceFile:
        """Return the device's own file, under the same name in the container."""
        path = f"/dev/neuron{device}"
        return DeviceFile(container_path=path, host_path=path)


def found_devices(folder: Path) -> frozenset[int]:
    """Return the numbers of the device files in a folder; empty where there is no such folder."""
    if not folder.is_dir():
        return frozenset()
    matches = (_DEVICE_NAME.fullmatch(path.name) for path in folder.iterdir())
    return frozenset(int(match.group(1)) for match in matches if match)


def machine_of(catalog: Catalog, name: str) -> InstanceType:
    """Return the instance type of that name; raises `SourceError` where it is not in the catalog or has no Neuron cores."""
    found = catalog.instance_type(name)
    if isinstance(found, UnknownInstanceType):
        nearest = f"; the nearest are {', '.join(found.nearest)}" if found.nearest else ""
        raise SourceError(
            f"instance type {name!r} is not in the catalog{nearest}; correct --instance-type or the node's label, "
            f"or give --cores-per-device for a machine that is not listed"
        )
    if counted(found) or found.resource_name != NeuronResource.CORE:
        raise SourceError(
            f"instance type {name!r} has no Neuron cores (it offers {found.resource_name}); "
            f"run the device plugin on Neuron nodes only"
        )
    return found


def unlisted_machine(name: str, *, devices: int, cores_per_device: int) -> InstanceType:
    """Return a machine that the catalog does not have: one device, or all of them, may serve one replica, as everywhere.

    "One or all Neuron cores or devices is always valid" (aws-neuron-sdk, deploy/infrastructure/scheduler.rst).
    """
    if devices < 1 or cores_per_device < 1:
        raise SourceError(
            f"instance type {name!r} is not listed: {devices} devices with {cores_per_device} cores each; both must be at "
            f"least 1: is the Neuron driver loaded?"
        )
    return InstanceType(
        name=name,
        accelerator=UNLISTED_ACCELERATOR,
        devices=devices,
        cores_per_device=cores_per_device,
        allocation_policy=AllocationPolicy.ALIGNED,
        allowed_device_counts=tuple(sorted({1, devices})),
        resource_name=NeuronResource.CORE.value,
    )


def visible_cores(source: DeviceSource, cores: int) -> str:
    """Return the value of `NEURON_RT_VISIBLE_CORES` for a container that gets these cores."""
    if source.core_numbering is CoreNumbering.HOST:
        return format_cores(cores)
    per_device = source.instance_type.cores_per_device
    position = {device: index for index, device in enumerate(devices_of(source.instance_type, cores))}
    mask = 0
    for core in core_ids(cores):
        mask |= 1 << (position[core // per_device] * per_device + core % per_device)
    return format_cores(mask)


def device_files(source: DeviceSource, cores: int) -> tuple[DeviceFile, ...]:
    """Return the files of every device that has one of these cores."""
    return tuple(source.device_file(device) for device in devices_of(source.instance_type, cores))

"""Which cores a container was given, read as a Neuron runtime reads them: `NEURON_RT_VISIBLE_CORES` and the files /dev/neuronN.

A replica must not look alive on cores that it does not have, so every doubt ends the start: no variable, a core whose device is not in
the container, another number than the replica was made for. The variable may count from 0 over the container's devices, or be the
node's own ids (before Neuron 2.16), and a container cannot tell which; a core is there when either reading finds its device.

Boundary: values in, a value or `CoresError` out; the one folder that is looked at is a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fleetpack.core.cores import core_ids, format_cores, parse_cores, range_mask

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
_DEVICE_NAME = re.compile(r"neuron(\d+)")


class CoresError(Exception):
    """The container has no cores, or not those that its replica needs; the message says what was found and what to do."""


def visible_cores(environment: Mapping[str, str]) -> int:
    """Return the mask of cores that the container was told of."""
    text = environment.get(VISIBLE_CORES, "").strip()
    if not text:
        raise CoresError(
            f"{VISIBLE_CORES} is not set: this container was given no cores; its Pod must ask for aws.amazon.com/neuroncore "
            f"on a node with a device plugin"
        )
    try:
        return parse_cores(text)
    except ValueError as error:
        raise CoresError(f"{VISIBLE_CORES} is {text!r}: {error}") from error


def devices_in(folder: Path) -> frozenset[int]:
    """Return the numbers of the device files in a folder, /dev in a container."""
    matches = (_DEVICE_NAME.fullmatch(path.name) for path in folder.glob("neuron*"))
    return frozenset(int(match.group(1)) for match in matches if match)


def refuse_unreachable(cores: int, *, devices: Iterable[int], cores_per_device: int) -> None:
    """Raise `CoresError` when no way of counting finds every core on one of these devices."""
    present = sorted(devices)
    if not present:
        raise CoresError(
            f"{VISIBLE_CORES} is {format_cores(cores)!r}, but there is no /dev/neuron* in this container: no device was handed to it"
        )
    from_zero = range_mask(0, len(present) * cores_per_device)
    on_the_node = 0
    for device in present:
        on_the_node |= range_mask(device * cores_per_device, cores_per_device)
    if cores & ~from_zero and cores & ~on_the_node:
        readings = format_cores(from_zero)
        if on_the_node != from_zero:
            readings += f", or {format_cores(on_the_node)} by the node's count"
        raise CoresError(
            f"{VISIBLE_CORES} is {format_cores(cores)!r}, but {', '.join(f'/dev/neuron{device}' for device in present)} "
            f"with {cores_per_device} cores each have the cores {readings}"
        )


def refuse_other_number(cores: int, *, expected: int | None) -> None:
    """Raise `CoresError` when the container has another number of cores than its replica was made for (None: any)."""
    given = sum(1 for _ in core_ids(cores))
    if expected is not None and given != expected:
        raise CoresError(
            f"the replica is made for {expected} cores (FLEETPACK_ENGINE_CORES), and the container was given {given} "
            f"({VISIBLE_CORES}={format_cores(cores)}); the variant's cores and the engine's setting must agree"
        )

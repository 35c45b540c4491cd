"""Which cores are out, from everybody who may say so: people, files, node conditions, missing device files.

Each cause names a mask of cores; a core is out while any cause names it, and comes back when the last one lets go. The causes are
read elsewhere; here are the words in which they speak. Text that cannot be read is a `ValueError`: the caller keeps what
it knew, because a typing error in a file must neither take a node out nor bring broken silicon back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fleetpack.catalog import InstanceType
from fleetpack.cluster.node_health import devices_out_by_condition
from fleetpack.core.cores import range_mask
from fleetpack.device_plugin.silicon import NeuronResource, Refusal, device_mask, mask_of_ids


def all_cores(instance_type: InstanceType) -> int:
    """Return every core of the node."""
    return range_mask(0, instance_type.cores)


def named_cores(instance_type: InstanceType, text: str) -> int:
    """Read a list of what is out: `neuron-3`, `neuroncore-7`, `all`, by lines, blanks or commas; `#` begins a comment.

    Raises `ValueError` that quotes the word which is none of these.
    """
    mask = 0
    for line in text.splitlines():
        for word in re.split(r"[\s,]+", line.partition("#")[0].strip()):
            if word == "all":
                mask |= all_cores(instance_type)
            elif word:
                mask |= _named(instance_type, word)
    return mask


def cores_out_by_condition(instance_type: InstanceType, conditions: tuple[Mapping[str, Any], ...]) -> int:
    """Return the cores that the node's conditions take out: the devices named in the message, or else all."""
    devices = devices_out_by_condition(conditions)
    if devices is None:
        return 0
    known = [number for number in devices if number < instance_type.devices]
    return device_mask(instance_type, known) or all_cores(instance_type)


def _named(instance_type: InstanceType, word: str) -> int:
    resource = NeuronResource.CORE if word.startswith("neuroncore-") else NeuronResource.DEVICE
    mask = mask_of_ids(instance_type, resource, (word,))
    if isinstance(mask, Refusal):
        raise ValueError(
            f"{word!r} is not on this {instance_type.name}: write neuron-0 to neuron-{instance_type.devices - 1}, "
            f"neuroncore-0 to neuroncore-{instance_type.cores - 1}, or all"
        )
    return mask

"""What a node gave out over time, and whether any core was ever given twice; and the random Pods that try to make it so.

Concept: a reading is what the kubelet said at one moment, in its own two forms: PodResources and the checkpoint. `double_gifts` goes
through all readings, `views_of` brings what four parties say of one Pod into one form: cores of the node. Boundary: pure, and
shares no code with the plugin, the catalog or the core: it checks them. Failure: a device name that it cannot read is a `ValueError`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CORE_RESOURCE = "aws.amazon.com/neuroncore"
DEVICE_RESOURCE = "aws.amazon.com/neuron"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPod:
    """One Pod of a random run."""

    name: str
    cores: int
    foreign: bool
    """Without a plan, as somebody else's Pod."""
    stays_seconds: float
    """How long it is left alone once everything about it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The cores of one Pod as each party has them; None: it says nothing of the Pod."""

    checkpoint: frozenset[int] | None
    pod_resources: frozenset[int] | None
    environment: frozenset[int] | None
    annotation: frozenset[int] | None

    @property
    def agree(self) -> bool:
        """Whether all four say the same, and something."""
        return (
            self.checkpoint is not None and self.checkpoint == self.pod_resources == self.environment == self.annotation
        )


def random_pods(seed: int, count: int, largest: int) -> tuple[RandomPod, ...]:
    """Return Pods of 1 to `largest` cores, small ones more often, a fifth of them foreign."""
    chance = random.Random(seed)
    foreign = [number % 5 == 0 for number in range(count)]
    chance.shuffle(foreign)
    return tuple(
        RandomPod(
            name=f"pod-{number:03}",
            # With sizes that are equally likely two Pods would fill the node; so, five share it as a rule.
            cores=min(largest, int((largest + 1) ** chance.random() ** 2)),
            foreign=foreign[number],
            stays_seconds=chance.uniform(0.0, 1.0),
        )
        for number in range(count)
    )


def double_gifts(readings: Iterable[Mapping[str, Any]], cores_per_device: int) -> tuple[str, ...]:
    """Return a sentence for each core that two containers had in one reading; nothing where that never was."""
    found: dict[str, None] = {}
    for reading in readings:
        for source in ("pod_resources", "checkpoint"):
            owners: dict[int, str] = {}
            for holder, given in (reading.get(source) or {}).items():
                ids = given["ids"] if source == "checkpoint" else given
                for core in sorted(cores_of_ids(ids, cores_per_device)):
                    other = owners.setdefault(core, holder)
                    if other != holder:
                        found[f"{source}: core {core} is with {other} and with {holder}"] = None
    return tuple(found)


def cores_of_ids(ids: Iterable[str], cores_per_device: int) -> frozenset[int]:
    """Return the node's cores behind names of devices: `neuroncore-7`, or `neuron-3` for a whole device."""
    cores: set[int] = set()
    for one in ids:
        kind, _, number = one.partition("-")
        if kind == "neuroncore":
            cores.add(int(number))
        elif kind == "neuron":
            first = int(number) * cores_per_device
            cores.update(range(first, first + cores_per_device))
        else:
            raise ValueError(f"device {one!r} is neither neuroncore-N nor neuron-N")
    return frozenset(cores)


def cores_of_text(text: str) -> frozenset[int]:
    """Return the numbers in `0-3,8`."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def node_cores(visible: str, devices: Iterable[int], cores_per_device: int, numbering: str) -> frozenset[int]:
    """Return the node's cores that a container sees: `visible` counts from 0 over its devices, or (`host`) is the node's own."""
    seen = cores_of_text(visible)
    if numbering == "host":
        return seen
    ordered = sorted(devices)
    return frozenset(ordered[core // cores_per_device] * cores_per_device + core % cores_per_device for core in seen)


def views_of(
    pod: Mapping[str, Any],
    reading: Mapping[str, Any],
    told: Mapping[str, Any] | None,
    *,
    cores_per_device: int,
    numbering: str,
) -> Views:
    """Return what everybody says of a Pod; `told` is what its container printed (kind_programs/core_holder.py)."""
    metadata = pod["metadata"]
    annotation = (metadata.get("annotations") or {}).get("fleetpack.dev/allocated-cores")
    listed = _of(reading.get("pod_resources"), f"{metadata['namespace']}/{metadata['name']}/")
    written = _of(reading.get("checkpoint"), f"{metadata['uid']}/")
    return Views(
        checkpoint=cores_of_ids((one for entry in written for one in entry["ids"]), cores_per_device)
        if written
        else None,
        pod_resources=cores_of_ids((one for ids in listed for one in ids), cores_per_device) if listed else None,
        environment=node_cores(told["visible"], told["devices"], cores_per_device, numbering) if told else None,
        annotation=cores_of_text(annotation) if annotation else None,
    )


def _of(entries: Mapping[str, Any] | None, prefix: str) -> list[Any]:
    return [value for key, value in (entries or {}).items() if key.startswith(prefix)]

"""Which variants of which accelerators are tried for a model, on which machines they run, and what whole machines cost.

Devices per replica follow the allocation rules of the catalog's machines; of many counts the powers of two and the largest are tried.
An accelerator that the catalog has no machine for is tried with 1, 2, 4 and 8 devices and has no price. The user's own file adds
accelerators, instance types and prices:

    accelerators:
      inferentia3:
        {vendor: aws, physical_cores: 4, memory_gib: 96, memory_bandwidth_gb_per_second: 3000, tflops_bf16: 600}
    instance_types:
      inf3.24xlarge:
        {accelerator: inferentia3, devices: 6, cores_per_device: 4, topology: ring, allocation: contiguous-window,
         price_usd_per_hour: 12}
    prices: {trn2.48xlarge: 40.0}

A file that is not understood is refused with `CatalogFileError`, which names the entry and the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from fleetpack.catalog import Accelerator, AllocationPolicy, Catalog, CatalogError, InstanceType, Topology

UNCATALOGUED_COUNTS = (1, 2, 4, 8)
_POWERS = (1, 2, 4, 8, 16)
_MACHINE_FIELDS = {
    "accelerator",
    "devices",
    "cores_per_device",
    "topology",
    "allocation",
    "device_counts",
    "price_usd_per_hour",
}


class CatalogFileError(ValueError):
    """A file of accelerators, instance types and prices that is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Machines for a fleet."""

    counts: tuple[tuple[str, int], ...]
    """Instance type and how many."""
    usd_per_hour: float
    idle_devices: int
    """Devices that are paid for and that no replica has."""


def device_counts(types: Iterable[InstanceType]) -> tuple[int, ...]:
    """Return the numbers of devices that one replica may have on any of these machines, as far as they are tried."""
    allowed = sorted({count for one in types for count in one.allowed_device_counts})
    return tuple(count for count in allowed if count in _POWERS or count == allowed[-1])


def replicas_on(machine: InstanceType, devices: int) -> int:
    """Return how many replicas of so many devices one machine holds: windows next to each other, which every rule allows."""
    return machine.devices // devices if devices in machine.allowed_device_counts else 0


def cheapest_machines(types: Iterable[InstanceType], devices: int, replicas: int) -> Machines | None:
    """Return the cheapest machines that hold so many replicas; None: no machine that may hold one has a price.

    Least cost to cover at least n replicas, for n from 0 up: an unbounded knapsack, exact.
    """
    offers = sorted(
        (one.name, replicas_on(one, devices), one.price_usd_per_hour, one.devices)
        for one in types
        if one.price_usd_per_hour is not None and replicas_on(one, devices)
    )
    if not offers:
        return None
    best: list[tuple[float, tuple[str, int, float, int] | None]] = [(0.0, None)]
    for needed in range(1, replicas + 1):
        best.append(min((best[max(0, needed - offer[1])][0] + offer[2], offer) for offer in offers))
    counts: dict[str, int] = {}
    rest, idle = replicas, -replicas * devices
    while rest > 0:
        offer = best[rest][1]
        assert offer is not None
        counts[offer[0]] = counts.get(offer[0], 0) + 1
        idle += offer[3]
        rest -= offer[1]
    return Machines(counts=tuple(sorted(counts.items())), usd_per_hour=best[replicas][0], idle_devices=idle)


def with_file(catalog: Catalog, path: Path) -> Catalog:
    """Return a catalog that has a file's accelerators, instance types and prices too."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise CatalogFileError(f"{path}: cannot be read: {error}") from error
    _known(content, {"accelerators", "instance_types", "prices"}, str(path))
    try:
        own = [_accelerator(name, entry, path) for name, entry in (content.get("accelerators") or {}).items()]
        catalog = catalog.with_accelerators(own)
        machines = [_machine(name, entry, path) for name, entry in (content.get("instance_types") or {}).items()]
        catalog = catalog.with_instance_types(machines)
        prices = {name: float(price) for name, price in (content.get("prices") or {}).items()}
        return catalog.with_prices(prices) if prices else catalog
    except (CatalogError, TypeError, KeyError, ValueError) as error:
        raise error if isinstance(error, CatalogFileError) else CatalogFileError(f"{path}: {error}") from error


def _accelerator(name: str, entry: Any, path: Path) -> Accelerator:
    where = f"{path}: accelerators.{name}"
    _known(entry, {one.name for one in fields(Accelerator)} - {"name", "sources", "unverified"}, where)
    for field in ("memory_gib", "memory_bandwidth_gb_per_second", "tflops_bf16"):
        if not isinstance(entry.get(field), int | float) or entry[field] <= 0:
            raise CatalogFileError(f"{where}: {field} is {entry.get(field)!r}, it must be a number above zero")
    return replace(Accelerator(name=name), **entry)


def _machine(name: str, entry: Any, path: Path) -> InstanceType:
    where = f"{path}: instance_types.{name}"
    _known(entry, _MACHINE_FIELDS, where)
    missing = sorted({"accelerator", "devices"} - set(entry))
    if missing:
        raise CatalogFileError(f"{where}: {', '.join(missing)} must be given")
    devices = int(entry["devices"])
    policy = AllocationPolicy(entry.get("allocation", "single" if devices == 1 else "count"))
    counts = (1,) if policy is AllocationPolicy.SINGLE else tuple(entry.get("device_counts") or range(1, devices + 1))
    return InstanceType(
        name=name,
        cloud="own",
        accelerator=str(entry["accelerator"]),
        devices=devices,
        cores_per_device=int(entry.get("cores_per_device", 1)),
        topology=Topology(entry.get("topology", "none")),
        allocation_policy=policy,
        allowed_device_counts=counts,
        resource_name="",
        price_usd_per_hour=entry.get("price_usd_per_hour"),
    )


def _known(given: Any, known: set[str], where: str) -> None:
    if not isinstance(given, Mapping):
        raise CatalogFileError(f"{where}: {given!r} is no mapping")
    if unknown := sorted(set(given) - known):
        raise CatalogFileError(f"{where}: {', '.join(unknown)} is not known; known are {', '.join(sorted(known))}")

"""Reads the catalog's data files, once per process.

In the files each value stands under the source that says it; the reader turns that into one flat value per entry with
a `Source` per field, and units that sources print in GiB/s or MiB into those of the types. The files are part of the
package and are read through `importlib.resources`, so that this also works from a zip. Nothing else is read, ever.

Fails with `CatalogError` naming entry and field when a file is not what the types expect: a broken installation or an
edit gone wrong, never something that a user of the cluster can cause.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib import resources
from typing import Any

import yaml

from fleetpack.catalog.types import (
    Accelerator,
    AllocationPolicy,
    Catalog,
    CatalogError,
    InstanceType,
    NumaNode,
    Source,
    Topology,
)

_GB_PER_GIB = 2**30 / 10**9
_BYTES_PER_MIB = 2**20

# The C parser is some ten times faster; PyYAML has it only where it was built with libyaml.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def load_catalog() -> Catalog:
    """Return the catalog that comes with fleetpack; the same value each time."""
    chips = _read_file("accelerators.yaml")
    machines = _read_file("instance_types.yaml")
    accelerators = {name: _accelerator(name, entry, chips["sources"]) for name, entry in chips["accelerators"].items()}
    instance_types = {name: _instance_type(name, entry, machines) for name, entry in machines["instance_types"].items()}
    return Catalog(
        accelerators=accelerators,
        instance_types=instance_types,
        price_region=machines["price_region"],
        price_date=machines["price_date"],
    )


def _read_file(name: str) -> dict[str, Any]:
    text = resources.files("fleetpack.catalog").joinpath("data", name).read_bytes()
    content = yaml.load(text, Loader=_YAML_LOADER)
    if not isinstance(content, dict):
        raise CatalogError(f"catalog file {name}: holds no mapping; reinstall fleetpack")
    return content


def _accelerator(name: str, entry: Mapping[str, Any], references: Mapping[str, str]) -> Accelerator:
    values, sources = _facts(f"accelerator {name!r}", entry, references, _ACCELERATOR_FIELDS)
    return Accelerator(
        name=name,
        vendor=entry["vendor"],
        resource_names=tuple(entry["resource_names"]),
        sources=sources,
        unverified=_unverified(entry),
        notes=entry.get("notes", ""),
        **values,
    )


def _instance_type(name: str, entry: Mapping[str, Any], machines: Mapping[str, Any]) -> InstanceType:
    references = machines["sources"]
    values, sources = _facts(f"instance type {name!r}", entry, references, _INSTANCE_TYPE_FIELDS)
    # Without a published rule no count is allowed: nothing is placed on a guess.
    policy, counts = AllocationPolicy.ALIGNED, tuple[int, ...]()
    if rule_name := entry.get("allocation"):
        rule = machines["allocation_rules"][rule_name]
        policy = AllocationPolicy(rule["policy"])
        every_count = range(1, values["devices"] + 1)
        counts = tuple(every_count if rule["device_counts"] == "all" else rule["device_counts"])
        sources = (*sources, Source(field="allowed_device_counts", reference=references[rule["source"]]))
    return InstanceType(
        name=name,
        cloud=entry["cloud"],
        accelerator=entry["accelerator"],
        resource_name=entry["resource_name"],
        allocation_policy=policy,
        allowed_device_counts=counts,
        verified=entry["verified"],
        sources=sources,
        unverified=_unverified(entry),
        notes=entry.get("notes", ""),
        **values,
    )


def _facts(
    label: str, entry: Mapping[str, Any], references: Mapping[str, str], known_fields: frozenset[str]
) -> tuple[dict[str, Any], tuple[Source, ...]]:
    """Return the values of an entry by the names of our fields, and the source of each, unverified ones included."""
    values: dict[str, Any] = {}
    sources: list[Source] = []
    for source_key, key, raw in _grouped(entry.get("facts", {})):
        name, value = _converted(key, raw)
        if name not in known_fields or name in values:
            raise CatalogError(f"catalog data, {label}: field {key!r} is unknown or given twice; see catalog/types.py")
        if source_key not in references:
            raise CatalogError(f"catalog data, {label}: field {key!r} names source {source_key!r}, not under `sources`")
        values[name] = value
        sources.append(Source(field=name, reference=references[source_key]))
    for source_key, key, _ in _grouped(entry.get("unverified", {})):
        sources.append(Source(field=f"unverified.{key}", reference=references[source_key]))
    return values, tuple(sources)


def _unverified(entry: Mapping[str, Any]) -> tuple[tuple[str, float | str], ...]:
    return tuple((key, value) for _, key, value in _grouped(entry.get("unverified", {})))


def _grouped(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for source_key, group in groups.items():
        for key, value in group.items():
            yield source_key, key, value


def _converted(key: str, value: Any) -> tuple[str, Any]:
    if key in _CONVERSIONS:
        name, convert = _CONVERSIONS[key]
        return name, convert(value)
    return key, tuple(value) if isinstance(value, list) else value


def _gb_per_second(gib_per_second: float) -> float:
    return round(gib_per_second * _GB_PER_GIB, 3)


def _numa_nodes(entries: list[dict[str, Any]]) -> tuple[NumaNode, ...]:
    return tuple(NumaNode(node=one["node"], devices=tuple(one["devices"]), cpus=one["cpus"]) for one in entries)


# Keys of the files whose value has another form than the field of the types, and how it gets there.
_CONVERSIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "memory_bandwidth_gib_per_second": ("memory_bandwidth_gb_per_second", _gb_per_second),
    "device_link_gib_per_second": ("device_link_gb_per_second", _gb_per_second),
    "allocatable_memory_mib": ("allocatable_memory_bytes", lambda mib: mib * _BYTES_PER_MIB),
    "topology": ("topology", Topology),
    "numa_nodes": ("numa_nodes", _numa_nodes),
}
_ACCELERATOR_FIELDS = frozenset(one.name for one in fields(Accelerator))
_INSTANCE_TYPE_FIELDS = frozenset(one.name for one in fields(InstanceType))

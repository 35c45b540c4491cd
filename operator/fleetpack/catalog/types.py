"""What is known about accelerators and the machines that carry them.

An `Accelerator` is a chip type, an `InstanceType` a machine type with its chips, price, room for Pods and the rule that
says which sets of its devices may serve one replica. The rule is data here; judging a set of cores by it is the work of
`core.packing`.

Whatever is not known is None, never zero and never a guess: a caller decides what it can do without the number. What
only a single secondary page says is no fact and stands under `unverified`. Every fact names the source that says it.

A `Catalog` is a value: pools that override prices or bring their own types get a new one. Asking for a name that it
does not have answers with an `Unknown...` value holding the nearest names; an override that contradicts the catalog
raises `CatalogError`, which whoever applies a pool turns into that pool's condition.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Topology(StrEnum):
    """How the devices of one machine are linked."""

    NONE = "none"
    """One device, or devices of which any may work with any other as far as is known (GPUs)."""
    RING = "ring"
    """Device i is linked with devices i-1 and i+1, and the last with the first."""
    TORUS_2D_4X4 = "torus2d-4x4"
    """Device 4r+c sits in row r and column c of a 4x4 grid that wraps around in both directions."""
    SWITCHED = "switched"
    """Every device reaches every other through switches."""


class AllocationPolicy(StrEnum):
    """Which sets of devices may serve one replica; `allowed_device_counts` says how many devices it may have."""

    SINGLE = "single"
    """One device only."""
    CONTIGUOUS_WINDOW = "contiguous-window"
    """Any window of contiguous ascending devices; windows do not wrap around from the last device to the first."""
    ALIGNED = "aligned"
    """Contiguous windows that start at a multiple of their length. An empty list of counts allows none at all."""
    COUNT = "count"
    """The devices are counted and have no ids: any that are free (GPUs, TPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who says what: the name of one field of a catalog entry, and where its value was read."""

    field: str
    reference: str


OVERRIDE = "override"
"""The reference of a price that a pool gave in place of the catalog's."""

Unverified = tuple[tuple[str, float | str], ...]
"""Field and value pairs that only a single secondary source gives; never used as facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A chip type. Floating point and integer rates are dense peaks of one chip."""

    name: str
    vendor: str | None = None
    architecture: str | None = None
    physical_cores: int | None = None
    """None where the chip is given out whole and has no addressable cores (GPUs, TPUs)."""
    default_logical_core_config: int | None = None
    """How many physical cores the runtime joins into one logical core by default; None: it joins none."""
    memory_gib: float | None = None
    memory_bandwidth_gb_per_second: float | None = None
    tflops_bf16: float | None = None
    tflops_fp8: float | None = None
    tflops_fp32: float | None = None
    tflops_sparse: float | None = None
    tops_int8: float | None = None
    tdp_watts: float | None = None
    """None for all Neuron chips: AWS publishes none."""
    provisioned_watts: float | None = None
    interconnect: str | None = None
    interconnect_topology: str | None = None
    """How chips of this type are linked, in words; what counts for placement is the instance type's `topology`."""
    device_link_gb_per_second: float | None = None
    """All links of one chip together; None also where it depends on the instance type, which then has it."""
    resource_names: tuple[str, ...] = ()
    """Kubernetes resources that device plugins announce for it; empty: none is public."""
    sources: tuple[Source, ...] = field(default=(), repr=False)
    unverified: Unverified = ()
    notes: str = ""

    @property
    def logical_cores(self) -> int | None:
        """Cores that the runtime shows by default: what Pods ask for."""
        if self.physical_cores is None:
            return None
        return self.physical_cores // (self.default_logical_core_config or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """A NUMA node of a machine, with the devices and CPUs near to it."""

    node: int
    devices: tuple[int, ...]
    cpus: str
    """CPU ids in the list form of Linux: `0-47,96-143`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """A machine type. Device d owns cores `d * cores_per_device` up to `(d + 1) * cores_per_device - 1`."""

    name: str
    cloud: str = "aws"
    accelerator: str
    """Name of the chip type in the catalog."""
    devices: int
    cores_per_device: int = 1
    """At the default logical core config. 1 for devices that are counted whole: one device then counts as one core."""
    topology: Topology = Topology.NONE
    allocation_policy: AllocationPolicy
    allowed_device_counts: tuple[int, ...]
    """Ascending; empty where the vendor publishes no rule, and then nothing is placed."""
    resource_name: str
    """The Kubernetes resource that one core (one device, where those are counted) is asked for by."""
    allocatable_cpu_millicores: int | None = None
    """Already without what kubelet and system reserve."""
    allocatable_memory_bytes: int | None = None
    max_pods: int | None = None
    vcpus: int | None = None
    memory_gib: float | None = None
    device_memory_mib: int | None = None
    """Memory of one device as the EC2 API reports it, which differs a little from the chip's nominal memory."""
    price_usd_per_hour: float | None = None
    """On demand, in the catalog's price region, unless a pool overrides it. None: no list price is known."""
    spot_price_usd_per_hour: tuple[float, float] | None = None
    """Lowest and highest of the availability zones in a third party's undated snapshot; no live quote."""
    reserved_price_usd_per_hour: float | None = None
    """Effective price of a three-year reservation; the age of the figure is not known."""
    device_link_gb_per_second: float | None = None
    """All links of one device to others in the machine together."""
    inter_instance_device_link_gb_per_second: float | None = None
    """All links of one device to devices of other machines of the same group together."""
    linked_instance_counts: tuple[int, ...] = ()
    """How many machines of one group may serve together over device links; empty: each works alone."""
    servers: int = 1
    """More than one: the entry is a group of servers that is sold as one, not one Kubernetes node."""
    network_megabits_per_second: int | None = None
    ebs_megabits_per_second: int | None = None
    local_nvme_gb: int | None = None
    efa_interfaces: int | None = None
    efa_gigabits_per_second: int | None = None
    numa_nodes: tuple[NumaNode, ...] = ()
    """Empty where the affinity of the devices is not known or there is none."""
    verified: bool = False
    """Whether a primary source says that this type exists as described; false for types that a pool brings."""
    sources: tuple[Source, ...] = field(default=(), repr=False)
    unverified: Unverified = ()
    notes: str = ""

    @property
    def cores(self) -> int:
        """Cores of the whole machine; devices, where those are counted."""
        return self.devices * self.cores_per_device


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownAccelerator:
    """The catalog has no such accelerator; `nearest` are names that look alike, the best first."""

    name: str
    nearest: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownInstanceType:
    """The catalog has no such instance type; `nearest` are names that look alike, the best first."""

    name: str
    nearest: tuple[str, ...]


class CatalogError(ValueError):
    """An entry or override that contradicts the catalog; the message names entry, field, value and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything known, by name, in the order of the names. The mappings are read-only."""

    accelerators: Mapping[str, Accelerator]
    instance_types: Mapping[str, InstanceType]
    price_region: str | None = None
    """Where the on-demand prices hold."""
    price_date: str | None = None
    """The day (ISO 8601) that the on-demand prices were read."""

    def __post_init__(self) -> None:
        accelerators = {name: self.accelerators[name] for name in sorted(self.accelerators)}
        instance_types = {name: self.instance_types[name] for name in sorted(self.instance_types)}
        for instance_type in instance_types.values():
            _check_instance_type(instance_type, accelerators)
        # Frozen dataclasses assign through object; after this the mappings cannot change behind a holder's back.
        object.__setattr__(self, "accelerators", MappingProxyType(accelerators))
        object.__setattr__(self, "instance_types", MappingProxyType(instance_types))

    def accelerator(self, name: str) -> Accelerator | UnknownAccelerator:
        """Look up a chip type."""
        found = self.accelerators.get(name)
        return found or UnknownAccelerator(name=name, nearest=_nearest(name, self.accelerators))

    def instance_type(self, name: str) -> InstanceType | UnknownInstanceType:
        """Look up a machine type."""
        found = self.instance_types.get(name)
        return found or UnknownInstanceType(name=name, nearest=_nearest(name, self.instance_types))

    def with_prices(
        self,
        usd_per_hour: Mapping[str, float],
        *,
        spot_usd_per_hour: Mapping[str, float] | None = None,
        reserved_usd_per_hour: Mapping[str, float] | None = None,
    ) -> Catalog:
        """Return a catalog in which these prices, by instance type, replace those known; the first are on demand.

        Raises `CatalogError` for an instance type that the catalog does not have and for a price below 0.
        """
        spot_ranges = {name: (price, price) for name, price in (spot_usd_per_hour or {}).items()}
        changed = dict(self.instance_types)
        for field_name, overrides in (
            ("price_usd_per_hour", usd_per_hour),
            ("spot_price_usd_per_hour", spot_ranges),
            ("reserved_price_usd_per_hour", reserved_usd_per_hour or {}),
        ):
            for name, value in overrides.items():
                if name not in changed:
                    hint = _hint(_nearest(name, changed))
                    raise CatalogError(
                        f"instance type {name!r}: {field_name} is given, but no such type is known{hint}"
                    )
                changed[name] = _overridden(changed[name], field_name, value)
        return replace(self, instance_types=changed)

    def with_instance_types(self, instance_types: Iterable[InstanceType]) -> Catalog:
        """Return a catalog that has these too; one of a known name replaces it.

        Raises `CatalogError` where an entry contradicts itself or names an accelerator that the catalog does not have.
        """
        return replace(self, instance_types={**self.instance_types, **{one.name: one for one in instance_types}})

    def with_accelerators(self, accelerators: Iterable[Accelerator]) -> Catalog:
        """Return a catalog that has these too; one of a known name replaces it."""
        return replace(self, accelerators={**self.accelerators, **{one.name: one for one in accelerators}})


def _check_instance_type(instance_type: InstanceType, accelerators: Mapping[str, Accelerator]) -> None:
    name = instance_type.name
    if instance_type.accelerator not in accelerators:
        hint = _hint(_nearest(instance_type.accelerator, accelerators))
        raise CatalogError(
            f"instance type {name!r}: accelerator {instance_type.accelerator!r} is not in the catalog{hint}"
        )
    for label, count in (("devices", instance_type.devices), ("cores_per_device", instance_type.cores_per_device)):
        if count < 1:
            raise CatalogError(f"instance type {name!r}: {label} is {count}; it must be at least 1")
    counts = instance_type.allowed_device_counts
    if list(counts) != sorted(set(counts)) or any(not 1 <= count <= instance_type.devices for count in counts):
        raise CatalogError(
            f"instance type {name!r}: allowed_device_counts is {counts}; "
            f"it must ascend and stay within 1 to {instance_type.devices}, the devices"
        )
    if instance_type.allocation_policy is AllocationPolicy.SINGLE and counts != (1,):
        raise CatalogError(
            f"instance type {name!r}: allowed_device_counts is {counts}; policy 'single' allows (1,) only"
        )
    if instance_type.topology is Topology.TORUS_2D_4X4 and instance_type.devices != 16:
        raise CatalogError(f"instance type {name!r}: devices is {instance_type.devices}; topology torus2d-4x4 has 16")
    for label, price in (
        ("price_usd_per_hour", instance_type.price_usd_per_hour),
        ("reserved_price_usd_per_hour", instance_type.reserved_price_usd_per_hour),
        *(("spot_price_usd_per_hour", price) for price in instance_type.spot_price_usd_per_hour or ()),
    ):
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise CatalogError(f"instance type {name!r}: {label} is {price}; it must be 0 or more, or absent")


def _overridden(instance_type: InstanceType, field_name: str, value: float | tuple[float, float]) -> InstanceType:
    others = tuple(source for source in instance_type.sources if source.field != field_name)
    sources = (*others, Source(field=field_name, reference=OVERRIDE))
    changes: dict[str, Any] = {field_name: value, "sources": sources}
    return replace(instance_type, **changes)


def _nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(name, sorted(names), n=3))


def _hint(nearest: tuple[str, ...]) -> str:
    return f"; the nearest are {', '.join(nearest)}" if nearest else ""

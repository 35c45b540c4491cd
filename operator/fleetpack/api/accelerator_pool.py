"""AcceleratorPool: a set of instance types that may be launched, with limits in nodes and USD per hour.

A pool says what machines there may be, what they cost here, who may use them and how gently they are given back. A node
belongs to the pool that its label `fleetpack.dev/pool` names, to no other, and to none without the label.

Boundary: names of instance types are taken as written; whether the catalog knows them is found by those who read this.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fleetpack.api.inference_deployment import Window
from fleetpack.api.meta import LIST_MAP_KEYS, LIST_SET, CatalogName, Condition, Model, ObjectMeta, Rule
from fleetpack.api.values import DecimalRange, Duration, DurationRange, IntOrPercent, Money, Quantity, Rate, Text

_LabelKey = Annotated[
    str,
    Text(
        pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$",
        expected="the key of a label, such as team or example.com/team",
        maximum_length=317,
    ),
]
_LabelValue = Annotated[
    str,
    Text(
        pattern=r"^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$",
        expected="the value of a label: at most 63 letters, digits, dashes, dots and underscores",
        maximum_length=63,
    ),
]


class Provider(StrEnum):
    """Who makes the nodes of a pool."""

    STATIC = "Static"
    SIMULATED = "Simulated"
    KARPENTER = "Karpenter"


class CapacityType(StrEnum):
    """How a machine is bought."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    RESERVED = "reserved"


class Topology(StrEnum):
    """How the devices of one machine are linked."""

    NONE = "none"
    RING = "ring"
    TORUS_2D_4X4 = "torus2d-4x4"
    SWITCHED = "switched"


class AllocationPolicy(StrEnum):
    """Which sets of devices may serve one replica."""

    SINGLE = "single"
    CONTIGUOUS_WINDOW = "contiguous-window"
    ALIGNED = "aligned"
    COUNT = "count"


class CustomInstanceType(Model):
    """An instance type that the catalog does not have."""

    name: CatalogName
    """Its name: the value of the node label `node.kubernetes.io/instance-type`."""
    accelerator: CatalogName
    """Accelerator in it; one of the catalog, or a new name."""
    devices: Annotated[int, Field(ge=1, le=1024)]
    """Number of devices (chips) in it."""
    cores_per_device: Annotated[int, Field(ge=1, le=64)] | None = None
    """Cores of one device that a Pod can ask for; default: what the catalog says of the accelerator, else 1."""
    topology: Topology = Topology.NONE
    """How its devices are linked: none, ring, torus2d-4x4 or switched."""
    allocation_policy: AllocationPolicy | None = None
    """Which sets of devices may serve one replica: single, contiguous-window, aligned, or count (any that are free);
    default: contiguous-window on a ring, aligned on a torus, single on one device, else count."""
    allowed_device_counts: (
        Annotated[
            tuple[Annotated[int, Field(ge=1, le=1024)], ...],
            Field(min_length=1, max_length=64, json_schema_extra={LIST_SET: True}),
        ]
        | None
    ) = None
    """Numbers of devices that one replica may span; default: each from 1 to devices."""
    cpu: Quantity
    """Allocatable CPU of a node: `96` or `95500m`."""
    memory: Quantity
    """Allocatable memory of a node: `384Gi`."""
    max_pods: Annotated[int, Field(ge=1, le=1024)] = 110
    """Most Pods on a node."""
    price_usd_per_hour: Money | None = Field(default=None, alias="priceUSDPerHour")
    """Price of a node in US dollars per hour; absent: unknown, and then no model with a cost ceiling runs there."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.allowedDeviceCounts) || self.allowedDeviceCounts.all(n, n <= self.devices)",
            message="allowedDeviceCounts must not be greater than devices",
            holds=lambda own: all(count <= own.devices for count in own.allowed_device_counts or ()),
            field=".allowedDeviceCounts",
        ),
        Rule(
            cel="self.topology != 'torus2d-4x4' || self.devices == 16",
            message="topology torus2d-4x4 needs exactly 16 devices",
            holds=lambda own: own.topology is not Topology.TORUS_2D_4X4 or own.devices == 16,
            field=".devices",
        ),
    )


class PriceOverride(Model):
    """What an instance type costs here."""

    instance_type: CatalogName
    """Name of the instance type."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """Capacity type that the price is for: on-demand, spot or reserved."""
    usd_per_hour: Money = Field(alias="usdPerHour")
    """Price of a node in US dollars per hour."""


class PoolLimits(Model):
    """How large the pool may get."""

    nodes: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Most nodes; absent: no limit."""
    usd_per_hour: Annotated[Money, DecimalRange(above="0")] | None = Field(default=None, alias="usdPerHour")
    """Most that all nodes together may cost, in US dollars per hour; absent: no limit."""


class Headroom(Model):
    """Room that is kept free for what comes next."""

    cores: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Free cores to keep on ready nodes, over the whole pool."""


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelSelectorRequirement(Model):
    """One condition on a label."""

    key: _LabelKey
    """Key of the label."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: Annotated[tuple[_LabelValue, ...], Field(max_length=64)] = ()
    """Values for In and NotIn."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (self.values.size() > 0)",
            message="operators In and NotIn need values, Exists and DoesNotExist must have none",
            holds=lambda requirement: (
                (requirement.operator in (SelectorOperator.IN, SelectorOperator.NOT_IN)) == bool(requirement.values)
            ),
            field=".values",
        ),
    )

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether `labels` meet the condition, as Kubernetes reads it: NotIn holds where the label is missing."""
        if self.operator is SelectorOperator.IN:
            return labels.get(self.key) in self.values
        if self.operator is SelectorOperator.NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator is SelectorOperator.EXISTS)


class LabelSelector(Model):
    """A Kubernetes label selector; an empty one selects everything."""

    match_labels: Annotated[dict[str, _LabelValue], Field(max_length=64)] = Field(default_factory=dict)
    """Labels with exactly these values."""
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Field(max_length=64)] = ()
    """Further conditions; all must hold."""

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an object with `labels` is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


class PoolDisruptionBudget(Model):
    """How many nodes may be given back or replaced at once."""

    nodes: IntOrPercent
    """Nodes that may be on their way out at once: a number, or a percentage of the pool's nodes, rounded up. 0: none."""
    windows: Annotated[tuple[Window, ...], Field(max_length=16)] = ()
    """Times at which this budget counts; none given: always. Of all that count, the smallest holds."""


class PoolDisruption(Model):
    """How gently nodes are given back."""

    consolidate_after: Annotated[Duration, DurationRange(minimum="0s", maximum="720h")] = Duration.parse("5m")
    """How long a node must have been empty, or a cheaper arrangement possible, before it is acted on."""
    budgets: Annotated[tuple[PoolDisruptionBudget, ...], Field(max_length=16)] = (
        PoolDisruptionBudget(nodes=IntOrPercent.parse("10%")),
    )
    """How many nodes may be given back or replaced at once."""


class Simulation(Model):
    """How simulated machines behave."""

    boot_delay: Annotated[Duration, DurationRange(minimum="0s", maximum="24h")] = Duration.parse("30s")
    """From the launch of a node until it is Ready."""
    boot_jitter: Annotated[Duration, DurationRange(minimum="0s", maximum="24h")] = Duration.parse("0s")
    """Longest random time that is added to bootDelay, evenly distributed."""
    failure_rate: Annotated[Rate, DecimalRange(maximum="1")] = Rate.parse("0")
    """Share of launches that fail, from "0" to "1"."""
    insufficient_capacity: Annotated[
        tuple[CatalogName, ...], Field(max_length=64, json_schema_extra={LIST_SET: True})
    ] = ()
    """Instance types of which no machine can be had."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Start of the random numbers: the same seed gives the same delays and failures."""


class AcceleratorPoolSpec(Model):
    """What the pool may have."""

    provider: Provider
    """Who makes the nodes. Static: somebody else, who labels them `fleetpack.dev/pool`. Simulated: the operator makes
    nodes without machines. Karpenter: Karpenter launches them on request."""
    instance_types: Annotated[tuple[CatalogName, ...], Field(max_length=64, json_schema_extra={LIST_SET: True})] = ()
    """Instance types of the catalog that may be launched, such as `inf2.48xlarge`."""
    custom_instance_types: Annotated[
        tuple[CustomInstanceType, ...], Field(max_length=32, json_schema_extra={LIST_MAP_KEYS: ["name"]})
    ] = ()
    """Own instance types that may be launched too."""
    capacity_types: Annotated[
        tuple[CapacityType, ...], Field(min_length=1, max_length=3, json_schema_extra={LIST_SET: True})
    ] = (CapacityType.ON_DEMAND,)
    """How machines may be bought: on-demand, spot, reserved."""
    price_overrides: Annotated[
        tuple[PriceOverride, ...],
        Field(max_length=128, json_schema_extra={LIST_MAP_KEYS: ["instanceType", "capacityType"]}),
    ] = ()
    """Prices that differ from the catalog's list prices: own discounts, another region."""
    limits: PoolLimits = PoolLimits()
    """How large the pool may get."""
    headroom: Headroom = Headroom()
    """Room that is kept free."""
    namespace_selector: LabelSelector | None = None
    """Namespaces, by their labels, whose models may use the pool; absent: all of them."""
    disruption: PoolDisruption = PoolDisruption()
    """How gently nodes are given back."""
    simulation: Simulation | None = None
    """How simulated machines behave; for the provider Simulated only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.provider == 'Static' || self.instanceTypes.size() + self.customInstanceTypes.size() > 0",
            message="the providers Simulated and Karpenter need instanceTypes or customInstanceTypes",
            holds=lambda spec: (
                spec.provider is Provider.STATIC or len(spec.instance_types) + len(spec.custom_instance_types) > 0
            ),
            field=".instanceTypes",
        ),
        Rule(
            cel="self.provider == 'Simulated' || !has(self.simulation)",
            message="simulation is for the provider Simulated only",
            holds=lambda spec: spec.provider is Provider.SIMULATED or spec.simulation is None,
            field=".simulation",
        ),
        Rule(
            cel="self.customInstanceTypes.all(own, !(own.name in self.instanceTypes))",
            message="customInstanceTypes must not have a name that instanceTypes has too",
            holds=lambda spec: not {own.name for own in spec.custom_instance_types} & set(spec.instance_types),
            field=".customInstanceTypes",
        ),
    )


class AcceleratorPoolStatus(Model):
    """What the operator last saw of the pool."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that the rest was said about."""
    nodes: Annotated[int, Field(ge=0)] | None = None
    """Nodes of the pool, booting ones included."""
    ready_nodes: Annotated[int, Field(ge=0)] | None = None
    """Nodes that take Pods."""
    cores: Annotated[int, Field(ge=0)] | None = None
    """Cores of all nodes; devices where those are given out whole."""
    cores_used: Annotated[int, Field(ge=0)] | None = None
    """Cores that replicas or other Pods hold."""
    cores_free: Annotated[int, Field(ge=0)] | None = None
    """Cores that nobody holds, on nodes that take Pods."""
    largest_free_range: Annotated[int, Field(ge=0)] | None = None
    """Most contiguous free cores on one node."""
    usd_per_hour: Money | None = Field(default=None, alias="usdPerHour")
    """What the nodes cost now, in US dollars per hour; absent when a price is unknown."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={LIST_MAP_KEYS: ["type"]})] = ()
    """Accepted, Ready, CapacityAvailable, WithinBudget."""


class AcceleratorPool(Model):
    """A set of instance types that may be launched, with limits in nodes and USD per hour."""

    api_version: Literal["fleetpack.dev/v1alpha1"] = "fleetpack.dev/v1alpha1"
    kind: Literal["AcceleratorPool"] = "AcceleratorPool"
    metadata: ObjectMeta = ObjectMeta()
    spec: AcceleratorPoolSpec
    status: AcceleratorPoolStatus = AcceleratorPoolStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            message="metadata.name labels the nodes: at most 63 characters",
            holds=lambda pool: 0 < len(pool.metadata.name) <= 63,
        ),
    )

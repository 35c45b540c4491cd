"""What is asked of the packing and what it answers: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetpack.core.packing.fit import Exclusion, VariantNeed


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """One replica that wants a place; the caller puts the important ones first."""

    deployment: str
    """`namespace/name` of its InferenceDeployment."""
    namespace: str
    index: int
    options: tuple[VariantNeed, ...]
    """The variants that would do, in order of preference when costs tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A request with its place."""

    request: PlacementRequest
    variant: str
    node: str
    pool: str
    cores: int
    """Mask; 0 where devices have no ids."""
    cores_count: int
    usd_per_hour: float | None
    """None: nobody knows the node's price."""
    promised: bool
    """The node is still booting: the room is held, the Pod can be created when the node is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """A request without a place, and how many nodes refuse it for which reason."""

    request: PlacementRequest
    exclusions: tuple[tuple[Exclusion, int], ...]
    """The most frequent first, then by text; each node counts once, for the variant that came furthest."""
    awaiting_launch: bool = False
    """A node launched by this placement has room for it."""

    @property
    def message(self) -> str:
        """For people: `0 of 12 nodes: 7 no contiguous range of 8 cores, 5 wrong accelerator`."""
        nodes = sum(count for _, count in self.exclusions)
        if not nodes:
            return "the fleet has no node"
        reasons = ", ".join(f"{count} {self._text(exclusion)}" for exclusion, count in self.exclusions)
        return f"0 of {nodes} node{'' if nodes == 1 else 's'}: {reasons}"

    def _text(self, exclusion: Exclusion) -> str:
        if exclusion is not Exclusion.CONTIGUOUS_RANGE:
            return exclusion.value
        sizes = {
            (option.devices or option.cores, "devices" if option.devices else "cores")
            for option in self.request.options
        }
        wanted = " or ".join(f"{count} {unit if count > 1 else unit[:-1]}" for count, unit in sorted(sizes))
        return f"{exclusion.value} of {wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A node to launch."""

    pool: str
    instance_type: str
    price_usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """How much of the limits of each pool is used, and what the providers cannot give at the moment."""

    nodes: Mapping[str, int]
    """Nodes per pool, booting ones included; a pool that is absent has none."""
    usd_per_hour: Mapping[str, float]
    """What the nodes of each pool cost together, booting ones included."""
    blocked: frozenset[tuple[str, str]] = frozenset()
    """Pool and instance type that were refused a short while ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The answer: each request is either assigned or unplaced, in the order of the requests."""

    assigned: tuple[Assignment, ...]
    unplaced: tuple[Unplaced, ...]
    launches: tuple[Launch, ...]
    """In the order in which they were decided: those that serve the most important requests first, headroom last."""

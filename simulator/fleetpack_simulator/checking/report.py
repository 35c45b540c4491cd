"""What a check found: how much was looked at, what was wrong, and what it cost.

A report is a value; equal histories give equal reports. It passes when no violation is in it and something was checked at all:
an empty history proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ViolationKind(StrEnum):
    """Each way in which a promise can be broken."""

    ILLEGAL_CORES = "illegal-cores"
    """The cores are no set that the machine's allocation rule allows."""
    DOUBLE_BOOKED = "double-booked"
    """Two Pods hold the same core of the same node at the same time."""
    UNREADABLE_PLACEMENT = "unreadable-placement"
    """A replica asks for cores, and does not say in a readable way which, or on which node."""
    COUNT_MISMATCH = "count-mismatch"
    """The number of cores in the placement is not the number that the Pod asks the scheduler for."""
    CAPACITY_EXCEEDED = "capacity-exceeded"
    """A node holds more than it has to give."""
    UNKNOWN_NODE = "unknown-node"
    """A replica was placed on a node that did not exist."""
    UNKNOWN_MACHINE = "unknown-machine"
    """A replica was placed on an instance type that has no known rule."""
    WRONG_NODE_SHAPE = "wrong-node-shape"
    """A node offers another number of cores than its instance type has."""
    CEILING_CROSSED = "ceiling-crossed"
    """A new replica took its deployment above `spec.cost.maxUSDPerHour`."""
    PRICE_UNKNOWN = "price-unknown"
    """A new replica of a deployment with a ceiling went to a node whose price nobody knows."""
    POOL_NODES_CROSSED = "pool-nodes-crossed"
    """A new node took its pool above `spec.limits.nodes`."""
    POOL_COST_CROSSED = "pool-cost-crossed"
    """A new node took its pool above `spec.limits.usdPerHour`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise."""

    kind: ViolationKind
    at_seconds: float
    """When it was seen, on the clock of the history."""
    subject: str
    """What broke it: `pod default/chat-0` or `node sim-3`."""
    message: str

    def __str__(self) -> str:
        return f"{self.at_seconds:.3f} {self.kind}: {self.subject}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentCost:
    """What the replicas of one deployment cost over the history."""

    deployment: str
    """`namespace/name`."""
    usd_spent: float
    peak_usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The result of one check."""

    placements_checked: int
    """Sets of cores, or counts of devices, that were held against the rules."""
    pods_seen: int
    """Different Pods that fleetpack made."""
    nodes_seen: int
    seconds: float
    """From the first to the last moment of the history."""
    usd_spent: float
    """What all replicas cost: price times share of cores, over the time that they held them."""
    nodes_usd_spent: float
    """What the nodes of all pools cost in the same time, idle shares included."""
    deployments: tuple[DeploymentCost, ...]
    unpriced_instance_types: tuple[str, ...]
    """Instance types without a known price that took replicas: their cost is missing from the sums."""
    swaps: int
    """Pairs of equal size on one node where the kubelet gave one the cores planned for the other."""
    violations: tuple[Violation, ...]

    @property
    def passed(self) -> bool:
        """Whether something was checked, and nothing was wrong."""
        return self.placements_checked > 0 and not self.violations

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values for a JSON file."""
        return {
            "passed": self.passed,
            "placementsChecked": self.placements_checked,
            "podsSeen": self.pods_seen,
            "nodesSeen": self.nodes_seen,
            "seconds": self.seconds,
            "usdSpent": self.usd_spent,
            "nodesUSDSpent": self.nodes_usd_spent,
            "deployments": [
                {"name": cost.deployment, "usdSpent": cost.usd_spent, "peakUSDPerHour": cost.peak_usd_per_hour}
                for cost in self.deployments
            ],
            "unpricedInstanceTypes": list(self.unpriced_instance_types),
            "swaps": self.swaps,
            "violations": [
                {
                    "kind": str(violation.kind),
                    "atSeconds": violation.at_seconds,
                    "subject": violation.subject,
                    "message": violation.message,
                }
                for violation in self.violations
            ],
        }

"""What goes wrong, when, and how badly: values that a scenario or the swarm writes down.

A fault at an instant happens once (a node dies); one with a duration holds while it lasts (answers come late). A target left empty
is drawn from the seed when the time comes. Numbers out of range, and those that would make a fault of nothing, are refused with
`ValueError`; a field that its kind does not use (`OPTIONS`) is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """Each thing that can go wrong."""

    NODE_FAILURE = "node-failure"
    """A machine dies at once; the cluster notices after the kubelet's silence, and the Node goes later still."""
    SPOT_INTERRUPTION = "spot-interruption"
    """The cloud takes a machine back: cordoned at the notice, gone two minutes later."""
    NODE_NOT_READY = "node-not-ready"
    """A machine falls silent and comes back after the duration; its Pods live on and are out of service meanwhile."""
    FOREIGN_POD = "foreign-pod"
    """Somebody else's Pod with `cores` lands on a node, outside the planner, and goes after the duration."""
    DEVICE_FAILURE = "device-failure"
    """One chip of a node dies, and the replicas on it with it."""
    REPLICA_CRASH = "replica-crash"
    """One replica's process ends, and its Pod fails."""
    INSUFFICIENT_CAPACITY = "insufficient-capacity"
    """The cloud has no machine of the target type (empty: of any) while it lasts."""
    START_FAILURE = "start-failure"
    """A share of the Pods created while it lasts fails instead of becoming Ready."""
    KUBELET_SWAP = "kubelet-swap"
    """Of two Pods of one size that are bound to a node at about the same time, a share gets the cores planned for the other."""
    NEVER_BOUND = "never-bound"
    """A share of the Pods created while it lasts is never bound to its node."""
    METRICS_MISSING = "metrics-missing"
    """A share of the reads fails."""
    METRICS_LATE = "metrics-late"
    """Answers come `seconds` late."""
    METRICS_WRONG = "metrics-wrong"
    """Gauges and rates are `factor` times the truth, counters count `factor` times what happens, times are `factor` times as long."""
    SLOW_API = "slow-api"
    """A share of the writes, and their answers, take up to `seconds` longer."""
    LOST_WRITES = "lost-writes"
    """A share of the writes gets no answer: half of them happen nevertheless, some of those late."""
    REFUSED_WRITES = "refused-writes"
    """A share of the writes is refused with an error."""
    CACHE_LAG = "cache-lag"
    """Watches deliver `seconds` late, and nobody can tell."""
    CACHE_STALL = "cache-stall"
    """Watches deliver nothing, and the operator knows that they are silent."""
    OPERATOR_RESTART = "operator-restart"
    """The operator is killed; its successor begins `seconds` later knowing nothing."""


class FaultOption(StrEnum):
    """What a fault can be told beside its kind and when it happens; called as in a scenario."""

    DURATION = "duration"
    TARGET = "target"
    SHARE = "share"
    DELAY = "delay"
    FACTOR = "factor"
    CORES = "cores"


_TARGET, _LASTING = frozenset({FaultOption.TARGET}), frozenset({FaultOption.DURATION})
OPTIONS: Mapping[FaultKind, frozenset[FaultOption]] = {
    FaultKind.NODE_FAILURE: _TARGET,
    FaultKind.SPOT_INTERRUPTION: _TARGET,
    FaultKind.NODE_NOT_READY: _LASTING | _TARGET,
    FaultKind.FOREIGN_POD: _LASTING | _TARGET | {FaultOption.CORES},
    FaultKind.DEVICE_FAILURE: _TARGET,
    FaultKind.REPLICA_CRASH: _TARGET,
    FaultKind.INSUFFICIENT_CAPACITY: _LASTING | _TARGET,
    FaultKind.START_FAILURE: _LASTING | _TARGET | {FaultOption.SHARE},
    FaultKind.KUBELET_SWAP: _LASTING | {FaultOption.SHARE},
    FaultKind.NEVER_BOUND: _LASTING | _TARGET | {FaultOption.SHARE},
    FaultKind.METRICS_MISSING: _LASTING | _TARGET | {FaultOption.SHARE},
    FaultKind.METRICS_LATE: _LASTING | _TARGET | {FaultOption.SHARE, FaultOption.DELAY},
    FaultKind.METRICS_WRONG: _LASTING | _TARGET | {FaultOption.FACTOR},
    FaultKind.SLOW_API: _LASTING | {FaultOption.SHARE, FaultOption.DELAY},
    FaultKind.LOST_WRITES: _LASTING | {FaultOption.SHARE},
    FaultKind.REFUSED_WRITES: _LASTING | {FaultOption.SHARE},
    FaultKind.CACHE_LAG: _LASTING | {FaultOption.DELAY},
    FaultKind.CACHE_STALL: _LASTING,
    FaultKind.OPERATOR_RESTART: frozenset({FaultOption.DELAY}),
}
"""What changes what a fault of each kind does."""
INSTANT = frozenset(kind for kind, options in OPTIONS.items() if FaultOption.DURATION not in options)
"""Kinds that happen once; the others need a duration."""
STRIKES = INSTANT | {FaultKind.NODE_NOT_READY, FaultKind.FOREIGN_POD}
"""Kinds that begin with an event; some of them also end with one."""
OF_MODELS = frozenset(
    {
        FaultKind.REPLICA_CRASH,
        FaultKind.START_FAILURE,
        FaultKind.NEVER_BOUND,
        FaultKind.METRICS_MISSING,
        FaultKind.METRICS_LATE,
        FaultKind.METRICS_WRONG,
    }
)
"""Kinds whose target is a deployment."""
OF_MACHINE_TYPES = frozenset({FaultKind.INSUFFICIENT_CAPACITY})
"""Kinds whose target is an instance type; that of all others is a machine."""
_OF_DELAY = frozenset({FaultKind.METRICS_LATE, FaultKind.SLOW_API, FaultKind.CACHE_LAG})
"""Kinds that are nothing but a delay; a successor of the operator needs none, as the lease is waited for anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault."""

    kind: FaultKind
    at_seconds: float
    duration_seconds: float = 0.0
    target: str = ""
    """A node, a deployment `namespace/name`, or an instance type, as the kind wants it; empty: drawn, or all."""
    share: float = 1.0
    seconds: float = 0.0
    factor: float = 1.0
    cores: int = 2
    """Cores that a foreign Pod asks for."""

    def __post_init__(self) -> None:
        if self.at_seconds < 0 or self.duration_seconds < 0 or self.seconds < 0 or self.factor < 0:
            raise ValueError(f"fault {self.kind}: at, duration, seconds and factor must not be negative")
        if self.cores < 1:
            raise ValueError(f"fault {self.kind}: cores is {self.cores}, it must be at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"fault {self.kind}: share is {self.share}, it must be above 0 and at most 1")
        if self.kind not in INSTANT and self.duration_seconds == 0:
            raise ValueError(f"fault {self.kind}: it needs a duration, say how long it lasts")
        if self.kind in _OF_DELAY and self.seconds == 0:
            raise ValueError(f"fault {self.kind}: delay is 0, it must be above that: say by how much it delays")
        if self.kind is FaultKind.METRICS_WRONG and self.factor == 1:
            raise ValueError(f"fault {self.kind}: factor is 1, which is the truth: say how many times that is shown")

    @property
    def until_seconds(self) -> float:
        """When it is over."""
        return self.at_seconds + self.duration_seconds


@dataclass(slots=True)
class Weather:
    """Which lasting faults hold at an instant."""

    faults: tuple[Fault, ...]

    def active(self, kind: FaultKind, now_seconds: float, target: str = "") -> Fault | None:
        """Return the first fault of a kind that holds now for this target."""
        for fault in self.faults:
            if (
                fault.kind is kind
                and fault.at_seconds <= now_seconds < fault.until_seconds
                and (not fault.target or not target or fault.target == target)
            ):
                return fault
        return None

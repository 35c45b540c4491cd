"""What a plan says: actions to take, and decisions that explain them.

Actions are orders to an adapter (or to the simulated world), each with the name of the object it touches and enough to be
idempotent: a Pod by its deterministic name, a deletion by UID and resourceVersion. Decisions are for people: from, to, a
reason out of `api.conditions`, the numbers that led to it, one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateReplica:
    """Create one Pod, bound by affinity to `node`, to own `cores`."""

    deployment: str
    variant: str
    name: str
    node: str
    cores: int
    """Mask; 0 where devices have no ids."""
    cores_count: int
    template_hash: str
    usd_per_hour: float | None
    reason: str
    kind: Literal["create-replica"] = "create-replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReplica:
    """Take one replica out of its Service; it finishes what it has."""

    deployment: str
    name: str
    uid: str
    resource_version: str
    reason: str
    kind: Literal["drain-replica"] = "drain-replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReplica:
    """Put a draining replica back into its Service: cheaper than a cold start."""

    deployment: str
    name: str
    uid: str
    resource_version: str
    reason: str
    kind: Literal["restore-replica"] = "restore-replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteReplica:
    """Delete one Pod, if it is still the one that was seen."""

    deployment: str
    name: str
    uid: str
    resource_version: str
    reason: str
    kind: Literal["delete-replica"] = "delete-replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScale:
    """Write `spec.replicas` through the scale subresource, as an autoscaler does."""

    deployment: str
    replicas: int
    reason: str
    kind: Literal["set-scale"] = "set-scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchNode:
    """Launch one node of a pool, under a name that no node has."""

    pool: str
    name: str
    instance_type: str
    price_usd_per_hour: float | None
    reason: str
    kind: Literal["launch-node"] = "launch-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """Give one empty node back."""

    pool: str
    node: str
    reason: str
    kind: Literal["remove-node"] = "remove-node"


Action = CreateReplica | DrainReplica | RestoreReplica | DeleteReplica | SetScale | LaunchNode | RemoveNode


class Outcome(StrEnum):
    """What is known about an action that was handed to the adapter."""

    PENDING = "pending"
    """On its way: no answer yet."""
    DONE = "done"
    """The API server said yes; the caches have not shown it yet."""
    UNKNOWN = "unknown"
    """No answer in time: it may have happened. It reserves what it would take and gives nothing."""
    NAME_TAKEN = "name-taken"
    """There is an object of that name, perhaps our own of a moment ago: unknown, until the caches show whose it is."""
    NOT_SENT = "not-sent"
    """It surely did not happen, and nobody is to blame: no connection, or the lease was about to end."""
    FAILED = "failed"
    """It did not happen; `detail` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedAction:
    """An action issued and not yet seen in the snapshot."""

    action: Action
    issued_at: float
    outcome: Outcome = Outcome.PENDING
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One number that led to a decision."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision about one subject, with its reason."""

    subject: str
    """`namespace/name` of a deployment, `pool/name`, or `node/name`."""
    kind: str
    """What was decided: `replicas`, `placement`, `rollout`, `node`, `accepted`."""
    before: int
    after: int
    reason: str
    message: str
    factors: tuple[Factor, ...] = ()
    alternatives: tuple[str, ...] = ()

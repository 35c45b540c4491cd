"""Actions that were issued and that the caches do not show yet.

A cache is behind our own writes, so a plan made from it alone would do things twice. Each issued action stays here until the
cache shows its effect, until it has failed (the next plan is told once), or until a cache that is known to be fresh has had time
enough to show it: then it did not happen, or it was undone since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fleetpack.core.decision import (
    Action,
    CreateReplica,
    DeleteReplica,
    DrainReplica,
    IssuedAction,
    LaunchNode,
    Outcome,
    RemoveNode,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import FleetSnapshot, Replica, ReplicaPhase

FORGET_SECONDS = 10.0
"""A watch that lives shows a write within milliseconds; caches older than this lead to no plan at all (30 s)."""


@dataclass(slots=True)
class Expectations:
    """What is on its way; owned by the control loop, and only its task touches it."""

    _entries: dict[int, IssuedAction] = field(default_factory=dict)
    _settled_at: dict[int, float] = field(default_factory=dict)
    _next: int = 0

    def issue(self, action: Action, now: float) -> int:
        """Remember an action that is about to be sent; returns the ticket to settle it with."""
        ticket = self._next
        self._next += 1
        self._entries[ticket] = IssuedAction(action=action, issued_at=now)
        return ticket

    def settle(self, ticket: int, outcome: Outcome, detail: str, now: float) -> None:
        """Say what became of an action."""
        if ticket in self._entries:
            self._entries[ticket] = replace(self._entries[ticket], outcome=outcome, detail=detail)
            self._settled_at[ticket] = now

    def take(
        self, snapshot: FleetSnapshot, deployments: tuple[Deployment, ...], heard_at: float
    ) -> tuple[IssuedAction, ...]:
        """Return what the next plan must know, and forget what it need not be told again.

        `heard_at` is when the quietest of the caches last heard from the API server: a watch that is silent says nothing about
        what happened since, so its silence makes nobody forget.
        """
        replicas = {f"{replica.deployment.partition('/')[0]}/{replica.name}": replica for replica in snapshot.replicas}
        nodes = {node.name for node in snapshot.nodes}
        scales = {deployment.key: deployment.replicas for deployment in deployments}
        told: list[IssuedAction] = []
        for ticket, entry in list(self._entries.items()):
            settled_at = self._settled_at.get(ticket)
            seen = entry.outcome is not Outcome.PENDING and _seen(entry.action, replicas, nodes, scales)
            late = settled_at is not None and heard_at - settled_at > FORGET_SECONDS
            if entry.outcome in (Outcome.FAILED, Outcome.NOT_SENT) or seen or late:
                del self._entries[ticket]
                self._settled_at.pop(ticket, None)
            if not seen and not late:
                told.append(entry)
        return tuple(told)

    def __len__(self) -> int:
        return len(self._entries)


def _seen(action: Action, replicas: Mapping[str, Replica], nodes: set[str], scales: Mapping[str, int]) -> bool:
    """Whether the caches show what the action does."""
    if isinstance(action, SetScale):
        return scales.get(action.deployment, action.replicas) == action.replicas
    if isinstance(action, LaunchNode):
        return action.name in nodes
    if isinstance(action, RemoveNode):
        return action.node not in nodes
    replica = replicas.get(f"{action.deployment.partition('/')[0]}/{action.name}")
    if isinstance(action, CreateReplica):
        return replica is not None
    if replica is None or replica.uid != action.uid:
        return True
    if isinstance(action, DeleteReplica):
        return replica.phase is ReplicaPhase.TERMINATING
    if isinstance(action, DrainReplica):
        return replica.phase is ReplicaPhase.DRAINING
    assert isinstance(action, RestoreReplica)
    return replica.phase is not ReplicaPhase.DRAINING

"""The seam to the planner, and the loop around it: what the operator does in a cluster, in virtual time.

It sees the cluster through a cache that watches fill a little late, remembers what it has issued until the cache shows it, and calls
the very `plan()` of production every two seconds, and in between when what it sees changes or a write goes wrong: once that has been
quiet for 100 ms, at the latest a second after the first change. When it is killed, its successor knows nothing but the caches. No
other module of the world calls the planner.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from fleetpack.core.fleet import FleetSnapshot, ForeignPod, Node, Pool, Replica, ReplicaPhase
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.planner import plan
from fleetpack.core.state import State
from fleetpack_simulator.world.cluster import SimulatedCluster
from fleetpack_simulator.world.events import Clock, EventQueue, Kind
from fleetpack_simulator.world.faults import FaultKind
from fleetpack_simulator.world.metrics import Scraper

FORGET_SECONDS = 10.0
"""An action that a live watch has not shown this long after its answer did not happen, or was undone since."""
WRITER_TIMEOUT_SECONDS = 4.0
"""After this the operator stops waiting for an answer and calls the outcome unknown."""
IDLE_SECONDS = 0.1
LATEST_SECONDS = 1.0
"""How long changes have to be quiet before a plan, and how long a plan waits for that at most; the operator's own two numbers."""
LEASE_SECONDS = 15.0
"""A successor begins when the lease has run out, and by then everything on its way has arrived."""


class Trigger:
    """Pulled by any change; lets a plan happen when changes have settled."""

    def __init__(self, clock: Clock, queue: EventQueue) -> None:
        self.on_settled: Callable[[], None] = lambda: None
        self._clock = clock
        self._queue = queue
        self._first_at: float | None = None
        self._last_at = 0.0

    def pull(self, at_seconds: float) -> None:
        """Say that something changes at an instant, now or later."""
        if self._first_at is None:
            self._first_at = at_seconds
            self._queue.push(at_seconds + IDLE_SECONDS, Kind.PLAN, self._look)
        self._last_at = max(self._last_at, at_seconds)

    def _look(self) -> None:
        """Plan if it has been quiet for long enough, else look again when it may have been."""
        assert self._first_at is not None
        due = min(self._last_at + IDLE_SECONDS, self._first_at + LATEST_SECONDS)
        if self._clock.now < due:
            self._queue.push(due, Kind.PLAN, self._look)
            return
        self._first_at = None
        self.on_settled()


class WatchCache:
    """What watches have delivered so far."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock, pull: Callable[[float], None]) -> None:
        self._pull = pull
        self._cluster = cluster
        self._clock = clock
        self._coming: deque[tuple[float, str, str, object]] = deque()
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Replica] = {}
        self._deployments: dict[str, Deployment] = {}
        self._foreign: dict[str, ForeignPod] = {}
        self._pools: tuple[Pool, ...] = tuple(pool for _, pool in sorted(cluster.pools.items()))
        self._snapshot = FleetSnapshot(pools=self._pools)
        self._stalled_since: float | None = None
        cluster.watch(self._changed)
        self.relist()

    @property
    def snapshot(self) -> FleetSnapshot:
        """The fleet as the cache shows it."""
        return self._snapshot

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The specs as the cache shows them."""
        return tuple(deployment for _, deployment in sorted(self._deployments.items()))

    @property
    def age_seconds(self) -> float:
        """How long ago the API server last proved that nothing was missed."""
        return 0.0 if self._stalled_since is None else self._clock.now - self._stalled_since

    def catch_up(self) -> None:
        """Take in what has been delivered by now."""
        now = self._clock.now
        if self._cluster.weather.active(FaultKind.CACHE_STALL, now) is not None:
            self._stalled_since = now if self._stalled_since is None else self._stalled_since
            return
        self._stalled_since = None
        changed = False
        while self._coming and self._coming[0][0] <= now:
            _, kind, key, value = self._coming.popleft()
            self._take(kind, key, value)
            changed = True
        if changed:
            self._snapshot = self._picture()

    def relist(self) -> None:
        """Read everything anew, as a process does that has just started."""
        self._coming.clear()
        self._nodes = dict(self._cluster.nodes)
        self._pods = {key: pod.seen for key, pod in self._cluster.pods.items()}
        self._deployments = dict(self._cluster.deployments)
        self._foreign = dict(self._cluster.foreign_pods)
        self._snapshot = self._picture()

    def _changed(self, kind: str, key: str, value: object) -> None:
        lag = self._cluster.weather.active(FaultKind.CACHE_LAG, self._clock.now)
        seconds = self._cluster.setting.delays.watch_seconds if lag is None else lag.seconds
        # One watch delivers in order: nothing overtakes what was late.
        at = max(self._clock.now + seconds, self._coming[-1][0] if self._coming else 0.0)
        self._coming.append((at, kind, key, value))
        if self._stalled_since is None:
            self._pull(at)

    def _take(self, kind: str, key: str, value: object) -> None:
        if isinstance(value, Node):
            self._nodes[key] = value
        elif isinstance(value, Replica):
            self._pods[key] = value
        elif isinstance(value, Deployment):
            self._deployments[key] = value
        elif isinstance(value, ForeignPod):
            self._foreign[key] = value
        else:
            gone_from: dict[str, dict[str, Any]] = {
                "node": self._nodes,
                "pod": self._pods,
                "deployment": self._deployments,
                "foreign": self._foreign,
            }
            gone_from[kind].pop(key, None)

    def _picture(self) -> FleetSnapshot:
        return FleetSnapshot(
            nodes=tuple(node for _, node in sorted(self._nodes.items())),
            replicas=tuple(sorted(self._pods.values(), key=lambda seen: (seen.deployment, seen.name))),
            pools=self._pools,
            foreign_pods=tuple(pod for _, pod in sorted(self._foreign.items())),
        )


@dataclass(slots=True)
class _Ticket:
    """One action on its way."""

    action: Action
    issued_at: float
    outcome: Outcome = Outcome.PENDING
    detail: str = ""
    settled_at: float | None = None


class Writer:
    """Carries actions to the API server; some get lost on the way."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock, queue: EventQueue, trigger: Trigger) -> None:
        self.tickets: list[_Ticket] = []
        self._trigger = trigger
        self.on_applied: Callable[[Action], None] = lambda action: None
        self._cluster = cluster
        self._clock = clock
        self._queue = queue
        self._random = random.Random(f"{cluster.setting.seed}/writes")

    def send(self, action: Action) -> None:
        """Send one action; what becomes of it shows in its ticket."""
        ticket = _Ticket(action, self._clock.epoch_seconds)
        self.tickets.append(ticket)
        now, weather, drawn = self._clock.now, self._cluster.weather, self._random.random()
        slow = weather.active(FaultKind.SLOW_API, now)
        if slow is not None and slow.share < 1.0 and self._random.random() >= slow.share:
            slow = None
        extra = self._random.random() * slow.seconds if slow is not None else 0.0
        arrives = self._cluster.setting.delays.write_seconds + extra
        answered = arrives + (self._random.random() * slow.seconds if slow is not None else 0.0)
        lost, refused = weather.active(FaultKind.LOST_WRITES, now), weather.active(FaultKind.REFUSED_WRITES, now)
        if lost is not None and drawn < lost.share:
            if self._random.random() < 0.5:
                self._at(self._random.random() * 1.5 * WRITER_TIMEOUT_SECONDS, partial(self._arrive, ticket, None))
            self._at(WRITER_TIMEOUT_SECONDS, partial(self._settle, ticket, Outcome.UNKNOWN, "no answer in time"))
            return
        if refused is not None and self._random.random() < refused.share and not isinstance(action, SetScale):
            self._at(answered, partial(self._settle, ticket, Outcome.FAILED, "refused: internal error"))
            return
        self._at(arrives, partial(self._arrive, ticket, max(0.0, answered - arrives)))
        if answered > WRITER_TIMEOUT_SECONDS:
            self._at(WRITER_TIMEOUT_SECONDS, partial(self._settle, ticket, Outcome.UNKNOWN, "no answer in time"))

    def issued(
        self, snapshot: FleetSnapshot, deployments: tuple[Deployment, ...], heard_at: float
    ) -> tuple[IssuedAction, ...]:
        """Return what the next plan must know; forget what need not be told again, as of when the watches were last heard."""
        if not self.tickets:
            return ()
        seen = _Seen(snapshot, deployments)
        told: list[_Ticket] = []
        kept: list[_Ticket] = []
        for ticket in self.tickets:
            settled = ticket.outcome is not Outcome.PENDING
            late = ticket.settled_at is not None and heard_at - ticket.settled_at > FORGET_SECONDS
            if (settled and seen.shows(ticket.action)) or late:
                continue
            told.append(ticket)
            if ticket.outcome not in (Outcome.FAILED, Outcome.NOT_SENT):
                kept.append(ticket)
        self.tickets = kept
        return tuple(
            IssuedAction(action=one.action, issued_at=one.issued_at, outcome=one.outcome, detail=one.detail)
            for one in told
        )

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        self._queue.push(self._clock.now + seconds, Kind.WRITE, act)

    def _arrive(self, ticket: _Ticket, answer_seconds: float | None) -> None:
        refusal = self._cluster.apply(ticket.action)
        if refusal is None:
            self.on_applied(ticket.action)
        if answer_seconds is not None:
            outcome, detail = (Outcome.DONE, "") if refusal is None else refusal
            self._at(answer_seconds, partial(self._settle, ticket, outcome, detail))

    def _settle(self, ticket: _Ticket, outcome: Outcome, detail: str) -> None:
        if ticket.outcome is Outcome.PENDING:
            ticket.outcome, ticket.detail, ticket.settled_at = outcome, detail, self._clock.epoch_seconds
            if outcome is not Outcome.DONE:
                self._trigger.pull(self._clock.now)


class _Seen:
    """Whether a picture shows what an action does."""

    def __init__(self, snapshot: FleetSnapshot, deployments: tuple[Deployment, ...]) -> None:
        self._replicas = {f"{one.deployment.partition('/')[0]}/{one.name}": one for one in snapshot.replicas}
        self._nodes = {node.name for node in snapshot.nodes}
        self._scales = {deployment.key: deployment.replicas for deployment in deployments}

    def shows(self, action: Action) -> bool:
        """Whether it has happened, as far as can be seen."""
        if isinstance(action, SetScale):
            return self._scales.get(action.deployment, action.replicas) == action.replicas
        if isinstance(action, LaunchNode):
            return action.name in self._nodes
        if isinstance(action, RemoveNode):
            return action.node not in self._nodes
        replica = self._replicas.get(f"{action.deployment.partition('/')[0]}/{action.name}")
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


class SimulatedOperator:
    """Senses, plans and acts; one of it at a time."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock, queue: EventQueue, scraper: Scraper) -> None:
        self.trigger = Trigger(clock, queue)
        self.cache = WatchCache(cluster, clock, self.trigger.pull)
        self.writer = Writer(cluster, clock, queue, self.trigger)
        self.plans = 0
        self.actions_sent = 0
        self.recorded: list[tuple[Inputs, State]] = []
        self.record = False
        """Keep every (inputs, state), for whoever wants to replay them elsewhere."""
        self._clock = clock
        self._scraper = scraper
        self._state = State()
        self._down_until = 0.0
        self._relist_due = False

    def run_pass(self) -> tuple[Inputs, Plan] | None:
        """Plan once and send the actions; None while no operator runs."""
        if self._clock.now < self._down_until:
            return None
        if self._relist_due:
            self._relist_due = False
            self.cache.relist()
        self.cache.catch_up()
        snapshot, deployments = self.cache.snapshot, self.cache.deployments
        inputs = Inputs(
            now=self._clock.epoch_seconds,
            deployments=deployments,
            snapshot=snapshot,
            samples=self._scraper.read(deployments, snapshot.replicas),
            issued=self.writer.issued(snapshot, deployments, self._clock.epoch_seconds - self.cache.age_seconds),
            cache_age_seconds=self.cache.age_seconds,
        )
        if self.record:
            self.recorded.append((inputs, self._state))
        found, self._state = plan(inputs, self._state)
        self.plans += 1
        self.actions_sent += len(found.actions)
        for action in found.actions:
            self.writer.send(action)
        return inputs, found

    def restart(self, down_seconds: float) -> None:
        """Be killed; what is on its way arrives, and the successor relists first, knowing nothing."""
        self._down_until = self._clock.now + max(down_seconds, LEASE_SECONDS)
        self._state = State()
        self.writer.tickets = []
        self._relist_due = True

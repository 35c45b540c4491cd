"""A tiny cluster in memory, to drive `plan()` through everything that goes wrong in a big one.

Concept: Pods, nodes, queues and an API server in virtual time, all from one seed. Actions take time; answers get lost though the
write was done, or not; launches are refused; Pods fail or are never bound; nodes vanish; other people's Pods take cores; caches lag
behind; specs and loads change; the operator is killed between two of its writes and starts anew knowing nothing.
Boundary: it knows core's values and none of its rules: what is legal, dear or allowed is judged in `seam_checks`. Two streams of
random numbers, one for what happens in the world and one for what becomes of writes, so that the same things happen to an
operator that is killed and to one that is not.
Failure: none of its own; a defect shows as a failed check.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from fleetpack.catalog import load_catalog
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
from fleetpack.core.deployments import Deployment, Disruption, Mode, SignalSpecification, Variant
from fleetpack.core.fleet import (
    FleetSnapshot,
    ForeignPod,
    Node,
    Offering,
    Pool,
    PoolProvider,
    Replica,
    ReplicaPhase,
    Resources,
)
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.planner import plan
from fleetpack.core.samples import Sample
from fleetpack.core.state import State

START = 1_000_000.0
TICK_SECONDS = 2.0
STEP_SECONDS = 0.5
FORGET_SECONDS = 10.0
"""An action that a cache this much younger than its answer does not show has not happened, or has been undone since."""
STARTUP_SECONDS = 8.0
ENGINE = SignalSpecification(name="engine", in_pods=True)
INBOX = SignalSpecification(name="inbox", in_pods=False, measures="waiting")
STEADY_UTILIZATION = 0.66
TYPES = load_catalog().instance_types
ENDED = (ReplicaPhase.FAILED, ReplicaPhase.TERMINATING)


@dataclass(slots=True)
class Pod:
    """One Pod of ours: what is true of it."""

    seen: Replica
    inside: float = 0.0
    """Requests that wait or run in it."""
    finished: float = 0.0
    bind_at: float = 0.0
    """When the scheduler looks at it; infinite: never."""
    ready_at: float = 0.0
    fail_at: float = float("inf")
    gone_at: float = float("inf")

    def change(self, **changes: Any) -> None:
        """Write to it, as the API server does: each write is another resourceVersion."""
        version = str(int(self.seen.resource_version) + 1)
        self.seen = replace(self.seen, resource_version=version, **changes)


@dataclass(slots=True)
class Write:
    """One action on its way: when it arrives, whether it does anything, and when its answer is known."""

    action: Action
    issued_at: float
    arrives_at: float
    happens: bool
    answered_at: float
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How much goes wrong, as shares of 1."""

    lost: float = 0.06
    not_sent: float = 0.04
    refused: float = 0.04
    never_bound: float = 0.05
    pod_fails: float = 0.05
    kill: float = 0.04
    lag: float = 0.5
    read_fails: float = 0.03
    world: float = 0.35
    """Chance of one event (a node, a foreign Pod, a spec, a load) in a tick."""


NO_FAULTS = Faults(lost=0, not_sent=0, refused=0, never_bound=0, pod_fails=0, kill=0, lag=0, read_fails=0, world=0)


@dataclass(slots=True)
class SmallWorld:
    """The cluster as it is, and the writes on their way to it."""

    seed: int
    faults: Faults = field(default_factory=Faults)
    now: float = START
    deployments: dict[str, Deployment] = field(default_factory=dict)
    ceilings_changed_at: dict[str, float] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    foreign: dict[str, ForeignPod] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    """Arrivals per second."""
    inbox: dict[str, float] = field(default_factory=dict)
    """Requests that wait outside because no replica is ready."""
    writes: list[Write] = field(default_factory=list)
    past: list[tuple[float, FleetSnapshot, tuple[Deployment, ...]]] = field(default_factory=list)
    applied: list[tuple[float, Action]] = field(default_factory=list)
    """What has really happened, for whoever checks or reads a failure."""
    _events: random.Random = field(init=False)
    _fates: random.Random = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self._events = random.Random(f"{self.seed}/events")
        self._fates = random.Random(f"{self.seed}/fates")
        _populate(self, random.Random(f"{self.seed}/fleet"))
        self.remember()

    # --- what an operator sees

    def remember(self) -> None:
        """Keep a picture of this moment, for caches that are behind."""
        self.past.append((self.now, self.snapshot(), tuple(self.deployments.values())))
        del self.past[:-90]

    def snapshot(self) -> FleetSnapshot:
        """Return the truth of this moment."""
        return FleetSnapshot(
            nodes=tuple(node for _, node in sorted(self.nodes.items())),
            replicas=tuple(
                sorted((pod.seen for pod in self.pods.values()), key=lambda seen: (seen.deployment, seen.name))
            ),
            foreign_pods=tuple(pod for _, pod in sorted(self.foreign.items())),
            pools=tuple(pool for _, pool in sorted(self.pools.items())),
        )

    def seen_at(self, moment: float) -> tuple[float, FleetSnapshot, tuple[Deployment, ...]]:
        """Return the latest picture that is not younger than `moment`."""
        return next((entry for entry in reversed(self.past) if entry[0] <= moment), self.past[0])

    def samples(self, seen: FleetSnapshot) -> tuple[Sample, ...]:
        """Return the answers of all sources, asked by an operator that sees `seen`."""
        found = []
        by_uid = {pod.seen.uid: pod for pod in self.pods.values()}
        for replica in seen.replicas:
            if replica.phase not in (ReplicaPhase.READY, ReplicaPhase.DRAINING):
                continue
            pod = by_uid.get(replica.uid)
            failed = pod is None or pod.seen.ready_at is None or self._fates.random() < self.faults.read_fails
            found.append(self._pod_sample(replica, None if failed else pod))
        for deployment in self.deployments.values():
            if INBOX in deployment.signals:
                waiting = self.inbox.get(deployment.key, 0.0)
                found.append(_sample(deployment.key, "inbox", "", self.now, waiting=waiting))
        return tuple(found)

    def _pod_sample(self, replica: Replica, pod: Pod | None) -> Sample:
        deployment = self.deployments.get(replica.deployment)
        variant = deployment.variant(replica.variant) if deployment else None
        if pod is None or variant is None:
            return _sample(replica.deployment, "engine", replica.uid, self.now, error="no answer")
        slots = float(variant.prior_concurrency or 1)
        return _sample(
            replica.deployment,
            "engine",
            replica.uid,
            self.now,
            waiting=max(0.0, _exact(pod.inside) - slots),
            running=min(_exact(pod.inside), slots),
            finished_total=_exact(pod.finished),
        )

    # --- what an operator does

    def submit(self, action: Action) -> Write:
        """Take a write on its way; what becomes of it is drawn now and happens later."""
        fates, faults = self._fates, self.faults
        delay, answer = fates.uniform(0.0, 1.5), fates.uniform(0.0, 1.0)
        drawn = fates.random()
        write = Write(
            action=action,
            issued_at=self.now,
            arrives_at=self.now + delay,
            happens=True,
            answered_at=self.now + delay + answer,
            outcome=Outcome.DONE,
        )
        if drawn < faults.lost:
            # No answer within the writer's time-out; the write may even arrive after that.
            write.outcome, write.answered_at = Outcome.UNKNOWN, self.now + 4.0
            write.happens = fates.random() < 0.5
            write.arrives_at = self.now + fates.uniform(0.0, 6.0)
        elif drawn < faults.lost + faults.not_sent:
            write.outcome, write.happens = Outcome.NOT_SENT, False
        elif drawn < faults.lost + faults.not_sent + faults.refused and not isinstance(action, SetScale):
            write.outcome, write.happens, write.detail = Outcome.FAILED, False, "refused"
        self.writes.append(write)
        return write

    def land(self) -> None:
        """Let everything that is on its way arrive now: what a lease guarantees before another operator starts."""
        for write in self.writes:
            write.arrives_at = min(write.arrives_at, self.now)
        self._arrive()
        self.writes.clear()

    def _arrive(self) -> None:
        for write in sorted(self.writes, key=lambda write: write.arrives_at):
            if write.happens and write.arrives_at <= self.now:
                write.happens = False
                refusal = self._apply(write.action)
                if refusal is None:
                    self.applied.append((self.now, write.action))
                elif write.outcome is Outcome.DONE:
                    write.outcome, write.detail = refusal
        self.writes = [write for write in self.writes if write.happens or write.answered_at > self.now - 30]

    def _apply(self, action: Action) -> tuple[Outcome, str] | None:
        """Do it, or return how the API server refuses it."""
        if isinstance(action, CreateReplica):
            return self._create(action)
        if isinstance(action, SetScale):
            if action.deployment not in self.deployments:
                return Outcome.UNKNOWN, "not found"
            self._respec(action.deployment, replicas=action.replicas)
            return None
        if isinstance(action, LaunchNode):
            if action.name in self.nodes:
                return Outcome.UNKNOWN, "already exists"
            self._launch(action)
            return None
        if isinstance(action, RemoveNode):
            self.lose_node(action.node)
            return None
        return self._write_pod(action)

    def _create(self, action: CreateReplica) -> tuple[Outcome, str] | None:
        key = f"{action.deployment.partition('/')[0]}/{action.name}"
        deployment = self.deployments.get(action.deployment)
        if key in self.pods:
            return Outcome.UNKNOWN, "already exists"
        variant = deployment.variant(action.variant) if deployment else None
        if variant is None:
            return Outcome.FAILED, "the deployment or its variant is gone"
        self._count += 1
        fates, faults = self._fates, self.faults
        replica = Replica(
            deployment=action.deployment,
            variant=action.variant,
            name=action.name,
            uid=f"uid-{self._count}",
            resource_version="1",
            node=action.node,
            cores=action.cores,
            cores_count=action.cores_count,
            planned_cores=action.cores,
            phase=ReplicaPhase.UNBOUND,
            template_hash=action.template_hash,
            requests=replace(variant.requests, accelerator_cores=action.cores_count),
            created_at=self.now,
        )
        never = fates.random() < faults.never_bound
        fails = fates.random() < faults.pod_fails or (variant.template_hash.startswith("bad") and fates.random() < 0.5)
        self.pods[key] = Pod(
            seen=replica,
            bind_at=float("inf") if never else self.now + fates.uniform(0.0, 0.5),
            fail_at=self.now + fates.uniform(1.0, 40.0) if fails else float("inf"),
        )
        return None

    def _write_pod(self, action: DrainReplica | RestoreReplica | DeleteReplica) -> tuple[Outcome, str] | None:
        key = f"{action.deployment.partition('/')[0]}/{action.name}"
        pod = self.pods.get(key)
        if pod is None:
            return (Outcome.DONE if isinstance(action, DeleteReplica) else Outcome.UNKNOWN), "not found"
        if (pod.seen.uid, pod.seen.resource_version) != (action.uid, action.resource_version):
            return Outcome.NOT_SENT, "conflict"
        if isinstance(action, DeleteReplica):
            if pod.seen.phase in (ReplicaPhase.UNBOUND, ReplicaPhase.FAILED):
                del self.pods[key]
            else:
                pod.change(phase=ReplicaPhase.TERMINATING)
                pod.gone_at = self.now + self._fates.uniform(0.5, 4.0)
        elif isinstance(action, DrainReplica):
            pod.change(phase=ReplicaPhase.DRAINING, draining_since=self.now)
        else:
            pod.change(phase=ReplicaPhase.READY, draining_since=None)
        return None

    def _launch(self, action: LaunchNode) -> None:
        self.nodes[action.name] = _node(action.name, action.pool, action.instance_type, created_at=self.now)
        self.nodes[action.name] = replace(self.nodes[action.name], ready=False, booting=True)
        self.ready_at[action.name] = self.now + self._fates.uniform(4.0, 20.0)

    # --- what happens by itself

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        for _ in range(round(seconds / STEP_SECONDS)):
            self.now += STEP_SECONDS
            self._arrive()
            self._boot()
            self._live()
            self._serve(STEP_SECONDS)
            self.remember()

    def _boot(self) -> None:
        for name, ready_at in list(self.ready_at.items()):
            if name in self.nodes and ready_at <= self.now:
                self.nodes[name] = replace(self.nodes[name], ready=True, booting=False)
                del self.ready_at[name]

    def _live(self) -> None:
        for key, pod in list(self.pods.items()):
            seen = pod.seen
            if seen.deployment not in self.deployments and pod.gone_at == float("inf"):
                pod.change(phase=ReplicaPhase.TERMINATING)
                pod.gone_at = self.now + 1.0
            elif pod.gone_at <= self.now:
                del self.pods[key]
            elif pod.fail_at <= self.now and seen.phase not in (*ENDED, ReplicaPhase.UNBOUND):
                pod.change(phase=ReplicaPhase.FAILED, failure="Error")
            elif seen.phase is ReplicaPhase.UNBOUND and pod.bind_at <= self.now:
                self._bind(pod)
            elif seen.phase is ReplicaPhase.STARTING and pod.ready_at <= self.now:
                pod.change(phase=ReplicaPhase.READY, ready_at=self.now)

    def _bind(self, pod: Pod) -> None:
        """Bind as kube-scheduler and kubelet do: the one counts, the other gives the planned cores if it can."""
        seen, node = pod.seen, self.nodes.get(pod.seen.node)
        if node is None or not node.ready:
            return
        held = [other.seen for other in self.pods.values() if other.seen.node == node.name and _bound(other.seen)]
        guests = [guest for guest in self.foreign.values() if guest.node == node.name]
        used = sum(one.cores_count for one in held) + sum(guest.requests.accelerator_cores for guest in guests)
        if used + seen.cores_count > node.allocatable.accelerator_cores:
            return
        cores = seen.planned_cores
        if cores:
            taken = 0
            for other in held:
                taken |= other.cores
            for guest in guests:
                taken |= guest.cores or 0
            if cores & taken:
                free = [core for core in range(node.instance_type.cores) if not taken >> core & 1]
                cores = sum(1 << core for core in free[: seen.cores_count])
        delay = STARTUP_SECONDS + self._fates.uniform(0.0, 4.0)
        pod.ready_at = self.now + delay
        pod.change(phase=ReplicaPhase.STARTING, cores=cores)

    def _serve(self, seconds: float) -> None:
        """Requests as a fluid: each replica serves `min(inside, slots)` at once."""
        pods: dict[str, list[Pod]] = {}
        for _, pod in sorted(self.pods.items()):
            pods.setdefault(pod.seen.deployment, []).append(pod)
        for key, deployment in self.deployments.items():
            arrivals = self.loads.get(key, 0.0) * seconds
            ready = [pod for pod in pods.get(key, ()) if pod.seen.phase is ReplicaPhase.READY]
            if ready:
                arrivals += self.inbox.pop(key, 0.0)
                for pod in ready:
                    pod.inside += arrivals / len(ready)
            else:
                self.inbox[key] = min(60.0, self.inbox.get(key, 0.0) + arrivals)
            for pod in pods.get(key, ()):
                variant = deployment.variant(pod.seen.variant)
                if variant is None or pod.seen.phase in (*ENDED, ReplicaPhase.UNBOUND):
                    continue
                slots = float(variant.prior_concurrency or 1)
                rate = variant.prior_requests_per_second or 1.0
                served = min(pod.inside, slots) / slots * rate * seconds
                if pod.inside - served < 0.1:
                    served = pod.inside
                pod.inside = min(pod.inside - served, 60.0 + slots)
                pod.finished += served

    # --- what others do

    def disturb(self) -> None:
        """Let one thing happen, perhaps, that is nobody's decision here."""
        events = self._events
        if events.random() >= self.faults.world:
            return
        kind = events.choice(
            ("load", "load", "scale", "bounds", "ceiling", "template", "mode", "delete", "node", "foreign", "unready")
        )
        chosen, number = events.random(), events.random()
        keys = sorted(self.deployments)
        key = keys[int(chosen * len(keys))] if keys else ""
        if kind == "node" and number < 0.5:
            names = sorted(self.nodes)
            if len(names) > 1:
                self.lose_node(names[int(chosen * len(names))])
        elif kind == "node":
            self._trouble(chosen, number)
        elif kind == "foreign":
            self._foreign(chosen, number)
        elif kind == "unready":
            ready = [pod for _, pod in sorted(self.pods.items()) if pod.seen.phase is ReplicaPhase.READY]
            if ready:
                pod = ready[int(chosen * len(ready))]
                pod.change(phase=ReplicaPhase.STARTING, ready_at=None)
                pod.ready_at = self.now + 6 * number
        elif key:
            self._change(kind, key, number)

    def heal(self) -> None:
        """Bring every node back that is silent, cordoned or partly broken."""
        for name, node in sorted(self.nodes.items()):
            if node.cordoned or node.unready_since is not None or node.unhealthy_cores:
                self.nodes[name] = replace(node, cordoned=False, ready=True, unready_since=None, unhealthy_cores=0)
                for _, pod in sorted(self.pods.items()):
                    if pod.seen.node == name and pod.seen.phase is ReplicaPhase.STARTING:
                        pod.ready_at = min(pod.ready_at, self.now + 2.0)

    def _trouble(self, chosen: float, number: float) -> None:
        """Cordon a node or lift it, let it fall silent or come back, or break one of its cores."""
        names = [name for name, node in sorted(self.nodes.items()) if not node.booting and name not in self.ready_at]
        if not names:
            return
        node = self.nodes[names[int(chosen * len(names))]]
        if number < 0.7:
            cordoned = not node.cordoned
            ready = not cordoned and node.unready_since is None
            self.nodes[node.name] = replace(node, cordoned=cordoned, ready=ready)
        elif number < 0.85:
            silent = node.unready_since is None
            ready = not silent and not node.cordoned
            self.nodes[node.name] = replace(node, ready=ready, unready_since=self.now if silent else None)
            for _, pod in sorted(self.pods.items()):
                if pod.seen.node == node.name and pod.seen.phase in (ReplicaPhase.READY, ReplicaPhase.STARTING):
                    pod.change(phase=ReplicaPhase.STARTING, ready_at=None)
                    pod.ready_at = float("inf") if silent else self.now + 2.0
        elif node.allocatable.accelerator_cores > 1 and node.instance_type.cores_per_device > 1:
            self.nodes[node.name] = replace(node, unhealthy_cores=1 << int(number * 100) % node.instance_type.cores)

    def _change(self, kind: str, key: str, number: float) -> None:
        deployment = self.deployments[key]
        if kind == "load":
            self.loads[key] = steady_load(deployment, int(number * 5))
        elif kind == "scale" and deployment.mode is not Mode.AUTO:
            self._respec(key, replicas=int(number * 5))
        elif kind == "bounds":
            minimum = int(number * 3) if INBOX in deployment.signals else 1 + int(number * 2)
            self._respec(key, minimum_replicas=minimum, maximum_replicas=max(1, minimum) + int(number * 10) % 4)
        elif kind == "ceiling":
            self.ceilings_changed_at[key] = self.now
            self._respec(key, maximum_usd_per_hour=None if number < 0.4 else 12.0 * number)
        elif kind == "template":
            variants = tuple(
                replace(variant, template_hash=f"{'bad' if number < 0.1 else 'hash'}-{int(number * 1000)}")
                for variant in deployment.variants
            )
            self._respec(key, variants=variants)
        elif kind == "mode":
            mode = (Mode.AUTO, Mode.AUTO, Mode.MANUAL, Mode.ADVISORY, Mode.PAUSED)[int(number * 5)]
            self._respec(key, mode=mode)
        elif kind == "delete" and number < 0.3 and len(self.deployments) > 1:
            del self.deployments[key]

    def _respec(self, key: str, **changes: Any) -> None:
        self.deployments[key] = replace(self.deployments[key], **changes)

    def lose_node(self, name: str) -> None:
        """Take a node away with everything that runs on it; a Pod that waits for it goes on waiting."""
        self.nodes.pop(name, None)
        self.ready_at.pop(name, None)
        self.pods = {
            key: pod
            for key, pod in self.pods.items()
            if pod.seen.node != name or pod.seen.phase is ReplicaPhase.UNBOUND
        }
        self.foreign = {key: pod for key, pod in self.foreign.items() if pod.node != name}

    def _foreign(self, chosen: float, number: float) -> None:
        if self.foreign and number < 0.4:
            del self.foreign[sorted(self.foreign)[int(chosen * len(self.foreign))]]
            return
        names = [name for name, node in sorted(self.nodes.items()) if node.ready]
        if not names:
            return
        node = self.nodes[names[int(chosen * len(names))]]
        count = 2
        held = [pod.seen for pod in self.pods.values() if pod.seen.node == node.name and _bound(pod.seen)]
        guests = [guest for guest in self.foreign.values() if guest.node == node.name]
        used = sum(one.cores_count for one in held) + sum(guest.requests.accelerator_cores for guest in guests)
        if used + count > node.instance_type.cores:
            return
        taken = 0
        for one in (*held, *guests):
            taken |= one.cores or 0
        free = [core for core in range(node.instance_type.cores) if not taken >> core & 1]
        self._count += 1
        counted = node.instance_type.accelerator == "a10g"
        self.foreign[f"other/guest-{self._count}"] = ForeignPod(
            name=f"other/guest-{self._count}",
            node=node.name,
            requests=Resources(cpu_millicores=100, pods=1, accelerator_cores=count),
            cores=None if counted else sum(1 << core for core in free[-count:]),
        )

    def calm(self) -> None:
        """End all faults and let everything work from now on; queues are given up, loads and specs stay as they are."""
        self.faults = NO_FAULTS
        self.inbox.clear()
        for pod in self.pods.values():
            pod.fail_at = float("inf")
            pod.inside = min(pod.inside, 1.0)
        for key, deployment in self.deployments.items():
            good = tuple(
                replace(variant, template_hash=variant.template_hash.replace("bad", "good"))
                for variant in deployment.variants
            )
            self._respec(key, variants=good)


def steady_load(deployment: Deployment, replicas: int) -> float:
    """Return the arrivals per second that `replicas` replicas (at most 4) serve at 66 %: neither more nor less is right."""
    rate = min(variant.prior_requests_per_second or 1.0 for variant in deployment.variants)
    return STEADY_UTILIZATION * rate * min(replicas, 4)


def _exact(number: float) -> float:
    """Round to a binary fraction, so that sums and differences of counters are exact, as those of whole requests are."""
    return round(number * 1024) / 1024


def _bound(replica: Replica) -> bool:
    return replica.phase not in (ReplicaPhase.UNBOUND, ReplicaPhase.FAILED)


def _sample(deployment: str, signal: str, pod_uid: str, at: float, **numbers: Any) -> Sample:
    values: dict[str, Any] = {
        "deployment": deployment,
        "signal": signal,
        "pod_uid": pod_uid,
        "observed_at": at,
        "waiting": None,
        "running": None,
        "finished_total": None,
        "arrival_rate_per_second": None,
        "ttft_seconds": None,
    }
    return Sample(**{**values, **numbers})


def _node(name: str, pool: str, kind: str, created_at: float = START - 3600) -> Node:
    instance_type = TYPES[kind]
    return Node(
        name=name,
        pool=pool,
        instance_type=instance_type,
        ready=True,
        created_at=created_at,
        price_usd_per_hour=instance_type.price_usd_per_hour,
        allocatable=Resources(
            cpu_millicores=instance_type.allocatable_cpu_millicores or 0,
            memory_bytes=instance_type.allocatable_memory_bytes or 0,
            pods=instance_type.max_pods or 110,
            accelerator_cores=instance_type.cores,
        ),
    )


def _pool(name: str, provider: PoolProvider, kinds: tuple[str, ...], **changes: Any) -> Pool:
    offerings = tuple(
        Offering(instance_type=TYPES[kind], price_usd_per_hour=TYPES[kind].price_usd_per_hour) for kind in kinds
    )
    return Pool(name=name, provider=provider, offerings=offerings, **changes)


def _populate(world: SmallWorld, drawn: random.Random) -> None:
    """Draw a fleet: a ring pool that may grow, perhaps a torus and a GPU pool that may not, and two to four models."""
    provider = drawn.choice((PoolProvider.STATIC, PoolProvider.SIMULATED))
    limits: dict[str, Any] = {"maximum_nodes": drawn.choice((2, 4, None)), "consolidate_after_seconds": 30.0}
    if drawn.random() < 0.3:
        limits["maximum_usd_per_hour"] = drawn.choice((13.0, 26.0))
    world.pools["ring"] = _pool("ring", provider, ("inf2.24xlarge", "inf2.48xlarge"), **limits)
    for index in range(drawn.randint(0 if provider is PoolProvider.SIMULATED else 1, 2)):
        name = f"ring-node-{index}"
        world.nodes[name] = _node(name, "ring", drawn.choice(("inf2.24xlarge", "inf2.48xlarge")))
    if drawn.random() < 0.5:
        closed = frozenset({"team"}) if drawn.random() < 0.3 else None
        world.pools["torus"] = _pool("torus", PoolProvider.STATIC, ("trn1.32xlarge",), namespaces=closed)
        world.nodes["torus-node-0"] = _node("torus-node-0", "torus", "trn1.32xlarge")
    if drawn.random() < 0.3:
        world.pools["gpu"] = _pool("gpu", PoolProvider.STATIC, ("g5.12xlarge",))
        world.nodes["gpu-node-0"] = _node("gpu-node-0", "gpu", "g5.12xlarge")
    for index in range(drawn.randint(2, 4)):
        deployment = _deployment(index, drawn, "gpu" in world.pools)
        world.deployments[deployment.key] = deployment
        world.loads[deployment.key] = steady_load(deployment, drawn.randint(0, 4))


def _deployment(index: int, drawn: random.Random, gpus: bool) -> Deployment:
    rate = drawn.choice((1.0, 2.0, 5.0))
    common: dict[str, Any] = {
        "prior_requests_per_second": rate,
        "prior_concurrency": drawn.choice((4, 16)),
        "prior_startup_seconds": 10.0,
        "requests": Resources(cpu_millicores=1000, memory_bytes=2**30, pods=1),
        "template_hash": "hash-0",
    }
    ring = Variant(name="ring", accelerator="inferentia2", cores=drawn.choice((1, 2, 4, 6, 8, 12)), **common)
    torus = Variant(name="torus", accelerator="trainium", cores=drawn.choice((1, 2, 8, 16)), **common)
    gpu = Variant(name="gpu", accelerator="a10g", devices=drawn.choice((1, 2)), **common)
    choices = [(ring,), (ring,), (ring, torus), (torus, ring)] + ([(gpu,)] if gpus else [])
    outside = drawn.random() < 0.4
    minimum = drawn.choice((0, 1)) if outside else drawn.choice((1, 1, 2))
    return Deployment(
        namespace=drawn.choice(("default", "team")),
        name=f"model-{index}",
        uid=f"uid-model-{index}",
        mode=drawn.choice((Mode.AUTO, Mode.AUTO, Mode.AUTO, Mode.MANUAL, Mode.ADVISORY, Mode.PAUSED)),
        replicas=drawn.randint(minimum, 3),
        minimum_replicas=minimum,
        maximum_replicas=drawn.choice((3, 5, 6)),
        scale_to_zero_after_seconds=20.0,
        signals=(ENGINE, INBOX) if outside else (ENGINE,),
        maximum_usd_per_hour=drawn.choice((None, None, 4.0, 9.0)),
        disruption=Disruption(
            maximum_unavailable=drawn.choice((None, 1)),
            drain_seconds=drawn.choice((4.0, 20.0)),
        ),
        variants=drawn.choice(choices),
        priority=drawn.choice((0, 0, 10)),
    )


@dataclass(slots=True)
class Operator:
    """The loop around `plan()`: it remembers what it has issued, and forgets everything when it is killed."""

    world: SmallWorld
    state: State = field(default_factory=State)
    issued: list[Write] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    seen_at: float = 0.0

    def inputs(self, lag_seconds: float) -> Inputs:
        """Return what it knows now, from caches that are `lag_seconds` behind but never go back."""
        world = self.world
        moment = max(self.seen_at, world.now - lag_seconds)
        self.seen_at, snapshot, deployments = world.seen_at(moment)
        return Inputs(
            now=world.now,
            deployments=deployments,
            snapshot=snapshot,
            samples=world.samples(snapshot),
            issued=self._issued(snapshot, deployments),
            cache_age_seconds=world.now - self.seen_at,
        )

    def _issued(self, snapshot: FleetSnapshot, deployments: tuple[Deployment, ...]) -> tuple[IssuedAction, ...]:
        told, kept = [], []
        for write in self.issued:
            answered = write.answered_at <= self.world.now
            outcome = write.outcome if answered else Outcome.PENDING
            entry = IssuedAction(
                action=write.action,
                issued_at=write.issued_at,
                outcome=outcome,
                detail=write.detail if answered else "",
            )
            seen = answered and shows(write.action, snapshot, deployments)
            late = answered and self.seen_at - write.answered_at > FORGET_SECONDS
            if not seen and not late:
                told.append(entry)
                if outcome not in (Outcome.FAILED, Outcome.NOT_SENT):
                    kept.append(write)
        self.issued = kept
        return tuple(told)

    def think(self, inputs: Inputs) -> Plan:
        """Plan once."""
        found, self.state = plan(inputs, self.state)
        return found

    def act(self, actions: tuple[Action, ...]) -> None:
        """Send actions side by side."""
        self.issued.extend(self.world.submit(action) for action in actions)

    def die(self, down_seconds: float) -> None:
        """Be killed; another starts when everything on its way has arrived, and relists first."""
        self.world.advance(down_seconds)
        self.world.land()
        self.world.remember()
        self.state, self.issued, self.seen_at = State(), [], self.world.now


def shows(action: Action, snapshot: FleetSnapshot, deployments: tuple[Deployment, ...]) -> bool:
    """Whether a picture of the cluster shows what an action does."""
    if isinstance(action, SetScale):
        return all(one.replicas == action.replicas for one in deployments if one.key == action.deployment)
    if isinstance(action, LaunchNode):
        return any(node.name == action.name for node in snapshot.nodes)
    if isinstance(action, RemoveNode):
        return all(node.name != action.node for node in snapshot.nodes)
    namespace = action.deployment.partition("/")[0]
    found = [
        replica
        for replica in snapshot.replicas
        if replica.name == action.name and replica.deployment.partition("/")[0] == namespace
    ]
    if isinstance(action, CreateReplica):
        return bool(found)
    if not found or found[0].uid != action.uid:
        return True
    phase = found[0].phase
    if isinstance(action, DeleteReplica):
        return phase is ReplicaPhase.TERMINATING
    return (phase is ReplicaPhase.DRAINING) == isinstance(action, DrainReplica)

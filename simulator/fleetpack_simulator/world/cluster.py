"""The cluster as it is: an API server with Pods, nodes and specs, a scheduler, kubelets, and a cloud that gives and takes machines.

Writes come as the planner's actions and are refused as the real ones would be: a taken name, a wrong UID or resourceVersion, a machine
that cannot be had. What happens by itself (binding, pulling, loading, ending, dying) is an event with its delay and jitter. Each
change is told to listeners, as a watch would. The scheduler counts resources and knows nothing of ranges of cores, so two Pods on
the same cores get here without objection: noticing that is the business of the invariants.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fleetpack.catalog import InstanceType
from fleetpack.core.decision import (
    Action,
    CreateReplica,
    DeleteReplica,
    DrainReplica,
    LaunchNode,
    Outcome,
    RemoveNode,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import ForeignPod, Node, Pool, Replica, ReplicaPhase, Resources, Taint
from fleetpack_simulator.checking.machines import MACHINES, why_illegal
from fleetpack_simulator.world.costs import CostMeter
from fleetpack_simulator.world.events import Clock, EventQueue, Kind
from fleetpack_simulator.world.faults import FaultKind, Weather
from fleetpack_simulator.world.setting import BootBehaviour, ModelSetting, SpecChange, WorldSetting
from fleetpack_simulator.world.traffic import ServingReplica, Traffic

_BIND_AGAIN_SECONDS = 1.0
"""kube-scheduler tries a Pod that does not fit again when something changes; once a second comes to the same."""
_SWAP_WITHIN_SECONDS = 0.5
"""The kubelet admits Pods one by one; those that come within this time can be mistaken for one another."""
_SPOT_TAINT = Taint(key="aws-node-termination-handler/spot-itn", effect="NoSchedule")

Refusal = tuple[Outcome, str] | None
"""How a write is refused; None: it was done."""
Watcher = Callable[[str, str, object], None]
"""Called with kind, key and the new value (None: gone) of each changed object."""


class SimulatedPod:
    """One Pod: what the API server says of it, and what is behind it."""

    __slots__ = ("bound_at_seconds", "key", "model", "seen", "serving")

    def __init__(self, key: str, model: int, seen: Replica) -> None:
        self.bound_at_seconds = -1.0
        self.key = key
        self.model = model
        self.seen = seen
        self.serving: ServingReplica | None = None


class SimulatedCluster:
    """Nodes, Pods and specs, and everything that happens to them."""

    def __init__(self, setting: WorldSetting, clock: Clock, queue: EventQueue, traffic: Traffic) -> None:
        self.setting = setting
        self.weather = Weather(setting.faults)
        self.nodes: dict[str, Node] = {node.name: node for node in setting.nodes}
        self.pods: dict[str, SimulatedPod] = {}
        self.foreign_pods: dict[str, ForeignPod] = {}
        self.deployments: dict[str, Deployment] = {model.deployment.key: model.deployment for model in setting.models}
        self.pools: dict[str, Pool] = {pool.name: pool for pool in setting.pools}
        self.models: dict[str, int] = {model.deployment.key: index for index, model in enumerate(setting.models)}
        self.replica_costs = CostMeter()
        self.node_costs = CostMeter()
        self.placements: list[dict[str, Any]] = []
        """Each Pod that was ever bound: name, node, cores, from and to; for drawings."""
        self.machines: list[dict[str, Any]] = []
        """Each machine that was ever paid for: name, instance type, cores, from and to; for drawings."""
        self.changes = 0
        self._clock = clock
        self._queue = queue
        self._traffic = traffic
        self._random = random.Random(f"{setting.seed}/cluster")
        self._watchers: list[Watcher] = []
        self._dead_machines: set[str] = set()
        self._silent_machines: set[str] = set()
        self._images: dict[tuple[str, str], float] = {}
        """By node and image, when its pull ends; a new template names a new image."""
        self._compiled: set[tuple[str, str, str]] = set()
        """Deployment, variant and template that has come up once."""
        self._open_placements: dict[str, dict[str, Any]] = {}
        self._count = 0
        for name in sorted(self.nodes):
            self._charge_node(self.nodes[name])

    def watch(self, watcher: Watcher) -> None:
        """Have every change from now on told; what there is already is told first."""
        for node in self.nodes.values():
            watcher("node", node.name, node)
        for deployment in self.deployments.values():
            watcher("deployment", deployment.key, deployment)
        self._watchers.append(watcher)

    # --- writes

    def apply(self, action: Action) -> Refusal:
        """Do what an action says, or return how it is refused."""
        if isinstance(action, CreateReplica):
            return self._create(action)
        if isinstance(action, SetScale):
            return self.respecify(action.deployment, replicas=action.replicas)
        if isinstance(action, LaunchNode):
            return self._launch(action)
        if isinstance(action, RemoveNode):
            self.remove_node(action.node)
            return None
        return self._write_pod(action)

    def edit(self, change: SpecChange) -> None:
        """Let somebody edit, delete or make anew an InferenceDeployment; the garbage collector takes a deleted one's Pods."""
        key = change.deployment
        if change.deleted:
            if self.deployments.pop(key, None) is not None:
                self._tell("deployment", key, None)
            for pod in [pod for _, pod in sorted(self.pods.items()) if pod.seen.deployment == key]:
                self.delete_pod(pod)
            return
        own = self.deployments.get(key)
        if own is None:
            self._count += 1
            own = replace(self.setting.models[self.models[key]].deployment, uid=f"uid-again-{self._count}")
        changes = dict(change.fields)
        if change.template_hash:
            changes["variants"] = tuple(replace(one, template_hash=change.template_hash) for one in own.variants)
        self.deployments[key] = replace(own, **changes)
        self._tell("deployment", key, self.deployments[key])

    def respecify(self, deployment: str, **changes: Any) -> Refusal:
        """Change fields of a spec."""
        if deployment not in self.deployments:
            return Outcome.UNKNOWN, f"{deployment}: not found"
        self.deployments[deployment] = replace(self.deployments[deployment], **changes)
        self._tell("deployment", deployment, self.deployments[deployment])
        return None

    def _create(self, action: CreateReplica) -> Refusal:
        key = f"{action.deployment.partition('/')[0]}/{action.name}"
        if key in self.pods:
            return Outcome.NAME_TAKEN, f"pod {key}: already exists"
        if action.deployment not in self.deployments:
            return Outcome.FAILED, f"{action.deployment}: not found"
        variant = self.deployments[action.deployment].variant(action.variant)
        if variant is None:
            return Outcome.FAILED, f"{action.deployment}: variant {action.variant} is gone from the spec"
        self._count += 1
        seen = Replica(
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
            created_at=self._clock.epoch_seconds,
        )
        pod = SimulatedPod(key, self.models[action.deployment], seen)
        self.pods[key] = pod
        self._charge_pod(pod)
        self._tell("pod", key, seen)
        fault = self.weather.active(FaultKind.NEVER_BOUND, self._clock.now, action.deployment)
        if fault is None or self._random.random() >= fault.share:
            self._later(self.setting.delays.bind_seconds, partial(self._bind, pod, seen.uid))
        return None

    def _write_pod(self, action: DrainReplica | RestoreReplica | DeleteReplica) -> Refusal:
        key = f"{action.deployment.partition('/')[0]}/{action.name}"
        pod = self.pods.get(key)
        if pod is None:
            return None if isinstance(action, DeleteReplica) else (Outcome.UNKNOWN, f"pod {key}: not found")
        if (pod.seen.uid, pod.seen.resource_version) != (action.uid, action.resource_version):
            return Outcome.NOT_SENT, f"pod {key}: conflict"
        if isinstance(action, DeleteReplica):
            self.delete_pod(pod)
        elif isinstance(action, DrainReplica):
            if pod.serving is not None:
                self._traffic.close(pod.serving)
            self._change(pod, phase=ReplicaPhase.DRAINING, draining_since=self._clock.epoch_seconds)
        else:
            self._change(pod, phase=ReplicaPhase.READY, draining_since=None)
            if pod.serving is not None:
                self._traffic.open(pod.serving, self._clock.now)
        return None

    def delete_pod(self, pod: SimulatedPod) -> None:
        """Let a Pod end: at once where nothing runs, else after the kubelet has stopped it."""
        if pod.seen.phase is ReplicaPhase.TERMINATING:
            return
        self._stop(pod)
        if pod.seen.phase in (ReplicaPhase.UNBOUND, ReplicaPhase.FAILED):
            self._forget(pod)
            return
        self._change(pod, phase=ReplicaPhase.TERMINATING)
        if pod.seen.node not in self._dead_machines:
            self._later(self.setting.delays.termination_seconds, partial(self._forget, pod))

    def _launch(self, action: LaunchNode) -> Refusal:
        boot = self.setting.boots.get(action.pool, BootBehaviour())
        if action.name in self.nodes:
            return Outcome.UNKNOWN, f"node {action.name}: already exists"
        short = self.weather.active(FaultKind.INSUFFICIENT_CAPACITY, self._clock.now, action.instance_type)
        if short is not None or action.instance_type in boot.insufficient_capacity:
            return Outcome.FAILED, f"InsufficientCapacity: no {action.instance_type} can be had"
        if self._random.random() < boot.failure_rate:
            return Outcome.FAILED, f"LaunchFailed: {action.name} did not come up"
        offerings = {offer.instance_type.name: offer for offer in self.pools[action.pool].offerings}
        offering = offerings[action.instance_type]
        node = node_of(action.name, action.pool, offering.instance_type, offering.price_usd_per_hour)
        node = replace(node, ready=False, booting=True, created_at=self._clock.epoch_seconds)
        self._dead_machines.discard(action.name)
        self.nodes[node.name] = node
        self._charge_node(node)
        self._tell("node", node.name, node)
        seconds = boot.delay_seconds + self._random.random() * boot.jitter_seconds
        self._later(seconds, partial(self._booted, node.name, node.created_at))
        return None

    # --- what happens by itself

    def _booted(self, name: str, created_at: float) -> None:
        node = self.nodes.get(name)
        if node is None or node.created_at != created_at or name in self._dead_machines or node.taints:
            return
        self._change_node(name, ready=True, booting=False)

    def _bind(self, pod: SimulatedPod, uid: str) -> None:
        """Bind as kube-scheduler does, by counting, or look again later."""
        if self.pods.get(pod.key) is not pod or pod.seen.uid != uid or pod.seen.phase is not ReplicaPhase.UNBOUND:
            return
        node = self.nodes.get(pod.seen.node)
        if node is None or not node.ready or not self._fits(pod.seen, node):
            self._later(_BIND_AGAIN_SECONDS, partial(self._bind, pod, uid))
            return
        pod.bound_at_seconds = self._clock.now
        cores = self._given(pod.seen)
        if cores is None:
            # The kubelet cannot give what the scheduler has counted: the Pod fails at admission.
            self.fail_pod(pod, "UnexpectedAdmissionError")
            return
        self._change(pod, phase=ReplicaPhase.STARTING, cores=cores)
        self._place(pod)
        self._swap(pod)
        self._later(self._start_seconds(pod, node), partial(self._started, pod, uid))

    def _given(self, wanted: Replica) -> int | None:
        """Return the cores that the device plugin gives: the planned ones, or others of the size where they cannot be had."""
        taken = self._allocated(wanted.node) | _broken_cores(self.nodes[wanted.node])
        if not wanted.cores & taken:
            return wanted.cores
        planned = 0
        for pod in self._on_node(wanted.node):
            planned |= pod.seen.planned_cores if pod.seen.phase is ReplicaPhase.UNBOUND else 0
        free_of_plans = self._legal_cores(self.nodes[wanted.node], wanted.cores_count, taken | planned)
        return free_of_plans or self._legal_cores(self.nodes[wanted.node], wanted.cores_count, taken)

    def _allocated(self, node: str) -> int:
        """Return the cores that somebody holds."""
        taken = 0
        for pod in self.pods.values():
            if pod.seen.node == node and pod.seen.phase in _HOLDING:
                taken |= pod.seen.cores
        for foreign in self.foreign_pods.values():
            taken |= (foreign.cores or 0) if foreign.node == node else 0
        return taken

    def _legal_cores(self, node: Node, count: int, taken: int) -> int | None:
        """Return free cores in a row that the machine's links permit; the highest, as nobody asked for any."""
        machine = MACHINES.get(node.instance_type.name)
        if machine is None:
            return None
        taken |= _broken_cores(node)
        for start in range(machine.cores - count, -1, -1):
            mask = ((1 << count) - 1) << start
            if not mask & taken and why_illegal(machine, tuple(range(start, start + count))) is None:
                return mask
        return None

    def _place(self, pod: SimulatedPod) -> None:
        placement = {
            "replica": pod.key,
            "deployment": pod.seen.deployment,
            "node": pod.seen.node,
            "cores": pod.seen.cores,
            "fromSeconds": self._clock.now,
            "toSeconds": None,
        }
        self.placements.append(placement)
        self._open_placements[pod.seen.uid] = placement

    def _swap(self, pod: SimulatedPod) -> None:
        """Perhaps give a Pod the cores of another one that was bound just before, and the other its own."""
        fault = self.weather.active(FaultKind.KUBELET_SWAP, self._clock.now)
        if fault is None or self._random.random() >= fault.share:
            return
        for other in self._on_node(pod.seen.node):
            bound_before_seconds = self._clock.now - other.bound_at_seconds
            alike = other.seen.phase is ReplicaPhase.STARTING and other.seen.cores_count == pod.seen.cores_count
            if other is pod or not alike or bound_before_seconds > _SWAP_WITHIN_SECONDS:
                continue
            own, others = pod.seen.cores, other.seen.cores
            self._change(pod, cores=others)
            self._change(other, cores=own)
            self._open_placements[pod.seen.uid]["cores"] = others
            self._open_placements[other.seen.uid]["cores"] = own
            return

    def land_foreign_pod(self, node_name: str, cores: int, stays_seconds: float) -> None:
        """Let somebody else's Pod land on a node, if the scheduler can count it in and the kubelet has cores for it."""
        node = self.nodes.get(node_name)
        if node is None or not node.ready:
            return
        self._count += 1
        name = f"others/job-{self._count}"
        requests = Resources(cpu_millicores=100, memory_bytes=2**27, pods=1, accelerator_cores=cores)
        if not self._has_left(requests, node):
            return
        planned = 0
        for pod in self._on_node(node_name):
            planned |= pod.seen.planned_cores if pod.seen.phase is ReplicaPhase.UNBOUND else 0
        taken = self._allocated(node_name)
        mask = self._legal_cores(node, cores, taken | planned) or self._legal_cores(node, cores, taken)
        if mask is None:
            return
        self.foreign_pods[name] = ForeignPod(name=name, node=node_name, requests=requests, cores=mask)
        self._tell("foreign", name, self.foreign_pods[name])
        self._later(stays_seconds, partial(self._forget_foreign, name))

    def _forget_foreign(self, name: str) -> None:
        if self.foreign_pods.pop(name, None) is not None:
            self._tell("foreign", name, None)

    def _fits(self, wanted: Replica, node: Node) -> bool:
        return self._has_left(wanted.requests, node)

    def _has_left(self, wanted: Resources, node: Node) -> bool:
        free = node.allocatable
        for pod in self.pods.values():
            if pod.seen.node == node.name and pod.seen.phase not in (ReplicaPhase.UNBOUND, ReplicaPhase.FAILED):
                free = free.minus(pod.seen.requests)
        for foreign in self.foreign_pods.values():
            if foreign.node == node.name:
                free = free.minus(foreign.requests)
        left = free.minus(wanted)
        return min(left.cpu_millicores, left.memory_bytes, left.pods, left.accelerator_cores) >= 0

    def _start_seconds(self, pod: SimulatedPod, node: Node) -> float:
        """Pull the image where it is not there yet, compile what nobody has compiled, then load the model."""
        model, delays = self._model(pod), self.setting.delays
        unchanged = pod.seen.template_hash in {variant.template_hash for variant in model.deployment.variants}
        image = model.image if unchanged else f"{model.image} {pod.seen.deployment} {pod.seen.template_hash}"
        now = self._clock.now
        pull = max(0.0, self._images.setdefault((node.name, image), now + delays.image_pull_seconds) - now)
        jitter = 1.0 + delays.startup_jitter_fraction * (2.0 * self._random.random() - 1.0)
        compiles = _compiled_by(pod) not in self._compiled
        return pull + compiles * delays.compile_seconds + model.startup_seconds[pod.seen.variant] * jitter

    def _started(self, pod: SimulatedPod, uid: str) -> None:
        if self.pods.get(pod.key) is not pod or pod.seen.uid != uid or pod.seen.phase is not ReplicaPhase.STARTING:
            return
        if pod.seen.node in self._dead_machines:
            return
        fault = self.weather.active(FaultKind.START_FAILURE, self._clock.now, pod.seen.deployment)
        if fault is not None and self._random.random() < fault.share:
            self.fail_pod(pod, "StartError")
            return
        self._compiled.add(_compiled_by(pod))
        pod.serving = self._traffic.start(pod.key, pod.model, self._model(pod).engines[pod.seen.variant])
        if pod.seen.node in self._silent_machines:
            # It serves, and nobody hears of it until its machine does.
            return
        self._change(pod, phase=ReplicaPhase.READY, ready_at=self._clock.epoch_seconds)
        self._traffic.open(pod.serving, self._clock.now)

    def fail_pod(self, pod: SimulatedPod, reason: str) -> None:
        """Let a replica's process end; its Pod stays and says so."""
        self._stop(pod)
        self.replica_costs.release(pod.seen.uid, self._clock.now)
        self._close_placement(pod)
        self._change(pod, phase=ReplicaPhase.FAILED, failure=reason, ready_at=None)

    def break_device(self, name: str, device: int) -> None:
        """Let one chip of a node die, with the replicas that have cores on it."""
        node = self.nodes.get(name)
        if node is None or device in node.unhealthy_devices:
            return
        per_device = node.instance_type.cores_per_device
        fewer = node.allocatable.minus(Resources(accelerator_cores=per_device))
        self._change_node(name, unhealthy_devices=(*node.unhealthy_devices, device), allocatable=fewer)
        mask = ((1 << per_device) - 1) << (device * per_device)
        for pod in self._on_node(name):
            if pod.seen.cores & mask and pod.seen.phase in _RUNNING:
                self.fail_pod(pod, "DeviceUnhealthy")

    def silence_machine(self, name: str, seconds: float) -> None:
        """Let a machine be NotReady for a while: its Pods are out of service, live on, and come back with it."""
        node = self.nodes.get(name)
        if node is None or not node.ready or name in self._dead_machines:
            return
        self._silent_machines.add(name)
        self._change_node(name, ready=False)
        for pod in self._on_node(name):
            if pod.seen.phase is ReplicaPhase.READY:
                if pod.serving is not None:
                    self._traffic.close(pod.serving)
                self._change(pod, phase=ReplicaPhase.STARTING, ready_at=None)
        self._later(seconds, partial(self._heard_again, name, node.created_at))

    def _heard_again(self, name: str, created_at: float) -> None:
        self._silent_machines.discard(name)
        node = self.nodes.get(name)
        if node is None or node.created_at != created_at or name in self._dead_machines or node.taints:
            return
        self._change_node(name, ready=True)
        for pod in self._on_node(name):
            if pod.seen.phase is ReplicaPhase.STARTING and pod.serving is not None:
                self._change(pod, phase=ReplicaPhase.READY, ready_at=self._clock.epoch_seconds)
                self._traffic.open(pod.serving, self._clock.now)

    def warn_spot(self, name: str) -> None:
        """Give the notice that a machine will be taken back: it is cordoned now and gone later."""
        node = self.nodes.get(name)
        if node is None or name in self._dead_machines:
            return
        self._change_node(name, ready=False, booting=False, taints=(*node.taints, _SPOT_TAINT))
        self._later(self.setting.delays.spot_notice_seconds, partial(self._reclaim, name, node.created_at))

    def _reclaim(self, name: str, created_at: float) -> None:
        if name in self.nodes and self.nodes[name].created_at == created_at:
            self.remove_node(name)

    def break_machine(self, name: str) -> None:
        """Let a machine die: what it serves is cut off now, and the cluster notices when it has been silent for long enough."""
        node = self.nodes.get(name)
        if node is None or name in self._dead_machines:
            return
        self._dead_machines.add(name)
        for pod in self._on_node(name):
            self._stop(pod)
        delays = self.setting.delays
        self._later(delays.failure_detection_seconds, partial(self._noticed, name, node.created_at))
        removal_seconds = delays.failure_detection_seconds + delays.node_removal_seconds
        self._later(removal_seconds, partial(self._reclaim, name, node.created_at))

    def _noticed(self, name: str, created_at: float) -> None:
        if name not in self.nodes or self.nodes[name].created_at != created_at:
            return
        self._change_node(name, ready=False, booting=False, unready_since=self._clock.epoch_seconds)
        for pod in self._on_node(name):
            if pod.seen.phase is ReplicaPhase.READY:
                self._change(pod, phase=ReplicaPhase.STARTING, ready_at=None)

    def remove_node(self, name: str) -> None:
        """Take a machine away with everything on it; a Pod that waits to be bound to it goes on waiting."""
        if name not in self.nodes:
            return
        for pod in self._on_node(name):
            if pod.seen.phase is not ReplicaPhase.UNBOUND:
                self._stop(pod)
                self._forget(pod)
        for foreign in [one.name for one in self.foreign_pods.values() if one.node == name]:
            self._forget_foreign(foreign)
        self.node_costs.release(name, self._clock.now)
        next(one for one in reversed(self.machines) if one["node"] == name)["toSeconds"] = self._clock.now
        del self.nodes[name]
        self._images = {place: end for place, end in self._images.items() if place[0] != name}
        self._tell("node", name, None)

    # --- bookkeeping

    def settle(self) -> None:
        """Close the books."""
        self.replica_costs.settle(self._clock.now)
        self.node_costs.settle(self._clock.now)

    def _model(self, pod: SimulatedPod) -> ModelSetting:
        return self.setting.models[pod.model]

    def _on_node(self, name: str) -> list[SimulatedPod]:
        return [pod for _, pod in sorted(self.pods.items()) if pod.seen.node == name]

    def _stop(self, pod: SimulatedPod) -> None:
        if pod.serving is not None:
            serving, pod.serving = pod.serving, None
            self._traffic.kill(serving, self._clock.now)

    def _forget(self, pod: SimulatedPod) -> None:
        if self.pods.get(pod.key) is not pod:
            return
        self.replica_costs.release(pod.seen.uid, self._clock.now)
        self._close_placement(pod)
        del self.pods[pod.key]
        self._tell("pod", pod.key, None)

    def _close_placement(self, pod: SimulatedPod) -> None:
        placement = self._open_placements.pop(pod.seen.uid, None)
        if placement is not None:
            placement["toSeconds"] = self._clock.now

    def _change(self, pod: SimulatedPod, **changes: Any) -> None:
        """Write to a Pod, as the API server does: each write is another resourceVersion."""
        pod.seen = replace(pod.seen, resource_version=str(int(pod.seen.resource_version) + 1), **changes)
        self._tell("pod", pod.key, pod.seen)

    def _change_node(self, name: str, **changes: Any) -> None:
        self.nodes[name] = replace(self.nodes[name], **changes)
        self._tell("node", name, self.nodes[name])

    def _charge_node(self, node: Node) -> None:
        self.node_costs.charge(node.name, node.pool, node.price_usd_per_hour or 0.0, self._clock.now)
        self.machines.append(
            {
                "node": node.name,
                "instanceType": node.instance_type.name,
                "cores": node.instance_type.cores,
                "fromSeconds": self._clock.now,
                "toSeconds": None,
            }
        )

    def _charge_pod(self, pod: SimulatedPod) -> None:
        node = self.nodes.get(pod.seen.node)
        price = (node.price_usd_per_hour if node is not None else None) or 0.0
        share = pod.seen.cores_count / node.instance_type.cores if node is not None else 0.0
        self.replica_costs.charge(pod.seen.uid, pod.seen.deployment, price * share, self._clock.now)

    def _tell(self, kind: str, key: str, value: object) -> None:
        self.changes += 1
        for watcher in self._watchers:
            watcher(kind, key, value)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._queue.push(self._clock.now + seconds, Kind.LIFECYCLE, act)


_HOLDING = (ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.TERMINATING)
"""What has been bound and not ended holds its cores."""
_RUNNING = (ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.DRAINING)


def node_of(name: str, pool: str, instance_type: InstanceType, price_usd_per_hour: float | None) -> Node:
    """Return a ready node of an instance type, as the kubelet of a real one would describe it."""
    return Node(
        name=name,
        pool=pool,
        instance_type=instance_type,
        ready=True,
        price_usd_per_hour=price_usd_per_hour,
        allocatable=Resources(
            cpu_millicores=instance_type.allocatable_cpu_millicores or 0,
            memory_bytes=instance_type.allocatable_memory_bytes or 0,
            pods=instance_type.max_pods or 110,
            accelerator_cores=instance_type.cores,
        ),
    )


def _broken_cores(node: Node) -> int:
    """Return the cores of chips that do not work."""
    per_device = node.instance_type.cores_per_device
    return sum(((1 << per_device) - 1) << (device * per_device) for device in node.unhealthy_devices)


def _compiled_by(pod: SimulatedPod) -> tuple[str, str, str]:
    """Return what a compilation is kept for: a new template may hold a new compiler or other shapes."""
    return pod.seen.deployment, pod.seen.variant, pod.seen.template_hash

"""What must hold whatever goes wrong, checked after every step by code that shares nothing with the planner.

Which cores may serve a replica comes from the independent checker's own table of machines. Money, pool limits and double booking are
added up here from what is, not from what anyone believes. Checks look at moments when a promise is made: a Pod when it is created and
when the kubelet gives it cores, a node when it is launched, an order to drain when it is given. A machine that the table does not
know is checked for overlaps only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleetpack.core.decision import Action, CreateReplica, DeleteReplica, DrainReplica, LaunchNode
from fleetpack.core.deployments import Deployment, Mode, Variant
from fleetpack.core.fleet import FleetSnapshot, Node, PoolProvider, Replica, ReplicaPhase
from fleetpack.core.inputs import Inputs, Plan
from fleetpack_simulator.checking.machines import MACHINES, Layout, why_illegal
from fleetpack_simulator.world.cluster import SimulatedCluster, SimulatedPod, node_of
from fleetpack_simulator.world.events import Clock
from fleetpack_simulator.world.faults import FaultKind
from fleetpack_simulator.world.setting import BootBehaviour, ModelSetting, WorldSetting
from fleetpack_simulator.world.traffic import Traffic

_MONEY_TOLERANCE_USD_PER_HOUR = 1e-6
STANDSTILL_SECONDS = 120.0
"""Longer than any single request of the swarm takes."""
MARGIN_SECONDS = 120.0
"""For what else takes time beside boot, pull, compilation and load: writes, bindings, drains, places set aside for others."""
AFTERMATH_SECONDS = 900.0
"""The planner's longest back-off (10 minutes), and what a machine that dies takes until it is noticed and gone."""
_HARMLESS = (FaultKind.METRICS_MISSING, FaultKind.METRICS_LATE, FaultKind.METRICS_WRONG)
"""Faults that explain no missing replica."""
_COMING = (ReplicaPhase.UNBOUND, ReplicaPhase.STARTING)
_LIVE = (ReplicaPhase.REQUESTED, ReplicaPhase.UNBOUND, ReplicaPhase.STARTING, ReplicaPhase.READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule."""

    rule: str
    at_seconds: float
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.at_seconds:.3f} {self.rule}: {self.subject}: {self.message}"


class Invariants:
    """Watches a cluster; what it finds is in `violations`."""

    def __init__(self, cluster: SimulatedCluster, traffic: Traffic, clock: Clock) -> None:
        self.violations: list[Violation] = []
        self._cluster = cluster
        self._traffic = traffic
        self._clock = clock
        self._checked_changes = -1
        self._told: set[tuple[str, str]] = set()
        self._given: dict[str, int] = {}
        """By Pod UID, the cores that were looked at last once it was bound."""
        self._short_since: dict[str, float] = {}
        self._hope: dict[str, tuple[int, bool]] = {}
        """By deployment: after how many changes it was looked for, and whether there was room or a machine to be had."""
        setting = cluster.setting
        self._waiting_since: dict[str, float] = {}
        self._patience = {model.deployment.key: patience_seconds(setting, model) for model in setting.models}
        self._excuses = tuple(
            (fault.at_seconds, fault.until_seconds + AFTERMATH_SECONDS)
            for fault in setting.faults
            if fault.kind not in _HARMLESS
        )
        self._calm_from_seconds = max(
            (fault.until_seconds + AFTERMATH_SECONDS for fault in setting.faults), default=0.0
        )

    def after_write(self, action: Action) -> None:
        """Hold a write that was just done against the rules."""
        if isinstance(action, CreateReplica):
            key = f"{action.deployment.partition('/')[0]}/{action.name}"
            self._legal(self._cluster.pods[key])
            self._ceiling(self._cluster.pods[key])
        elif isinstance(action, LaunchNode):
            self._pool_limits(self._cluster.nodes[action.name])

    def after_step(self) -> None:
        """Hold the whole state against the rules, if it has changed."""
        if self._traffic.ended_twice:
            for index in self._traffic.ended_twice:
                self._violate("every-request-ends-once", f"request {index}", "ended a second time")
            self._traffic.ended_twice.clear()
        if self._checked_changes == self._cluster.changes:
            return
        self._checked_changes = self._cluster.changes
        held: dict[str, list[SimulatedPod]] = {}
        for pod in self._cluster.pods.values():
            if pod.seen.phase is not ReplicaPhase.FAILED:
                held.setdefault(pod.seen.node, []).append(pod)
                if pod.seen.phase is not ReplicaPhase.UNBOUND and self._given.get(pod.seen.uid) != pod.seen.cores:
                    self._given[pod.seen.uid] = pod.seen.cores
                    self._legal(pod)
        for name, pods in held.items():
            self._overlaps(name, pods)

    def after_plan(self, inputs: Inputs, plan: Plan) -> None:
        """Hold a plan's removals against `minReplicas`, by what the operator itself could see."""
        replicas = {(one.deployment, one.name): one for one in inputs.snapshot.replicas}
        victims: dict[str, list[Replica]] = {}
        for action in plan.actions:
            if isinstance(action, DrainReplica | DeleteReplica):
                victim = replicas.get((action.deployment, action.name))
                if victim is not None and victim.phase in (ReplicaPhase.READY, ReplicaPhase.STARTING):
                    victims.setdefault(action.deployment, []).append(victim)
        for deployment in inputs.deployments:
            # A ceiling beats minReplicas, and an order by hand may be below it.
            if deployment.key not in victims or deployment.maximum_usd_per_hour is not None:
                continue
            live = _live(inputs.snapshot, deployment.key)
            least = min(deployment.minimum_replicas, deployment.replicas)
            current = {variant.name: variant.template_hash for variant in deployment.variants}
            old = [one for one in victims[deployment.key] if current.get(one.variant) != one.template_hash]
            # What loads an old template serves nobody, so to replace it gives up nothing; what serves may go first where the next
            # one has no room beside it.
            replaced = sum(one.phase is ReplicaPhase.STARTING for one in old)
            # One at a time may go though there seems to be room: the planner sets a place aside where Pods were not bound.
            serving = sum(one.phase is ReplicaPhase.READY for one in old)
            replaced += min(serving, 1) if self._has_room(deployment.key) else serving
            given_up = len(victims[deployment.key]) - replaced
            if given_up and live - given_up < least:
                told = f"{given_up} of {live} replicas are given up, minReplicas is {least}"
                self._violate("never-below-minimum", deployment.key, told)

    def on_tick(self) -> None:
        """Hold that nobody is below `minReplicas` for long while there is room or a machine to be had, and nothing explains it.

        A replica counts from its creation for as long as a start takes; one that never comes up counts no more. A fault explains
        what happens until the longest back-off after it has passed.
        """
        now = self._clock.now
        if any(begins <= now < ends for begins, ends in self._excuses):
            self._short_since.clear()
            return
        counts: dict[str, int] = {}
        for pod in self._cluster.pods.values():
            phase, key = pod.seen.phase, pod.seen.deployment
            age_seconds = self._clock.epoch_seconds - (pod.seen.created_at or 0.0)
            if phase is ReplicaPhase.READY or (phase in _COMING and age_seconds < self._patience[key]):
                counts[key] = counts.get(key, 0) + 1
        for key, deployment in self._cluster.deployments.items():
            least = _least(deployment)
            if counts.get(key, 0) >= least:
                self._short_since.pop(key, None)
                self._waiting_since.pop(key, None)
                continue
            self._gives_way(key, counts.get(key, 0), least)
            if not self._may_have_more(key):
                self._short_since.pop(key, None)
                continue
            short_seconds = now - self._short_since.setdefault(key, now)
            if short_seconds > self._patience[key]:
                told = f"{counts.get(key, 0)} of {least} replicas for {short_seconds:.0f} s, and there is room or a machine to be had"
                self._violate("minimum-kept", key, told)

    def at_end(self) -> None:
        """Hold at the end of a run that each request is accounted for once: completed, failed, refused, or unfinished in one place."""
        for told in self._traffic.misplaced():
            self._violate("every-request-accounted", "requests", told)

    def at_rest(self) -> None:
        """Hold a calm world against what must have come about: minimums are kept where there is room, nobody waits."""
        for key, deployment in sorted(self._cluster.deployments.items()):
            live = [pod for pod in self._cluster.pods.values() if pod.seen.deployment == key]
            ready = sum(pod.seen.phase is ReplicaPhase.READY for pod in live)
            least = min(deployment.minimum_replicas, deployment.replicas)
            if ready < least and self._has_room(key):
                told = f"{ready} of {least} replicas are ready and there is room for more"
                self._violate("minimum-restored", key, told)
            gateway = self._traffic.gateways[self._cluster.models[key]]
            silent_seconds = self._clock.now - gateway.last_ended_seconds
            # A long queue is no standstill: as long as requests end, time is all that is missing.
            if gateway.outstanding and (ready or self._has_room(key)) and silent_seconds > STANDSTILL_SECONDS:
                told = f"{gateway.outstanding} requests wait, {len(gateway.held)} at the gateway, none ended for {silent_seconds:.0f} s"
                self._violate("every-request-ends", key, told)
        for key, pod in sorted(self._cluster.pods.items()):
            if pod.seen.phase not in (ReplicaPhase.READY,):
                self._violate("comes-to-rest", key, f"is still {pod.seen.phase}")

    def unrested(self) -> bool:
        """Whether `at_rest` would find something; used to see when a world has come to rest."""
        before, told = list(self.violations), set(self._told)
        self.at_rest()
        found = len(self.violations) > len(before)
        self.violations, self._told = before, told
        return found

    def _legal(self, pod: SimulatedPod) -> None:
        node = self._cluster.nodes.get(pod.seen.node)
        if node is None:
            # Legal: the node may have gone while the write was on its way; the scheduler will not bind it.
            return
        machine = MACHINES.get(node.instance_type.name)
        if machine is None or machine.layout is Layout.COUNT:
            return
        cores = tuple(core for core in range(pod.seen.cores.bit_length()) if pod.seen.cores >> core & 1)
        if len(cores) != pod.seen.cores_count:
            told = f"has {len(cores)} cores and asks for {pod.seen.cores_count}"
            self._violate("legal-cores", pod.key, told)
        reason = why_illegal(machine, cores)
        if reason is not None:
            self._violate("legal-cores", pod.key, f"cores {list(cores)} of {node.name} ({machine.name}): {reason}")

    def _overlaps(self, node: str, pods: Iterable[SimulatedPod]) -> None:
        """Look for cores that two Pods hold, or that were promised to one while another had them."""
        seen: list[tuple[str, int, bool, bool]] = [
            (pod.name, pod.cores or 0, False, True) for pod in self._cluster.foreign_pods.values() if pod.node == node
        ]
        for pod in pods:
            bound = pod.seen.phase is not ReplicaPhase.UNBOUND
            elsewhere = pod.seen.cores != pod.seen.planned_cores
            for other, cores, other_waits, other_surprised in seen:
                # What the kubelet or somebody else's Pod took by surprise may have been promised to one that waits to be bound.
                surprise = (other_surprised and not bound) or (elsewhere and other_waits)
                if pod.seen.cores & cores and not surprise:
                    told = f"holds cores of {node} that {other} holds: {pod.seen.cores & cores:#x}"
                    self._violate("no-double-booking", pod.key, told)
            seen.append((pod.key, pod.seen.cores, not bound, elsewhere))

    def _ceiling(self, pod: SimulatedPod) -> None:
        deployment = self._cluster.deployments.get(pod.seen.deployment)
        ceiling = None if deployment is None else deployment.maximum_usd_per_hour
        if ceiling is None:
            return
        rate = self._cluster.replica_costs.usd_per_hour(pod.seen.deployment)
        if rate > ceiling + _MONEY_TOLERANCE_USD_PER_HOUR:
            told = f"takes {pod.seen.deployment} to {rate:.4f} USD per hour, above its ceiling of {ceiling:g}"
            self._violate("no-ceiling-crossed", pod.key, told)

    def _pool_limits(self, node: Node) -> None:
        pool = self._cluster.pools[node.pool]
        count = sum(other.pool == node.pool for other in self._cluster.nodes.values())
        if pool.maximum_nodes is not None and count > pool.maximum_nodes:
            told = f"takes pool {pool.name} to {count} nodes, above its limit of {pool.maximum_nodes}"
            self._violate("no-ceiling-crossed", node.name, told)
        rate = self._cluster.node_costs.usd_per_hour(pool.name)
        limit = pool.maximum_usd_per_hour
        if limit is not None and rate > limit + _MONEY_TOLERANCE_USD_PER_HOUR:
            told = f"takes pool {pool.name} to {rate:.4f} USD per hour, above its limit of {limit:g}"
            self._violate("no-ceiling-crossed", node.name, told)

    def _may_have_more(self, deployment: str) -> bool:
        """Whether there is room for a replica, or a machine to be had that has; looked for anew when something has changed."""
        changes = self._cluster.changes
        seen, hope = self._hope.get(deployment, (-1, False))
        if seen != changes:
            hope = self._has_room(deployment) or self._can_launch(deployment)
            self._hope[deployment] = (changes, hope)
        return hope

    def _gives_way(self, key: str, count: int, least: int) -> None:
        """Hold that nobody of lower priority keeps more than its minimum while one replica less would make room."""
        now = self._clock.now
        if now < self._calm_from_seconds or self._may_have_more(key) or self._can_launch(key, reliable=False):
            self._waiting_since.pop(key, None)
            return
        giver = self._giver(key)
        if giver is None:
            self._waiting_since.pop(key, None)
            return
        waited_seconds = now - self._waiting_since.setdefault(key, now)
        if waited_seconds > self._patience[key] + giver.disruption.drain_seconds:
            told = f"{count} of {least} replicas for {waited_seconds:.0f} s; {giver.key}, less important, has more than its minReplicas"
            self._violate("less-important-gives-way", key, told)

    def _giver(self, key: str) -> Deployment | None:
        """Return who could give a replica whose place would do; who is steered by hand or in the midst of a change need not."""
        taker = self._cluster.deployments[key]
        for other in self._cluster.deployments.values():
            if other.priority >= taker.priority or other.mode is not Mode.AUTO or other.deleting:
                continue
            pods = [pod for pod in self._cluster.pods.values() if pod.seen.deployment == other.key]
            hashes = {variant.name: variant.template_hash for variant in other.variants}
            settled = all(
                pod.seen.phase is ReplicaPhase.READY and hashes.get(pod.seen.variant) == pod.seen.template_hash
                for pod in pods
            )
            if settled and len(pods) > other.minimum_replicas and any(self._has_room(key, pod.key) for pod in pods):
                return other
        return None

    def _can_launch(self, deployment: str, *, reliable: bool = True) -> bool:
        """Whether one more machine that fits a replica may be launched; `reliable`: by a pool whose launches do not fail."""
        wanted = self._cluster.deployments[deployment]
        if wanted.maximum_usd_per_hour is not None:
            return False
        for pool in self._cluster.pools.values():
            boot = self._cluster.setting.boots.get(pool.name, BootBehaviour())
            if pool.provider is not PoolProvider.SIMULATED or not pool.admits(wanted.namespace):
                continue
            if reliable and boot.failure_rate:
                continue
            count = sum(node.pool == pool.name for node in self._cluster.nodes.values())
            if pool.maximum_nodes is not None and count >= pool.maximum_nodes:
                continue
            rate = self._cluster.node_costs.usd_per_hour(pool.name)
            for offering in pool.offerings:
                kind, price = offering.instance_type, offering.price_usd_per_hour or 0.0
                affordable = pool.maximum_usd_per_hour is None or rate + price <= pool.maximum_usd_per_hour
                if affordable and kind.name not in boot.insufficient_capacity:
                    node = node_of("new", pool.name, kind, price)
                    if any(_fits_empty(node, variant) for variant in wanted.variants):
                        return True
        return False

    def _has_room(self, deployment: str, without: str = "") -> bool:
        """Whether one more replica would fit a ready node now: a legal, free, healthy set of cores, and the other resources.

        With the key of a Pod in `without`: whether it would if that one were gone.
        """
        wanted = self._cluster.deployments.get(deployment)
        if wanted is None or wanted.maximum_usd_per_hour is not None:
            return False
        for node in self._cluster.nodes.values():
            pool = self._cluster.pools[node.pool]
            machine = MACHINES.get(node.instance_type.name)
            if not node.ready or machine is None or not pool.admits(wanted.namespace):
                continue
            pods = [pod for pod in self._cluster.pods.values() if pod.seen.node == node.name and pod.key != without]
            left = node.allocatable
            taken = 0
            for foreign in self._cluster.foreign_pods.values():
                if foreign.node == node.name:
                    left = left.minus(foreign.requests)
                    taken |= foreign.cores or 0
            for pod in pods:
                left = left.minus(pod.seen.requests)
                taken |= pod.seen.cores
            for device in node.unhealthy_devices:
                taken |= ((1 << machine.cores_per_device) - 1) << (device * machine.cores_per_device)
            for variant in wanted.variants:
                count = variant.cores or variant.devices * machine.cores_per_device
                rest = left.minus(variant.requests)
                enough = min(rest.cpu_millicores, rest.memory_bytes, rest.pods, left.accelerator_cores - count) >= 0
                if variant.accelerator != machine.accelerator or not enough:
                    continue
                starts = range(machine.cores - count + 1)
                windows = (tuple(range(start, start + count)) for start in starts)
                if any(
                    why_illegal(machine, cores) is None and not any(taken >> core & 1 for core in cores)
                    for cores in windows
                ):
                    return True
        return False

    def _violate(self, rule: str, subject: str, message: str) -> None:
        if (rule, subject) in self._told:
            return
        self._told.add((rule, subject))
        self.violations.append(Violation(rule=rule, at_seconds=self._clock.now, subject=subject, message=message))


def patience_seconds(setting: WorldSetting, model: ModelSetting) -> float:
    """Return the longest time from a want to a replica that serves: machine, image, compilation, load, and a margin."""
    delays = setting.delays
    boot = max((one.delay_seconds + one.jitter_seconds for one in setting.boots.values()), default=0.0)
    start = max(model.startup_seconds.values(), default=0.0) * (1.0 + delays.startup_jitter_fraction)
    return boot + delays.image_pull_seconds + delays.compile_seconds + start + MARGIN_SECONDS


def _least(deployment: Deployment) -> int:
    """Return how many replicas a deployment must have: an order by hand may be below `minReplicas`."""
    if deployment.mode is Mode.PAUSED or deployment.deleting or deployment.problems:
        return 0
    by_hand = deployment.mode in (Mode.MANUAL, Mode.ADVISORY)
    return min(deployment.minimum_replicas, deployment.replicas) if by_hand else deployment.minimum_replicas


def _fits_empty(node: Node, variant: Variant) -> bool:
    """Whether a replica fits a machine with nothing on it."""
    machine = MACHINES.get(node.instance_type.name)
    if machine is None or machine.accelerator != variant.accelerator:
        return False
    count = variant.cores or variant.devices * machine.cores_per_device
    left = node.allocatable.minus(variant.requests)
    enough = min(left.cpu_millicores, left.memory_bytes, left.pods, machine.cores - count) >= 0
    return enough and why_illegal(machine, tuple(range(count))) is None


def _live(snapshot: FleetSnapshot, deployment: str) -> int:
    return sum(replica.deployment == deployment and replica.phase in _LIVE for replica in snapshot.replicas)

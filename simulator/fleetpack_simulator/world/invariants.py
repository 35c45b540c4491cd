"""What must hold whatever goes wrong, checked after every step by code that shares nothing with the planner.

Which cores may serve a replica comes from the independent checker's own table of machines. Money, pool limits and double booking are
added up here from what is, not from what anyone believes. Checks look at moments when a promise is made: a Pod when it is created,
a node when it is launched, an order to drain when it is given. A machine that the table does not know is checked for overlaps only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleetpack.core.decision import Action, CreateReplica, DeleteReplica, DrainReplica, LaunchNode
from fleetpack.core.fleet import FleetSnapshot, Node, Replica, ReplicaPhase
from fleetpack.core.inputs import Inputs, Plan
from fleetpack_simulator.checking.machines import MACHINES, Layout, why_illegal
from fleetpack_simulator.world.cluster import SimulatedCluster, SimulatedPod
from fleetpack_simulator.world.events import Clock
from fleetpack_simulator.world.traffic import Traffic

_MONEY_TOLERANCE_USD_PER_HOUR = 1e-6
STANDSTILL_SECONDS = 120.0
"""Longer than any single request of the swarm takes."""
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

    def _has_room(self, deployment: str) -> bool:
        """Whether one more replica would fit a ready node now: a legal, free, healthy set of cores, and the other resources."""
        wanted = self._cluster.deployments.get(deployment)
        if wanted is None or wanted.maximum_usd_per_hour is not None:
            return False
        for node in self._cluster.nodes.values():
            pool = self._cluster.pools[node.pool]
            machine = MACHINES.get(node.instance_type.name)
            if not node.ready or machine is None or not pool.admits(wanted.namespace):
                continue
            pods = [pod for pod in self._cluster.pods.values() if pod.seen.node == node.name]
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


def _live(snapshot: FleetSnapshot, deployment: str) -> int:
    return sum(replica.deployment == deployment and replica.phase in _LIVE for replica in snapshot.replicas)

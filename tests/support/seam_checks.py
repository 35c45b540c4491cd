"""What must hold after every step of the planner, whatever goes wrong around it.

Concept: each rule is worked out here from the plainest reading of the design: masks are sets of core numbers, prices and machines a
small table of its own. Boundary: shares no code with core's packing, cost, rollout or sizing; it reads core's values only.
Failure: `BrokenRuleError`, an AssertionError whose text names the time, the object, what was found and what was allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil, inf, sqrt

from fleetpack.core.decision import (
    CreateReplica,
    DeleteReplica,
    DrainReplica,
    LaunchNode,
    Outcome,
    RemoveNode,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import Deployment, Mode
from fleetpack.core.fleet import Node, Pool, PoolProvider, Replica, ReplicaPhase
from fleetpack.core.inputs import Inputs, Plan
from small_world import START, SmallWorld

MACHINES: dict[str, tuple[int, int, str, float]] = {
    "inf2.24xlarge": (6, 2, "ring", 6.49063),
    "inf2.48xlarge": (12, 2, "ring", 12.98127),
    "trn1.32xlarge": (16, 2, "torus", 21.5),
    "g5.12xlarge": (4, 1, "counted", 5.672),
}
"""Devices, cores of each, how they are linked, USD per hour on demand."""
TORUS_DEVICES = (1, 4, 8, 16)
CENT = 1e-6
GONE = (Outcome.FAILED, Outcome.NOT_SENT)


class BrokenRuleError(AssertionError):
    """A rule was broken."""


def cores_of(mask: int) -> frozenset[int]:
    """Return the core numbers of a mask."""
    return frozenset(core for core in range(mask.bit_length()) if mask >> core & 1)


def legal(kind: str, cores: frozenset[int]) -> bool:
    """Whether one replica may run on exactly these cores of such a machine."""
    devices, per_device, links, _ = MACHINES[kind]
    first, last, count = min(cores), max(cores), len(cores)
    if last - first + 1 != count or last >= devices * per_device:
        return False
    if first // per_device == last // per_device:
        return True
    if links == "ring":
        return first % per_device == 0
    return count % per_device == 0 and count // per_device in TORUS_DEVICES and first % count == 0


def share_usd_per_hour(node: Node | None, cores_count: int) -> float:
    """Return what a part of a node costs."""
    if node is None:
        return 0.0
    devices, per_device, _, price = MACHINES[node.instance_type.name]
    return price * cores_count / (devices * per_device)


def check_plan(inputs: Inputs, plan: Plan) -> None:
    """Check one plan against what its maker could know."""
    _Check(inputs, plan).run()


class _Check:
    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self.inputs, self.plan = inputs, plan
        self.nodes = {node.name: node for node in inputs.snapshot.nodes}
        self.deployments = {one.key: one for one in inputs.deployments}
        shown = {(one.deployment.partition("/")[0], one.name) for one in inputs.snapshot.replicas}
        self.flying = [
            entry
            for entry in inputs.issued
            if isinstance(entry.action, CreateReplica)
            and entry.outcome not in GONE
            and (entry.action.deployment.partition("/")[0], entry.action.name) not in shown
        ]
        self.creates = [action for action in plan.actions if isinstance(action, CreateReplica)]

    def fail(self, text: str) -> None:
        raise BrokenRuleError(f"at {self.inputs.now - START:.1f} s: {text}")

    def run(self) -> None:
        self.old_pictures()
        self.core_sets()
        self.double_booking()
        self.ceilings()
        self.pool_limits()
        self.hands_off()
        self.known_objects()
        self.bounds()
        self.reasons()

    def old_pictures(self) -> None:
        if self.inputs.cache_age_seconds > 30 and self.plan.actions:
            self.fail(f"acts on caches of {self.inputs.cache_age_seconds:.0f} s: {self.plan.actions[0]}")

    def core_sets(self) -> None:
        for create in self.creates:
            node, deployment = self.nodes.get(create.node), self.deployments[create.deployment]
            variant = deployment.variant(create.variant)
            if node is None or not node.ready or variant is None:
                self.fail(f"{create.name} goes to {create.node}, which is not there, or as {create.variant}")
                return
            pool = next(pool for pool in self.inputs.snapshot.pools if pool.name == node.pool)
            if pool.namespaces is not None and deployment.namespace not in pool.namespaces:
                self.fail(f"{create.name} goes to pool {pool.name}, closed to {deployment.namespace}")
            kind = node.instance_type.name
            asked = variant.cores or variant.devices * MACHINES[kind][1]
            cores = cores_of(create.cores)
            if MACHINES[kind][2] == "counted":
                if cores or create.cores_count != asked:
                    self.fail(f"{create.name}: {create.cores_count} of {asked} devices, ids {sorted(cores)}")
            elif len(cores) != asked or create.cores_count != asked or not legal(kind, cores):
                self.fail(f"{create.name}: {sorted(cores)} is no legal set of {asked} cores of {kind}")

    def double_booking(self) -> None:
        taken: dict[str, dict[int, str]] = {}
        counts: Counter[str] = Counter()
        for replica in self.inputs.snapshot.replicas:
            if replica.phase is not ReplicaPhase.FAILED:
                counts[replica.node] += replica.cores_count
                taken.setdefault(replica.node, {}).update(dict.fromkeys(cores_of(replica.cores), replica.name))
        for guest in self.inputs.snapshot.foreign_pods:
            counts[guest.node] += guest.requests.accelerator_cores
            taken.setdefault(guest.node, {}).update(dict.fromkeys(cores_of(guest.cores or 0), guest.name))
        for action in (*(entry.action for entry in self.flying), *self.creates):
            assert isinstance(action, CreateReplica)
            new = action in self.creates
            counts[action.node] += action.cores_count
            held = taken.setdefault(action.node, {})
            for core in cores_of(action.cores):
                if new and core in held:
                    self.fail(f"core {core} of {action.node} goes to {action.name} and belongs to {held[core]}")
                held[core] = action.name
            if new and counts[action.node] > self.nodes[action.node].allocatable.accelerator_cores:
                self.fail(f"{action.node} is promised {counts[action.node]} cores")

    def cost(self, key: str) -> float:
        held = [
            (one.node, one.cores_count)
            for one in self.inputs.snapshot.replicas
            if one.deployment == key and one.phase is not ReplicaPhase.FAILED
        ]
        held += [
            (action.node, action.cores_count)
            for action in (*(entry.action for entry in self.flying), *self.creates)
            if isinstance(action, CreateReplica) and action.deployment == key
        ]
        return sum(share_usd_per_hour(self.nodes.get(node), count) for node, count in held)

    def ceilings(self) -> None:
        for key in {create.deployment for create in self.creates}:
            ceiling, cost = self.deployments[key].maximum_usd_per_hour, self.cost(key)
            if ceiling is not None and cost > ceiling + CENT:
                self.fail(f"{key} would cost {cost:.4f} of at most {ceiling:.4f} USD per hour")

    def pool_limits(self) -> None:
        launches = [action for action in self.plan.actions if isinstance(action, LaunchNode)]
        flying = [
            entry.action
            for entry in self.inputs.issued
            if isinstance(entry.action, LaunchNode)
            and entry.outcome not in GONE
            and entry.action.name not in self.nodes
        ]
        for launch in launches:
            pool = next(one for one in self.inputs.snapshot.pools if one.name == launch.pool)
            kinds = [node.instance_type.name for node in self.nodes.values() if node.pool == pool.name]
            kinds += [other.instance_type for other in (*flying, *launches) if other.pool == pool.name]
            usd_per_hour = sum(MACHINES[kind][3] for kind in kinds)
            if pool.provider is not PoolProvider.SIMULATED:
                self.fail(f"launches {launch.name} in pool {pool.name}, whose nodes others make")
            if pool.maximum_nodes is not None and len(kinds) > pool.maximum_nodes:
                self.fail(f"pool {pool.name} would have {len(kinds)} of at most {pool.maximum_nodes} nodes")
            if pool.maximum_usd_per_hour is not None and usd_per_hour > pool.maximum_usd_per_hour + CENT:
                self.fail(f"pool {pool.name} would cost {usd_per_hour:.2f} of {pool.maximum_usd_per_hour:.2f}")
            if launch.name in self.nodes or any(other.name == launch.name for other in flying):
                self.fail(f"node {launch.name} exists or is on its way already")

    def hands_off(self) -> None:
        for action in self.plan.actions:
            if isinstance(action, LaunchNode):
                continue
            if isinstance(action, RemoveNode):
                self.empty_node(action.node)
                continue
            deployment = self.deployments.get(action.deployment)
            if deployment is None or deployment.mode is Mode.PAUSED or deployment.deleting:
                self.fail(f"touches {action.deployment}, which is paused or going: {action}")
            elif isinstance(action, SetScale) and deployment.mode is not Mode.AUTO:
                self.fail(f"writes spec.replicas of {action.deployment} in mode {deployment.mode}")

    def empty_node(self, name: str) -> None:
        here = [
            one.name
            for one in self.inputs.snapshot.replicas
            if one.node == name and one.phase is not ReplicaPhase.FAILED
        ]
        here += [pod.name for pod in self.inputs.snapshot.foreign_pods if pod.node == name]
        here += [
            action.name
            for action in (*(entry.action for entry in self.flying), *self.creates)
            if isinstance(action, CreateReplica) and action.node == name
        ]
        if here or name not in self.nodes:
            self.fail(f"removes node {name} that holds {here}")

    def known_objects(self) -> None:
        shown = {one.uid: one for one in self.inputs.snapshot.replicas}
        touched: Counter[str] = Counter()
        on_their_way = {
            (type(entry.action), entry.action.uid)
            for entry in self.inputs.issued
            if isinstance(entry.action, DeleteReplica | DrainReplica | RestoreReplica)
            and entry.outcome in (Outcome.PENDING, Outcome.DONE)
        }
        for action in self.plan.actions:
            if isinstance(action, DeleteReplica | DrainReplica | RestoreReplica):
                touched[action.uid] += 1
                replica = shown.get(action.uid)
                if replica is None or replica.name != action.name or touched[action.uid] > 1:
                    self.fail(f"touches {action.name} twice or without having seen it")
                if (type(action), action.uid) in on_their_way:
                    self.fail(f"does again what is on its way: {action}")
        names = Counter((action.deployment.partition("/")[0], action.name) for action in self.creates)
        names.update((one.deployment.partition("/")[0], one.name) for one in self.inputs.snapshot.replicas)
        names.update(
            (entry.action.deployment.partition("/")[0], entry.action.name)
            for entry in self.flying
            if isinstance(entry.action, CreateReplica)
        )
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            self.fail(f"the name {twice[0]} is given twice")
        scales = {
            entry.action.deployment: entry.action.replicas
            for entry in self.inputs.issued
            if isinstance(entry.action, SetScale) and entry.outcome in (Outcome.PENDING, Outcome.DONE)
        }
        for action in self.plan.actions:
            if isinstance(action, SetScale) and scales.get(action.deployment) == action.replicas:
                self.fail(f"writes again what is on its way: {action}")

    def bounds(self) -> None:
        changed = {
            entry.action.uid: entry.action
            for entry in self.inputs.issued
            if isinstance(entry.action, DeleteReplica | DrainReplica) and entry.outcome not in GONE
        }
        given_up = {
            action.uid: action for action in self.plan.actions if isinstance(action, DeleteReplica | DrainReplica)
        }
        restored = sum(isinstance(action, RestoreReplica) for action in self.plan.actions)
        for key, deployment in self.deployments.items():
            live = [
                one
                for one in self.inputs.snapshot.replicas
                if one.deployment == key and one.uid not in changed and _serves(one, self.inputs.now)
            ]
            flying = [
                entry
                for entry in self.flying
                if isinstance(entry.action, CreateReplica)
                and entry.action.deployment == key
                and entry.outcome is not Outcome.UNKNOWN
            ]
            creates = [create for create in self.creates if create.deployment == key]
            hashes = {variant.name: variant.template_hash for variant in deployment.variants}
            outdated = any(hashes.get(one.variant) != one.template_hash for one in live) or any(
                hashes.get(entry.action.variant) != entry.action.template_hash
                for entry in flying
                if isinstance(entry.action, CreateReplica)
            )
            most = max(deployment.maximum_replicas, deployment.replicas)
            surge = max(1, deployment.disruption.allowed(most)) if outdated else 0
            # Nobody counts on a replica whose place is lost; one on a cordoned node has a successor within the budget.
            lost = [one for one in live if self.is_lost(one.node) or self.is_broken(one)]
            lost_flying = [entry for entry in flying if self.is_lost(getattr(entry.action, "node", ""))]
            places = {one.node for one in live} | {getattr(entry.action, "node", "") for entry in flying}
            if any(name in self.nodes and self.nodes[name].cordoned for name in places):
                surge = max(1, deployment.disruption.allowed(most))
            there = len(live) + len(flying) - len(lost) - len(lost_flying)
            if creates and there + len(creates) > most + surge:
                self.fail(f"{key} would have {there} + {len(creates)} of {most} + {surge} replicas")
            fewest = deployment.minimum_replicas if deployment.mode is Mode.AUTO else deployment.replicas
            leaving = [one for one in live if one.uid in given_up]
            poor = deployment.maximum_usd_per_hour is not None
            left = len(live) + len(flying) - len(leaving)
            if leaving and not outdated and not poor and not restored and left < fewest:
                self.fail(f"{key} gives up {[one.name for one in leaving]}, {left} of at least {fewest} stay")
            ready = [one for one in live if one.phase is ReplicaPhase.READY]
            ready_left = [one for one in ready if one.uid not in given_up]
            if len(ready_left) < len(ready) and not outdated and not poor and len(ready) >= fewest > len(ready_left):
                self.fail(f"{key} drains below {fewest} ready replicas while others are still starting")

    def is_broken(self, replica: Replica) -> bool:
        """Whether a core that the replica holds is out."""
        node = self.nodes.get(replica.node)
        return node is not None and bool(cores_of(node.unhealthy_cores) & cores_of(replica.cores))

    def is_lost(self, name: str) -> bool:
        """Whether a node is gone, announced to go, or silent for half a minute and more."""
        node = self.nodes.get(name)
        if node is None or any("spot-itn" in taint.key for taint in node.taints):
            return True
        silent = node.unready_since is not None and not node.ready
        return silent and self.inputs.now - (node.unready_since or 0.0) >= 30.0

    def reasons(self) -> None:
        told = Counter(decision.subject for decision in self.plan.decisions if decision.kind == "replicas")
        if set(told) != set(self.deployments) or any(count != 1 for count in told.values()):
            self.fail(f"decisions are told about {sorted(told)}, deployments are {sorted(self.deployments)}")
        for decision in self.plan.decisions:
            if not decision.reason or not decision.message:
                self.fail(f"a decision without a reason: {decision}")
        for action in self.plan.actions:
            if not action.reason:
                self.fail(f"an action without a reason: {action}")


def _serves(replica: Replica, now: float) -> bool:
    if replica.phase is ReplicaPhase.UNBOUND:
        return now - replica.created_at <= 10.0
    return replica.phase in (ReplicaPhase.STARTING, ReplicaPhase.READY)


def check_world(world: SmallWorld, since: int) -> None:
    """Check what really happened: `since` is how many of `world.applied` have been checked before."""
    for moment, action in world.applied[since:]:
        if isinstance(action, CreateReplica):
            _check_created(world, moment, action)
        elif isinstance(action, LaunchNode):
            pool = world.pools[action.pool]
            nodes = sum(node.pool == pool.name for node in world.nodes.values())
            if pool.maximum_nodes is not None and nodes > pool.maximum_nodes:
                raise BrokenRuleError(
                    f"at {moment - START:.1f} s: pool {pool.name} has {nodes} of {pool.maximum_nodes} nodes"
                )


def _check_created(world: SmallWorld, moment: float, action: CreateReplica) -> None:
    created = world.pods.get(f"{action.deployment.partition('/')[0]}/{action.name}")
    if created is None or created.seen.created_at != moment:
        return
    for pod in world.pods.values():
        other = pod.seen
        # A guest that nobody could foresee may have taken planned cores: the kubelet then gave others, and that is nobody's fault.
        swapped = other.cores != other.planned_cores or created.seen.cores != created.seen.planned_cores
        if other.node != action.node or other.phase is ReplicaPhase.FAILED or pod is created or swapped:
            continue
        both = cores_of(other.cores) & cores_of(action.cores)
        if both:
            raise BrokenRuleError(
                f"at {moment - START:.1f} s: {other.name} and {action.name} both hold cores {sorted(both)}"
            )
    deployment = world.deployments.get(action.deployment)
    ceiling = deployment.maximum_usd_per_hour if deployment else None
    if ceiling is not None and moment - world.ceilings_changed_at.get(action.deployment, -inf) > 20.0:
        cost = sum(
            share_usd_per_hour(world.nodes.get(pod.seen.node), pod.seen.cores_count)
            for pod in world.pods.values()
            if pod.seen.deployment == action.deployment and pod.seen.phase is not ReplicaPhase.FAILED
        )
        if cost > ceiling + CENT:
            raise BrokenRuleError(f"at {moment - START:.1f} s: {action.deployment} costs {cost:.4f} of {ceiling:.4f}")


def check_rest(world: SmallWorld) -> dict[str, int | str]:
    """Check a fleet that has come to rest; returns the replicas of each that is not paused, or the band where several are right."""
    counts: dict[str, int | str] = {}
    for key, deployment in sorted(world.deployments.items()):
        pods = [pod.seen for pod in world.pods.values() if pod.seen.deployment == key]
        if deployment.mode is Mode.PAUSED:
            continue
        hashes = {variant.name: variant.template_hash for variant in deployment.variants}
        odd = [
            (pod.name, pod.phase.value)
            for pod in pods
            if pod.phase is not ReplicaPhase.READY or pod.template_hash != hashes.get(pod.variant)
        ]
        if odd:
            raise BrokenRuleError(f"at rest, {key} still has {odd}")
        fewest, most = right_replicas(world, deployment)
        counts[key] = len(pods) if fewest == most else f"{fewest} to {most}"
        if len(pods) > most:
            raise BrokenRuleError(f"at rest, {key} has {len(pods)} replicas, {most} are enough")
        if len(pods) < fewest and (place := room_for_one_more(world, deployment)):
            raise BrokenRuleError(f"at rest, {key} has {len(pods)} replicas, needs {fewest}, and {place} has room")
    return counts


def right_replicas(world: SmallWorld, deployment: Deployment) -> tuple[int, int]:
    """Return the fewest and the most replicas that are right for the spec and the load: between them nothing moves.

    Written anew from designs/0002: too few at more than 85 % use beyond chance, too many at less than 70 % beyond twice of it.
    """
    if deployment.mode is not Mode.AUTO:
        return deployment.replicas, deployment.replicas
    rate = min(variant.prior_requests_per_second or 1.0 for variant in deployment.variants)
    load = world.loads.get(deployment.key, 0.0)
    chance = sqrt(load / 30.0)
    fewest = ceil(max(0.0, load - 1.5 * chance) / (0.85 * rate) - 1e-6)
    most = ceil((load + 2 * chance) / (0.70 * rate) - 1e-6)
    bound = (deployment.minimum_replicas, deployment.maximum_replicas)
    return max(bound[0], min(max(fewest, load > 0), bound[1])), max(bound[0], min(most, bound[1]))


def room_for_one_more(world: SmallWorld, deployment: Deployment) -> str:
    """Return a node or an offering that could take another replica within all limits; empty: there is none."""
    left = inf
    if deployment.maximum_usd_per_hour is not None:
        left = deployment.maximum_usd_per_hour - sum(
            share_usd_per_hour(world.nodes.get(pod.seen.node), pod.seen.cores_count)
            for pod in world.pods.values()
            if pod.seen.deployment == deployment.key
        )
    for pool in world.pools.values():
        if pool.namespaces is not None and deployment.namespace not in pool.namespaces:
            continue
        for node in world.nodes.values():
            if node.pool == pool.name and node.ready and _fits_on(world, node, deployment, left):
                return node.name
        for kind in _launchable(world, pool):
            price = MACHINES[kind][3]
            for variant in deployment.variants:
                devices, per_device, _, _ = MACHINES[kind]
                count = variant.cores or variant.devices * per_device
                offering = next(one for one in pool.offerings if one.instance_type.name == kind)
                if offering.instance_type.accelerator != variant.accelerator or count > devices * per_device:
                    continue
                if legal(kind, frozenset(range(count))) and price * count / (devices * per_device) <= left - CENT:
                    return f"another {kind} of pool {pool.name}"
    return ""


def _launchable(world: SmallWorld, pool: Pool) -> Iterable[str]:
    if pool.provider is not PoolProvider.SIMULATED:
        return
    kinds = [node.instance_type.name for node in world.nodes.values() if node.pool == pool.name]
    spent = sum(MACHINES[kind][3] for kind in kinds)
    for offering in pool.offerings:
        kind = offering.instance_type.name
        few = pool.maximum_nodes is None or len(kinds) < pool.maximum_nodes
        if few and spent + MACHINES[kind][3] <= (pool.maximum_usd_per_hour or inf) - CENT:
            yield kind


def _fits_on(world: SmallWorld, node: Node, deployment: Deployment, left: float) -> bool:
    kind = node.instance_type.name
    devices, per_device, links, _ = MACHINES[kind]
    here = [pod.seen for pod in world.pods.values() if pod.seen.node == node.name]
    guests = [guest for guest in world.foreign.values() if guest.node == node.name]
    taken = {core for one in (*here, *guests) for core in cores_of(one.cores or 0)}
    used = sum(one.cores_count for one in here) + sum(guest.requests.accelerator_cores for guest in guests)
    for variant in deployment.variants:
        count = variant.cores or variant.devices * per_device
        if variant.accelerator != node.instance_type.accelerator or used + count > devices * per_device:
            continue
        if share_usd_per_hour(node, count) > left - CENT:
            continue
        if links == "counted":
            return True
        for first in range(devices * per_device - count + 1):
            cores = frozenset(range(first, first + count))
            if not cores & taken and legal(kind, cores):
                return True
    return False

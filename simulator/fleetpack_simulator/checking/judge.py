"""The check itself: walks a history and, at each change, holds what came to be against the rules.

What a promise needs is asked when it is made: a Pod's cores when it appears or gets other ones, money when a Pod appears, pool
limits when a node appears. What follows later (a ceiling lowered under running replicas, a node that loses devices) is nobody's
fault and no violation.

The operator learns of other people's changes through watches, a moment after they are made. So a limit, a foreign Pod or the loss
of a node counts against it only after a grace time, and within that time the most lenient value that was in force decides.
Its own Pods and nodes are known to it at once: for them there is no grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar, assert_never

from fleetpack_simulator.checking.facts import DeploymentFact, NodeFact, PodFact, PoolFact
from fleetpack_simulator.checking.history import Change, Seen, Versions, in_order
from fleetpack_simulator.checking.ledger import Ledger
from fleetpack_simulator.checking.machines import GPU, MACHINES, NEURON_CORE, Machine, list_price, why_illegal
from fleetpack_simulator.checking.report import CheckReport, DeploymentCost, Violation, ViolationKind

GRACE_SECONDS = 2.0
"""Longer than a healthy watch lags behind, shorter than any person's second thought."""

_MONEY_TOLERANCE = Fraction(1, 1_000_000)
"""An operator that adds prices as binary fractions may be off by less than this."""

_COUNTED_ALWAYS = frozenset({NEURON_CORE, GPU})
"""Resources that a node without them has none of; of others it may simply not say how much."""

T = TypeVar("T")

_Account = tuple[str, str]
"""A deployment's name, and the uid of the object that owned the Pods."""


def check(
    history: Iterable[Seen], *, grace_seconds: float = GRACE_SECONDS, until_seconds: float | None = None
) -> CheckReport:
    """Hold a history against the rules; money is counted to `until_seconds`, or to the last change."""
    judge = _Judge(grace_seconds)
    for seen in in_order(history):
        judge.see(seen)
    return judge.report(until_seconds)


class _Judge:
    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._start_seconds: float | None = None
        self._now = 0.0
        self._nodes: dict[str, Versions[NodeFact]] = {}
        self._pools: dict[str, Versions[PoolFact]] = {}
        self._deployments: dict[str, Versions[DeploymentFact]] = {}
        self._holders: dict[str, dict[str, PodFact]] = {}
        """Node to uid to Pod: those that hold something there."""
        self._places: dict[str, str] = {}
        """Uid to node, for those in `_holders`."""
        self._bound_since: dict[str, float] = {}
        self._replica_costs = Ledger()
        self._node_costs = Ledger()
        self._violations: list[Violation] = []
        self._pods_seen: set[str] = set()
        self._told: set[tuple[str, ...]] = set()
        self._swaps: set[frozenset[str]] = set()
        self._unpriced: set[str] = set()
        self._placements_checked = 0

    def see(self, seen: Seen) -> None:
        """Take in the next change."""
        if self._start_seconds is None:
            self._now = self._start_seconds = seen.at_seconds
        # Changes are in the order of their making; that they were seen in another order must not turn time back.
        self._now = max(self._now, seen.at_seconds)
        fact = seen.fact
        if isinstance(fact, PodFact):
            self._see_pod(fact, seen.change)
        elif isinstance(fact, NodeFact):
            self._see_node(fact, seen.change)
        elif isinstance(fact, DeploymentFact):
            _note(self._deployments, fact.name, None if seen.change is Change.DELETED else fact, self._now)
        elif isinstance(fact, PoolFact):
            _note(self._pools, fact.name, None if seen.change is Change.DELETED else fact, self._now)
            self._price_anew(fact.name)
        else:
            assert_never(fact)

    def _see_pod(self, pod: PodFact, change: Change) -> None:
        if pod.deployment is not None:
            self._pods_seen.add(pod.uid)
        before = self._forget(pod.uid)
        if change is Change.DELETED or pod.ended:
            self._replica_costs.release(pod.uid, self._now)
            self._bound_since.pop(pod.uid, None)
            return
        if pod.node is not None:
            self._holders.setdefault(pod.node, {})[pod.uid] = pod
            self._places[pod.uid] = pod.node
        if pod.bound:
            self._bound_since.setdefault(pod.uid, self._now)
        if pod.deployment is not None:
            self._see_replica(pod, before, created=before is None and change is not Change.INITIAL)

    def _see_replica(self, pod: PodFact, before: PodFact | None, *, created: bool) -> None:
        moved = before is None or (before.node, before.cores) != (pod.node, pod.cores)
        if moved:
            self._check_placement(pod, created=created)
            self._check_overlaps(pod, created=created)
            self._charge(pod)
        if created:
            self._check_capacity(pod, bound_only=False)
            self._check_ceiling(pod)
        elif pod.bound and before is not None and not before.bound:
            self._check_capacity(pod, bound_only=True)

    def _forget(self, uid: str) -> PodFact | None:
        place = self._places.pop(uid, None)
        return None if place is None else self._holders[place].pop(uid)

    # -- placements

    def _check_placement(self, pod: PodFact, *, created: bool) -> None:
        self._placements_checked += 1
        if pod.node is None or not pod.accelerators:
            missing = "is bound to no node and names none" if pod.accelerators else "asks for no accelerator"
            self._violate(ViolationKind.UNREADABLE_PLACEMENT, f"pod {pod.name}", missing)
            return
        if created and not self._node_versions(pod.node):
            self._violate(ViolationKind.UNKNOWN_NODE, f"pod {pod.name}", f"was placed on node {pod.node}, which is not")
        node = self._node(pod.node)
        if node is None:
            return
        machine = self._machine(node)
        if machine is None:
            told = f"is on node {node.name} of instance type {node.instance_type!r}, which has no known rule"
            self._violate(ViolationKind.UNKNOWN_MACHINE, f"pod {pod.name}", told)
        elif pod.amount(NEURON_CORE):
            self._check_cores(pod, machine)

    def _check_cores(self, pod: PodFact, machine: Machine) -> None:
        subject, where = f"pod {pod.name}", f"node {pod.node} ({machine.name})"
        if pod.cores is None:
            self._violate(ViolationKind.UNREADABLE_PLACEMENT, subject, f"does not say which cores of {where} it has")
            return
        if len(pod.cores) != pod.amount(NEURON_CORE):
            told = f"has {len(pod.cores)} cores of {where} and asks for {pod.amount(NEURON_CORE)}"
            self._violate(ViolationKind.COUNT_MISMATCH, subject, told)
        if reason := why_illegal(machine, pod.cores):
            told = f"cores {_written(pod.cores)} of {where}: {reason}"
            self._violate(ViolationKind.ILLEGAL_CORES, subject, told)

    def _check_overlaps(self, pod: PodFact, *, created: bool) -> None:
        for other in self._on_node(pod.node):
            shared = set(pod.cores or ()) & set(other.cores or ())
            if other.uid == pod.uid or other.deployment is None or not shared:
                continue
            if not created and _swapped(pod, other):
                self._swaps.add(frozenset((pod.uid, other.uid)))
                continue
            told = f"holds cores {_written(tuple(sorted(shared)))} of node {pod.node}, which pod {other.name} holds"
            pair = tuple(sorted((pod.uid, other.uid)))
            self._violate(ViolationKind.DOUBLE_BOOKED, f"pod {pod.name}", told, once=pair)

    def _check_capacity(self, pod: PodFact, *, bound_only: bool) -> None:
        versions = self._node_versions(pod.node)
        if not versions:
            return
        counted = [other for other in self._on_node(pod.node) if self._counts(other, bound_only=bound_only)]
        for resource, _ in pod.requests:
            offers = [dict(node.allocatable).get(resource) for node in versions]
            known = [offer for offer in offers if offer is not None]
            if not known and resource not in _COUNTED_ALWAYS:
                continue
            taken, most = sum(other.amount(resource) for other in counted), max(known, default=0)
            if taken > most:
                told = f"takes {resource} of node {pod.node} to {taken}, of which it has {most}"
                once = (ViolationKind.CAPACITY_EXCEEDED, pod.uid, resource)
                self._violate(ViolationKind.CAPACITY_EXCEEDED, f"pod {pod.name}", told, once=once)

    def _counts(self, pod: PodFact, *, bound_only: bool) -> bool:
        if bound_only:
            return pod.bound
        bound_since = self._bound_since.get(pod.uid, float("inf"))
        return pod.deployment is not None or bound_since <= self._now - self._grace_seconds

    # -- money

    def _charge(self, pod: PodFact) -> None:
        node = self._node(pod.node)
        machine = None if node is None else self._machine(node)
        price = None if node is None or machine is None else self._price(node, machine)
        if node is not None and price is None:
            self._unpriced.add(node.instance_type)
        share = Fraction(pod.accelerators, machine.cores) if machine else Fraction(0)
        rate = None if price is None else price * share
        self._replica_costs.charge(pod.uid, _account(pod), rate, self._now)

    def _check_ceiling(self, pod: PodFact) -> None:
        versions = self._deployments.get(pod.deployment or "", Versions()).in_force(self._since)
        ceilings = [deployment.ceiling_usd_per_hour for deployment in versions]
        limits = [ceiling for ceiling in ceilings if ceiling is not None]
        if not limits or len(limits) < len(ceilings):
            return
        rate, subject = self._replica_costs.rate(_account(pod)), f"pod {pod.name}"
        if not self._replica_costs.complete(_account(pod)):
            told = f"{pod.deployment} has a ceiling, and nobody knows what node {pod.node} costs"
            self._violate(ViolationKind.PRICE_UNKNOWN, subject, told)
        elif rate > max(limits) + _MONEY_TOLERANCE:
            told = (
                f"takes {pod.deployment} to {float(rate):.4f} USD per hour, above its ceiling of {float(max(limits)):g}"
            )
            self._violate(ViolationKind.CEILING_CROSSED, subject, told)

    def _price(self, node: NodeFact, machine: Machine) -> Fraction | None:
        pool = self._pools.get(node.pool or "", Versions[PoolFact]()).latest
        capacity_type = node.capacity_type or (pool.first_capacity_type if pool else "on-demand")
        for instance_type, bought_as, price in pool.prices if pool else ():
            if (instance_type, bought_as) == (node.instance_type, capacity_type):
                return price
        return list_price(machine, capacity_type)

    def _price_anew(self, pool: str) -> None:
        for name in self._nodes:
            node = self._node(name)
            if node is not None and node.pool == pool and self._nodes[name].exists:
                self._charge_node(node)
                for pod in self._on_node(name):
                    if pod.deployment is not None:
                        self._charge(pod)

    # -- nodes

    def _see_node(self, node: NodeFact, change: Change) -> None:
        _note(self._nodes, node.name, None if change is Change.DELETED else node, self._now)
        if change is Change.DELETED:
            self._node_costs.release(node.name, self._now)
            return
        machine = self._machine(node)
        offered = dict(node.capacity).get(NEURON_CORE)
        if machine is not None and offered is not None and offered != machine.cores:
            told = f"offers {offered} cores; a {machine.name} has {machine.cores}"
            self._violate(ViolationKind.WRONG_NODE_SHAPE, f"node {node.name}", told, once=("shape", node.name))
        self._charge_node(node)
        for pod in self._on_node(node.name):
            if pod.deployment is not None:
                self._charge(pod)
        if change is Change.ADDED and node.pool is not None:
            self._check_pool(node, node.pool)

    def _charge_node(self, node: NodeFact) -> None:
        if node.pool is None:
            self._node_costs.release(node.name, self._now)
            return
        machine = self._machine(node)
        price = None if machine is None else self._price(node, machine)
        self._node_costs.charge(node.name, node.pool, price, self._now)

    def _check_pool(self, node: NodeFact, pool: str) -> None:
        versions = [own for own in self._pools.get(pool, Versions[PoolFact]()).in_force(self._since) if own.launches]
        if not versions:
            return
        subject = f"node {node.name}"
        most_nodes = [own.maximum_nodes for own in versions]
        count = sum(1 for own in self._nodes.values() if own.exists and own.latest and own.latest.pool == pool)
        limits = [limit for limit in most_nodes if limit is not None]
        if len(limits) == len(versions) and count > max(limits):
            told = f"takes pool {pool} to {count} nodes, above its limit of {max(limits)}"
            self._violate(ViolationKind.POOL_NODES_CROSSED, subject, told)
        most_usd = [own.maximum_usd_per_hour for own in versions]
        usd_limits = [limit for limit in most_usd if limit is not None]
        rate = self._node_costs.rate(pool)
        if len(usd_limits) == len(versions) and rate > max(usd_limits) + _MONEY_TOLERANCE:
            told = f"takes pool {pool} to {float(rate):.4f} USD per hour, above its limit of {float(max(usd_limits)):g}"
            self._violate(ViolationKind.POOL_COST_CROSSED, subject, told)

    # -- lookups

    @property
    def _since(self) -> float:
        return self._now - self._grace_seconds

    def _node(self, name: str | None) -> NodeFact | None:
        return self._nodes.get(name or "", Versions[NodeFact]()).latest

    def _node_versions(self, name: str | None) -> tuple[NodeFact, ...]:
        return self._nodes.get(name or "", Versions[NodeFact]()).in_force(self._since)

    def _on_node(self, name: str | None) -> Iterator[PodFact]:
        yield from list(self._holders.get(name or "", {}).values())

    def _machine(self, node: NodeFact) -> Machine | None:
        pool = self._pools.get(node.pool or "", Versions[PoolFact]()).latest
        own = {machine.name: machine for machine in pool.machines} if pool else {}
        machine = own.get(node.instance_type) or MACHINES.get(node.instance_type)
        if machine is None:
            return None
        per_device, rest = divmod(dict(node.capacity).get(NEURON_CORE, 0), machine.devices)
        if rest == 0 and per_device in machine.other_cores_per_device:
            return replace(machine, cores_per_device=per_device)
        return machine

    def _violate(self, kind: ViolationKind, subject: str, message: str, once: tuple[str, ...] = ()) -> None:
        if once and once in self._told:
            return
        self._told.add(once)
        self._violations.append(Violation(kind=kind, at_seconds=self._now, subject=subject, message=message))

    def report(self, until_seconds: float | None) -> CheckReport:
        """Return what was found so far."""
        end = self._now if until_seconds is None else max(until_seconds, self._now)
        self._replica_costs.settle(end)
        self._node_costs.settle(end)
        return CheckReport(
            placements_checked=self._placements_checked,
            pods_seen=len(self._pods_seen),
            nodes_seen=len(self._nodes),
            seconds=0.0 if self._start_seconds is None else end - self._start_seconds,
            usd_spent=sum(self._replica_costs.spent_usd.values(), 0.0),
            nodes_usd_spent=sum(self._node_costs.spent_usd.values(), 0.0),
            deployments=_costs(self._replica_costs),
            unpriced_instance_types=tuple(sorted(self._unpriced)),
            swaps=len(self._swaps),
            violations=tuple(self._violations),
        )


def _note(versions: dict[str, Versions[T]], name: str, value: T | None, at_seconds: float) -> None:
    own = versions.setdefault(name, Versions())
    # A node's heartbeat changes the object and nothing that counts here.
    if not (own.exists and own.latest == value):
        own.add(at_seconds, value)


def _account(pod: PodFact) -> _Account:
    return (pod.deployment or "", pod.owner)


def _swapped(pod: PodFact, other: PodFact) -> bool:
    """Whether the kubelet gave one of two equally large Pods what was planned for the other, which has got nothing yet."""
    given, waiting = (pod, other) if pod.allocated_cores is not None else (other, pod)
    return (
        given.allocated_cores is not None
        and given.allocated_cores != given.planned_cores
        and waiting.allocated_cores is None
        and given.allocated_cores == waiting.planned_cores
    )


def _written(cores: tuple[int, ...]) -> str:
    contiguous = cores == tuple(range(cores[0], cores[0] + len(cores)))
    return f"{cores[0]}-{cores[-1]}" if contiguous and len(cores) > 1 else ",".join(map(str, cores))


def _costs(ledger: Ledger) -> tuple[DeploymentCost, ...]:
    spent: dict[str, float] = {}
    peak: dict[str, float] = {}
    for account, usd in ledger.spent_usd.items():
        name = account[0] if isinstance(account, tuple) else str(account)
        spent[name] = spent.get(name, 0.0) + usd
        peak[name] = max(peak.get(name, 0.0), float(ledger.peak_usd_per_hour[account]))
    return tuple(
        DeploymentCost(deployment=name, usd_spent=spent[name], peak_usd_per_hour=peak[name]) for name in sorted(spent)
    )

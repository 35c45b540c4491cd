"""Room that is coming: what a place for one waiting replica would cost those who are less important.

A site is a node as it will be once everything that is on its way out has gone. `claim` looks through the sites for the legal set of
cores that hurts least: one that nobody has to leave, else first what owners merely keep, then what they need; of both the lowest
priority first, of one priority the owner with the largest share of what it wants. Nobody is asked in vain: cores, CPU, memory and the
Pod's own place must all suffice once those chosen are gone, and each of them is needed for that.

The order of choice is total; its last keys are the node, the cores and the names. Failure: no place is None, nothing raises.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fleetpack.core.fleet import FleetSnapshot, ForeignPod, Node, Pool, Replica, ReplicaPhase, Resources
from fleetpack.core.packing.fit import (
    Exclusion,
    Room,
    VariantNeed,
    affordable,
    never_fits,
    rooms,
    short_resource,
    unavailable,
)
from fleetpack.core.packing.placement import Assignment, PlacementRequest
from fleetpack.core.packing.topology import counted, free_sets, lowest_bits

Key = tuple[str, str]
"""A replica: deployment and name."""


def key_of(replica: Replica) -> Key:
    """Return what tells a replica from all others of one snapshot."""
    return replica.deployment, replica.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A replica that can be asked to go."""

    replica: Replica
    priority: int
    going: bool
    """It drains, and its owner would take it back: to go it need only be let."""
    loss: tuple[bool, int]
    """Whether it serves, and its place in the order in which its owner would give replicas up."""


@dataclass(slots=True, kw_only=True)
class Owner:
    """How much one deployment can still be asked for; `Vacating` counts it down."""

    current: int
    wanted: int
    kept: int
    """More than it needs."""
    spare: int
    """Above its minimum."""
    spare_ready: int
    """Of those that serve, above its minimum: what only loads is no stand-in for what serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacancy:
    """A place that a waiting replica will have."""

    request: PlacementRequest
    node: str
    victims: tuple[Replica, ...]
    """Live replicas that must go for it."""
    gone: tuple[Replica, ...]
    """Replicas that are on their way out of it."""


class _Bid(NamedTuple):
    """One place and what it costs; compared from left to right, so its last fields must be unlike."""

    harm: tuple[tuple[int, int], ...]
    """Of each who has to go, the worst first: -1 drains already, 0 is merely kept, 1 is needed; and its priority."""
    share_taken: float
    losses: tuple[tuple[bool, int], ...]
    free_after: int
    node: str
    mask: int
    chosen: tuple[Key, ...]


@dataclass(slots=True, kw_only=True)
class _Site:
    """One node without what is on its way out."""

    node: Node
    staying: dict[Key, Replica]
    tenants: dict[Key, Tenant]
    gone: tuple[Replica, ...]
    pods: tuple[ForeignPod, ...]
    taken: list[tuple[int, int, Resources]] = field(default_factory=list)
    """Cores, their number and the requests of what is promised a place here."""

    def room(self, without: Collection[Key] = ()) -> Room:
        """Return what there is to give once those named have gone, too."""
        staying = tuple(replica for key, replica in self.staying.items() if key not in without)
        room = rooms(FleetSnapshot(nodes=(self.node,), replicas=staying, foreign_pods=self.pods))[0]
        for mask, count, requests in self.taken:
            room = room.taken(mask or lowest_bits(room.free, count), requests)
        return room


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Who asks for how much: requests of one kind share the answer."""

    need: VariantNeed
    open_pools: frozenset[str]
    priority: int
    fresh: bool
    """Live replicas can be asked to go; else only what is on its way out counts."""
    payer: str
    """The deployment, where it has a ceiling."""


class Vacating:
    """Claims places one by one; holds the state of one pass."""

    def __init__(
        self,
        snapshot: FleetSnapshot,
        tenants: Iterable[Tenant],
        gone: Collection[Key],
        owners: Mapping[str, Owner],
        budgets: Mapping[str, float],
    ) -> None:
        """Start from a snapshot in which `gone` are on their way out; `budgets` is what each may add, in USD per hour."""
        self.owners = owners
        self._budgets = dict(budgets)
        self._pools: Sequence[Pool] = snapshot.pools
        self._heaps: dict[_Question, list[_Bid]] = {}
        asked: dict[str, dict[Key, Tenant]] = {}
        for tenant in tenants:
            asked.setdefault(tenant.replica.node, {})[key_of(tenant.replica)] = tenant
        vacated = {replica.node for replica in snapshot.replicas if key_of(replica) in gone} | asked.keys()
        held: dict[str, list[Replica]] = {}
        for replica in snapshot.replicas:
            if replica.node in vacated:
                held.setdefault(replica.node, []).append(replica)
        pods: dict[str, list[ForeignPod]] = {}
        for pod in snapshot.foreign_pods:
            if pod.node in vacated:
                pods.setdefault(pod.node, []).append(pod)
        self._sites = {
            node.name: _Site(
                node=node,
                staying={key_of(one): one for one in held.get(node.name, ()) if key_of(one) not in gone},
                tenants=asked.get(node.name, {}),
                gone=tuple(one for one in held.get(node.name, ()) if key_of(one) in gone),
                pods=tuple(pods.get(node.name, ())),
            )
            for node in sorted(snapshot.nodes, key=lambda node: node.name)
            if node.name in vacated
        }

    def promise(self, place: Assignment) -> None:
        """Take a place out that somebody else gets."""
        site = self._sites.get(place.node)
        if site is not None:
            site.taken.append((place.cores, place.cores_count, need_of(place).requests))
        if place.request.deployment in self._budgets:
            self._budgets[place.request.deployment] -= place.usd_per_hour or 0.0

    def room(self, node: str) -> Room:
        """Return what a site will have left."""
        return self._sites[node].room()

    def claim(self, request: PlacementRequest, priority: int, *, fresh: bool) -> Vacancy | None:
        """Take the place for a request that hurts least; None: there is none."""
        open_pools = frozenset(pool.name for pool in self._pools if pool.admits(request.namespace))
        payer = request.deployment if request.deployment in self._budgets else ""
        found: list[tuple[_Bid, int, _Question]] = []
        for preference, need in enumerate(request.options):
            question = _Question(need=need, open_pools=open_pools, priority=priority, fresh=fresh, payer=payer)
            bid = self._best(question)
            if bid is not None:
                found.append((bid, preference, question))
        if not found:
            return None
        bid, _, question = min(found, key=lambda entry: entry[:2])
        return self._take(request, question.need, bid)

    def _best(self, question: _Question) -> _Bid | None:
        """Return the best bid of all sites; what was asked for meanwhile only makes an old one worse, so it is made anew."""
        if question not in self._heaps:
            made = (self._bid(site, question) for site in self._sites.values())
            self._heaps[question] = [bid for bid in made if bid is not None]
            heapq.heapify(self._heaps[question])
        heap = self._heaps[question]
        while heap:
            bid = self._bid(self._sites[heap[0].node], question)
            if bid is None or not self._holds(bid, question):
                heapq.heappop(heap)
            elif bid == heap[0]:
                return bid
            else:
                heapq.heapreplace(heap, bid)
        return None

    def _bid(self, site: _Site, question: _Question) -> _Bid | None:
        """Return the place on one node that hurts least."""
        need = question.need
        tenants = [
            tenant
            for tenant in site.tenants.values()
            if tenant.priority < question.priority and (tenant.going or question.fresh)
        ]
        if not tenants and not site.gone:
            return None
        bare = site.room({key_of(tenant.replica) for tenant in tenants})
        cores = never_fits(need, bare, question.open_pools)
        if isinstance(cores, Exclusion) or unavailable(need, bare, cores):
            return None
        budget = self._budgets.get(question.payer)
        if short_resource(need.requests, bare.remaining) or not affordable(bare.usd_per_hour(cores), budget):
            return None
        remaining = site.room().remaining if tenants else bare.remaining
        bids = []
        for mask in free_sets(bare.shape, bare.free, cores):
            chosen = self._chosen(tenants, need, cores, 0 if counted(site.node.instance_type) else mask, remaining)
            if chosen is not None:
                bids.append(self._priced(site, mask, chosen, remaining.accelerator_cores - cores))
        return min(bids, default=None)

    def _chosen(
        self, tenants: list[Tenant], need: VariantNeed, cores: int, mask: int, remaining: Resources
    ) -> tuple[Tenant, ...] | None:
        """Return who must go so that a replica gets the cores `mask` (any, where it is 0); None: that cannot be asked."""
        chosen = [tenant for tenant in tenants if _held(tenant.replica) & mask]
        others = sorted((tenant for tenant in tenants if tenant not in chosen), key=self._reluctance)
        added: list[Tenant] = []
        for tenant in others:
            if _suffices(need, cores, remaining, (*chosen, *added)):
                break
            if self._may_be_asked((*chosen, *added, tenant)):
                added.append(tenant)
        for tenant in reversed(added.copy()):
            fewer = [other for other in added if other is not tenant]
            if _suffices(need, cores, remaining, (*chosen, *fewer)):
                added = fewer
        together = (*chosen, *added)
        if not _suffices(need, cores, remaining, together) or not self._may_be_asked(together):
            return None
        return together

    def _may_be_asked(self, tenants: Iterable[Tenant]) -> bool:
        """Whether every owner keeps its minimum, in all and of those that serve."""
        for deployment, (count, ready) in _counts(tenants).items():
            owner = self.owners[deployment]
            if count > owner.spare or ready > max(0, owner.spare_ready):
                return False
        return True

    def _reluctance(self, tenant: Tenant) -> tuple[int, int, float, tuple[bool, int], Key]:
        owner = self.owners[tenant.replica.deployment]
        needed = -1 if tenant.going else int(owner.kept <= 0)
        return needed, tenant.priority, -owner.current / max(1, owner.wanted), tenant.loss, key_of(tenant.replica)

    def _priced(self, site: _Site, mask: int, chosen: tuple[Tenant, ...], free_after: int) -> _Bid:
        """Return what it costs that those chosen go."""
        harm: list[tuple[int, int]] = [(-1, tenant.priority) for tenant in chosen if tenant.going]
        share_left = math.inf
        priorities = {tenant.replica.deployment: tenant.priority for tenant in chosen}
        for deployment, (count, _) in sorted(_counts(chosen).items()):
            owner = self.owners[deployment]
            harm += [(int(position >= owner.kept), priorities[deployment]) for position in range(count)]
            share_left = min(share_left, (owner.current - count) / max(1, owner.wanted))
        live = sorted((tenant.loss for tenant in chosen if not tenant.going), reverse=True)
        return _Bid(
            harm=tuple(sorted(harm, reverse=True)),
            share_taken=-share_left,
            losses=tuple(live),
            free_after=free_after + sum(tenant.replica.cores_count for tenant in chosen),
            node=site.node.name,
            mask=mask,
            chosen=tuple(sorted(key_of(tenant.replica) for tenant in chosen)),
        )

    def _holds(self, bid: _Bid, question: _Question) -> bool:
        """Whether the node itself, worked out without those chosen, has the place: a Pod of unknown cores may be elsewhere then."""
        room = self._sites[bid.node].room(bid.chosen)
        free = counted(room.node.instance_type) or bid.mask & room.free == bid.mask
        cores = bid.mask.bit_count()
        return free and not (
            unavailable(question.need, room, cores) or short_resource(question.need.requests, room.remaining)
        )

    def _take(self, request: PlacementRequest, need: VariantNeed, bid: _Bid) -> Vacancy:
        site = self._sites[bid.node]
        count, by_id = bid.mask.bit_count(), not counted(site.node.instance_type)
        chosen = [site.tenants.pop(key) for key in bid.chosen]
        live = tuple(tenant.replica for tenant in chosen if not tenant.going)
        let_go = tuple(tenant.replica for tenant in chosen if tenant.going)
        gone = tuple(one for one in site.gone if not by_id or _held(one) & bid.mask)
        if request.deployment in self._budgets:
            self._budgets[request.deployment] -= site.room().usd_per_hour(count) or 0.0
        for key in bid.chosen:
            del site.staying[key]
        for deployment, (asked, ready) in _counts(chosen).items():
            owner = self.owners[deployment]
            owner.current -= asked
            owner.kept -= asked
            owner.spare -= asked
            owner.spare_ready -= ready
        site.gone = (*site.gone, *live, *let_go)
        site.taken.append((bid.mask if by_id else 0, count, need.requests))
        for question, heap in self._heaps.items():
            # What is left over of a larger victim is room without further harm.
            left = self._bid(site, question)
            if left is not None:
                heapq.heappush(heap, left)
        return Vacancy(request=request, node=bid.node, victims=live, gone=(*gone, *let_go))


def need_of(place: Assignment) -> VariantNeed:
    """Return which of the request's needs was met."""
    return next(option for option in place.request.options if option.variant == place.variant)


def _held(replica: Replica) -> int:
    """Return the cores that a replica has or may yet be given."""
    return replica.cores | replica.planned_cores


def _counts(tenants: Iterable[Tenant]) -> dict[str, tuple[int, int]]:
    """Count by deployment who would be taken from it, and how many of them serve."""
    counts: dict[str, tuple[int, int]] = {}
    for tenant in tenants:
        if not tenant.going:
            count, ready = counts.get(tenant.replica.deployment, (0, 0))
            counts[tenant.replica.deployment] = (count + 1, ready + (tenant.replica.phase is ReplicaPhase.READY))
    return counts


def _suffices(need: VariantNeed, cores: int, remaining: Resources, tenants: Iterable[Tenant]) -> bool:
    """Whether what kube-scheduler counts is enough once the tenants have gone."""
    for tenant in tenants:
        requests = tenant.replica.requests
        remaining = remaining.plus(
            Resources(
                cpu_millicores=requests.cpu_millicores,
                memory_bytes=requests.memory_bytes,
                pods=1,
                accelerator_cores=tenant.replica.cores_count,
            )
        )
    return remaining.accelerator_cores >= cores and short_resource(need.requests, remaining) is None

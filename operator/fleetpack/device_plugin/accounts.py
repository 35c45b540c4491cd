"""Who holds which cores of this node, as far as anybody but the kubelet can know.

The kubelet's list (PodResources) is the truth with two gaps. What Allocate has just granted is not in it yet; and for some seconds
after its own restart the kubelet knows no Pods and shows an empty list, while their containers run on. So a grant counts
until the list shows it or a minute has passed, and what was seen once counts until the Pod is gone for the API server too, or
until the list has left it out for two minutes. These run only while the API server's view is known: without it a kubelet that
knows no Pods would be believed after all. Holding on too long costs a little room across the two resources; letting go too early
would give a chip out twice. Within one resource the kubelet keeps account itself: what it gives anew replaces what we believed.

Pure: an `Accounts` value goes in with what was seen, and comes out changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fleetpack.device_plugin.silicon import NeuronResource

GRANT_SECONDS = 60.0
"""How long a grant is believed that the kubelet does not show: far longer than admission takes, and than a kubelet needs
after a restart to know its Pods."""
MISSING_SECONDS = 120.0
"""How long a holding is believed that the kubelet no longer shows while the API server still has its Pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignDevice:
    """A device under a name that is none of ours: another plugin gave it, and which cores it stands for nobody can tell."""

    resource: str
    device_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Cores that a container has."""

    pod: str
    """`namespace/name`: the kubelet's list gives no UID."""
    container: str
    resource: NeuronResource
    cores: int
    foreign: tuple[ForeignDevice, ...] = ()
    """What it has beside these cores and nobody can place; then `cores` may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One answer of the kubelet: everything that it has given out."""

    started_at: float
    """When it was asked for, so that it is known what it cannot show yet."""
    holdings: tuple[Holding, ...]
    ambiguous: frozenset[str] = frozenset()
    """Names that the list has twice: an old Pod that has not ended and a new one of the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What Allocate answered and the kubelet's list does not show yet."""

    resource: NeuronResource
    cores: int
    granted_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A holding and since when the kubelet's list leaves it out; None: it is in the list."""

    holding: Holding
    missing_since: float | None = None
    uid: str = ""
    """Of the Pod that had the name when the list showed it first; empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Everything that is believed to be given out."""

    kept: tuple[Kept, ...] = ()
    grants: tuple[Grant, ...] = ()

    def held_through(self, resource: NeuronResource) -> int:
        """Return the cores given out through a resource."""
        mask = 0
        for kept in self.kept:
            mask |= kept.holding.cores if kept.holding.resource is resource else 0
        for grant in self.grants:
            mask |= grant.cores if grant.resource is resource else 0
        return mask

    @property
    def shown(self) -> tuple[Holding, ...]:
        """What the kubelet's latest list has."""
        return tuple(kept.holding for kept in self.kept if kept.missing_since is None)

    @property
    def foreign(self) -> tuple[Holding, ...]:
        """What another plugin gave to Pods that may still run."""
        return tuple(kept.holding for kept in self.kept if kept.holding.foreign)

    def held_by(self, uids: Mapping[str, str]) -> dict[str, int]:
        """Return the cores of each Pod that holds any, by name; `uids` are those of today's Pods.

        What the list leaves out was another Pod's where the name has passed on: names of replicas are used again.
        """
        masks: dict[str, int] = {}
        for kept in self.kept:
            pod = kept.holding.pod
            if kept.missing_since is None or not kept.uid or uids.get(pod, kept.uid) == kept.uid:
                masks[pod] = masks.get(pod, 0) | kept.holding.cores
        return masks


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePods:
    """The Pods of this node that have not ended, as the API server tells."""

    names: frozenset[str]
    uids: Mapping[str, str] = field(default_factory=dict)
    """By name, as far as they are known."""
    any_init_requests: bool = False
    """Whether an init container asks for cores: the kubelet's list does not show those, so no grant may be given up."""


def granted(accounts: Accounts, grant: Grant) -> Accounts:
    """Return the accounts after an Allocate; the kubelet's new gift replaces older beliefs about the same cores."""
    kept, grants = _without_overlap(accounts.kept, accounts.grants, (grant,))
    return Accounts(kept=kept, grants=(*grants, grant))


def observed(accounts: Accounts, reading: Reading, live: LivePods | None) -> Accounts:
    """Return the accounts after a reading; `live` is None while the API server's view is not known or too old."""
    shown_keys = {_key(holding) for holding in reading.holdings}
    missing = tuple(
        # While nobody can be asked the time begins anew with each reading.
        kept if kept.missing_since is not None and live is not None else replace(kept, missing_since=reading.started_at)
        for kept in accounts.kept
        if _key(kept.holding) not in shown_keys
    )
    still_kept = tuple(kept for kept in missing if live is None or _still_believed(kept, reading, live))
    any_init_requests = live is None or live.any_init_requests
    still_granted = tuple(
        grant
        for grant in accounts.grants
        if not _is_shown(grant, reading.holdings)
        and (any_init_requests or reading.started_at - grant.granted_at <= GRANT_SECONDS)
    )
    # What was granted after the question is newer than the answer.
    late = tuple(grant for grant in still_granted if grant.granted_at >= reading.started_at)
    early = tuple(grant for grant in still_granted if grant.granted_at < reading.started_at)
    still_kept, early = _without_overlap(still_kept, early, reading.holdings)
    shown = (Kept(holding=holding, uid=_uid(holding, accounts, live)) for holding in reading.holdings)
    kept = sorted((*shown, *still_kept), key=_kept_order)
    return Accounts(kept=tuple(kept), grants=(*early, *late))


def presumed(holdings: Iterable[Holding], at: float) -> Accounts:
    """Return the accounts of a plugin that has just started, from what the Pods' annotations say of earlier days.

    They count as missing from the kubelet's list until that shows or outlives them.
    """
    kept = (Kept(holding=holding, missing_since=at) for holding in holdings)
    return Accounts(kept=tuple(sorted(kept, key=_kept_order)))


def _uid(holding: Holding, accounts: Accounts, live: LivePods | None) -> str:
    """Return whose holding this is: the list has names only, so it stays with whom it was first shown for."""
    before = next((kept for kept in accounts.kept if _key(kept.holding) == _key(holding)), None)
    if before is not None and before.uid and before.missing_since is None:
        return before.uid
    return live.uids.get(holding.pod, "") if live is not None else ""


def _still_believed(kept: Kept, reading: Reading, live: LivePods) -> bool:
    if kept.holding.pod not in live.names:
        return False
    return kept.missing_since is None or reading.started_at - kept.missing_since < MISSING_SECONDS


def _is_shown(grant: Grant, holdings: tuple[Holding, ...]) -> bool:
    shown = 0
    for holding in holdings:
        shown |= holding.cores if holding.resource is grant.resource else 0
    return grant.cores & shown == grant.cores


def _without_overlap(
    kept: tuple[Kept, ...], grants: tuple[Grant, ...], newer: tuple[Holding, ...] | tuple[Grant, ...]
) -> tuple[tuple[Kept, ...], tuple[Grant, ...]]:
    """Return what is left of older beliefs where newer ones of the same resource take the same cores."""
    taken = dict.fromkeys(NeuronResource, 0)
    for one in newer:
        taken[one.resource] |= one.cores
    return (
        tuple(one for one in kept if not one.holding.cores & taken[one.holding.resource]),
        tuple(one for one in grants if not one.cores & taken[one.resource]),
    )


def _key(holding: Holding) -> tuple[str, str, NeuronResource]:
    return holding.pod, holding.container, holding.resource


def _kept_order(kept: Kept) -> tuple[str, str, str, int]:
    return kept.holding.pod, kept.holding.container, kept.holding.resource, kept.holding.cores

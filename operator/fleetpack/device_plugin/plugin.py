"""The state of the plugin between the kubelet, the API server and the devices: one for both resources.

It answers what the kubelet asks, from the pure functions of `choosing`, `accounts` and `health`, and rings a bell when the lists of
devices may have changed. Everything runs in one event loop and no answer is interrupted between judging and granting, so two
requests can never be granted the same chip.

Boundary: knows no gRPC and no HTTP; its view of Pods and its way to ask the kubelet are handed in. Failure: a refusal is
`RequestRefusedError`; what the outside cannot tell now (no API server, no list of the kubelet) leaves the last knowledge standing,
and is never taken for an empty node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from fleetpack.device_plugin.accounts import Accounts, Grant, Holding, Reading, granted, observed, presumed
from fleetpack.device_plugin.choosing import (
    AllocationRequest,
    Claim,
    Preference,
    PreferenceRequest,
    WaitingPod,
    can_keep,
    choose,
    judge,
    meant_pod,
)
from fleetpack.device_plugin.health import all_cores
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.pods import NodePod, live_pods, remembered_holdings, waiting_pods
from fleetpack.device_plugin.silicon import (
    DeviceState,
    NeuronResource,
    Refusal,
    RefusalReason,
    device_mask,
    device_states,
    ids_of,
    mask_of_ids,
    widened,
)
from fleetpack.device_plugin.sources import (
    VISIBLE_CORES_VARIABLE,
    DeviceFile,
    DeviceSource,
    device_files,
    visible_cores,
)

_logger = logging.getLogger(__name__)

ASK_SECONDS = 2.0
"""How long one request of the kubelet may wait for the API server: the kubelet admits no other Pod meanwhile."""
MISSING_DEVICE = "missing device files"
ANOTHER_PLUGIN = "devices that another plugin gave"

_HELD = frozenset(
    {RefusalReason.HELD_BY_OTHER_RESOURCE, RefusalReason.HELD_BY_ANOTHER_POD, RefusalReason.HELD_BY_ANOTHER_PLUGIN}
)
"""Somebody has it, who may just have ended."""


class PodsUnavailableError(Exception):
    """The Pods of the node cannot be told now."""


class ReadingUnavailableError(Exception):
    """The kubelet's list cannot be read now."""


class RequestRefusedError(Exception):
    """A request of the kubelet that must not be met; the text goes to the status of the Pod."""

    def __init__(self, refusal: Refusal) -> None:
        self.reason = refusal.reason
        super().__init__(refusal.message)


class PodView(Protocol):
    """The Pods of this node, as the API server has them."""

    def cached(self) -> tuple[NodePod, ...]:
        """Return what the watch has brought so far."""

    def is_current(self) -> bool:
        """Whether the watch is complete and not too old to conclude from it that a Pod is gone."""

    async def ask(self) -> tuple[NodePod, ...]:
        """Ask the server itself; raises `PodsUnavailableError`."""


class Bell:
    """Wakes everybody who waits, each time it rings."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next_ring(self) -> asyncio.Event:
        """Return what the next ring sets; taken before looking, no ring is missed."""
        return self._next

    def ring(self) -> None:
        """Wake those who wait."""
        self._next.set()
        self._next = asyncio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one container gets."""

    environment: tuple[tuple[str, str], ...]
    devices: tuple[DeviceFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the plugin announces."""

    resources: tuple[NeuronResource, ...] = (NeuronResource.CORE,)
    with_numa: bool = False


class DevicePlugin:
    """Answers for the devices of one node; make it in a running event loop."""

    def __init__(
        self,
        source: DeviceSource,
        offer: Offer,
        *,
        pods: PodView,
        read: Callable[[], Awaitable[Reading]],
        clock: Callable[[], float],
        metrics: PluginMetrics,
    ) -> None:
        self.source = source
        self.offer = offer
        self.changed = Bell()
        """Rings when a list of devices may be another."""
        self.attention = asyncio.Event()
        """Set when the kubelet's list should be read soon; the reader clears it."""
        self.accounts = Accounts()
        self.reading: Reading | None = None
        """The kubelet's latest list; None before the first."""
        self._pods = pods
        self._read = read
        self._clock = clock
        self._metrics = metrics
        self._causes: dict[str, int] = {}
        self._asked: frozenset[str] = frozenset()
        self.asked_at = float("-inf")
        """When the kubelet last asked, or was last told what to take; while it waits for Allocate its list should be left alone."""

    @property
    def unhealthy(self) -> int:
        """The cores that are out, for whatever cause."""
        mask = 0
        for cause in self._causes.values():
            mask |= cause
        return mask

    def set_out(self, cause: str, cores: int) -> None:
        """Let one cause name the cores that it takes out now; 0 brings them back as far as this cause goes."""
        if self._causes.get(cause, 0) == cores:
            return
        self._causes[cause] = cores
        names = ", ".join(ids_of(self.source.instance_type, NeuronResource.CORE, cores)) or "none"
        _logger.warning("cores out by %s: %s", cause, names)
        self._tell_change()

    def look_for_devices(self) -> None:
        """Take devices out whose files are missing, and back in when they are there."""
        instance_type = self.source.instance_type
        missing = set(range(instance_type.devices)) - self.source.present_devices()
        self.set_out(MISSING_DEVICE, device_mask(instance_type, missing))

    def device_states(self, resource: NeuronResource) -> tuple[DeviceState, ...]:
        """Return the list of one resource; what is given out through the other one is not healthy in this."""
        unavailable = self.unhealthy | self._held_by_other(resource)
        return device_states(self.source.instance_type, resource, unavailable, with_numa=self.offer.with_numa)

    async def start(self) -> None:
        """Learn what was given out before this process; raises `ReadingUnavailableError`.

        Without the API server the kubelet's list alone has to do.
        """
        try:
            async with asyncio.timeout(ASK_SECONDS):
                self.accounts = presumed(remembered_holdings(await self._pods.ask()), self._clock())
        except (PodsUnavailableError, TimeoutError) as error:
            _logger.warning("starting without the Pods' annotations: %s", error or "no answer in time")
        await self.refresh()

    async def refresh(self) -> Reading:
        """Read the kubelet's list anew and take it over; raises `ReadingUnavailableError`."""
        reading = await self._read()
        if self.reading is not None and reading.started_at < self.reading.started_at:
            # Two reads overtook each other; the newer is already here.
            return self.reading
        live = live_pods(self._pods.cached()) if self._pods.is_current() else None
        self.accounts = observed(self.accounts, reading, live)
        self.reading = reading
        self._take_out_for_foreign_devices()
        self._tell_change()
        return reading

    async def prefer(
        self, resource: NeuronResource, available: Iterable[str], must_include: Iterable[str], units: int
    ) -> tuple[str, ...]:
        """Return the devices that the kubelet should take; raises `RequestRefusedError`."""
        instance_type = self.source.instance_type
        await self._read_before_answering()
        if (foreign := self._foreign(resource)) is not None:
            raise self._refused("prefer", resource, foreign)
        # Not all that the kubelet offers is free: see `_read_before_answering`.
        free = self._mask(resource, available) & ~(
            self._held_by_other(resource) | self.unhealthy | self._shown(resource)
        )
        request = PreferenceRequest(
            resource=resource,
            available=free,
            must_include=self._mask(resource, must_include),
            units=units,
            claims=self._claims(resource),
        )
        waiting = self._waiting(self._pods.cached())
        meant = meant_pod(instance_type, request, waiting)
        if meant is None or not can_keep(instance_type, request, meant):
            # The Pod may be newer than the watch, or the one meant gone already: the kubelet has a watch of its own.
            waiting = self._waiting(await self._asked_pods())
            meant = meant_pod(instance_type, request, waiting)
        if meant is not None:
            self._asked |= {meant.question}
        answer = choose(instance_type, request, waiting)
        if isinstance(answer, Refusal):
            raise self._refused("prefer", resource, answer)
        self._metrics.count_preference(resource, planned=answer.planned_for is not None)
        self._log_preference(resource, answer)
        # The API server may have taken its time; the kubelet calls Allocate from now on.
        self.asked_at = self._clock()
        return ids_of(instance_type, resource, answer.cores)

    async def allocate(
        self, resource: NeuronResource, containers: tuple[tuple[str, ...], ...]
    ) -> tuple[Allocation, ...]:
        """Give these devices to containers, each its own; raises `RequestRefusedError`."""
        masks = tuple(self._mask(resource, ids, during="allocate") for ids in containers)
        refusal = self._judge(resource, masks)
        if refusal is not None and refusal.reason in _HELD:
            # The holder may just have ended; the kubelet knows.
            try:
                await self.refresh()
            except ReadingUnavailableError as error:
                _logger.warning("cannot ask the kubelet whether the holder has ended: %s", error)
            refusal = self._judge(resource, masks)
        if refusal is not None:
            raise self._refused("allocate", resource, refusal)
        now = self._clock()
        for mask in masks:
            self.accounts = granted(self.accounts, Grant(resource=resource, cores=mask, granted_at=now))
        self._metrics.count_allocation(resource)
        self._tell_change()
        self.attention.set()
        return tuple(
            Allocation(
                environment=((VISIBLE_CORES_VARIABLE, visible_cores(self.source, mask)),),
                devices=device_files(self.source, mask),
            )
            for mask in masks
        )

    async def _read_before_answering(self) -> None:
        """Read the kubelet's list: it is the better account.

        Whoever reads that list while the kubelet waits for Allocate makes it forget that the devices are taken, when a Pod has just
        ended (UpdateAllocatedDevices in devicemanager/manager.go makes the set anew from what is already written down). The list
        itself keeps them. Now, before Allocate, reading does no harm.
        """
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self.refresh()
        except (ReadingUnavailableError, TimeoutError) as error:
            _logger.warning("answering by the list as it was last read: %s", error or "no answer in time")
        self.asked_at = self._clock()

    def _take_out_for_foreign_devices(self) -> None:
        """Take the whole node out while any Pod holds what another plugin gave.

        To the kubelet such devices are strings that are none of ours, so it counts all of ours as free.
        """
        holdings = self.accounts.foreign
        cores = all_cores(self.source.instance_type) if holdings else 0
        if holdings and self._causes.get(ANOTHER_PLUGIN, 0) != cores:
            _logger.warning("no core is given out on this node: %s", _foreign_devices(holdings))
        self.set_out(ANOTHER_PLUGIN, cores)

    def _foreign(self, resource: NeuronResource) -> Refusal | None:
        holdings = self.accounts.foreign
        if not holdings:
            return None
        message = f"{resource}: {_foreign_devices(holdings)}"
        return Refusal(reason=RefusalReason.HELD_BY_ANOTHER_PLUGIN, message=message)

    def _shown(self, resource: NeuronResource) -> int:
        mask = 0
        for holding in self.accounts.shown:
            mask |= holding.cores if holding.resource is resource else 0
        return mask

    def _claims(self, resource: NeuronResource) -> tuple[Claim, ...]:
        """Return who holds cores through the other resource, and what takes cores out."""
        machine = self.source.instance_type
        kept = [
            Claim(by=f"Pod {one.holding.pod}", cores=one.holding.cores)
            for one in self.accounts.kept
            if one.holding.resource is not resource
        ]
        new = [
            Claim(by="a Pod that starts", cores=grant.cores)
            for grant in self.accounts.grants
            if grant.resource is not resource
        ]
        held = [
            Claim(by=f"{claim.by} through {_other(resource)}", cores=widened(machine, claim.cores))
            for claim in (*kept, *new)
        ]
        return (*held, *(Claim(by=cause, cores=cores) for cause, cores in self._causes.items()))

    def _listed(self, resource: NeuronResource) -> tuple[Claim, ...]:
        """Return what the kubelet's latest list has with Pods: nothing that it could rightly give out.

        A container that has devices is not asked for again, not even after a restart of the kubelet, and one without a checkpoint
        lists none (devicesToAllocate in devicemanager/manager.go). What an init container leaves to a later one of its Pod is never
        listed (List in apis/podresources/server_v1.go).
        """
        return tuple(
            Claim(by=f"Pod {holding.pod}", cores=holding.cores)
            for holding in self.accounts.shown
            if holding.resource is resource
        )

    def forget_questions(self) -> None:
        """A kubelet begins anew: it asks again for every Pod that has no cores yet."""
        self._asked = frozenset()

    def _waiting(self, pods: tuple[NodePod, ...]) -> tuple[WaitingPod, ...]:
        held = self.accounts.held_by({pod.key: pod.uid for pod in pods})
        return waiting_pods(self.source.instance_type, pods, held, self._asked)

    def _held_by_other(self, resource: NeuronResource) -> int:
        return widened(self.source.instance_type, self.accounts.held_through(_other(resource)))

    def _judge(self, resource: NeuronResource, masks: tuple[int, ...]) -> Refusal | None:
        if (foreign := self._foreign(resource)) is not None:
            return foreign
        for mask in masks:
            request = AllocationRequest(
                resource=resource,
                cores=mask,
                unhealthy=self.unhealthy,
                held_by_other_resource=self._held_by_other(resource),
                listed=self._listed(resource),
                claims=self._claims(resource),
            )
            if (refusal := judge(self.source.instance_type, request)) is not None:
                return refusal
        return None

    async def _asked_pods(self) -> tuple[NodePod, ...]:
        """Ask the API server for the node's Pods; what the watch has stands in where it does not answer in time."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._pods.ask()
        except (PodsUnavailableError, TimeoutError) as error:
            _logger.warning("cannot ask for the node's Pods, going on with the watch: %s", error or "no answer in time")
            return self._pods.cached()

    def _mask(self, resource: NeuronResource, ids: Iterable[str], *, during: str = "prefer") -> int:
        mask = mask_of_ids(self.source.instance_type, resource, ids)
        if isinstance(mask, Refusal):
            raise self._refused(during, resource, mask)
        return mask

    def _refused(self, during: str, resource: NeuronResource, refusal: Refusal) -> RequestRefusedError:
        self._metrics.count_refusal(during, resource, refusal.reason)
        _logger.warning("refused (%s): %s", refusal.reason, refusal.message)
        return RequestRefusedError(refusal)

    def _log_preference(self, resource: NeuronResource, preference: Preference) -> None:
        ids = ", ".join(ids_of(self.source.instance_type, resource, preference.cores))
        _logger.info("preferred for %s: %s", preference.planned_for or "a Pod without a plan that can be kept", ids)

    def _tell_change(self) -> None:
        self._metrics.show_devices({resource: self.device_states(resource) for resource in self.offer.resources})
        self._metrics.show_holdings(self.accounts.shown)
        self.changed.ring()


def _other(resource: NeuronResource) -> NeuronResource:
    return NeuronResource.DEVICE if resource is NeuronResource.CORE else NeuronResource.CORE


def _foreign_devices(holdings: tuple[Holding, ...]) -> str:
    """Return who holds what another plugin gave: the first by name, and how many Pods more."""
    first = holdings[0]
    pods = {holding.pod for holding in holdings}
    device = first.foreign[0]
    more = f" (and {len(pods) - 1} more Pods hold such devices)" if len(pods) > 1 else ""
    return (
        f"Pod {first.pod} holds {device.resource} device {device.device_id!r}, which another plugin gave{more}: nobody can tell "
        "which cores that is; drain the node (or end that Pod), then its cores are offered"
    )

"""Leader election with a Lease: of several running operators one may write.

A candidate takes the Lease when it is free, when it is its own, or when it has *seen* it unchanged for as long as its holder
promised to renew it. Only our own monotonic clock counts time, so clocks that differ between machines do no harm. The holder
renews every 2 s and fences itself: `may_write` turns false 4 s (one write's time-out) before the renew deadline of 10 s, counted
from when the last successful renewal was *sent*; a successor waits at least 15 s from when it was stored. So no write of an old
leader is under way when a new one begins. On a stop the Lease is given back, and the next candidate takes it at its next try.

Every update carries the resourceVersion that it is based on. Failure: an unknown outcome counts as a failure to renew, and the
next try reads the Lease first. A holder that cannot renew until the deadline stops leading, and becomes a candidate again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from fleetpack.cluster.api_client import WRITE_TIMEOUT_SECONDS, Json, KubernetesClient, resource_path, unfenced
from fleetpack.cluster.errors import KubernetesError, NotFound
from fleetpack.cluster.rate_limit import RateLimit

_logger = logging.getLogger(__name__)

GROUP_VERSION = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """Which Lease, who we are, and the times; 15, 10 and 2 s are what Kubernetes' own controllers use."""

    namespace: str
    name: str
    identity: str
    """Unique to this process: two processes with one identity would both lead. See `unique_identity`."""
    lease_duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_period_seconds: float = 2.0
    write_timeout_seconds: float = WRITE_TIMEOUT_SECONDS
    jitter: random.Random = field(default_factory=random.Random)
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        if not (
            self.lease_duration_seconds
            > self.renew_deadline_seconds
            > self.write_timeout_seconds + self.retry_period_seconds
            > 0
        ):
            raise ValueError(
                "a Lease needs lease_duration_seconds > renew_deadline_seconds > write_timeout_seconds + "
                f"retry_period_seconds; got {self.lease_duration_seconds}, {self.renew_deadline_seconds}, "
                f"{self.write_timeout_seconds}, {self.retry_period_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What a Lease says."""

    holder: str
    """Empty when it was given back."""
    duration_seconds: float
    acquire_time: str
    renew_time: str
    transitions: int
    resource_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A record and the moment, on our own clock, when we first saw it like this."""

    record: LeaseRecord
    at_seconds: float


class LeaseAction(StrEnum):
    """What to do about a Lease now."""

    CREATE = "create"
    """There is none."""
    TAKE = "take"
    """It is free, or its holder has let it run out."""
    RENEW = "renew"
    """It is ours."""
    WAIT = "wait"
    """Somebody else holds it."""


def next_lease_action(
    lease: LeaseRecord | None, identity: str, observed: Observed | None, now_seconds: float
) -> LeaseAction:
    """Decide from the Lease as just read, and since when it has been seen unchanged."""
    if lease is None:
        return LeaseAction.CREATE
    if lease.holder == identity:
        return LeaseAction.RENEW
    if not lease.holder:
        return LeaseAction.TAKE
    if observed is None or observed.record != lease:
        # First sight: the holder's clock says when it was renewed, and we do not trust it.
        return LeaseAction.WAIT
    return LeaseAction.TAKE if now_seconds >= observed.at_seconds + lease.duration_seconds else LeaseAction.WAIT


def observe(lease: LeaseRecord | None, observed: Observed | None, now_seconds: float) -> Observed | None:
    """Return the observation after a read: the same as long as nothing changed."""
    if lease is None:
        return None
    return (
        observed
        if observed is not None and observed.record == lease
        else Observed(record=lease, at_seconds=now_seconds)
    )


def parse_lease(raw: Json) -> LeaseRecord:
    """Read a Lease object; fields that are not set are empty."""
    spec = raw.get("spec") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration_seconds=float(spec.get("leaseDurationSeconds") or 0),
        acquire_time=spec.get("acquireTime") or "",
        renew_time=spec.get("renewTime") or "",
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=raw["metadata"]["resourceVersion"],
    )


def unique_identity() -> str:
    """Return a name for this process: the host (the Pod's name, in a cluster) and a random part."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


class LeaseElector:
    """Runs for the Lease; start `run` as a task, `await stop()` to give the Lease back."""

    def __init__(
        self,
        client: KubernetesClient,
        settings: LeaseSettings,
        *,
        on_started_leading: Callable[[], None] = lambda: None,
        on_stopped_leading: Callable[[], None] = lambda: None,
    ) -> None:
        # A bucket of its own and no fence: renewing must not queue behind the writes that depend on it.
        self._client = client.with_writes(fence=unfenced, limit=RateLimit(requests_per_second=5.0, burst=10))
        self._settings = settings
        self._on_started_leading = on_started_leading
        self._on_stopped_leading = on_stopped_leading
        self._collection = resource_path(GROUP_VERSION, "leases", settings.namespace)
        self._path = resource_path(GROUP_VERSION, "leases", settings.namespace, settings.name)
        self._observed: Observed | None = None
        self._renewed_at_seconds: float | None = None
        self._stopping = asyncio.Event()
        self._running = asyncio.Lock()
        self.last_error: str | None = None
        """The latest failure to read or write the Lease; None when the last try succeeded."""

    @property
    def is_leading(self) -> bool:
        """True from taking the Lease until it is given back or its renew deadline has passed."""
        return self._renewed_at_seconds is not None

    @property
    def holder(self) -> str | None:
        """Who held the Lease when we last read it; empty: nobody, None: not read yet, or there is no Lease."""
        return self._observed.record.holder if self._observed is not None else None

    def may_write(self, now_seconds: float) -> bool:
        """Say whether a write may start now and still end before the renew deadline: the fence of all other writes."""
        settings = self._settings
        if self._renewed_at_seconds is None or self._stopping.is_set():
            return False
        fence_seconds = self._renewed_at_seconds + settings.renew_deadline_seconds - settings.write_timeout_seconds
        return now_seconds < fence_seconds

    async def run(self) -> None:
        """Try for the Lease and keep it, until `stop` or cancelled; a cancelled run does not give the Lease back."""
        async with self._running:
            try:
                while not self._stopping.is_set():
                    await self._try_once()
                    await self._pause()
            finally:
                if self._stopping.is_set():
                    await self._give_back()
                self._stop_leading("the election ended")

    async def stop(self) -> None:
        """Close the fence at once, end `run`, give the Lease back if it is ours.

        Finish or cancel writes under way before: the successor may begin as soon as this returns.
        """
        self._stopping.set()
        async with self._running:
            pass

    async def _try_once(self) -> None:
        """Read, decide, write at most once."""
        settings = self._settings
        try:
            async with asyncio.timeout(self._patience_seconds()):
                await self._read_and_act()
            self.last_error = None
        except Exception as error:
            # A conflict means that somebody was faster; whatever it was, the next try reads the Lease anew.
            message = f"{type(error).__name__}: {error}"
            if message != self.last_error:
                _logger.warning("lease %s/%s: %s", settings.namespace, settings.name, message)
            self.last_error = message
        if self._renewed_at_seconds is None:
            return
        if settings.monotonic() >= self._renewed_at_seconds + settings.renew_deadline_seconds:
            self._stop_leading(f"not renewed for {settings.renew_deadline_seconds:g} s")

    def _patience_seconds(self) -> float:
        """How long one try may take: a holder must notice its deadline when it comes, not when a slow answer does."""
        settings = self._settings
        if self._renewed_at_seconds is None:
            return settings.renew_deadline_seconds
        left_seconds = self._renewed_at_seconds + settings.renew_deadline_seconds - settings.monotonic()
        return max(0.0, min(left_seconds, settings.renew_deadline_seconds))

    async def _read_and_act(self) -> None:
        settings = self._settings
        try:
            raw: Json | None = await self._client.get(self._path, timeout_seconds=settings.write_timeout_seconds)
        except NotFound:
            raw = None
        lease = parse_lease(raw) if raw is not None else None
        now_seconds = settings.monotonic()
        action = next_lease_action(lease, settings.identity, self._observed, now_seconds)
        self._observed = observe(lease, self._observed, now_seconds)
        if action is LeaseAction.WAIT:
            self._stop_leading(f"{lease.holder if lease else ''} holds the Lease")
            return
        if action is not LeaseAction.RENEW:
            # Whoever wrote last, it was not us: never go on as if we had led without a break.
            self._stop_leading("the Lease is no longer ours")
        sent_at_seconds = settings.monotonic()
        stored = await self._store(action, raw)
        self._observed = Observed(record=parse_lease(stored), at_seconds=settings.monotonic())
        self._start_leading(sent_at_seconds)

    async def _store(self, action: LeaseAction, raw: Json | None) -> Json:
        settings = self._settings
        now_text = self._now_text()
        spec: dict[str, Any] = {
            **((raw or {}).get("spec") or {}),
            "holderIdentity": settings.identity,
            # The API takes whole seconds; rounding up keeps the promise that successors rely on.
            "leaseDurationSeconds": int(-(-settings.lease_duration_seconds // 1)),
            "renewTime": now_text,
        }
        if raw is None:
            body: Json = {
                "apiVersion": GROUP_VERSION,
                "kind": "Lease",
                "metadata": {"namespace": settings.namespace, "name": settings.name},
                "spec": {**spec, "acquireTime": now_text, "leaseTransitions": 0},
            }
            return await self._client.create(self._collection, body)
        if action is LeaseAction.TAKE:
            transitions = int(spec.get("leaseTransitions") or 0) + 1
            spec = {**spec, "acquireTime": now_text, "leaseTransitions": transitions}
        # The body carries the resourceVersion that we read: of two candidates one gets a conflict.
        return await self._client.replace(self._path, {**raw, "spec": spec})

    async def _give_back(self) -> None:
        """Empty the holder, so that a successor need not wait."""
        settings = self._settings
        try:
            raw = await self._client.get(self._path, timeout_seconds=settings.write_timeout_seconds)
            if (raw.get("spec") or {}).get("holderIdentity") != settings.identity:
                return
            spec = {**raw["spec"], "holderIdentity": "", "renewTime": self._now_text()}
            await self._client.replace(self._path, {**raw, "spec": spec})
        except KubernetesError as error:
            _logger.warning("lease %s/%s not given back, it will run out: %s", settings.namespace, settings.name, error)

    async def _pause(self) -> None:
        """Wait for the next try; a stop ends the wait."""
        settings = self._settings
        # The holder keeps to its period, and is awake at its deadline; candidates spread, so that they do not all
        # collide when a Lease runs out.
        pause_seconds = settings.retry_period_seconds * settings.jitter.uniform(0.9, 1.0 if self.is_leading else 1.5)
        try:
            async with asyncio.timeout(min(pause_seconds, self._patience_seconds())):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _start_leading(self, renewed_at_seconds: float) -> None:
        was_leading = self.is_leading
        self._renewed_at_seconds = renewed_at_seconds
        if not was_leading:
            _logger.info("leading as %s", self._settings.identity)
            self._on_started_leading()

    def _stop_leading(self, why: str) -> None:
        if self.is_leading:
            self._renewed_at_seconds = None
            _logger.warning("no longer leading: %s", why)
            self._on_stopped_leading()

    def _now_text(self) -> str:
        return self._settings.wall_clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

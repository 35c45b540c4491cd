"""A cache of one collection: list, then watch, raw JSON projected to small frozen values.

The store is what the server had at some recent moment; `age_seconds` says how recent. Between two lists it follows the watch;
a list *replaces*: what vanished while nobody was looking is removed and reported like any deletion. That is why a 410 costs
nothing but a list. Lists also come every five minutes, so that an event lost on the way costs bounded time. The server ends each
watch after 20 s, and a bookmark, an event, an accepted watch and an orderly end are the signs of life.

Failure: `run` never ends by itself. A broken stream is taken up again where it stopped, everything else starts with a list, both
with growing pauses. Each cause of an outage is logged when it first shows, and once a minute while it lasts; `counts` has them all. An
object that the projection cannot read harms only itself: it is put in `unreadable` with its error, and its last readable value stays
(a Pod that we no longer understand still owns its cores); without one, what could be read of it counts. Not for several threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from fleetpack.cluster.api_client import (
    LIST_PAGE_LIMIT,
    WATCH_INACTIVITY_SECONDS,
    WATCH_TIMEOUT_SECONDS,
    Json,
    KubernetesClient,
    Selector,
    WatchEvent,
    list_items,
)
from fleetpack.cluster.errors import ConnectionLost, KubernetesError, TooManyRequests

_logger = logging.getLogger(__name__)

T = TypeVar("T")

REPEAT_SECONDS = 60.0
"""How often the log repeats a cause that lasts."""

Key = tuple[str, str]
"""Namespace and name; the namespace is empty for cluster-scoped objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorSettings:
    """What is watched, and with which patience."""

    selector: Selector = field(default_factory=Selector)
    list_page_limit: int = LIST_PAGE_LIMIT
    watch_timeout_seconds: int = WATCH_TIMEOUT_SECONDS
    watch_inactivity_seconds: float = WATCH_INACTIVITY_SECONDS
    relist_period_seconds: float = 300.0
    first_back_off_seconds: float = 0.25
    maximum_back_off_seconds: float = 5.0
    """Well below the 30 s after which a cache permits only holds."""
    jitter: random.Random = field(default_factory=lambda: random.Random(0))
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An object that the projection refused."""

    uid: str
    resource_version: str
    error: str


@dataclass(slots=True, kw_only=True)
class ReflectorCounts:
    """What happened so far, for metrics."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    bookmarks: int = 0
    expired: int = 0
    failures: int = 0
    unreadable: int = 0
    deletions_found_by_list: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry(Generic[T]):
    uid: str
    value: T
    partial: bool = False
    """Whether it is of an object that was never read whole."""


class PartlyReadableError(ValueError):
    """Something in an object cannot be read; `value` is what the rest of it says, for those who know nothing better."""

    def __init__(self, message: str, value: object) -> None:
        super().__init__(message)
        self.value = value


class ProjectedStore(Generic[T]):
    """The projected objects by key, and what became of those that could not be projected.

    A name that comes back with another UID is a deletion and a new object.
    """

    def __init__(self, project: Callable[[Json], T | None], on_deleted: Callable[[Key, T], None] | None = None) -> None:
        self._project = project
        self._on_deleted = on_deleted
        self._entries: dict[Key, _Entry[T]] = {}
        self._values: dict[Key, T] = {}
        self._unreadable: dict[Key, Unreadable] = {}
        self.objects: Mapping[Key, T] = MappingProxyType(self._values)
        self.unreadable: Mapping[Key, Unreadable] = MappingProxyType(self._unreadable)

    def put(self, raw: Json) -> bool:
        """Take over an object's state and return whether anything changed for the reader."""
        key, uid = object_key(raw), raw["metadata"]["uid"]
        changed = self._forget_namesake(key, uid)
        try:
            value = self._project(raw)
        except Exception as error:
            resource_version = raw["metadata"].get("resourceVersion", "")
            known = self._unreadable.get(key)
            message = f"{type(error).__name__}: {error}"
            self._unreadable[key] = Unreadable(uid=uid, resource_version=resource_version, error=message)
            _logger.warning("cannot read %s/%s (uid %s): %s", *key, uid, message)
            before = self._entries.get(key)
            if isinstance(error, PartlyReadableError) and (before is None or before.partial):
                rest = cast(T, error.value)
                self._entries[key] = _Entry(uid=uid, value=rest, partial=True)
                self._values[key] = rest
                changed |= before is None or before.value != rest
            return changed or known is None or known.error != message
        changed |= self._unreadable.pop(key, None) is not None
        if value is None:
            return self._forget(key) or changed
        before = self._entries.get(key)
        self._entries[key] = _Entry(uid=uid, value=value)
        self._values[key] = value
        return changed or before is None or before.value != value

    def remove(self, raw: Json) -> bool:
        """Take over a deletion, whose event carries the last state, and return whether anything changed."""
        key, uid = object_key(raw), raw["metadata"]["uid"]
        if self._known_uid(key) != uid:
            return False
        # What the object last was may differ from what we last saw.
        changed = self.put(raw) if key in self._entries else False
        return self._forget(key) or changed

    def retain(self, seen: Mapping[Key, str]) -> int:
        """Forget all but the keys and UIDs of a complete list and return how many were gone."""
        known = {key: unreadable.uid for key, unreadable in self._unreadable.items()}
        known |= {key: entry.uid for key, entry in self._entries.items()}
        gone = [key for key, uid in sorted(known.items()) if seen.get(key) != uid]
        for key in gone:
            self._forget(key)
        return len(gone)

    def _forget_namesake(self, key: Key, uid: str) -> bool:
        return self._forget(key) if self._known_uid(key) not in (None, uid) else False

    def _known_uid(self, key: Key) -> str | None:
        if key in self._entries:
            return self._entries[key].uid
        return self._unreadable[key].uid if key in self._unreadable else None

    def _forget(self, key: Key) -> bool:
        known = self._unreadable.pop(key, None) is not None
        entry = self._entries.pop(key, None)
        if entry is None:
            return known
        del self._values[key]
        if self._on_deleted is not None:
            try:
                self._on_deleted(key, entry.value)
            except Exception:
                _logger.exception("the deletion callback failed for %s/%s", *key)
        return True


class Reflector(Generic[T]):
    """Keeps a `ProjectedStore` like the server's collection; start `run` as a task, cancel it to stop."""

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        project: Callable[[Json], T | None],
        *,
        on_change: Callable[[], None] = lambda: None,
        on_deleted: Callable[[Key, T], None] | None = None,
        settings: ReflectorSettings | None = None,
    ) -> None:
        self.path = path
        self.synced = asyncio.Event()
        """Set once the first complete list is in the store."""
        self.counts = ReflectorCounts()
        self.last_error: str | None = None
        """The latest failure; None when the stream is healthy."""
        self._client = client
        self._settings = settings if settings is not None else ReflectorSettings()
        self._store = ProjectedStore(project, on_deleted)
        self._on_change = on_change
        self._resource_version: str | None = None
        self._last_sign_of_life_seconds: float | None = None
        self._relist_at_seconds = 0.0
        self._failures_in_a_row = 0
        self._was_unreachable = False
        self._told_at_seconds: dict[tuple[str, str, int | None], float] = {}
        """When each cause of the present outage was logged last."""

    @property
    def store(self) -> Mapping[Key, T]:
        """The objects, as a live read-only view: copy it before the next await."""
        return self._store.objects

    @property
    def unreadable(self) -> Mapping[Key, Unreadable]:
        """The objects that the projection refused; a live view too."""
        return self._store.unreadable

    def age_seconds(self, now_seconds: float) -> float | None:
        """Return the seconds since the server last proved that the store is current; None before the first list."""
        if self._last_sign_of_life_seconds is None or not self.synced.is_set():
            return None
        return max(0.0, now_seconds - self._last_sign_of_life_seconds)

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                if self._resource_version is None or self._settings.monotonic() >= self._relist_at_seconds:
                    await self._list()
                else:
                    await self._follow(self._resource_version)
                continue
            except Exception as error:
                pause_seconds = self._note_failure(error)
            await asyncio.sleep(pause_seconds)

    async def _list(self) -> None:
        """Replace the store by the server's present state."""
        settings = self._settings
        # The list shows the state as of its first page.
        asked_at_seconds = settings.monotonic()
        seen: dict[Key, str] = {}
        token: str | None = None
        resource_version = ""
        while True:
            page = await self._client.list(
                self.path, selector=settings.selector, limit=settings.list_page_limit, continue_token=token
            )
            resource_version = page["metadata"]["resourceVersion"]
            if self._put_all(list_items(page), seen) and self.synced.is_set():
                self._tell_change()
            token = page["metadata"].get("continue")
            if not token:
                break
        gone = self._store.retain(seen)
        self.counts.lists += 1
        self.counts.deletions_found_by_list += gone
        self._resource_version = resource_version
        self._last_sign_of_life_seconds = asked_at_seconds
        self._relist_at_seconds = asked_at_seconds + settings.relist_period_seconds * settings.jitter.uniform(0.9, 1.0)
        first = not self.synced.is_set()
        self.synced.set()
        if gone or first:
            self._tell_change()

    def _put_all(self, items: Iterable[Json], seen: dict[Key, str]) -> bool:
        changed = False
        for raw in items:
            changed |= self._put(raw)
            seen[object_key(raw)] = raw["metadata"]["uid"]
        return changed

    def _put(self, raw: Json) -> bool:
        changed = self._store.put(raw)
        self.counts.unreadable += object_key(raw) in self._store.unreadable
        return changed

    async def _follow(self, resource_version: str) -> None:
        """Watch from where we are until the server ends the watch."""
        settings = self._settings
        started_at_seconds = settings.monotonic()
        remaining_seconds = max(1, int(self._relist_at_seconds - started_at_seconds))
        self.counts.watches += 1
        watch = self._client.watch(
            self.path,
            resource_version,
            selector=settings.selector,
            timeout_seconds=min(settings.watch_timeout_seconds, remaining_seconds),
            inactivity_seconds=settings.watch_inactivity_seconds,
        )
        async with watch as events:
            self._last_sign_of_life_seconds = settings.monotonic()
            async for event in events:
                self._take_over(event)
        ended_at_seconds = settings.monotonic()
        if ended_at_seconds - started_at_seconds < 0.5 and self._resource_version == resource_version:
            # A server or proxy that ends every watch at once must not be asked in a tight loop.
            raise ConnectionLost("watch", self.path, "the watch ended at once and without an event")
        self._note_life(ended_at_seconds)

    def _take_over(self, event: WatchEvent) -> None:
        changed = False
        if event.type == "BOOKMARK":
            self.counts.bookmarks += 1
        elif event.type == "DELETED":
            changed = self._store.remove(event.object)
        elif event.type in ("ADDED", "MODIFIED"):
            changed = self._put(event.object)
        else:
            raise ValueError(f"watch {self.path}: unknown event type {event.type!r}")
        self.counts.events += 1
        self._resource_version = event.object["metadata"]["resourceVersion"]
        self._note_life(self._settings.monotonic())
        if changed:
            self._tell_change()

    def _tell_change(self) -> None:
        try:
            self._on_change()
        except Exception:
            _logger.exception("the change callback of %s failed", self.path)

    def _note_life(self, now_seconds: float) -> None:
        self._last_sign_of_life_seconds = now_seconds
        self._failures_in_a_row = 0
        self._told_at_seconds.clear()
        self.last_error = None

    def _note_failure(self, error: Exception) -> float:
        """Remember a failure and return how long to pause."""
        settings = self._settings
        self._log_failure(error)
        self.last_error = f"{type(error).__name__}: {error}"
        self.counts.failures += 1
        if not isinstance(error, ConnectionLost | TooManyRequests):
            # Expired, a server error, an event without a name: only a list tells where we are.
            self.counts.expired += type(error).__name__ == "Expired"
            self._resource_version = None
        unreachable = isinstance(error, ConnectionLost)
        # A server that answers again after an outage, if only with a 410, is not to be kept waiting.
        self._failures_in_a_row = 1 if self._was_unreachable and not unreachable else self._failures_in_a_row + 1
        self._was_unreachable = unreachable
        doubled_seconds = settings.first_back_off_seconds * 2.0 ** min(self._failures_in_a_row - 1, 16)
        pause_seconds: float = min(settings.maximum_back_off_seconds, doubled_seconds) * settings.jitter.uniform(
            0.5, 1.0
        )
        if isinstance(error, TooManyRequests) and error.retry_after_seconds is not None:
            return max(pause_seconds, error.retry_after_seconds)
        return pause_seconds

    def _log_failure(self, error: Exception) -> None:
        """Log a cause that is new in this outage, or has lasted: a watch that is refused after a list that failed is news."""
        known = error if isinstance(error, KubernetesError) else None
        cause = (type(error).__name__, known.verb if known else "", known.status if known else None)
        now_seconds = self._settings.monotonic()
        if now_seconds - self._told_at_seconds.get(cause, -math.inf) >= REPEAT_SECONDS:
            self._told_at_seconds[cause] = now_seconds
            _logger.warning("watching %s: %s; trying again", self.path, error)


def object_key(raw: Mapping[str, Any]) -> Key:
    """Return the namespace (empty when there is none) and the name."""
    metadata = raw["metadata"]
    return metadata.get("namespace", ""), metadata["name"]

"""Our own resources as kopf shows them, and as a list from time to time confirms them.

kopf watches InferenceDeployments and AcceleratorPools and its handlers remember here what they see. What kopf cannot tell is when
the first list is complete, and what was deleted while a watch was broken (designs/0001-one-plan.md); so a list of our own at the
start and every minute says what is there, and that alone removes what no event has removed. An object that cannot be read keeps
its last readable form and is named in `unreadable`; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from fleetpack.api.meta import ObjectMeta
from fleetpack.cluster.api_client import Json, KubernetesClient
from fleetpack.cluster.errors import KubernetesError

_logger = logging.getLogger(__name__)

RELIST_SECONDS = 60.0
RETRY_SECONDS = 2.0


class Resource(Protocol):
    """What both of our kinds have."""

    @property
    def metadata(self) -> ObjectMeta:
        """The object's metadata."""
        ...


ResourceType = TypeVar("ResourceType", bound=Resource)


class ResourceCache(Generic[ResourceType]):
    """All objects of one of our kinds."""

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        parse: Callable[[Json], ResourceType],
        on_change: Callable[[], None],
    ) -> None:
        self._client = client
        self._path = path
        self._parse = parse
        self._on_change = on_change
        self._objects: dict[str, ResourceType] = {}
        self.unreadable: dict[str, str] = {}
        """Key of an object that could not be read, and why."""
        self.synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[str, ResourceType]:
        """Everything that is there, by `namespace/name` (or `name` for cluster-scoped kinds)."""
        return self._objects

    def observe(self, event_type: str | None, raw: Json) -> None:
        """Remember one event of a watch."""
        if event_type == "DELETED":
            key = _key(raw)
            known = self._objects.get(key)
            if known is not None and known.metadata.uid == raw["metadata"]["uid"]:
                del self._objects[key]
                self._on_change()
            self.unreadable.pop(key, None)
        elif self._remember(raw):
            self._on_change()

    async def relist_forever(self) -> None:
        """List at once and then each minute; never ends by itself."""
        while True:
            try:
                listed = await self._client.list_all(self._path)
            except KubernetesError as error:
                _logger.warning("cannot list %s: %s", self._path, error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._replace(listed)
            self.synced.set()
            await asyncio.sleep(RELIST_SECONDS)

    def _replace(self, listed: Json) -> None:
        """Take what a list says; events that are newer than the list stay."""
        version = int(listed["metadata"]["resourceVersion"])
        items = {_key(raw): raw for raw in listed["items"]}
        changed = sum(self._remember(raw) for raw in items.values()) > 0
        for key, known in list(self._objects.items()):
            if key not in items and int(known.metadata.resource_version) <= version:
                del self._objects[key]
                changed = True
        self.unreadable = {key: reason for key, reason in self.unreadable.items() if key in items}
        if changed or not self.synced.is_set():
            self._on_change()

    def _remember(self, raw: Json) -> bool:
        """Keep an object if it is newer than what is known; say whether what it asks for has changed."""
        key = _key(raw)
        known = self._objects.get(key)
        same = known is not None and known.metadata.uid == raw["metadata"]["uid"]
        if (
            known is not None
            and same
            and int(known.metadata.resource_version) >= int(raw["metadata"]["resourceVersion"])
        ):
            return False
        try:
            read = self._parse(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            if key not in self.unreadable:
                _logger.warning("%s %s cannot be read: %s: %s", self._path, key, field, first["msg"])
            self.unreadable[key] = f"{field}: {first['msg']}"
            return False
        self.unreadable.pop(key, None)
        self._objects[key] = read
        if known is None or not same:
            return True
        # A new status (we wrote it) is no reason to plan.
        return (
            known.metadata.generation != read.metadata.generation
            or known.metadata.deletion_timestamp != read.metadata.deletion_timestamp
        )


def _key(raw: Json) -> str:
    metadata = raw["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])

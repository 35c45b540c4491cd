"""The part of an API server that leader election sees: one Lease, kept in memory, reached by clients that can be cut off.

Concept: `LeaseBook` holds the object and its resourceVersion, and refuses what is based on another one, as the server does (that the
real one does is held by the tests on it). A `LeaseClient` is one candidate's connection; what goes wrong on the way is set on it while
it is in use. Boundary: get, create and replace of one object; no other verb, no watch, no rate limit. Failure: as
`fleetpack.cluster.errors` has it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleetpack.cluster.api_client import WRITE_TIMEOUT_SECONDS
from fleetpack.cluster.errors import AlreadyExists, Conflict, ConnectionLost, DeliveryUnknown, NotFound, ServerError

Json = dict[str, Any]


@dataclass(slots=True)
class LeaseBook:
    """What the server has stored."""

    stored: Json | None = None
    versions: int = 0

    def put(self, body: Json) -> Json:
        """Store a new state."""
        self.versions += 1
        metadata = {**body.get("metadata", {}), "resourceVersion": str(self.versions)}
        self.stored = {**copy.deepcopy(body), "metadata": metadata}
        return copy.deepcopy(self.stored)

    @property
    def spec(self) -> Json:
        """What the Lease says."""
        assert self.stored is not None
        spec: Json = self.stored["spec"]
        return spec


@dataclass(slots=True)
class LeaseClient:
    """One candidate's way to the book."""

    book: LeaseBook
    refuses: bool = False
    """Every request is answered with a 500."""
    answer_seconds: float = 0.001
    """From the request to its answer; what is asked for is done at the half."""
    lost_answers: int = 0
    """So many writes are done and never answered."""

    def with_writes(self, **_: Any) -> LeaseClient:
        """Neither fences nor limits."""
        return self

    async def get(self, path: str, *, timeout_seconds: float) -> Json:
        """Read the Lease."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._pass_half("get", path)
                found = copy.deepcopy(self.book.stored)
                await asyncio.sleep(self.answer_seconds / 2)
        except TimeoutError:
            raise ConnectionLost("get", path, "Timeout") from None
        if found is None:
            raise NotFound("get", path, "not found", status=404)
        return found

    async def create(self, path: str, body: Json) -> Json:
        """Make the Lease."""

        def make() -> Json:
            if self.book.stored is not None:
                raise AlreadyExists("create", path, "already exists", status=409)
            return self.book.put(body)

        return await self._write("create", path, make)

    async def replace(self, path: str, body: Json) -> Json:
        """Replace the Lease that the body is based on."""

        def change() -> Json:
            if self.book.stored is None:
                raise NotFound("update", path, "not found", status=404)
            if body["metadata"]["resourceVersion"] != self.book.stored["metadata"]["resourceVersion"]:
                raise Conflict("update", path, "the object has been modified", status=409)
            return self.book.put(body)

        return await self._write("update", path, change)

    async def _write(self, verb: str, path: str, apply: Callable[[], Json]) -> Json:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await self._pass_half(verb, path)
                stored = apply()
                await asyncio.sleep(self.answer_seconds / 2)
        except TimeoutError:
            raise DeliveryUnknown(verb, path, "Timeout") from None
        if self.lost_answers:
            self.lost_answers -= 1
            raise DeliveryUnknown(verb, path, "the connection was cut")
        return stored

    async def _pass_half(self, verb: str, path: str) -> None:
        await asyncio.sleep(self.answer_seconds / 2)
        if self.refuses:
            raise ServerError(verb, path, "out of order", status=500)

"""A history of seen changes, in the order in which the API server made them.

Several watches deliver side by side, and nobody promises in which order two of them arrive. The resource version does: in one
etcd it is one counter for all resources, so changes are ordered by it. Objects that were there before anybody looked come
first; a deletion that fell into a gap between a cut watch and the list after it has no version of its own, and is taken as the
change right after the last one that was seen, the earliest it can have been. Any other change without a version (an audit log
has some) stands after the newest version that arrived before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from fleetpack_simulator.checking.facts import Fact

T = TypeVar("T")


class Change(StrEnum):
    """What happened to an object."""

    INITIAL = "INITIAL"
    """It was there when watching began: made by nobody whom this history judges."""
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One change of one object."""

    at_seconds: float
    change: Change
    fact: Fact
    version: float | None
    """Resource version; None: not known."""


def in_order(history: Iterable[Seen]) -> tuple[Seen, ...]:
    """Return the changes in the order in which they were made."""
    entries = tuple(history)
    initial = tuple(seen for seen in entries if seen.change is Change.INITIAL)
    later = tuple(seen for seen in entries if seen.change is not Change.INITIAL)
    newest = 0.0
    keys: list[tuple[float, int]] = []
    for index, seen in enumerate(later):
        keys.append((newest if seen.version is None else seen.version, index))
        newest = max(newest, keys[-1][0])
    later = tuple(later[index] for _, index in sorted(keys))
    return initial + later


class Versions(Generic[T]):
    """What was in force when: the successive values of one thing, None while it did not exist."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, T | None]] = []

    def add(self, at_seconds: float, value: T | None) -> None:
        """Say that `value` holds from now on."""
        self._entries.append((at_seconds, value))

    @property
    def latest(self) -> T | None:
        """The newest value that existed; None: there never was one."""
        return next((value for _, value in reversed(self._entries) if value is not None), None)

    @property
    def exists(self) -> bool:
        """Whether there is a value now."""
        return bool(self._entries) and self._entries[-1][1] is not None

    def in_force(self, since_seconds: float) -> tuple[T, ...]:
        """Return every value that was in force at some moment from `since_seconds` until now."""
        values: list[T] = []
        for index, (_, value) in enumerate(self._entries):
            until = self._entries[index + 1][0] if index + 1 < len(self._entries) else float("inf")
            if until >= since_seconds and value is not None:
                values.append(value)
        return tuple(values)

"""Virtual time: a clock, and events in one total order.

Two events at the same instant go by their kind, then in the order in which they were put on the queue; nothing else decides. Traffic
(arrivals and what engines do) is too much for one queue, so it has its own and takes its two places in the order of kinds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

EPOCH_SECONDS = 1_767_225_600.0
"""Second 0 of a simulation on the planner's clock, 2026-01-01T00:00Z: windows and time zones mean something there."""


class Kind(IntEnum):
    """What goes first at the same instant."""

    FAULT = 0
    LIFECYCLE = 1
    """A node boots, a Pod is bound, becomes Ready, is gone."""
    WRITE = 2
    """A write reaches the API server, or its answer the operator."""
    ENGINE = 3
    """Traffic: an engine's batch changes."""
    ARRIVAL = 4
    """Traffic: a request comes."""
    POLICY = 5
    PLAN = 6
    END = 7


@dataclass(slots=True)
class Clock:
    """Seconds since the start of the simulation; only the event loop moves it."""

    now: float = 0.0

    @property
    def epoch_seconds(self) -> float:
        """The same instant on the planner's clock."""
        return EPOCH_SECONDS + self.now


@dataclass(slots=True)
class EventQueue:
    """What will happen, the next first."""

    _heap: list[tuple[float, int, int, Callable[[], None]]] = field(default_factory=list)
    _sequence: int = 0

    def push(self, at_seconds: float, kind: Kind, act: Callable[[], None]) -> None:
        """Let `act` happen at an instant."""
        self._sequence += 1
        heapq.heappush(self._heap, (at_seconds, int(kind), self._sequence, act))

    @property
    def head(self) -> tuple[float, int]:
        """Time and kind of the next event; there always is one until the end."""
        return self._heap[0][0], self._heap[0][1]

    def pop(self) -> Callable[[], None]:
        """Take the next event off the queue."""
        return heapq.heappop(self._heap)[3]

    def __len__(self) -> int:
        return len(self._heap)

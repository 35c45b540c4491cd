"""A request of a load, and what may be done to a whole load without changing its requests.

Only arrivals are compressed in time: prompts, outputs and the engines stay as they are, so a load that runs four times as fast
needs about four times as many replicas. Values that make no sense are refused with `ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; the arrival counts from the start of the load."""

    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int


def compress(requests: Iterable[Request], speed: float) -> tuple[Request, ...]:
    """Return the same requests, arriving `speed` times as fast."""
    if speed <= 0:
        raise ValueError(f"speed is {speed}, it must be above zero; 1 keeps the arrivals as they are")
    return tuple(replace(request, arrival_seconds=request.arrival_seconds / speed) for request in requests)


def within(requests: Iterable[Request], start_seconds: float, duration_seconds: float) -> tuple[Request, ...]:
    """Return the requests of one stretch of time, their arrivals counted from its start."""
    end_seconds = start_seconds + duration_seconds
    return tuple(
        replace(request, arrival_seconds=request.arrival_seconds - start_seconds)
        for request in requests
        if start_seconds <= request.arrival_seconds < end_seconds
    )

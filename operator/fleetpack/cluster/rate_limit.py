"""A token bucket: so many requests a second on average, so many at once.

The API server protects itself with flow control, but it protects everybody alike; the bucket keeps a burst of ours from
crowding out others. A caller that finds the bucket empty reserves the next token and waits its turn, so the order is
first come, first served and nobody starves. A caller that gives up while waiting has spent its token: the rate is an upper
bound, never exceeded, and at worst not used up. The arithmetic is pure; only the clock and the sleep come from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """An average rate and the number that may go at once after a pause."""

    requests_per_second: float = 50.0
    burst: int = 100

    def __post_init__(self) -> None:
        if self.requests_per_second <= 0 or self.burst < 1:
            raise ValueError(
                f"RateLimit needs requests_per_second > 0 and burst >= 1; "
                f"got requests_per_second={self.requests_per_second}, burst={self.burst}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Tokens at a moment; a negative number is the queue of those who wait for theirs."""

    tokens: float
    at_seconds: float


def take(bucket: Bucket, limit: RateLimit, now_seconds: float) -> tuple[Bucket, float]:
    """Take one token and return the bucket after it and how long to wait before using the token."""
    elapsed_seconds = max(0.0, now_seconds - bucket.at_seconds)
    tokens = min(float(limit.burst), bucket.tokens + elapsed_seconds * limit.requests_per_second) - 1.0
    after = Bucket(tokens=tokens, at_seconds=max(now_seconds, bucket.at_seconds))
    return after, max(0.0, -tokens / limit.requests_per_second)


class TokenBucket:
    """The bucket with a clock; one per kind of traffic, shared by all its tasks."""

    def __init__(
        self,
        limit: RateLimit,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._sleep = sleep
        self._bucket = Bucket(tokens=float(limit.burst), at_seconds=monotonic())

    async def acquire(self) -> float:
        """Wait for a token and return how long the wait was, in seconds."""
        self._bucket, wait_seconds = take(self._bucket, self._limit, self._monotonic())
        if wait_seconds > 0:
            await self._sleep(wait_seconds)
        return wait_seconds

"""Many samples to few: equal stretches of time, each with the least, the mean and the most of what was sampled in it.

A mean alone hides the burst that a queue comes from, so the extremes stay. No sample is left out and none is counted twice: the
means weighted by their counts give back the mean of all samples. A stretch without a sample is absent (`None`), not zero.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUCKETS = 300
"""Stretches of one drawing: about as many as a wide screen can show next to each other with room to spare."""
_DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Least, mean and most per stretch of time."""

    minimum: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    maximum: tuple[float | None, ...]

    def as_json(self) -> list[list[float | None]]:
        """Return the three as lists of numbers of five digits."""
        return [[rounded(value) for value in values] for values in (self.minimum, self.mean, self.maximum)]


def downsample(times: Sequence[float], values: Sequence[float], end_seconds: float, buckets: int = BUCKETS) -> Buckets:
    """Return samples at ascending times from 0 to an end in so many equal stretches; the last one includes its end."""
    minimum: list[float | None] = []
    mean: list[float | None] = []
    maximum: list[float | None] = []
    position = 0
    for bucket in range(buckets):
        limit = (bucket + 1) * end_seconds / buckets
        following = len(times) if bucket == buckets - 1 else bisect_left(times, limit, position)
        inside = values[position:following]
        minimum.append(min(inside) if inside else None)
        mean.append(sum(inside) / len(inside) if inside else None)
        maximum.append(max(inside) if inside else None)
        position = following
    return Buckets(minimum=tuple(minimum), mean=tuple(mean), maximum=tuple(maximum))


def arrival_rates(arrivals: Iterable[float], step_seconds: float, end_seconds: float) -> list[float]:
    """Return arrivals per second of each step from 0 to an end."""
    steps = max(1, -int(-end_seconds // step_seconds))
    counts = [0] * steps
    for arrival in arrivals:
        counts[min(steps - 1, int(arrival / step_seconds))] += 1
    return [count / step_seconds for count in counts]


def rounded(value: float | None) -> float | int | None:
    """Return a number of five digits, whole where it is whole."""
    if value is None:
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short == int(short) else short

"""What is on a metrics page whose numbers are wrong.

While they are wrong by a factor, gauges and rates are `factor` times the truth, counters count `factor` times what happens, and a
histogram of times shows each of them `factor` times as long. Counters keep the difference afterwards, as those of a process would that
has counted wrongly: they never jump. A page that has always been right needs nothing of this module.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from fleetpack_simulator.serving_metrics import TTFT_BUCKETS_SECONDS


class WrongCounters:
    """Counters of one page, looked at again and again; what was counted between two looks is wrong by the factor of the second."""

    __slots__ = ("_added", "_seen")

    def __init__(self) -> None:
        self._added: list[float] = []
        self._seen: tuple[int, ...] | None = None

    def shown(self, factor: float | None, truth: Sequence[int]) -> tuple[float, ...]:
        """Return what the page shows; no factor: it counts rightly now."""
        if not self._added:
            self._added = [0.0] * len(truth)
        if factor is not None and self._seen is not None:
            for index, (now, before) in enumerate(zip(truth, self._seen, strict=True)):
                self._added[index] += (factor - 1.0) * (now - before)
        self._seen = None if factor is None else tuple(truth)
        return tuple(total + added for total, added in zip(truth, self._added, strict=True))


class WrongTimes:
    """The histogram of times to first token of one page; what came between two looks is wrong by the factor of the second."""

    __slots__ = ("_moved", "_seen")

    def __init__(self) -> None:
        self._moved = [0] * (len(TTFT_BUCKETS_SECONDS) + 1)
        self._seen: tuple[int, ...] | None = None

    def shown(self, factor: float | None, truth: Sequence[int]) -> list[int]:
        """Return how many times the page shows in each bucket; no factor: it is right about those that come now."""
        if factor is not None and self._seen is not None:
            for bucket, (now, before) in enumerate(zip(truth, self._seen, strict=True)):
                self._moved[bucket] -= now - before
                self._moved[_bucket_of(bucket, factor)] += now - before
        self._seen = None if factor is None else tuple(truth)
        return [count + moved for count, moved in zip(truth, self._moved, strict=True)]


def _bucket_of(bucket: int, factor: float) -> int:
    """Return where the longest time of a bucket belongs once it is taken `factor` times."""
    # Beyond the last bound nobody knows how long it was.
    last = len(TTFT_BUCKETS_SECONDS)
    if bucket == last and factor >= 1.0:
        return last
    return bisect_left(TTFT_BUCKETS_SECONDS, TTFT_BUCKETS_SECONDS[min(bucket, last - 1)] * factor)

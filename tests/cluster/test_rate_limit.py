"""The token bucket's law: never more than the burst and the rate allow, in any window, in the order of arrival."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack.cluster.rate_limit import Bucket, RateLimit, TokenBucket, take

LIMIT = RateLimit(requests_per_second=10.0, burst=3)


def start_times(limit: RateLimit, arrivals: list[float]) -> list[float]:
    bucket = Bucket(tokens=float(limit.burst), at_seconds=0.0)
    starts = []
    for arrival in arrivals:
        bucket, wait_seconds = take(bucket, limit, arrival)
        starts.append(arrival + wait_seconds)
    return starts


def test_should_let_a_burst_through_and_space_what_follows() -> None:
    assert start_times(LIMIT, [0.0] * 6) == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2, 0.3])


def test_should_refill_with_time_and_never_above_the_burst() -> None:
    assert start_times(LIMIT, [0.0, 0.0, 0.0, 100.0, 100.0, 100.0, 100.0]) == pytest.approx(
        [0, 0, 0, 100, 100, 100, 100.1]
    )


def test_should_not_be_fooled_by_a_clock_that_goes_back() -> None:
    assert start_times(LIMIT, [5.0, 5.0, 5.0, 4.0]) == pytest.approx([5.0, 5.0, 5.0, 4.1])


@given(
    gaps=st.lists(st.floats(min_value=0.0, max_value=2.0), min_size=1, max_size=60),
    rate=st.floats(min_value=0.5, max_value=50.0),
    burst=st.integers(min_value=1, max_value=10),
)
def test_should_hold_the_rate_in_every_window_whatever_the_arrivals(gaps: list[float], rate: float, burst: int) -> None:
    limit = RateLimit(requests_per_second=rate, burst=burst)
    arrivals = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    starts = start_times(limit, arrivals)
    assert starts == sorted(starts)
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + (starts[last] - starts[first]) * rate + 1e-6


async def test_should_sleep_as_long_as_the_queue_before_us_is() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    bucket = TokenBucket(LIMIT, monotonic=lambda: 7.0, sleep=sleep)
    await asyncio.gather(*(bucket.acquire() for _ in range(5)))
    assert slept == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_should_refuse_a_limit_that_lets_nothing_through(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="requests_per_second > 0 and burst >= 1"):
        RateLimit(requests_per_second=rate, burst=burst)

"""Few numbers for many: nothing is lost, nothing is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack_simulator.report.downsampling import Buckets, arrival_rates, downsample, rounded


def test_should_keep_the_least_the_mean_and_the_most_of_each_stretch() -> None:
    found = downsample([0.0, 1.0, 5.0, 6.0, 10.0], [2.0, 4.0, 1.0, 7.0, 10.0], end_seconds=10.0, buckets=2)
    assert found == Buckets(minimum=(2.0, 1.0), mean=(3.0, 6.0), maximum=(4.0, 10.0))


def test_should_say_that_nothing_was_sampled_rather_than_zero() -> None:
    assert downsample([0.0], [3.0], end_seconds=9.0, buckets=3).mean == (3.0, None, None)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-50, 50)), min_size=1, max_size=60), st.integers(1, 20))
def test_should_keep_the_extremes_of_all_samples_and_every_sample_once(
    samples: list[tuple[float, float]], buckets: int
) -> None:
    ordered = sorted(samples)
    times, values = [at for at, _ in ordered], [value for _, value in ordered]
    found = downsample(times, values, 100.0, buckets)
    counts = downsample(times, [1.0] * len(times), 100.0, buckets)
    assert max(one for one in found.maximum if one is not None) == max(values)
    assert min(one for one in found.minimum if one is not None) == min(values)
    assert sum(mean is not None for mean in counts.mean) == sum(mean is not None for mean in found.mean)
    for low, mean, high in zip(found.minimum, found.mean, found.maximum, strict=True):
        assert (low is None) == (mean is None) == (high is None)
        if low is not None and mean is not None and high is not None:
            assert low - 1e-9 <= mean <= high + 1e-9


@given(st.lists(st.floats(0, 59.99), max_size=80))
def test_should_count_every_arrival_in_the_rates(arrivals: list[float]) -> None:
    assert sum(arrival_rates(arrivals, 2.0, 60.0)) * 2.0 == pytest.approx(len(arrivals))


def test_should_write_five_digits_and_whole_numbers_as_such() -> None:
    assert [rounded(value) for value in (None, 2.0, 0.123456789, 123456.7)] == [None, 2, 0.12346, 123460]

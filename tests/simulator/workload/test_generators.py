"""Generators: the rates they keep, and that the same seed draws the same load."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetpack_simulator.workload import GENERATORS, GeneratorOptions, Request, generate


def rate(requests: tuple[Request, ...], start_seconds: float, end_seconds: float) -> float:
    return sum(start_seconds <= one.arrival_seconds < end_seconds for one in requests) / (end_seconds - start_seconds)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(GENERATORS)), seed=st.integers(0, 2**32), duration=st.floats(0.5, 120))
def test_should_draw_the_same_load_from_the_same_options(name: str, seed: int, duration: float) -> None:
    options = GeneratorOptions(seed=seed, duration_seconds=duration)

    requests = generate(name, options)

    assert requests == generate(name, options)
    arrivals = [one.arrival_seconds for one in requests]
    assert arrivals == sorted(arrivals)
    assert all(0 <= arrival <= duration for arrival in arrivals)
    assert all(one.prompt_tokens >= 1 and one.output_tokens >= 1 for one in requests)


@pytest.mark.parametrize(
    ("name", "stretches"),
    [
        ("constant", [(0, 2000, 20)]),
        ("step", [(0, 500, 20), (500, 2000, 60)]),
        ("ramp", [(0, 500, 20), (500, 1000, 40), (1000, 2000, 60)]),
        ("spike", [(0, 500, 20), (500, 1000, 60), (1000, 2000, 20)]),
        # Over one half-life the mean above rest is 1/(2·ln 2) of the top's: 20 + 40 · 0.721.
        ("flash-crowd", [(0, 500, 20), (505, 1005, 48.9), (1005, 1505, 34.4)]),
        ("sine", [(0, 2000, 40), (250, 750, 52.7), (1250, 1750, 52.7)]),
    ],
)
def test_should_keep_the_rate_of_each_shape(name: str, stretches: list[tuple[float, float, float]]) -> None:
    options = GeneratorOptions(
        duration_seconds=2000,
        rate_per_second=20,
        peak_rate_per_second=60,
        at_seconds=500,
        width_seconds=500,
        period_seconds=1000,
    )

    requests = generate(name, options)

    for start, end, expected in stretches:
        assert rate(requests, start, end) == pytest.approx(expected, rel=0.05)


def test_should_be_low_at_night_and_high_at_noon_in_a_diurnal_load() -> None:
    options = GeneratorOptions(duration_seconds=2400, period_seconds=2400, rate_per_second=2, peak_rate_per_second=20)

    requests = generate("diurnal", options)

    assert rate(requests, 300, 500) == pytest.approx(2, rel=0.3)
    assert rate(requests, 1200, 1300) == pytest.approx(20, rel=0.15)


def test_should_draw_chat_in_the_shape_of_the_published_trace() -> None:
    requests = generate("production-chat", GeneratorOptions(duration_seconds=3600, rate_per_second=5.6))

    prompts = sorted(one.prompt_tokens for one in requests)
    outputs = sorted(one.output_tokens for one in requests)
    gaps = [after.arrival_seconds - before.arrival_seconds for before, after in itertools.pairwise(requests)]
    minutes = Counter(int(one.arrival_seconds // 60) for one in requests)
    assert len(requests) / 3600 == pytest.approx(5.6, rel=0.06)
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(1.09, abs=0.06)
    assert max(minutes.values()) / 60 == pytest.approx(8.5, rel=0.15)
    assert statistics.mean(prompts) == pytest.approx(1155, rel=0.08)
    assert prompts[len(prompts) // 2] == pytest.approx(1020, rel=0.08)
    assert prompts[len(prompts) * 99 // 100] == pytest.approx(4142, rel=0.08)
    assert statistics.mean(outputs) == pytest.approx(211, rel=0.08)
    assert outputs[len(outputs) // 2] == pytest.approx(129, rel=0.08)
    assert outputs[len(outputs) * 99 // 100] == pytest.approx(601, rel=0.08)


def test_should_refuse_a_generator_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'zigzag' is not known; known are constant, step"):
        generate("zigzag", GeneratorOptions())


def test_should_refuse_options_out_of_range() -> None:
    with pytest.raises(ValueError, match="rate_per_second is -1"):
        GeneratorOptions(rate_per_second=-1)

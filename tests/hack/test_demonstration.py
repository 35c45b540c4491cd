"""The demo as far as no cluster is needed: what a load gets of a trace, and how small that is."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from demonstration.site import LoadPlan
from demonstration.trace_cut import cut_trace
from fleetpack_simulator.workload import compress, read_trace, within


def a_plan(*, start: float = 0.0, speed: float = 1.0, duration: float = 10.0) -> LoadPlan:
    return LoadPlan(deployment="llama-1b", start_seconds=start, speed=speed, duration_seconds=duration)


def a_trace(folder: Path, *, seconds: int) -> Path:
    """A request each second, whose prompt length is its number."""
    file = folder / "trace.csv"
    rows = "".join(f"{second}.0,{second + 1},{20}\n" for second in range(seconds))
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return file


def prompts(cut: bytes) -> list[int]:
    return [int(row.split(",")[1]) for row in gzip.decompress(cut).decode().splitlines()[1:]]


def test_should_hand_a_load_exactly_what_it_replays(tmp_path: Path) -> None:
    trace, plan = a_trace(tmp_path, seconds=1000), a_plan(start=600, speed=0.5, duration=20)
    file = tmp_path / "cut.csv.gz"

    file.write_bytes(cut_trace(trace, plan))

    whole = compress(within(read_trace(trace), plan.start_seconds, float("inf")), plan.speed)
    assert compress(read_trace(file), plan.speed) == within(whole, 0, plan.duration_seconds)


def test_should_give_the_end_of_a_trace_that_is_too_short(tmp_path: Path) -> None:
    assert prompts(cut_trace(a_trace(tmp_path, seconds=100), a_plan(start=600, duration=9))) == list(range(91, 100))


def test_should_give_all_of_a_trace_that_is_shorter_than_the_load(tmp_path: Path) -> None:
    assert prompts(cut_trace(a_trace(tmp_path, seconds=5), a_plan(start=600, duration=60))) == [1, 2, 3, 4, 5]


def test_should_fit_a_trace_of_many_megabytes_into_a_config_map(tmp_path: Path) -> None:
    trace = a_trace(tmp_path, seconds=400_000)
    assert trace.stat().st_size > 5_000_000

    assert len(cut_trace(trace, a_plan(duration=105, speed=0.4))) < 2000


def test_should_say_what_to_change_when_a_stretch_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demonstration.trace_cut.LARGEST_BYTES", 100)

    with pytest.raises(RuntimeError, match=r"takes 100: replay less \(LOAD_SECONDS=n\), or leave CLUSTER=kind off"):
        cut_trace(a_trace(tmp_path, seconds=500), a_plan(duration=400))

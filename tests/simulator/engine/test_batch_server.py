"""The server of fixed-shape batches: what a batch costs, and what its queue does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack_simulator.engine import Hardware, coefficients_for
from fleetpack_simulator.engine.batch_server import (
    BatchCompletion,
    BatchModel,
    BatchProfile,
    BatchReplica,
    batch_seconds,
)

INFERENTIA2 = Hardware(
    name="inferentia2",
    memory_gib=32,
    memory_bandwidth_gb_per_second=820,
    tflops_bf16=190,
    cores_per_device=2,
    static_shapes=True,
)
BERT = BatchModel.encoder("bert-base", weights_millions=85, layers=12, hidden_size=768, tokens=128)


def profile(*, batch: int = 2, cores: int = 1) -> BatchProfile:
    return BatchProfile(
        model=BERT, hardware=INFERENTIA2, cores=cores, batch=batch, coefficients=coefficients_for(INFERENTIA2)
    )


def finish(replica: BatchReplica) -> list[BatchCompletion]:
    done: list[BatchCompletion] = []
    while (next_seconds := replica.next_event_seconds) is not None:
        done += replica.advance(next_seconds)
    return done


def test_should_cost_a_whole_batch_however_few_items_are_in_it() -> None:
    seconds = batch_seconds(profile())
    replica = BatchReplica(profile())
    replica.submit(1, 0.0)

    assert [(end.started_seconds, end.finished_seconds) for end in finish(replica)] == [(0.0, seconds)]


def test_should_take_what_came_meanwhile_as_the_next_batch() -> None:
    seconds = batch_seconds(profile())
    replica = BatchReplica(profile())
    for request_id in range(4):
        replica.submit(request_id, 0.0)

    assert (replica.running, replica.waiting) == (1, 3)
    starts = {end.request_id: end.started_seconds for end in finish(replica)}
    assert starts == pytest.approx({0: 0.0, 1: seconds, 2: seconds, 3: 2 * seconds})


def test_should_work_on_each_core_by_itself() -> None:
    replica = BatchReplica(profile(cores=2))
    for request_id in range(2):
        replica.submit(request_id, 0.0)

    assert {end.started_seconds for end in finish(replica)} == {0.0}


def test_should_pay_for_each_step_of_a_diffusion_model() -> None:
    one = profile()
    many = replace(one, model=replace(BERT, passes=10))

    assert batch_seconds(many) == pytest.approx(10 * batch_seconds(one))


def test_should_refuse_cores_that_do_not_make_whole_workers() -> None:
    with pytest.raises(ValueError, match="3 cores are no multiple of cores_per_worker 2"):
        replace(profile(), cores=3, cores_per_worker=2)


@given(gaps=st.lists(st.floats(0, 0.01), min_size=1, max_size=40), batch=st.integers(1, 5), cores=st.integers(1, 3))
def test_should_end_each_item_once_and_start_them_in_order(gaps: list[float], batch: int, cores: int) -> None:
    replica = BatchReplica(profile(batch=batch, cores=cores))
    now_seconds = 0.0
    done: list[BatchCompletion] = []
    for request_id, gap in enumerate(gaps):
        now_seconds += gap
        done += replica.advance(now_seconds)
        replica.submit(request_id, now_seconds)
    done += finish(replica)

    assert sorted(end.request_id for end in done) == list(range(len(gaps)))
    by_id = sorted(done, key=lambda end: end.request_id)
    assert [end.started_seconds for end in by_id] == sorted(end.started_seconds for end in by_id)
    assert all(end.submitted_seconds <= end.started_seconds < end.finished_seconds for end in done)

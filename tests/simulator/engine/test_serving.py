"""A server of fixed-shape batches with the face of the continuous-batching one."""

from __future__ import annotations

import pytest

from fleetpack_simulator.engine import (
    Completion,
    EngineCounters,
    EngineRequest,
    FinishReason,
    FirstToken,
    ProfileError,
    RequestError,
)
from fleetpack_simulator.engine.batch_server import BatchProfile, batch_seconds
from fleetpack_simulator.engine.published import find_fixed_shape
from fleetpack_simulator.engine.serving import BatchEngine, engine_of, places_of
from fleetpack_simulator.settings import PREFIX, SettingsError, replica_settings

ENCODER = {
    f"{PREFIX}MODEL": "bert-base",
    f"{PREFIX}KIND": "encoder",
    f"{PREFIX}PARAMETERS_BILLIONS": "0.11",
    f"{PREFIX}ACCELERATOR": "inferentia",
    f"{PREFIX}MAX_BATCH": "4",
    f"{PREFIX}SEQUENCE_TOKENS": "128",
    f"{PREFIX}CORES_PER_WORKER": "1",
}


def encoder(cores: int = 2) -> BatchProfile:
    profile = replica_settings(ENCODER, cores=cores).profile
    assert isinstance(profile, BatchProfile)
    return profile


def item(request_id: int) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt_tokens=100, output_tokens=1)


def test_should_give_first_token_and_result_when_the_batch_is_done() -> None:
    engine = engine_of(encoder())
    seconds = batch_seconds(encoder())
    engine.submit(item(7), 1.0)

    events = engine.advance(1.0 + seconds)

    assert events == [
        FirstToken(request_id=7, at_seconds=1.0 + seconds),
        Completion(
            request_id=7,
            submitted_seconds=1.0,
            admitted_seconds=1.0,
            first_token_seconds=1.0 + seconds,
            finished_seconds=1.0 + seconds,
            prompt_tokens=100,
            output_tokens=1,
            reason=FinishReason.LENGTH,
        ),
    ]


def test_should_count_what_waits_and_what_runs() -> None:
    engine = engine_of(encoder())
    for number in range(6):
        engine.submit(item(number), 0.0)

    assert engine.counters() == EngineCounters(
        # Two workers took what was there when they were free: one item each.
        waiting=4,
        running=2,
        submitted=6,
        finished=0,
        aborted=0,
        prompt_tokens=0,
        generated_tokens=0,
        kv_cache_usage=0.0,
    )
    assert places_of(encoder()) == 8


def test_should_end_a_cancelled_item_as_aborted_with_its_batch() -> None:
    engine = BatchEngine(encoder())
    engine.submit(item(1), 0.0)

    taken, again = engine.cancel(1, 0.0), engine.cancel(1, 0.0)
    end = engine.advance(10.0)[1]

    assert isinstance(end, Completion)
    assert (taken, again, end.reason, engine.counters().aborted) == (True, False, FinishReason.ABORT, 1)


def test_should_refuse_an_id_that_is_alive() -> None:
    engine = engine_of(encoder())
    engine.submit(item(1), 0.0)
    with pytest.raises(RequestError, match="already in use"):
        engine.submit(item(1), 0.0)


def test_should_make_a_diffusion_server_from_its_passes() -> None:
    own = {
        f"{PREFIX}KIND": "diffusion",
        f"{PREFIX}PARAMETERS_BILLIONS": "2.6",
        f"{PREFIX}ACCELERATOR": "inferentia2",
        f"{PREFIX}TERA_OPERATIONS_PER_PASS": "6",
        f"{PREFIX}PASSES": "25",
    }
    half = replica_settings(own, cores=2).profile
    full = replica_settings({**own, f"{PREFIX}PASSES": "50"}, cores=2).profile
    assert isinstance(half, BatchProfile)
    assert isinstance(full, BatchProfile)
    assert batch_seconds(full) == pytest.approx(2 * batch_seconds(half), rel=0.05)


def test_should_refuse_what_is_longer_than_the_compiled_length() -> None:
    engine = engine_of(encoder())
    engine.submit(EngineRequest(request_id=1, prompt_tokens=128, output_tokens=1), 0.0)
    with pytest.raises(RequestError, match="129 tokens are more than the 128 it is compiled for"):
        engine.submit(EngineRequest(request_id=2, prompt_tokens=129, output_tokens=1), 0.0)
    assert engine.counters().submitted == 1


@pytest.mark.parametrize(
    ("bits", "fits"), [("4", True), ("8", False), ("16", False)], ids=["4 bits", "8 bits", "16 bits"]
)
def test_should_refuse_weights_that_a_worker_cannot_hold(bits: str, fits: bool) -> None:
    # A core of Inferentia1 has 2 GiB, of which 1.93 GB are usable: 3 billion weights take 1.5, 3 or 6 GB.
    asked = {**ENCODER, f"{PREFIX}PARAMETERS_BILLIONS": "3", f"{PREFIX}WEIGHT_BITS": bits}
    if fits:
        assert replica_settings(asked, cores=2).profile.model.weight_bits == 4
        return
    with pytest.raises(ProfileError, match="do not fit 1 cores of inferentia"):
        replica_settings(asked, cores=2)


def test_should_refuse_a_thousand_gigabytes_of_a_diffusion_model() -> None:
    asked = {
        f"{PREFIX}KIND": "diffusion",
        f"{PREFIX}PARAMETERS_BILLIONS": "500",
        f"{PREFIX}ACCELERATOR": "inferentia2",
        f"{PREFIX}TERA_OPERATIONS_PER_PASS": "6",
    }
    with pytest.raises(ProfileError, match=r"weights of 1000\.0 GB do not fit 1 cores of inferentia2"):
        replica_settings(asked, cores=1)


def test_should_read_narrow_weights_in_less_time_where_they_are_not_widened() -> None:
    asked = {**ENCODER, f"{PREFIX}ACCELERATOR": "l4", f"{PREFIX}PARAMETERS_BILLIONS": "3", f"{PREFIX}MAX_BATCH": "1"}
    wide, narrow = (
        replica_settings({**asked, f"{PREFIX}SEQUENCE_TOKENS": "1", f"{PREFIX}WEIGHT_BITS": bits}, cores=1).profile
        for bits in ("16", "8")
    )
    assert isinstance(wide, BatchProfile)
    assert isinstance(narrow, BatchProfile)
    assert batch_seconds(narrow) < 0.6 * batch_seconds(wide)


def test_should_know_published_encoders_and_diffusion_models_by_name() -> None:
    accelerator = {f"{PREFIX}ACCELERATOR": "inferentia2", f"{PREFIX}SEQUENCE_TOKENS": "128"}
    bert = {**accelerator, f"{PREFIX}KIND": "encoder", f"{PREFIX}MODEL": "bert-base-uncased"}
    diffusion = {**accelerator, f"{PREFIX}KIND": "diffusion", f"{PREFIX}MODEL": "Stable Diffusion 2.1"}
    known = [find_fixed_shape("bert-base-uncased", tokens=128), find_fixed_shape("Stable Diffusion 2.1")]
    found = [replica_settings(own, cores=2).profile.model for own in (bert, diffusion)]
    assert found == [one.model for one in known if one is not None]


def test_should_name_the_kinds_when_another_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="KIND is 'oracle', it must be generate, encoder or diffusion"):
        replica_settings({**ENCODER, f"{PREFIX}KIND": "oracle"}, cores=2)


def test_should_ask_for_the_work_of_a_diffusion_model() -> None:
    with pytest.raises(SettingsError, match="TERA_OPERATIONS_PER_PASS is not set"):
        replica_settings({**ENCODER, f"{PREFIX}KIND": "diffusion"}, cores=2)

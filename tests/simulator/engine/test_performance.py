"""The formulas against published measurements, and the exactness of the whole-number steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack_simulator.engine import (
    EngineProfile,
    EngineReplica,
    EngineRequest,
    Hardware,
    ModelShape,
    Topology,
    coefficients_for,
    decode_step_seconds,
    prefill_seconds,
    step_costs,
)
from fleetpack_simulator.engine.performance import (
    FEMTOSECONDS,
    StepCosts,
    attention_seconds,
    collective_hops,
    context_token_seconds,
)
from fleetpack_simulator.engine.published import find_decoder

INFERENTIA2 = Hardware(
    name="inferentia2",
    memory_gib=32,
    memory_bandwidth_gb_per_second=820,
    tflops_bf16=190,
    cores_per_device=2,
    topology=Topology.RING,
    static_shapes=True,
)
TRAINIUM = replace(INFERENTIA2, name="trainium", topology=Topology.TORUS_2D)
LLAMA_8B = ModelShape.estimate("Llama-3.1-8B", 8.03)
LLAMA_2_7B = ModelShape(
    name="Llama-2-7B", parameters_billions=6.74, layers=32, hidden_size=4096, kv_heads=32, head_size=128
)
LLAMA_2_13B = ModelShape(
    name="Llama-2-13B", parameters_billions=13.0, layers=40, hidden_size=5120, kv_heads=40, head_size=128
)
LLAMA_70B = ModelShape.estimate("Llama-3-70B", 70.6)
QWEN_32B = ModelShape.estimate("Qwen3-32B", 32.8)


def compiled(model: ModelShape, hardware: Hardware, cores: int, batch: int, window_tokens: int) -> EngineProfile:
    return EngineProfile(
        model=model,
        hardware=hardware,
        cores=cores,
        maximum_batch=batch,
        window_tokens=window_tokens,
        coefficients=coefficients_for(hardware),
    )


# (model, chip, tensor parallelism, batch, window, measured ms per step). aws-neuron/aws-neuron-sdk@81ce03ae
# benchmarks/{inf2,trn1}/*_decoder.csv, column TPOT p50; TP 8: optimum-neuron plots and vLLM guidellm runs.
DECODE_ROWS = [
    (LLAMA_2_7B, INFERENTIA2, 24, 1, 4096, 6.47),
    (LLAMA_2_13B, INFERENTIA2, 24, 1, 4096, 9.17),
    (LLAMA_70B, INFERENTIA2, 24, 1, 4096, 34.67),
    (LLAMA_70B, INFERENTIA2, 24, 1, 256, 32.2),
    (LLAMA_70B, TRAINIUM, 32, 1, 1152, 24.48),
    (LLAMA_70B, TRAINIUM, 32, 4, 4096, 32.33),
    (LLAMA_8B, INFERENTIA2, 8, 1, 4096, 11.0),
    (LLAMA_8B, INFERENTIA2, 8, 8, 4096, 16.0),
    (LLAMA_8B, INFERENTIA2, 8, 32, 4096, 33.0),
    (QWEN_32B, INFERENTIA2, 8, 1, 4096, 37.8),
]
# (model, chip, tensor parallelism, prompt, measured ms to the first token)
PREFILL_ROWS = [
    (LLAMA_8B, INFERENTIA2, 8, 1500, 321.9),
    (LLAMA_70B, INFERENTIA2, 24, 2048, 745.5),
    (LLAMA_70B, INFERENTIA2, 24, 128, 77.8),
    (LLAMA_70B, TRAINIUM, 32, 2048, 547.0),
]


@pytest.mark.parametrize(("model", "hardware", "cores", "batch", "window", "measured_milliseconds"), DECODE_ROWS)
def test_should_predict_a_decode_step_within_a_quarter(
    model: ModelShape, hardware: Hardware, cores: int, batch: int, window: int, measured_milliseconds: float
) -> None:
    step = decode_step_seconds(compiled(model, hardware, cores, batch, window), batch, batch * window)

    assert step * 1000 == pytest.approx(measured_milliseconds, rel=0.25)


@pytest.mark.parametrize(("model", "hardware", "cores", "prompt", "measured_milliseconds"), PREFILL_ROWS)
def test_should_predict_a_prefill_within_a_third(
    model: ModelShape, hardware: Hardware, cores: int, prompt: int, measured_milliseconds: float
) -> None:
    seconds = prefill_seconds(compiled(model, hardware, cores, 1, 16_384), prompt)

    assert seconds * 1000 == pytest.approx(measured_milliseconds, rel=0.33)


def test_should_reach_the_measured_throughput_of_a_full_batch() -> None:
    """vLLM on inf2, TP 8, batch 32, prompts of 1,500 and outputs of about 230 tokens: 426 tokens per second."""
    engine = EngineReplica(compiled(LLAMA_8B, INFERENTIA2, 8, 32, 4096))
    for index in range(320):
        engine.submit(EngineRequest(request_id=index, prompt_tokens=1500, output_tokens=230), 0)
    ends: list[float] = []
    while (next_seconds := engine.next_event_seconds) is not None:
        ends += [next_seconds for _ in engine.advance(next_seconds)]

    assert 320 * 230 / ends[-1] == pytest.approx(426, rel=0.15)


def test_should_let_a_step_of_static_shapes_cost_the_same_for_any_number_of_sequences() -> None:
    profile = compiled(LLAMA_8B, INFERENTIA2, 8, 32, 4096)

    assert decode_step_seconds(profile, 1, 10) == decode_step_seconds(profile, 32, 100_000)


@pytest.mark.parametrize(
    ("hardware", "cores", "hops"),
    [(INFERENTIA2, 2, 0), (INFERENTIA2, 8, 3), (INFERENTIA2, 24, 11), (TRAINIUM, 8, 3), (TRAINIUM, 32, 6)],
)
def test_should_count_the_links_to_every_device(hardware: Hardware, cores: int, hops: int) -> None:
    assert collective_hops(compiled(LLAMA_8B, hardware, cores, 1, 4096)) == hops


@pytest.mark.parametrize(
    ("name", "experts", "per_token"),
    [
        ("Qwen3-30B-A3B", 128, 8),
        ("Qwen3-235B-A22B", 128, 8),
        ("Mixtral-8x7B", 8, 2),
        ("Llama-4-Scout-17B-16E", 16, 1),
        ("Llama-3-8B", 1, 1),
    ],
)
def test_should_derive_the_experts_of_a_model_from_its_parameters(name: str, experts: int, per_token: int) -> None:
    shape = find_decoder(name).shape

    assert (shape.experts, shape.experts_per_token) == (experts, per_token)


def test_should_let_sampling_on_the_host_cost_each_live_sequence_its_part() -> None:
    """Llama-3.1-8B, batch 32, vLLM on inf2: 48 ms instead of 24.5 ms per token with sampling on the host."""
    on_device = compiled(LLAMA_8B, INFERENTIA2, 8, 32, 2048)
    on_host = replace(on_device, samples_on_host=True)

    alone, full = (decode_step_seconds(on_host, batch, 0) for batch in (1, 32))

    assert alone - decode_step_seconds(on_device, 1, 0) == pytest.approx(0.0237, rel=0.25)
    assert full - alone == pytest.approx(31 * 0.0008, rel=0.1)


def test_should_work_on_the_positions_of_128_sequences_and_heads_at_once() -> None:
    """32 sequences with 4 query heads on each of 8 ranks fill the lanes; one more sequence takes a second round."""
    alone, full, over = (
        attention_seconds(compiled(LLAMA_8B, INFERENTIA2, 8, batch, 512), 512) for batch in (1, 32, 33)
    )

    assert (full, over) == (alone, 2 * alone)


def test_should_take_a_second_pass_over_keys_and_values_that_query_heads_share() -> None:
    """8 KV heads for 32 query heads: on 8 ranks each KV head serves four query heads, on 32 each rank has one of both."""
    for cores, passes in ((8, 2), (32, 1)):
        profile = compiled(LLAMA_8B, TRAINIUM, cores, 1, 4096)
        bandwidth = profile.devices * 820e9 * profile.coefficients.weight_bandwidth_share

        read_seconds = LLAMA_8B.kv_bytes_per_token(cores) / bandwidth
        assert context_token_seconds(profile) == pytest.approx(passes * read_seconds)


def test_should_mark_what_was_never_measured_as_projected() -> None:
    names = ("inferentia2", "trainium", "trainium2", "inferentia", "trainium3")
    chips = [replace(INFERENTIA2, name=name) for name in names]
    chips.append(replace(INFERENTIA2, name="h100-sxm", static_shapes=False))

    assert [coefficients_for(chip).projected for chip in chips] == [False, False, False, True, True, True]


def test_should_take_the_dimensions_of_the_nearest_published_model() -> None:
    shape = ModelShape.estimate("mine", 7.0)

    assert (shape.name, shape.parameters_billions, shape.layers, shape.hidden_size) == ("mine", 7.0, 32, 4096)


def test_should_refuse_a_model_without_layers() -> None:
    with pytest.raises(ValueError, match="model Llama-2-7B: layers is 0"):
        replace(LLAMA_2_7B, layers=0)


whole = st.integers(0, 10**12)


@given(
    costs=st.builds(
        StepCosts,
        fixed_femtoseconds=st.integers(1, 10**12),
        sequence_femtoseconds=whole,
        context_token_femtoseconds=whole,
    ),
    steps=st.integers(0, 10**5),
    batch=st.integers(1, 512),
    context_tokens=st.integers(0, 10**7),
)
def test_should_invert_the_time_of_any_number_of_steps_exactly(
    costs: StepCosts, steps: int, batch: int, context_tokens: int
) -> None:
    elapsed = costs.elapsed_femtoseconds(steps, batch, context_tokens)

    assert costs.whole_steps(elapsed, batch, context_tokens) == steps
    assert costs.whole_steps(elapsed - 1, batch, context_tokens) == steps - 1 or steps == 0


def test_should_hold_the_formula_of_a_step_in_whole_femtoseconds() -> None:
    hardware = replace(INFERENTIA2, static_shapes=False)
    profile = compiled(LLAMA_8B, hardware, 8, 32, 4096)

    femtoseconds = step_costs(profile).elapsed_femtoseconds(1, 7, 9_000)

    assert math.isclose(femtoseconds / FEMTOSECONDS, decode_step_seconds(profile, 7, 9_000), rel_tol=1e-6)

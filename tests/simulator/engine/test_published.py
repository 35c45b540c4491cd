"""Names of published models, however they are written."""

from __future__ import annotations

import pytest

from fleetpack_simulator.engine.published import UnknownModelError, find_decoder, find_fixed_shape


@pytest.mark.parametrize(
    ("name", "family", "parameters_billions"),
    [
        ("Llama-2-7b", "llama-2", 6.74),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3", 8.03),
        ("meta-llama_Meta-Llama-3.1-8B-Instruct", "llama-3", 8.03),
        ("Llama-3.3-70B bf16", "llama-3", 70.55),
        ("Mistral-7B-Instruct-v0.2", "mistral", 7.24),
        ("Qwen_Qwen3-235B-A22B-Instruct-2507", "qwen-3", 235.0),
    ],
)
def test_should_find_a_decoder_by_any_spelling(name: str, family: str, parameters_billions: float) -> None:
    found = find_decoder(name)

    assert (found.family, found.shape.parameters_billions, found.estimated) == (family, parameters_billions, False)


def test_should_estimate_a_decoder_from_the_size_in_its_name() -> None:
    found = find_decoder("acme/Roadrunner-9B", weight_bits=8)

    assert found.estimated
    assert (found.family, found.shape.parameters_billions, found.shape.weight_bits) == ("roadrunner", 9.0, 8)


def test_should_say_when_neither_name_nor_size_is_known() -> None:
    with pytest.raises(UnknownModelError, match="'Roadrunner' is not a published decoder"):
        find_decoder("Roadrunner")


def test_should_find_encoders_and_diffusion_models() -> None:
    bert, diffusion = find_fixed_shape("bert-base-uncased"), find_fixed_shape("Stable Diffusion 2.1", passes=50)

    assert bert is not None
    assert diffusion is not None
    assert (bert.family, diffusion.family, diffusion.model.passes) == ("bert", "stable-diffusion", 50)
    assert find_fixed_shape("Llama-3-8B") is None

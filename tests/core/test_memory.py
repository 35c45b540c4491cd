from __future__ import annotations

from fleetpack.api.inference_deployment import ModelSpec
from fleetpack.catalog import Accelerator, load_catalog
from fleetpack.core.memory import memory_problem

CATALOG = load_catalog()
INF2 = CATALOG.instance_types["inf2.48xlarge"]


def problem_of(model: ModelSpec, cores: int) -> str:
    accelerator = CATALOG.accelerator("inferentia2")
    assert isinstance(accelerator, Accelerator)
    found = memory_problem("spec.variants[a]", model, accelerator, INF2, cores)
    return found.message if found else ""


def test_should_take_a_model_whose_weights_and_one_sequence_fit() -> None:
    model = ModelSpec(
        name="8b", parameters_billions=8.03, layers=32, key_value_heads=8, head_dimension=128, context_tokens=8192
    )

    assert problem_of(model, 2) == ""


def test_should_refuse_weights_that_do_not_fit_and_say_how_many_cores_would_do() -> None:
    model = ModelSpec(name="70b", parameters_billions=70.0)

    assert problem_of(model, 4) == (
        "spec.variants[a]: 70b needs 130.4 GiB (130.4 of weights and one sequence of KV cache), 4 cores of inferentia2 have "
        "64.0 GiB; use at least 9 cores or fewer weightBits"
    )


def test_should_say_nothing_of_a_model_whose_size_is_not_given() -> None:
    assert problem_of(ModelSpec(name="unknown"), 1) == ""

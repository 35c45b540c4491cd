"""Whether a model fits into the device memory of one replica.

Weights are parameters times their width; the KV cache of one sequence is 2 (keys and values) x layers x key-value heads x head width x
bits, per token (Pope et al., "Efficiently Scaling Transformer Inference", section 3.3). Both must fit into the memory of the replica's
share of its devices. What the engine needs beside them is not known, so this refuses only what surely cannot work.
"""

from __future__ import annotations

from fleetpack.api.conditions import Reason
from fleetpack.api.inference_deployment import ModelSpec
from fleetpack.catalog import Accelerator, InstanceType
from fleetpack.core.fleet import Problem

GIB = 2**30


def weight_bytes(model: ModelSpec) -> float | None:
    """Return the size of the weights; None where the number of parameters is not said."""
    if model.parameters_billions is None:
        return None
    return model.parameters_billions * 1e9 * model.weight_bits / 8


def sequence_bytes(model: ModelSpec) -> float:
    """Return the KV cache of one sequence of the longest length; 0 where the spec does not say enough."""
    if model.layers is None or model.key_value_heads is None or model.head_dimension is None:
        return 0.0
    per_token = 2 * model.layers * model.key_value_heads * model.head_dimension * model.key_value_bits / 8
    return per_token * (model.context_tokens or 0)


def memory_problem(
    where: str, model: ModelSpec | None, accelerator: Accelerator, instance_type: InstanceType, cores: int
) -> Problem | None:
    """Return why the model cannot fit into `cores` cores of the instance type; None if it may, or nobody can say."""
    weights = weight_bytes(model) if model is not None else None
    if model is None or weights is None or accelerator.memory_gib is None:
        return None
    available = accelerator.memory_gib * GIB * cores / instance_type.cores_per_device
    needed = weights + sequence_bytes(model)
    if needed <= available:
        return None
    smallest = -(-needed * instance_type.cores_per_device // (accelerator.memory_gib * GIB))
    return Problem(
        reason=Reason.MODEL_DOES_NOT_FIT,
        message=(
            f"{where}: {model.name} needs {needed / GIB:.1f} GiB ({weights / GIB:.1f} of weights and one sequence of KV "
            f"cache), {cores} cores of {accelerator.name} have {available / GIB:.1f} GiB; use at least {smallest:.0f} cores "
            "or fewer weightBits"
        ),
    )

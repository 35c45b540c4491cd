"""How long a prefill and a decode step take, from physics: bytes over bandwidth, operations over FLOPS, latency per layer.

The parts add up. Real kernels overlap some of them (a roofline would take the maximum), but static Neuron graphs hardly do, and a sum
keeps a step affine in batch and context, so that any number of steps has a closed form. What the formulas leave out: speculative
decoding, prefix caching, chunked prefill, expert imbalance. `StepCosts` holds them in whole picoseconds: then the jump over many
steps and the walk over each give the very same instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from fleetpack_simulator.engine.profile import EngineProfile

PICOSECONDS = 10**12
# Smallest compiled prefill bucket; Neuron's auto-bucketing doubles from 128 up to the window (NxD Inference, bucketing).
SMALLEST_PREFILL_BUCKET_TOKENS = 128


def prefill_seconds(profile: EngineProfile, prompt_tokens: int) -> float:
    """Return the time from admission to the first token of one prompt, alone on the device.

    weights read once + collectives + (2 · parameters · tokens + 2 · layers · hidden · tokens²) / (FLOPS · utilisation)

    Two operations per parameter and token, and 2·layers·hidden·tokens² for causal attention: Korthikanti et al., "Reducing
    Activation Recomputation in Large Transformer Models", appendix A; Kaplan et al. 2020, section 2.1.
    """
    tokens = padded_prompt_tokens(profile, prompt_tokens)
    model = profile.model
    linear_operations = 2 * model.active_parameters * tokens
    attention_operations = 2 * model.layers * model.hidden_size * tokens**2
    flops_per_second = profile.devices * profile.hardware.tflops_bf16 * 1e12 * profile.coefficients.prefill_flops_share
    return pass_seconds(profile) + (linear_operations + attention_operations) / flops_per_second


def decode_step_seconds(profile: EngineProfile, batch: int, context_tokens: int) -> float:
    """Return the time of one step that gives each of `batch` sequences a token; `context_tokens` is the sum over them.

    weights read once + collectives + batch · (sampling + operations) + KV cache read

    Pope et al., "Efficiently Scaling Transformer Inference", section 2 (memory and compute time of decode). On static shapes the
    compiled batch and window count, not the live ones: Llama-3.1-8B compiled for 32 takes 24.5 ms per token with a single
    sequence, compiled for 1 it takes 11 ms (vLLM on Neuron, guidellm runs; optimum-neuron plots).
    """
    if profile.hardware.static_shapes:
        batch = profile.maximum_batch
        context_tokens = batch * profile.window_tokens
    return pass_seconds(profile) + batch * sequence_seconds(profile) + context_tokens * context_token_seconds(profile)


def pass_seconds(profile: EngineProfile) -> float:
    """Return the time of one pass that does not depend on the batch: all weights once, and each layer's latency."""
    coefficients = profile.coefficients
    read_seconds = profile.model.active_weight_bytes / (
        profile.devices * profile.hardware.memory_bandwidth_gb_per_second * 1e9 * coefficients.weight_bandwidth_share
    )
    hops = profile.hardware.collective_hops(profile.devices)
    return read_seconds + profile.model.layers * (coefficients.layer_seconds + coefficients.layer_hop_seconds * hops)


def sequence_seconds(profile: EngineProfile) -> float:
    """Return what one more sequence adds to a step, its context aside."""
    flops_per_second = profile.devices * profile.hardware.tflops_bf16 * 1e12 * profile.coefficients.prefill_flops_share
    return profile.coefficients.sequence_seconds + 2 * profile.model.active_parameters / flops_per_second


def context_token_seconds(profile: EngineProfile) -> float:
    """Return what one more token of context adds to a step: its keys and values are read once."""
    bandwidth = profile.devices * profile.hardware.memory_bandwidth_gb_per_second * 1e9
    return profile.model.kv_bytes_per_token(profile.cores) / (bandwidth * profile.coefficients.kv_bandwidth_share)


def padded_prompt_tokens(profile: EngineProfile, prompt_tokens: int) -> int:
    """Return the length that is computed: static shapes pad a prompt to the next compiled bucket."""
    if not profile.hardware.static_shapes:
        return prompt_tokens
    bucket = SMALLEST_PREFILL_BUCKET_TOKENS
    while bucket < prompt_tokens:
        bucket *= 2
    return max(prompt_tokens, min(bucket, profile.window_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """A decode step in whole picoseconds: fixed + batch · sequence + context · context_token."""

    fixed_picoseconds: int
    sequence_picoseconds: int
    context_token_picoseconds: int

    def elapsed_picoseconds(self, steps: int, batch: int, context_tokens: int) -> int:
        """Return the time of `steps` steps, over which each sequence's context grows by one token per step."""
        first = (
            self.fixed_picoseconds + batch * self.sequence_picoseconds + context_tokens * self.context_token_picoseconds
        )
        growth = batch * self.context_token_picoseconds
        return steps * first + growth * (steps * (steps - 1) // 2)

    def whole_steps(self, elapsed_picoseconds: int, batch: int, context_tokens: int) -> int:
        """Return the largest number of steps that take at most `elapsed_picoseconds`: the exact inverse."""
        first = (
            self.fixed_picoseconds + batch * self.sequence_picoseconds + context_tokens * self.context_token_picoseconds
        )
        growth = batch * self.context_token_picoseconds
        if growth == 0:
            return elapsed_picoseconds // first
        # growth·k² + (2·first − growth)·k − 2·elapsed ≤ 0, solved in whole numbers.
        linear = 2 * first - growth
        return (isqrt(linear * linear + 8 * growth * elapsed_picoseconds) - linear) // (2 * growth)


def step_costs(profile: EngineProfile) -> StepCosts:
    """Return the decode step of `profile` as `StepCosts`."""
    if profile.hardware.static_shapes:
        constant_seconds = decode_step_seconds(profile, profile.maximum_batch, 0)
        return StepCosts(
            fixed_picoseconds=round(constant_seconds * PICOSECONDS), sequence_picoseconds=0, context_token_picoseconds=0
        )
    return StepCosts(
        fixed_picoseconds=round(pass_seconds(profile) * PICOSECONDS),
        sequence_picoseconds=round(sequence_seconds(profile) * PICOSECONDS),
        context_token_picoseconds=round(context_token_seconds(profile) * PICOSECONDS),
    )

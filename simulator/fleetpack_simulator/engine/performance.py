"""How long a prefill and a decode step take, from physics: bytes over bandwidth, operations over FLOPS, latency per layer.

The parts add up. Real kernels overlap some of them (a roofline would take the maximum), but static Neuron graphs hardly do, and a sum
keeps a step affine in batch and context, so that any number of steps has a closed form. What the formulas leave out: speculative
decoding, prefix caching, chunked prefill, expert imbalance (docs/fidelity.md shows what that costs). `StepCosts` holds them in
whole femtoseconds: then the jump over many steps and the walk over each give the very same instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt

from fleetpack_simulator.engine.profile import EngineProfile
from fleetpack_simulator.engine.shapes import Topology

FEMTOSECONDS = 10**15
# Smallest compiled bucket, of prefill and of decode; Neuron's auto-bucketing doubles from 128 up to the window (NxD Inference,
# bucketing). The published rows show both: the median token of Llama-3-8B takes 7.41 ms in a window of 8,192, the mean one
# 6.9 ms, which is what half the tokens in the bucket of 4,096 make of it.
SMALLEST_BUCKET_TOKENS = 128
# Devices along one side of the torus of a Trainium node: 4 x 4 (Neuron docs, trn1 and trn2 architecture).
TORUS_SIDE = 4
# The matrix engine of a NeuronCore holds 128 rows and 128 columns of weights (Neuron docs, NeuronCore-v2 architecture).
MATRIX_ENGINE_WIDTH = 128
# Bits at which weights pass through a NeuronCore: narrower ones are widened on the way. Llama-3-8B in int8 decodes no faster on
# inf2.48xlarge (6.42 ms) than Llama-2-7B in bf16 (6.47 ms).
STATIC_WEIGHT_BITS = 16
# From these many tokens on Neuron takes a flash attention kernel by itself (NxD Inference, `get_flash_attention_strategy`: 4,096,
# and 1,024 where a logical core is two physical ones). It leaves out the half of the pairs that the causal mask hides: derived.
# Where a comment below says chosen: the value was picked with the published rows in sight, and docs/fidelity.md has a table of what the
# errors of left-out rows become when it is a fifth off.
_FLASH_TOKENS = 4096
_FLASH_TOKENS_ON_PAIRED_CORES = 1024
_PAIRED_CORES = frozenset({"trainium2", "trainium3"})
_FLASH_PAIR_SHARE = 0.5
# A link that a prefill's collectives cross, as a share of a small collective's time. Chosen: nothing published measures one link, and
# the errors of left-out rows grow on both sides of it.
_HOP_SHARE = 0.5
# Attention of a step works on rows, one per sequence and query head, and a NeuronCore's vector and scalar engines take 128 of them at
# once (128 lanes, one per partition; Neuron docs, NeuronCore-v2 architecture): so a position costs the same for 1 row as for 128.
_LANES = 128
# Query heads that share keys and values get copies of them (`repeat_kv` in NxD Inference's attention), which is a second pass over
# the cache. In steps of 4 to 32 sequences, a position costs 3.2 to 4.5 ns per layer and sequence where 2 or 4 query heads of a rank
# share one KV head, and 1.9 ns where a rank has one of each: its read alone.
_REPEATED_KV_PASSES = 2
# A pair of token and position of a prompt, for one head, as a share of a position in a decode step. Chosen. Full lanes would make
# it a 128th; prompts cost 16 times that, and why is not known.
_PAIR_SHARE_OF_POSITION = 0.125
# A small collective among the cores of one device, as a share of one among devices: it crosses no link. Chosen; the errors of left-out
# rows hardly know it.
_COLLECTIVE_SHARE_WITHIN_DEVICE = 0.5
# Work along a row of hidden values (norms, activations, residuals) takes as long as so many more columns of every matrix. Chosen: four
# widths of the matrix engine. With it one FLOPS share serves encoders of 768 values and decoders of 8,192.
ELEMENTWISE_COLUMNS = 512
# Outside the devices, per prefill: a request through the API server, tokens in, the first token out. Chosen: a round number for what no
# row isolates; only prompts of some 25 ms could tell.
HOST_SECONDS = 0.001
# Passes of the host over the logits where it samples, for every compiled sequence (cast, gather) and again for every live one
# (temperature, softmax, random draw, choice). Chosen: these steps alone are two and four passes, and what the libraries add is not
# known.
_HOST_SAMPLING_PASSES = 5
# An expert that is gathered for a token is read, written and read again.
_SELECTIVE_LOADING_COPIES = 3


def prefill_seconds(profile: EngineProfile, prompt_tokens: int, sequences: int = 1) -> float:
    """Return the time from admission to the first token of `sequences` prompts in one pass, alone on the devices.

    host + pass + layers · hops · hop latency + sequences · (operations / (FLOPS · share) + attention) + further sequences · latency

    Operations: two per parameter and token, and 2 · layers · heads · head size · tokens² for causal attention (Korthikanti et al.,
    "Reducing Activation Recomputation in Large Transformer Models", appendix A; Kaplan et al. 2020, section 2.1). Attention also
    takes time per pair of token and position, and head of a rank.
    """
    coefficients, model = profile.coefficients, profile.model
    tokens = padded_tokens(profile, prompt_tokens)
    linear_operations = 2 * _prefill_parameters(profile) * tokens
    attention_operations = 2 * model.layers * model.query_heads * model.head_size * tokens**2
    work_seconds = (linear_operations + attention_operations) / (_flops(profile) * matrix_share(profile))
    # Long prompts are spread over ranks by tokens too, so heads count as they are and not in whole numbers per rank.
    heads = model.query_heads / profile.cores
    one_pair_seconds = model.layers * heads * _PAIR_SHARE_OF_POSITION * coefficients.position_seconds
    pair_seconds = _pair_share(profile, tokens) * tokens**2 * one_pair_seconds
    # A prompt touches every expert.
    whole_read = model.parameters_billions * 1e9 * _bytes_per_weight(profile) / _bandwidth(profile)
    hops_seconds = model.layers * collective_hops(profile) * _HOP_SHARE * coefficients.collective_seconds
    further_seconds = model.layers * coefficients.prefill_sequence_seconds
    return (
        HOST_SECONDS
        + whole_read
        + _layers_seconds(profile)
        + hops_seconds
        + sequences * (work_seconds + pair_seconds)
        + (sequences - 1) * further_seconds
    )


def decode_step_seconds(
    profile: EngineProfile, batch: int, context_tokens: int, longest_context_tokens: int | None = None
) -> float:
    """Return the time of one step that gives each of `batch` sequences a token; `context_tokens` is the sum over them.

    pass + batch · operations + context · KV cache read + longest context · attention + live sequences · sampling on the host

    Pope et al., "Efficiently Scaling Transformer Inference", section 2 (memory and compute time of decode). On static shapes the
    compiled batch and the bucket of the longest context count (None: the window), not the live ones: Llama-3.1-8B compiled for 32
    takes 24.5 ms per token with a single sequence, compiled for 1 it takes 11 ms (vLLM on Neuron, guidellm runs; optimum-neuron plots).
    """
    live_seconds = position_seconds = 0.0
    if profile.hardware.static_shapes:
        live_seconds = batch * live_sequence_seconds(profile)
        batch = profile.maximum_batch
        bucket = context_bucket(profile, longest_context_tokens)
        context_tokens = batch * bucket
        position_seconds = attention_seconds(profile, bucket)
    return (
        pass_seconds(profile, batch)
        + batch * sequence_seconds(profile)
        + context_tokens * context_token_seconds(profile)
        + position_seconds
        + live_seconds
    )


def pass_seconds(profile: EngineProfile, sequences: int = 1) -> float:
    """Return the part of a step that does not depend on contexts: the weights that `sequences` touch, and each layer's latency."""
    read_bytes = _parameters_read(profile, sequences) * _bytes_per_weight(profile)
    return read_bytes / _bandwidth(profile) + _layers_seconds(profile)


def sequence_seconds(profile: EngineProfile) -> float:
    """Return what one more sequence adds to a step, its context aside: its operations, its new keys and values, and its logits.

    Static graphs hide the operations behind the read of the weights up to some 130 sequences (FLOPS over bandwidth), and none of
    the compiled batches is larger; but each sequence's keys and values are written to a place of their own, in each layer.
    """
    seconds = profile.model.layers * profile.coefficients.sequence_seconds
    if not profile.hardware.static_shapes:
        seconds += 2 * profile.model.active_parameters / _flops(profile)
    return seconds + live_sequence_seconds(profile)


def live_sequence_seconds(profile: EngineProfile) -> float:
    """Return what the host needs to choose the next token of one sequence; 0 where the devices do that.

    On static shapes it handles the logits of every compiled sequence, and samples for the live ones.
    """
    if not profile.samples_on_host:
        return 0.0
    logits_bytes = 4 * profile.model.vocabulary_size
    return _HOST_SAMPLING_PASSES * logits_bytes / (profile.coefficients.output_gb_per_second * 1e9)


def context_token_seconds(profile: EngineProfile) -> float:
    """Return what one more token of context adds to a step: its keys and values are read, on static shapes perhaps copied first."""
    model = profile.model
    kv_heads_per_rank = ceil(model.kv_heads / profile.cores)
    is_repeated = profile.hardware.static_shapes and model.query_heads_per_rank(profile.cores) > kv_heads_per_rank
    passes = _REPEATED_KV_PASSES if is_repeated else 1
    return passes * model.kv_bytes_per_token(profile.cores) / _bandwidth(profile)


def attention_seconds(profile: EngineProfile, bucket_tokens: int) -> float:
    """Return what a step works on the positions of a bucket, beyond reading them; on static shapes, for the whole compiled batch."""
    if not profile.hardware.static_shapes:
        return 0.0
    rows = profile.maximum_batch * profile.model.query_heads_per_rank(profile.cores)
    per_position_seconds = ceil(rows / _LANES) * profile.coefficients.position_seconds
    return profile.model.layers * bucket_tokens * per_position_seconds


def padded_tokens(profile: EngineProfile, tokens: int) -> int:
    """Return the length that is computed: static shapes pad a prompt to the next compiled bucket."""
    if not profile.hardware.static_shapes:
        return tokens
    bucket = SMALLEST_BUCKET_TOKENS
    while bucket < tokens:
        bucket *= 2
    return max(tokens, min(bucket, profile.window_tokens))


def context_bucket(profile: EngineProfile, longest_context_tokens: int | None) -> int:
    """Return the bucket that a decode step works on: of the longest context of the batch, up to the window."""
    if longest_context_tokens is None:
        return profile.window_tokens
    return min(padded_tokens(profile, longest_context_tokens), profile.window_tokens)


def _parameters_read(profile: EngineProfile, sequences: int) -> float:
    """Return the parameters that a step moves: on static shapes, experts are loaded for each sequence by itself.

    NxD `ExpertMLPs` gathers the experts of each token (selective loading: read, written as a copy, read again) as long as
    tokens · experts per token stay below the number of experts, and computes all experts from there on.
    """
    model = profile.model
    one_expert = model.expert_parameters
    if not profile.hardware.static_shapes or one_expert is None:
        return model.parameters_read(sequences)
    loads = sequences * model.experts_per_token
    total = model.parameters_billions * 1e9
    if loads >= model.experts:
        return total
    return model.active_parameters + (_SELECTIVE_LOADING_COPIES * loads - model.experts_per_token) * one_expert


def collective_hops(profile: EngineProfile) -> int:
    """Return how many links a value crosses to reach every device of the replica, one after the other.

    Along a ring all but one; on a torus along both sides (four devices are one row of it); through a switch one. The small
    collectives of a decode step do not show it, those of a prefill do: a layer takes 0.7 ms on 12 devices in a ring and
    0.4 ms on 16 in a torus, for Llama models of 7 to 70 billion parameters alike.
    """
    devices = ceil(profile.devices)
    if devices == 1:
        return 0
    match profile.hardware.topology:
        case Topology.RING:
            return devices - 1
        case Topology.TORUS_2D:
            side = min(devices, TORUS_SIDE)
            return side - 1 + ceil(devices / side) - 1
    return 1


def matrix_share(profile: EngineProfile) -> float:
    """Return which part of the computing is matrix products; the wider a model, the more. Chips with dynamic shapes: all of it."""
    if not profile.hardware.static_shapes:
        return 1.0
    return profile.model.hidden_size / (profile.model.hidden_size + ELEMENTWISE_COLUMNS)


def _pair_share(profile: EngineProfile, tokens: int) -> float:
    hardware = profile.hardware
    flash_tokens = _FLASH_TOKENS_ON_PAIRED_CORES if hardware.name in _PAIRED_CORES else _FLASH_TOKENS
    return _FLASH_PAIR_SHARE if hardware.static_shapes and tokens >= flash_tokens else 1.0


def _bandwidth(profile: EngineProfile) -> float:
    share = profile.coefficients.weight_bandwidth_share
    return profile.devices * profile.hardware.memory_bandwidth_gb_per_second * 1e9 * share


def _flops(profile: EngineProfile) -> float:
    return profile.devices * profile.hardware.tflops_bf16 * 1e12 * profile.coefficients.flops_share


def _bytes_per_weight(profile: EngineProfile) -> float:
    bits = profile.model.weight_bits
    return (max(bits, STATIC_WEIGHT_BITS) if profile.hardware.static_shapes else bits) / 8


def _layers_seconds(profile: EngineProfile) -> float:
    coefficients = profile.coefficients
    collective_seconds = _collective_share(profile) * coefficients.collective_seconds
    return profile.model.layers * (coefficients.layer_seconds + collective_seconds)


def _collective_share(profile: EngineProfile) -> float:
    if profile.cores == 1:
        return 0.0
    return 1.0 if profile.devices > 1 else _COLLECTIVE_SHARE_WITHIN_DEVICE


def _prefill_parameters(profile: EngineProfile) -> float:
    """Return the parameters that each token of a prompt is computed with.

    Static graphs compute every expert for every token (NxD Inference, "all experts" path), and a slice of an expert that is
    narrower than the matrix engine wastes the rest of it, in rows and in columns.
    """
    model = profile.model
    if not profile.hardware.static_shapes or not model.has_experts:
        return model.active_parameters
    if model.expert_size is None:
        return model.parameters_billions * 1e9
    slice_columns = ceil(model.expert_size / profile.cores)
    filled = slice_columns / (ceil(slice_columns / MATRIX_ENGINE_WIDTH) * MATRIX_ENGINE_WIDTH)
    return float(model.parameters_billions * 1e9 / filled**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """A decode step in whole femtoseconds: fixed + batch · sequence + context · context_token."""

    fixed_femtoseconds: int
    sequence_femtoseconds: int
    context_token_femtoseconds: int

    def elapsed_femtoseconds(self, steps: int, batch: int, context_tokens: int) -> int:
        """Return the time of `steps` steps, over which each sequence's context grows by one token per step."""
        first = (
            self.fixed_femtoseconds
            + batch * self.sequence_femtoseconds
            + context_tokens * self.context_token_femtoseconds
        )
        growth = batch * self.context_token_femtoseconds
        return steps * first + growth * (steps * (steps - 1) // 2)

    def whole_steps(self, elapsed_femtoseconds: int, batch: int, context_tokens: int) -> int:
        """Return the largest number of steps that take at most `elapsed_femtoseconds`: the exact inverse."""
        first = (
            self.fixed_femtoseconds
            + batch * self.sequence_femtoseconds
            + context_tokens * self.context_token_femtoseconds
        )
        growth = batch * self.context_token_femtoseconds
        if growth == 0:
            return elapsed_femtoseconds // first
        # growth·k² + (2·first − growth)·k − 2·elapsed ≤ 0, solved in whole numbers.
        linear = 2 * first - growth
        return (isqrt(linear * linear + 8 * growth * elapsed_femtoseconds) - linear) // (2 * growth)


def step_costs(profile: EngineProfile, bucket_tokens: int | None = None) -> StepCosts:
    """Return the decode step of `profile` as `StepCosts`; on static shapes, of one bucket of contexts (None: the window)."""
    if profile.hardware.static_shapes:
        constant_seconds = decode_step_seconds(profile, 0, 0, bucket_tokens)
        return StepCosts(
            fixed_femtoseconds=round(constant_seconds * FEMTOSECONDS),
            sequence_femtoseconds=round(live_sequence_seconds(profile) * FEMTOSECONDS),
            context_token_femtoseconds=0,
        )
    # Experts touched at a full batch: a mean over the batch would make a step no longer affine in it.
    sequences = profile.maximum_batch if profile.model.has_experts else 1
    return StepCosts(
        fixed_femtoseconds=round(pass_seconds(profile, sequences) * FEMTOSECONDS),
        sequence_femtoseconds=round(sequence_seconds(profile) * FEMTOSECONDS),
        context_token_femtoseconds=round(context_token_seconds(profile) * FEMTOSECONDS),
    )

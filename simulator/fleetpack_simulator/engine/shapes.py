"""What is served and on what: the shape of a model and the hardware of one device.

Both are plain numbers, so that any model and any chip, also one that nobody has measured yet, can be written down. A model of
which only the parameter count is known takes the other dimensions of the nearest published decoder, and says so by being made
with `ModelShape.estimate`. Numbers that make no sense (no layers, no bandwidth) are refused with `ValueError`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class Topology(StrEnum):
    """How the devices of one node are connected; small collectives took as long on a ring as on a torus (docs/fidelity.md)."""

    NONE = "none"
    RING = "ring"
    TORUS_2D = "torus2d"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only transformer, as far as its speed depends on it."""

    name: str
    parameters_billions: float
    layers: int
    hidden_size: int
    kv_heads: int
    head_size: int
    weight_bits: int = 16
    kv_bits: int = 16
    active_parameters_billions: float | None = None
    """Parameters that one token passes through (mixture of experts); None: all of them."""
    attention_heads: int | None = None
    """Query heads of one layer; None: as many as fill the hidden size."""
    expert_size: int | None = None
    """Width of one expert's feed-forward layer; None: no experts."""
    vocabulary_size: int = 128_256
    """Tokens of the vocabulary; matters where logits leave the device (sampling on the host)."""
    estimated: bool = False
    """Only the parameter count is known; the other dimensions are those of the nearest published decoder."""

    def __post_init__(self) -> None:
        for field in (
            "parameters_billions",
            "layers",
            "hidden_size",
            "kv_heads",
            "head_size",
            "weight_bits",
            "kv_bits",
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"model {self.name}: {field} is {getattr(self, field)}, it must be above zero")

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters_billions * 1e9 * self.weight_bits / 8

    @property
    def active_parameters(self) -> float:
        """Parameters that take part in one token."""
        return (self.active_parameters_billions or self.parameters_billions) * 1e9

    @property
    def has_experts(self) -> bool:
        """Whether a token passes through only a part of the weights."""
        return self.active_parameters < self.parameters_billions * 1e9

    @property
    def expert_parameters(self) -> float | None:
        """Parameters of one expert over all layers: three matrices of hidden by expert size; None: no experts of known size."""
        if self.expert_size is None or not self.has_experts:
            return None
        return 3.0 * self.layers * self.hidden_size * self.expert_size

    @property
    def experts(self) -> int:
        """Experts of a layer, 1 without any: those that a token leaves out are known, and published models have a power of two."""
        one = self.expert_parameters
        if one is None:
            return 1
        left_out = (self.parameters_billions * 1e9 - self.active_parameters) / one
        return int(2 ** math.ceil(math.log2(max(1.0, round(left_out) + 1))))

    @property
    def experts_per_token(self) -> int:
        """Experts that a token passes through, 1 without any."""
        one = self.expert_parameters
        if one is None:
            return 1
        return max(1, self.experts - round((self.parameters_billions * 1e9 - self.active_parameters) / one))

    def parameters_read(self, sequences: int) -> float:
        """Parameters that a step reads for so many sequences: the more, the more experts are touched.

        Each sequence touches its share of the weights, drawn independently: 1 - (1 - share)^sequences of all of them.
        """
        total = self.parameters_billions * 1e9
        return float(total * (1 - (1 - self.active_parameters / total) ** sequences))

    @property
    def query_heads(self) -> int:
        """Query heads of one layer."""
        return self.attention_heads or self.hidden_size // self.head_size

    def query_heads_per_rank(self, tensor_parallelism: int) -> int:
        """Query heads that the busiest rank computes; heads are not split, so an uneven division leaves ranks idle."""
        return math.ceil(self.query_heads / tensor_parallelism)

    def kv_bytes_per_token(self, tensor_parallelism: int) -> float:
        """Bytes that keys and values of one token take over all ranks.

        Each rank holds a whole number of KV heads and at least one, so with more ranks than KV heads the heads are copied
        (grouped-query attention under tensor parallelism: Neuron docs, NxD Inference, GQA sharding "replicate-to-TP-degree").
        """
        heads = tensor_parallelism * math.ceil(self.kv_heads / tensor_parallelism)
        return 2 * self.layers * heads * self.head_size * self.kv_bits / 8

    @classmethod
    def estimate(cls, name: str, parameters_billions: float, *, weight_bits: int = 16) -> ModelShape:
        """Return a shape for a model of which only the parameter count is known: the nearest published decoder's."""
        if parameters_billions <= 0:
            raise ValueError(f"model {name}: parameters_billions is {parameters_billions}, it must be above zero")
        nearest = min(
            _TYPICAL_DECODERS, key=lambda shape: abs(math.log(shape.parameters_billions / parameters_billions))
        )
        return replace(
            nearest, name=name, parameters_billions=parameters_billions, weight_bits=weight_bits, estimated=True
        )


def _typical(name: str, parameters_billions: float, layers: int, hidden_size: int, attention_heads: int) -> ModelShape:
    return ModelShape(
        name=name,
        parameters_billions=parameters_billions,
        layers=layers,
        hidden_size=hidden_size,
        attention_heads=attention_heads,
        kv_heads=8,
        head_size=64 if hidden_size < 3000 else 128,
    )


# From the config.json of each model: num_hidden_layers, hidden_size, num_attention_heads; num_key_value_heads is 8 in all.
_TYPICAL_DECODERS = (
    _typical("meta-llama/Llama-3.2-1B", 1.24, 16, 2048, 32),
    _typical("meta-llama/Llama-3.2-3B", 3.21, 28, 3072, 24),
    _typical("meta-llama/Llama-3.1-8B", 8.03, 32, 4096, 32),
    _typical("Qwen/Qwen2.5-14B", 14.8, 48, 5120, 40),
    _typical("Qwen/Qwen2.5-32B", 32.8, 64, 5120, 40),
    _typical("meta-llama/Llama-3.1-70B", 70.6, 80, 8192, 64),
    _typical("meta-llama/Llama-3.1-405B", 405.9, 126, 16384, 128),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device (chip) and how it is connected to the others of its node; figures as the vendor publishes them."""

    name: str
    memory_gib: float
    memory_bandwidth_gb_per_second: float
    tflops_bf16: float
    cores_per_device: int = 1
    topology: Topology = Topology.NONE
    static_shapes: bool = False
    """The compiler fixes batch and window ahead of time, so that a step costs the same however few sequences run (Neuron)."""

    def __post_init__(self) -> None:
        for field in ("memory_gib", "memory_bandwidth_gb_per_second", "tflops_bf16", "cores_per_device"):
            if getattr(self, field) <= 0:
                raise ValueError(f"accelerator {self.name}: {field} is {getattr(self, field)}, it must be above zero")

"""One replica's profile: a model on some cores of an accelerator, with the shapes it was compiled for.

Also the coefficients by which real chips fall short of their data sheet. They are few, each is a physical share or a latency,
and they are fitted on published measurements of Inferentia2 and Trainium 1 only. For every other chip they are carried over, which
`Coefficients.projected` says. A profile that cannot work (weights and KV cache over the memory) is refused with `ProfileError`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetpack_simulator.engine.shapes import Hardware, ModelShape

# Runtime, activations, collectives' buffers and compiled code take the rest; vLLM's own default is `gpu_memory_utilization=0.9`.
USABLE_MEMORY_SHARE = 0.9


class ProfileError(ValueError):
    """A model, its cores and its compiled shapes do not go together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """How far a chip stays below its data sheet, and the latencies that no data sheet has."""

    weight_bandwidth_share: float
    """Share of the memory bandwidth that a decode step reaches when it reads weights."""
    kv_bandwidth_share: float
    """The same for reads of the KV cache: small strided reads, so less."""
    prefill_flops_share: float
    """Share of the bf16 peak that prefill reaches (model FLOPS utilisation)."""
    layer_seconds: float
    """Fixed time per layer: kernel starts, synchronisation, the latency of its two all-reduces on one device."""
    layer_hop_seconds: float
    """Time per layer and hop between devices."""
    sequence_seconds: float
    """Time per sequence and step outside the memory: sampling, scheduling, detokenising."""
    projected: bool
    """True when no published serving number of this chip went into the fit."""


# Fitted by hand on aws-neuron/aws-neuron-sdk@81ce03ae benchmarks/{inf2,trn1}/*_decoder.csv (TP 24 and 32) and on the Hugging Face
# optimum-neuron plots (TP 8 on 4 chips); tests/simulator/engine/test_performance.py shows the rows and the errors.
#   weights: Llama-2-7B and 70B at batch 1 on inf2.48xlarge: 6.47 and 32.9 ms per step = 80 or 32 layers and 14.4 or 1.4 GB per
#   chip: 1 / 0.58 of the bandwidth limit, and 0.108 ms a layer on 12 chips, 0.065 ms on 4.
#   KV: 0.58 ms for each further sequence of a 4k window, 1.12 ms of an 8k window (Llama-3-8B, TP 24).
#   prefill: 0.322 s for a prompt padded to 2,048 (Llama-3.1-8B, 4 chips): 0.14; Llama-3-70B on 12 chips: 0.17 to 0.20.
_NEURON_CORE_V2 = Coefficients(
    weight_bandwidth_share=0.58,
    kv_bandwidth_share=0.33,
    prefill_flops_share=0.15,
    layer_seconds=44e-6,
    layer_hop_seconds=5.3e-6,
    sequence_seconds=20e-6,
    projected=False,
)
_NEURON_PROJECTED = Coefficients(
    weight_bandwidth_share=0.58,
    kv_bandwidth_share=0.33,
    prefill_flops_share=0.15,
    layer_seconds=44e-6,
    layer_hop_seconds=5.3e-6,
    sequence_seconds=20e-6,
    projected=True,
)
# Not fitted: engines with dynamic shapes reach more of the peak; chosen so that a decode step of Llama-3.1-8B at batch 1 takes about
# 1.4 times its weight read, and prefill half the peak. Marked as projected wherever they are shown.
_DYNAMIC_PROJECTED = Coefficients(
    weight_bandwidth_share=0.75,
    kv_bandwidth_share=0.6,
    prefill_flops_share=0.5,
    layer_seconds=10e-6,
    layer_hop_seconds=5e-6,
    sequence_seconds=10e-6,
    projected=True,
)
_FITTED = frozenset({"inferentia2", "trainium"})


def coefficients_for(hardware: Hardware) -> Coefficients:
    """Return the coefficients for a chip: fitted where it was measured, else carried over and marked as projected."""
    if hardware.name in _FITTED:
        return _NEURON_CORE_V2
    return _NEURON_PROJECTED if hardware.static_shapes else _DYNAMIC_PROJECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Everything that one replica's behaviour depends on."""

    model: ModelShape
    hardware: Hardware
    cores: int
    """Cores (or, where a device has no cores of its own, devices) that the replica owns; tensor parallelism spans them all."""
    maximum_batch: int
    window_tokens: int
    """Longest prompt plus output; on static shapes every slot reserves and reads all of it."""
    coefficients: Coefficients

    def __post_init__(self) -> None:
        for field in ("cores", "maximum_batch", "window_tokens"):
            if getattr(self, field) < 1:
                raise ProfileError(
                    f"engine of {self.model.name}: {field} is {getattr(self, field)}, it must be at least 1"
                )
        # On static shapes the cache of the whole compiled batch is allocated at the start, so all of it has to fit.
        sequences = self.maximum_batch if self.hardware.static_shapes else 1
        needed_tokens = sequences * self.window_tokens
        if self.kv_capacity_tokens < needed_tokens:
            raise ProfileError(
                f"engine of {self.model.name}: weights of {self.model.weight_bytes / 1e9:.1f} GB and a KV cache of {needed_tokens} "
                f"tokens do not fit {self.cores} cores of {self.hardware.name} ({self.usable_memory_bytes / 1e9:.1f} GB usable); "
                "give it more cores, a smaller batch or window, or fewer weight bits"
            )

    @property
    def devices(self) -> float:
        """Devices the cores make up; a part of a device has its part of bandwidth and FLOPS."""
        return self.cores / self.hardware.cores_per_device

    @property
    def usable_memory_bytes(self) -> float:
        """Device memory for weights and KV cache."""
        return self.devices * self.hardware.memory_gib * 2**30 * USABLE_MEMORY_SHARE

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens whose keys and values fit beside the weights; negative when the weights alone do not fit."""
        free_bytes = self.usable_memory_bytes - self.model.weight_bytes
        return int(free_bytes / self.model.kv_bytes_per_token(self.cores))

"""One replica's profile: a model on some cores of an accelerator, with the shapes it was compiled for.

A profile that cannot work (weights and KV cache over the memory) is refused with `ProfileError`, which names the way out. How far the
chip stays below its data sheet are its `Coefficients`, which come with the profile, so that a fit can try others.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetpack_simulator.engine.coefficients import Coefficients
from fleetpack_simulator.engine.shapes import Hardware, ModelShape

# Runtime, activations, collectives' buffers and compiled code take the rest; vLLM's own default is `gpu_memory_utilization=0.9`.
USABLE_MEMORY_SHARE = 0.9


class ProfileError(ValueError):
    """A model, its cores and its compiled shapes do not go together."""


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
    samples_on_host: bool = False
    """Logits leave the device for each token, which is then chosen by the host's CPU (vLLM without on-device sampling)."""

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

"""Encoders and diffusion models: a server of fixed-shape batches, without a cache and without tokens that come one by one.

Each worker (some cores that hold one copy of the model) takes what waits, up to the compiled batch, and computes the whole batch
however few items are in it; what arrives meanwhile waits for the next one. Time comes from the caller and never goes back. Weights
that do not fit a worker's memory are refused with `ProfileError`.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from fleetpack_simulator.engine.coefficients import Coefficients
from fleetpack_simulator.engine.performance import ELEMENTWISE_COLUMNS, STATIC_WEIGHT_BITS
from fleetpack_simulator.engine.profile import USABLE_MEMORY_SHARE, ProfileError
from fleetpack_simulator.engine.shapes import Hardware

# The middle of the three widths of Stable Diffusion's U-Net: 320, 640 and 1,280 channels (its config.json, block_out_channels).
DIFFUSION_HIDDEN_SIZE = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchModel:
    """A model that turns an item into a result in a fixed number of passes."""

    name: str
    weight_bytes: float
    """Bytes of the weights in memory (embedding tables aside, of which a pass reads next to nothing)."""
    operations_per_pass: float
    """Operations of one pass over one item: two per weight and token, and 4 · layers · hidden · tokens² of attention."""
    layers: int
    passes: int = 1
    """Denoising steps of a diffusion model; guidance counts in `operations_per_pass`."""
    final_operations: float = 0.0
    """Operations after the last pass: the decoder that turns latents into an image."""
    output_bytes: float = 0.0
    """Bytes of one item's result that have to reach the host."""
    hidden_size: int = DIFFUSION_HIDDEN_SIZE
    """Width of the model, for its share of work along rows; not given: a diffusion model's."""
    weight_bits: int = 16
    """Bits of one weight; what is narrower than a NeuronCore computes with is widened on the way."""
    tokens: int | None = None
    """Longest item that the model is compiled for; None: items have no length."""
    estimated: bool = False
    """Layers and width are those of a published model of about the size."""

    def __post_init__(self) -> None:
        for field in ("weight_bytes", "operations_per_pass", "layers", "passes", "weight_bits"):
            if getattr(self, field) <= 0:
                raise ValueError(f"model {self.name}: {field} is {getattr(self, field)}, it must be above zero")

    @classmethod
    def encoder(
        cls,
        name: str,
        *,
        weights_millions: float,
        layers: int,
        hidden_size: int,
        tokens: int,
        output_values: int = 0,
        weight_bits: int = 16,
    ) -> BatchModel:
        """Return a transformer encoder at a fixed length; `output_values` are 4-byte results per token (a language model head)."""
        weights = weights_millions * 1e6
        return cls(
            name=name,
            weight_bytes=weights * weight_bits / 8,
            operations_per_pass=2 * weights * tokens + 4 * layers * hidden_size * tokens**2,
            layers=layers,
            output_bytes=4.0 * output_values * tokens,
            hidden_size=hidden_size,
            weight_bits=weight_bits,
            tokens=tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProfile:
    """One replica of a fixed-shape server."""

    model: BatchModel
    hardware: Hardware
    cores: int
    batch: int
    coefficients: Coefficients
    cores_per_worker: int = 1

    def __post_init__(self) -> None:
        for field in ("cores", "batch", "cores_per_worker"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"server of {self.model.name}: {field} is {getattr(self, field)}, it must be at least 1"
                )
        if self.cores % self.cores_per_worker:
            raise ValueError(
                f"server of {self.model.name}: {self.cores} cores are no multiple of cores_per_worker {self.cores_per_worker}; "
                "give it as many cores as its workers take"
            )
        if self.model.weight_bytes > self.worker_memory_bytes:
            raise ProfileError(
                f"server of {self.model.name}: weights of {self.model.weight_bytes / 1e9:.1f} GB do not fit {self.cores_per_worker} "
                f"cores of {self.hardware.name} ({self.worker_memory_bytes / 1e9:.1f} GB usable), and each worker holds all of them; "
                "give a worker more cores, or fewer weight bits"
            )

    @property
    def workers(self) -> int:
        """Copies of the model that work side by side."""
        return self.cores // self.cores_per_worker

    @property
    def worker_memory_bytes(self) -> float:
        """Device memory of one worker that weights can take."""
        devices = self.cores_per_worker / self.hardware.cores_per_device
        return devices * self.hardware.memory_gib * 2**30 * USABLE_MEMORY_SHARE


def batch_seconds(profile: BatchProfile) -> float:
    """Return the time of one batch.

    passes · (max(weights read, batch · operations) + layers · latency) + batch · (decoder + output to the host)

    A roofline (Williams et al. 2009): an encoder's weights are known beforehand, so their read hides behind the work.
    """
    coefficients, hardware, model = profile.coefficients, profile.hardware, profile.model
    devices = profile.cores_per_worker / hardware.cores_per_device
    bandwidth = devices * hardware.memory_bandwidth_gb_per_second * 1e9 * coefficients.weight_bandwidth_share
    flops = devices * hardware.tflops_bf16 * 1e12 * coefficients.flops_share
    if hardware.static_shapes:
        flops *= model.hidden_size / (model.hidden_size + ELEMENTWISE_COLUMNS)
    widened = max(1.0, STATIC_WEIGHT_BITS / model.weight_bits) if hardware.static_shapes else 1.0
    pass_seconds = max(widened * model.weight_bytes / bandwidth, profile.batch * model.operations_per_pass / flops)
    layer_seconds = coefficients.layer_seconds + (coefficients.collective_seconds if devices > 1 else 0.0)
    last_seconds = model.final_operations / flops + model.output_bytes / (coefficients.output_gb_per_second * 1e9)
    return model.passes * (pass_seconds + model.layers * layer_seconds) + profile.batch * last_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCompletion:
    """An item is done."""

    request_id: int
    submitted_seconds: float
    started_seconds: float
    finished_seconds: float


class BatchReplica:
    """The workers of one replica and its queue. Submit items, advance time, collect what is done."""

    def __init__(self, profile: BatchProfile) -> None:
        self.profile = profile
        self._batch_seconds = batch_seconds(profile)
        self._clock = 0.0
        self._waiting: deque[tuple[int, float]] = deque()
        # Batches in the making by their end; the number of the batch makes the order total.
        self._running: list[tuple[float, int, float, tuple[tuple[int, float], ...]]] = []
        self._batches = 0
        self._done: list[BatchCompletion] = []

    @property
    def next_event_seconds(self) -> float | None:
        """When the next batch ends; None: nothing runs."""
        if self._done:
            return self._clock
        return self._running[0][0] if self._running else None

    @property
    def waiting(self) -> int:
        """Items that wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Items in batches that are computed."""
        return sum(len(items) for _, _, _, items in self._running)

    def submit(self, request_id: int, now_seconds: float) -> None:
        """Take an item; it starts at once if a worker is free."""
        self._move_clock(now_seconds)
        self._waiting.append((request_id, now_seconds))
        self._start(now_seconds)

    def advance(self, now_seconds: float) -> list[BatchCompletion]:
        """Move to `now_seconds` and return what was done since the last call, in order of time."""
        self._move_clock(now_seconds)
        done, self._done = self._done, []
        return done

    def _move_clock(self, now_seconds: float) -> None:
        if now_seconds < self._clock:
            raise ValueError(f"time went back from {self._clock} s to {now_seconds} s")
        while self._running and self._running[0][0] <= now_seconds:
            end_seconds, _, start_seconds, items = heapq.heappop(self._running)
            self._done += [
                BatchCompletion(
                    request_id=request_id,
                    submitted_seconds=submitted_seconds,
                    started_seconds=start_seconds,
                    finished_seconds=end_seconds,
                )
                for request_id, submitted_seconds in items
            ]
            self._start(end_seconds)
        self._clock = now_seconds

    def _start(self, now_seconds: float) -> None:
        while self._waiting and len(self._running) < self.profile.workers:
            size = min(self.profile.batch, len(self._waiting))
            items = tuple(self._waiting.popleft() for _ in range(size))
            self._batches += 1
            heapq.heappush(self._running, (now_seconds + self._batch_seconds, self._batches, now_seconds, items))

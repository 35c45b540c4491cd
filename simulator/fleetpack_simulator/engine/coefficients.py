"""How far real chips stay below their data sheet, and the latencies that no data sheet has: eight numbers per chip.

They are physical shares and times, fitted on published measurements by `fleetpack-sim calibrate --refit`, and kept as data in
coefficients.yaml beside this file, with what they were fitted on. A chip that was never measured takes those of its nearest relative
and is marked as projected, and so is every number that comes from it. The data is part of the package; it is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

import yaml

from fleetpack_simulator.engine.shapes import Hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The fitted numbers of one chip, and whether they were carried over from another."""

    weight_bandwidth_share: float
    """Share of the memory bandwidth at which weights and KV cache are read."""
    flops_share: float
    """Share of the bf16 peak that prefill and encoders reach."""
    layer_seconds: float
    """Fixed time per layer on one core: kernel starts and synchronisation."""
    collective_seconds: float
    """Time per layer for its two small all-reduces, when more than one device works on it. Decode steps show no dependence on the
    number of devices or on their topology: 4 and 12 on a ring, 16 on a torus."""
    position_seconds: float
    """Time per layer and position of the context, beyond the read of the KV cache, for up to 128 rows (sequences times query heads of
    a rank) at once; an eighth of it per pair of token and position of a prompt and head. Static shapes only in a decode step."""
    sequence_seconds: float
    """Time per layer and sequence in a decode step: its keys and values are written to their place."""
    prefill_sequence_seconds: float
    """Time per layer for each sequence after the first of a prefill: its part of the all-reduce, writing its KV cache."""
    output_gb_per_second: float
    """Rate at which logits reach the host."""
    projected: bool
    """True when no published serving number of this chip went into the fit."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the fitted numbers."""
        return tuple(field.name for field in fields(cls) if field.name != "projected")


def coefficients_for(hardware: Hardware) -> Coefficients:
    """Return the coefficients for a chip: fitted where it was measured, else carried over and marked as projected."""
    data = _data()
    chips: Mapping[str, Mapping[str, float]] = data["chips"]
    if hardware.name in chips:
        return Coefficients(projected=False, **chips[hardware.name])
    if not hardware.static_shapes:
        return Coefficients(projected=True, **data["assumed"])
    relatives: Mapping[str, str] = data["relatives"]
    return Coefficients(projected=True, **chips[relatives.get(hardware.name, relatives["others"])])


@cache
def _data() -> dict[str, Any]:
    text = resources.files("fleetpack_simulator.engine").joinpath("coefficients.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data

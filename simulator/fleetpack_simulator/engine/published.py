"""Shapes of published models, so that a row or a scenario can name one: decoders, encoders, diffusion models.

The figures are in published_models.yaml beside this file, from each model's config.json. A name is matched without its owner and
without the words that do not change its shape (Instruct, the date of a release). A decoder that is not in the list is taken from the
parameter count in its name (`Mixtral-8x7B` is in the list, `MyModel-9B` is not), and `ModelShape.estimated` says so; a name without
one is an `UnknownModelError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from fleetpack_simulator.engine.batch_server import BatchModel
from fleetpack_simulator.engine.shapes import ModelShape

_IGNORED_WORDS = re.compile(r"(?<![a-z])(meta|instruct|chat|hf|bf16|fp16|base_model|v0\.\d|\d{4})(?![a-z0-9])")
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


class UnknownModelError(ValueError):
    """A model of which neither name nor size is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderModel:
    """A decoder found by name."""

    shape: ModelShape
    family: str

    @property
    def estimated(self) -> bool:
        """Only the parameter count is known; the other dimensions are those of the nearest published decoder."""
        return self.shape.estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedShapeModel:
    """An encoder or diffusion model found by name."""

    model: BatchModel
    family: str
    cores_per_worker: int = 1


def published_decoders() -> tuple[str, ...]:
    """Return the names of the decoders whose shapes are known, in order."""
    return tuple(sorted(_entries("decoders")))


@cache
def find_decoder(name: str, *, weight_bits: int = 16) -> DecoderModel:
    """Return the shape of a decoder by its published name."""
    entry = _entries("decoders").get(_key(name))
    if entry is not None:
        numbers = {key: value for key, value in entry.items() if key != "family"}
        shape = ModelShape(name=name, weight_bits=weight_bits, **numbers)
        return DecoderModel(shape=shape, family=entry["family"])
    billions = _BILLIONS.search(name)
    if billions is None:
        raise UnknownModelError(
            f"model {name!r} is not a published decoder that is known here, and its name has no size"
        )
    shape = ModelShape.estimate(name, float(billions[1]), weight_bits=weight_bits)
    return DecoderModel(shape=shape, family=family_of(name))


def family_of(name: str) -> str:
    """Return the family of a model that is not in the list: the first word of its name."""
    return re.split(r"[-_ ]", name.split("/")[-1])[0].lower()


def find_fixed_shape(
    name: str, *, tokens: int | None = None, passes: int | None = None, weight_bits: int = 16
) -> FixedShapeModel | None:
    """Return an encoder at `tokens`, or a diffusion model of `passes` steps; None: no such model is known."""
    key = _key(name)
    encoder = _entries("encoders").get(key)
    if encoder is not None:
        model = BatchModel.encoder(
            name,
            weights_millions=encoder["weights_millions"],
            layers=encoder["layers"],
            hidden_size=encoder["hidden_size"],
            tokens=encoder.get("tokens") or tokens or 128,
            output_values=encoder.get("output_values", 0),
            weight_bits=weight_bits,
        )
        return FixedShapeModel(model=model, family=encoder["family"])
    diffusion = _entries("diffusion_models").get(key)
    if diffusion is None:
        return None
    model = BatchModel(
        name=name,
        weight_bytes=1e6 * diffusion["weights_millions"] * weight_bits / 8,
        weight_bits=weight_bits,
        operations_per_pass=1e12 * diffusion["tera_operations_per_pass"],
        layers=diffusion["layers"],
        passes=passes or diffusion["passes"],
        final_operations=1e12 * diffusion["final_tera_operations"],
    )
    return FixedShapeModel(
        model=model, family=diffusion["family"], cores_per_worker=diffusion["neuron_cores_per_worker"]
    )


def _key(name: str) -> str:
    # File names write the owner's slash as an underscore: Qwen_Qwen3-32B.
    own_name = re.sub(r"^[a-z-]+_", "", name.split("/")[-1].lower())
    words = _IGNORED_WORDS.sub("", own_name)
    return "-".join(part for part in re.split(r"[-_ ]+", words) if part)


@cache
def _entries(kind: str) -> Mapping[str, dict[str, Any]]:
    text = resources.files("fleetpack_simulator.engine").joinpath("published_models.yaml").read_text(encoding="utf-8")
    return {_key(name): entry for name, entry in yaml.safe_load(text)[kind].items()}

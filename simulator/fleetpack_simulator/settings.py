"""Which engine a replica is, read from environment variables: the same for a simulated Pod and a real container.

    FLEETPACK_ENGINE_MODEL                     name that the API and the metrics show; a published model is known by it
    FLEETPACK_ENGINE_PARAMETERS_BILLIONS       needed, unless the name is a published model's or has a size in it
    FLEETPACK_ENGINE_ACCELERATOR               name in fleetpack's catalog; needed
    FLEETPACK_ENGINE_WEIGHT_BITS               16
    FLEETPACK_ENGINE_KEY_VALUE_BITS            16
    FLEETPACK_ENGINE_ACTIVE_PARAMETERS_BILLIONS, _EXPERT_SIZE   the published model's, else all parameters and no experts
    FLEETPACK_ENGINE_LAYERS, _HIDDEN_SIZE, _ATTENTION_HEADS, _KV_HEADS, _HEAD_SIZE, _VOCABULARY_SIZE
                                               the published model's, else those of the published model nearest in size
    FLEETPACK_ENGINE_SAMPLES_ON_HOST           0; 1: logits leave the device, and the host chooses each token
    FLEETPACK_ENGINE_MAX_BATCH                 32
    FLEETPACK_ENGINE_WINDOW_TOKENS             8192
    FLEETPACK_ENGINE_KIND                      generate; or encoder, or diffusion: a server of fixed-shape batches
    FLEETPACK_ENGINE_SEQUENCE_TOKENS           512: the length that an encoder is compiled for; longer requests are refused
    FLEETPACK_ENGINE_PASSES, _TERA_OPERATIONS_PER_PASS, _TERA_OPERATIONS_AT_END
                                               of a diffusion model that is not published: steps, work of each, decoder
    FLEETPACK_ENGINE_CORES_PER_WORKER          all: a fixed-shape server may hold several copies of the model
    FLEETPACK_ENGINE_CORES                     else the cores that the replica was given; a container must have been given as many

The accelerator's figures come from the catalog; the engine itself takes plain numbers. What is missing or wrong is a
`SettingsError` that names the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleetpack.catalog import Accelerator, Catalog, UnknownAccelerator, load_catalog
from fleetpack_simulator.engine import EngineProfile, Hardware, ModelShape, Topology, coefficients_for
from fleetpack_simulator.engine.batch_server import BatchModel, BatchProfile
from fleetpack_simulator.engine.published import UnknownModelError, find_decoder, find_fixed_shape
from fleetpack_simulator.engine.serving import ServingProfile

PREFIX = "FLEETPACK_ENGINE_"
DEFAULT_MAXIMUM_BATCH = 32
DEFAULT_WINDOW_TOKENS = 8192
DEFAULT_SEQUENCE_TOKENS = 512
DEFAULT_PASSES = 50
ESTIMATED = "the model's shape is estimated from its size: its name is no published model's"
_GENERATE = "generate"

# How the chips of one machine are linked, for the hops of a collective; the other types have switches or a single chip.
_TOPOLOGIES = {
    "inferentia": Topology.RING,
    "inferentia2": Topology.RING,
    "trainium": Topology.TORUS_2D,
    "trainium2": Topology.TORUS_2D,
}


class SettingsError(ValueError):
    """Settings from which no engine can be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What one replica serves and as what."""

    model_name: str
    profile: ServingProfile


def replica_settings(environment: Mapping[str, str], *, cores: int | None) -> ReplicaSettings:
    """Read the settings of one replica; `cores` is what it was given, None when that is not known."""
    cores = _whole(environment, "CORES", cores)
    if cores is None:
        raise SettingsError(
            f"{PREFIX}CORES is not set and the replica was given no cores; set it or give cores to the replica"
        )
    hardware = hardware_of(_text(environment, "ACCELERATOR"))
    kind = environment.get(f"{PREFIX}KIND") or _GENERATE
    if kind != _GENERATE:
        batches = _batch_profile(environment, kind, hardware, cores)
        return ReplicaSettings(model_name=batches.model.name, profile=batches)
    model = _model(environment)
    profile = EngineProfile(
        model=model,
        hardware=hardware,
        cores=cores,
        maximum_batch=_whole(environment, "MAX_BATCH", DEFAULT_MAXIMUM_BATCH) or 0,
        window_tokens=_whole(environment, "WINDOW_TOKENS", DEFAULT_WINDOW_TOKENS) or 0,
        coefficients=coefficients_for(hardware),
        samples_on_host=_samples_on_host(environment),
    )
    return ReplicaSettings(model_name=model.name, profile=profile)


def _batch_profile(environment: Mapping[str, str], kind: str, hardware: Hardware, cores: int) -> BatchProfile:
    """Return the profile of a server of fixed-shape batches."""
    match kind:
        case "encoder":
            shape = _encoder(environment)
        case "diffusion":
            shape = _diffusion(environment)
        case _:
            raise SettingsError(f"{PREFIX}KIND is {kind!r}, it must be {_GENERATE}, encoder or diffusion")
    return BatchProfile(
        model=shape,
        hardware=hardware,
        cores=cores,
        batch=_whole(environment, "MAX_BATCH", 1) or 0,
        coefficients=coefficients_for(hardware),
        cores_per_worker=_whole(environment, "CORES_PER_WORKER", cores) or 0,
    )


def _encoder(environment: Mapping[str, str]) -> BatchModel:
    tokens = _whole(environment, "SEQUENCE_TOKENS", DEFAULT_SEQUENCE_TOKENS) or 0
    own = any(environment.get(PREFIX + name) for name in ("LAYERS", "HIDDEN_SIZE"))
    found = None if own else _published(environment, tokens=tokens, passes=None)
    if found is not None and found.tokens is not None:
        return found
    model = _model(environment)
    shape = BatchModel.encoder(
        model.name,
        weights_millions=1000 * model.parameters_billions,
        layers=model.layers,
        hidden_size=model.hidden_size,
        tokens=tokens,
        weight_bits=model.weight_bits,
    )
    return replace(shape, estimated=not own)


def _diffusion(environment: Mapping[str, str]) -> BatchModel:
    operations = _number(environment, "TERA_OPERATIONS_PER_PASS")
    if operations is None:
        found = _published(environment, tokens=None, passes=_whole(environment, "PASSES", None))
        if found is not None and found.tokens is None:
            return found
        raise SettingsError(
            f"{PREFIX}TERA_OPERATIONS_PER_PASS is not set; a diffusion model's work does not follow from its size"
        )
    model = _model(environment)
    return BatchModel(
        name=model.name,
        weight_bytes=model.weight_bytes,
        weight_bits=model.weight_bits,
        operations_per_pass=1e12 * operations,
        layers=model.layers,
        passes=_whole(environment, "PASSES", DEFAULT_PASSES) or 0,
        final_operations=1e12 * (_number(environment, "TERA_OPERATIONS_AT_END") or 0.0),
        estimated=not environment.get(f"{PREFIX}LAYERS"),
    )


def _published(environment: Mapping[str, str], *, tokens: int | None, passes: int | None) -> BatchModel | None:
    """Return the encoder or diffusion model that the name is known for."""
    weight_bits = _whole(environment, "WEIGHT_BITS", 16) or 0
    name = environment.get(f"{PREFIX}MODEL") or ""
    found = find_fixed_shape(name, tokens=tokens, passes=passes, weight_bits=weight_bits)
    return None if found is None else found.model


def expected_cores(environment: Mapping[str, str]) -> int | None:
    """Return how many cores the replica is made for; None when any number will do."""
    return _whole(environment, "CORES", None)


def hardware_of(accelerator_name: str, catalog: Catalog | None = None) -> Hardware:
    """Return the engine's view of an accelerator in the catalog (None: the one that comes with fleetpack)."""
    match (catalog or load_catalog()).accelerator(accelerator_name):
        case UnknownAccelerator(nearest=nearest):
            hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
            raise SettingsError(f"{PREFIX}ACCELERATOR is {accelerator_name!r}, which is not in the catalog{hint}")
        case Accelerator() as found:
            return _hardware(found)


def _hardware(accelerator: Accelerator) -> Hardware:
    unverified = {name: value for name, value in accelerator.unverified if isinstance(value, float | int)}
    figures: dict[str, float] = {}
    for name in ("memory_gib", "memory_bandwidth_gb_per_second", "tflops_bf16"):
        # A secondary source is good enough here: everything but the fitted chips is marked as projected anyway.
        value = getattr(accelerator, name) or unverified.get(name)
        if value is None:
            raise SettingsError(
                f"accelerator {accelerator.name}: its {name} is not known, so its speed cannot be simulated"
            )
        figures[name] = float(value)
    return Hardware(
        name=accelerator.name,
        cores_per_device=accelerator.logical_cores or 1,
        topology=_TOPOLOGIES.get(accelerator.name, Topology.SWITCHED),
        static_shapes=accelerator.vendor == "aws",
        **figures,
    )


def _model(environment: Mapping[str, str]) -> ModelShape:
    """Return the published shape of the model's name, else the nearest one of its size; what is set wins over either."""
    shape = _known_shape(environment)
    own: dict[str, Any] = {
        "layers": _whole(environment, "LAYERS", None),
        "hidden_size": _whole(environment, "HIDDEN_SIZE", None),
        "attention_heads": _whole(environment, "ATTENTION_HEADS", None),
        "kv_heads": _whole(environment, "KV_HEADS", None),
        "head_size": _whole(environment, "HEAD_SIZE", None),
        "expert_size": _whole(environment, "EXPERT_SIZE", None),
        "vocabulary_size": _whole(environment, "VOCABULARY_SIZE", None),
        "kv_bits": _whole(environment, "KEY_VALUE_BITS", None),
        "active_parameters_billions": _number(environment, "ACTIVE_PARAMETERS_BILLIONS"),
    }
    return replace(shape, **{name: value for name, value in own.items() if value is not None})


def _known_shape(environment: Mapping[str, str]) -> ModelShape:
    billions = _number(environment, "PARAMETERS_BILLIONS")
    name = environment.get(f"{PREFIX}MODEL") or ("model" if billions is None else f"model-{billions:g}b")
    weight_bits = _whole(environment, "WEIGHT_BITS", 16) or 0
    try:
        found = find_decoder(name, weight_bits=weight_bits).shape
    except UnknownModelError as error:
        if billions is None:
            raise SettingsError(
                f"{PREFIX}PARAMETERS_BILLIONS is not set; it says how large the model is, 8 for instance"
            ) from error
        return ModelShape.estimate(name, billions, weight_bits=weight_bits)
    if found.estimated and billions is not None:
        return ModelShape.estimate(name, billions, weight_bits=weight_bits)
    return found if billions is None else replace(found, parameters_billions=billions)


def _samples_on_host(environment: Mapping[str, str]) -> bool:
    value = environment.get(f"{PREFIX}SAMPLES_ON_HOST") or "0"
    if value not in ("0", "1"):
        raise SettingsError(f"{PREFIX}SAMPLES_ON_HOST is {value!r}, it must be 0 or 1")
    return value == "1"


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(PREFIX + name)
    if not value:
        raise SettingsError(f"{PREFIX}{name} is not set; it names the accelerator, inferentia2 for instance")
    return value


def _number(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(PREFIX + name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"{PREFIX}{name} is {text!r}, it must be a number above zero")
    return value


def _whole(environment: Mapping[str, str], name: str, default: int | None) -> int | None:
    value = _number(environment, name)
    if value is None:
        return default
    if value != int(value):
        raise SettingsError(f"{PREFIX}{name} is {value}, it must be a whole number")
    return int(value)

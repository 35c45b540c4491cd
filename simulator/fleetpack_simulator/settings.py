"""Which engine a replica is, read from environment variables: the same for a simulated Pod and a real container.

    FLEETPACK_ENGINE_MODEL                     name that the API and the metrics show
    FLEETPACK_ENGINE_PARAMETERS_BILLIONS       needed
    FLEETPACK_ENGINE_ACCELERATOR               name in fleetpack's catalog; needed
    FLEETPACK_ENGINE_WEIGHT_BITS               16
    FLEETPACK_ENGINE_ACTIVE_PARAMETERS_BILLIONS  all
    FLEETPACK_ENGINE_LAYERS, _HIDDEN_SIZE, _KV_HEADS, _HEAD_SIZE   those of the nearest published model
    FLEETPACK_ENGINE_MAX_BATCH                 32
    FLEETPACK_ENGINE_WINDOW_TOKENS             8192
    FLEETPACK_ENGINE_KIND                      generate; or encoder, or diffusion: a server of fixed-shape batches
    FLEETPACK_ENGINE_SEQUENCE_TOKENS           512: the length that an encoder is compiled for
    FLEETPACK_ENGINE_PASSES, _TERA_OPERATIONS_PER_PASS, _TERA_OPERATIONS_AT_END   of a diffusion model: steps, work of each, decoder
    FLEETPACK_ENGINE_CORES_PER_WORKER          all: a fixed-shape server may hold several copies of the model
    FLEETPACK_ENGINE_CORES                     else the cores that the replica was given; a container must have been given as many

The accelerator's figures come from the catalog; the engine itself takes plain numbers. What is missing or wrong is a
`SettingsError` that names the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetpack.catalog import Accelerator, Catalog, UnknownAccelerator, load_catalog
from fleetpack_simulator.engine import EngineProfile, Hardware, ModelShape, Topology, coefficients_for
from fleetpack_simulator.engine.batch_server import BatchModel, BatchProfile
from fleetpack_simulator.engine.serving import ServingProfile

PREFIX = "FLEETPACK_ENGINE_"
DEFAULT_MAXIMUM_BATCH = 32
DEFAULT_WINDOW_TOKENS = 8192
DEFAULT_SEQUENCE_TOKENS = 512
DEFAULT_PASSES = 50
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
    model = _model(environment)
    cores = _whole(environment, "CORES", cores)
    if cores is None:
        raise SettingsError(
            f"{PREFIX}CORES is not set and the replica was given no cores; set it or give cores to the replica"
        )
    hardware = hardware_of(_text(environment, "ACCELERATOR"))
    kind = environment.get(f"{PREFIX}KIND") or _GENERATE
    if kind != _GENERATE:
        return ReplicaSettings(model_name=model.name, profile=_batch_profile(environment, kind, model, hardware, cores))
    profile = EngineProfile(
        model=model,
        hardware=hardware,
        cores=cores,
        maximum_batch=_whole(environment, "MAX_BATCH", DEFAULT_MAXIMUM_BATCH) or 0,
        window_tokens=_whole(environment, "WINDOW_TOKENS", DEFAULT_WINDOW_TOKENS) or 0,
        coefficients=coefficients_for(hardware),
    )
    return ReplicaSettings(model_name=model.name, profile=profile)


def _batch_profile(
    environment: Mapping[str, str], kind: str, model: ModelShape, hardware: Hardware, cores: int
) -> BatchProfile:
    """Return the profile of a server of fixed-shape batches."""
    billions = model.parameters_billions
    if kind == "encoder":
        shape = BatchModel.encoder(
            model.name,
            weights_millions=1000 * billions,
            layers=model.layers,
            hidden_size=model.hidden_size,
            tokens=_whole(environment, "SEQUENCE_TOKENS", DEFAULT_SEQUENCE_TOKENS) or 0,
        )
    elif kind == "diffusion":
        operations = _number(environment, "TERA_OPERATIONS_PER_PASS")
        if operations is None:
            raise SettingsError(
                f"{PREFIX}TERA_OPERATIONS_PER_PASS is not set; a diffusion model's work does not follow from its size"
            )
        shape = BatchModel(
            name=model.name,
            weight_bytes=2e9 * billions,
            operations_per_pass=1e12 * operations,
            layers=model.layers,
            passes=_whole(environment, "PASSES", DEFAULT_PASSES) or 0,
            final_operations=1e12 * (_number(environment, "TERA_OPERATIONS_AT_END") or 0.0),
        )
    else:
        raise SettingsError(f"{PREFIX}KIND is {kind!r}, it must be {_GENERATE}, encoder or diffusion")
    return BatchProfile(
        model=shape,
        hardware=hardware,
        cores=cores,
        batch=_whole(environment, "MAX_BATCH", 1) or 0,
        coefficients=coefficients_for(hardware),
        cores_per_worker=_whole(environment, "CORES_PER_WORKER", cores) or 0,
    )


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
    billions = _number(environment, "PARAMETERS_BILLIONS")
    if billions is None:
        raise SettingsError(f"{PREFIX}PARAMETERS_BILLIONS is not set; it says how large the model is, 8 for instance")
    name = environment.get(f"{PREFIX}MODEL") or f"model-{billions:g}b"
    shape = ModelShape.estimate(name, billions, weight_bits=_whole(environment, "WEIGHT_BITS", 16) or 0)
    return replace(
        shape,
        layers=_whole(environment, "LAYERS", shape.layers) or 0,
        hidden_size=_whole(environment, "HIDDEN_SIZE", shape.hidden_size) or 0,
        kv_heads=_whole(environment, "KV_HEADS", shape.kv_heads) or 0,
        head_size=_whole(environment, "HEAD_SIZE", shape.head_size) or 0,
        active_parameters_billions=_number(environment, "ACTIVE_PARAMETERS_BILLIONS"),
    )


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

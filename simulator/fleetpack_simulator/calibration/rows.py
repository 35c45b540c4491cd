"""Published measurements as values: who measured what, with which model, on which instance type, under which load.

The files group rows as their publishers do: offline batches of the Neuron documentation, values read from plots by batch, guidellm
runs against a server, encoders, load tests. One reader takes them all by their field names, so a file of one's own needs no kind of
its own; what a row lacks (prompt and output lengths, window) is filled by what its publisher's harness uses, which is said beside
each constant. A model that is not known by its name is described in its row (`parameters_billions` and more). A row or figure
that cannot be predicted becomes a `SkippedFigure` with the reason. A file that is no YAML mapping or list of rows is a `RowsError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fleetpack.catalog import InstanceType, load_catalog
from fleetpack_simulator.engine.published import UnknownModelError, family_of, find_decoder, find_fixed_shape
from fleetpack_simulator.engine.shapes import ModelShape

# Lengths where a row has none. Plots of optimum-neuron: prompts up to 2,048 in a window of 4,096; tokens per second and inter-token
# latency of one batch together give 256 output tokens. Neuron's Trn2 tutorials: LLMPerf with 10,000 in and 1,500 out. Others: 2,048.
_PLOT_LENGTHS = (2048, 256)
_TUTORIAL_LENGTHS = (10_000, 1_500)
_OTHER_LENGTHS = (2048, 256)
# optimum-neuron's vLLM configurations all set SEQUENCE_LENGTH=4096, its plots sequence_length 4096.
_DEFAULT_WINDOW_TOKENS = 4096
_CHIPS_BY_PREFIX = {
    "inf1": "inferentia",
    "inf2": "inferentia2",
    "trn1": "trainium",
    "trn1n": "trainium",
    "trn2": "trainium2",
    "trn2u": "trainium2",
    "trn3": "trainium3",
}


# Fields by which a row describes a model that is not known by its name.
_SHAPE_FIELDS: Mapping[str, type[int] | type[float]] = {
    "layers": int,
    "hidden_size": int,
    "attention_heads": int,
    "kv_heads": int,
    "head_size": int,
    "active_parameters_billions": float,
    "expert_size": int,
    "vocabulary_size": int,
}


class RowsError(ValueError):
    """A file that holds no rows."""


class Figure(StrEnum):
    """What was measured, in seconds or per second."""

    TTFT = "ttft_seconds"
    TPOT = "tpot_seconds"
    LATENCY = "latency_seconds"
    OUTPUT_TOKENS = "output_tokens_per_second"
    INFERENCES = "inferences_per_second"
    REQUESTS = "requests_per_second"

    @property
    def is_counted(self) -> bool:
        """Whether it counts in the median and the 90th percentile; rates that follow from counted figures do not."""
        return self not in (Figure.INFERENCES, Figure.REQUESTS)


# Field names of the files, with the factor that makes seconds or a rate of them.
_FIELDS: Mapping[str, tuple[Figure, float]] = {
    "ttft_p50_ms": (Figure.TTFT, 1e-3),
    "ttft_ms": (Figure.TTFT, 1e-3),
    "ttft_s": (Figure.TTFT, 1.0),
    "tpot_p50_ms": (Figure.TPOT, 1e-3),
    "tpot_ms": (Figure.TPOT, 1e-3),
    "itl_p50_ms": (Figure.TPOT, 1e-3),
    "itl_ms": (Figure.TPOT, 1e-3),
    "req_latency_s": (Figure.LATENCY, 1.0),
    "latency_s": (Figure.LATENCY, 1.0),
    "latency_p50_ms": (Figure.LATENCY, 1e-3),
    "p50_ms": (Figure.LATENCY, 1e-3),
    "tok_s": (Figure.OUTPUT_TOKENS, 1.0),
    "tok_s_single": (Figure.OUTPUT_TOKENS, 1.0),
    "gen_tok_s": (Figure.OUTPUT_TOKENS, 1.0),
    "inf_s": (Figure.INFERENCES, 1.0),
    "rps": (Figure.REQUESTS, 1.0),
}


class Load(StrEnum):
    """How the requests of a row come."""

    BATCH = "batch"
    """One batch at once, prefilled in one pass (transformers-neuronx)."""
    SERIAL_BATCH = "serial-batch"
    """One batch at once, prefilled one by one (TGI, vLLM)."""
    SINGLE = "single"
    """One request after the other."""
    CLOSED = "closed"
    """So many users, each with one request under way."""
    OPEN = "open"
    """So many requests per second, evenly spaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWork:
    """A decoder and the load it was measured under."""

    cores: int
    replicas: int
    batch: int
    window_tokens: int
    prompt_tokens: int
    output_tokens: int
    weight_bits: int
    load: Load
    users: int = 1
    rate_per_second: float = 0.0
    samples_on_host: bool = False
    shape: ModelShape | None = None
    """The model where the row describes it itself; None: it is known by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedShapeWork:
    """An encoder or diffusion model and its compiled batch."""

    batch: int
    tokens: int | None
    passes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published measurement."""

    number: int
    group: str
    model: str
    family: str
    instance_type: str
    accelerator: str
    work: DecoderWork | FixedShapeWork
    figures: tuple[tuple[Figure, float], ...]
    source: str

    @property
    def has_experts(self) -> bool:
        """Whether the model is a mixture of experts."""
        return isinstance(self.work, DecoderWork) and decoder_shape(self.model, self.work).has_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFigure:
    """A row, or a part of one, that is not predicted."""

    group: str
    model: str
    instance_type: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """The rows of a file, and what of it is not predicted."""

    rows: tuple[Row, ...]
    skipped: tuple[SkippedFigure, ...]


def decoder_shape(model: str, work: DecoderWork) -> ModelShape:
    """Return the model of a row, from the row itself or by its name."""
    return work.shape or find_decoder(model, weight_bits=work.weight_bits).shape


def read_rows(path: Path) -> RowSet:
    """Read the rows of a YAML file: groups under `calibration`, groups alone, or one list of rows."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RowsError(f"{path}: no YAML: {error}") from error
    return rows_of(document, name=str(path))


def packaged_rows(name: str = "published") -> RowSet:
    """Return rows that came with the package: `published`, which the coefficients are fitted on, or `held_out`, which no fit sees."""
    file = resources.files("fleetpack_simulator.calibration").joinpath("data", f"{name}.yaml")
    return rows_of(yaml.safe_load(file.read_text(encoding="utf-8")), name=f"packaged rows {name}")


def rows_of(document: Any, *, name: str) -> RowSet:
    """Make rows of a parsed file."""
    if isinstance(document, list):
        document = {"rows": document}
    if not isinstance(document, Mapping):
        raise RowsError(f"{name}: it must hold a list of rows, or groups of rows under `calibration`")
    groups = document.get("calibration", document)
    entries = [
        (group, single)
        for group, members in groups.items()
        if isinstance(members, list)
        for entry in members
        if isinstance(entry, Mapping)
        for single in _single_entries(entry)
    ]
    if not entries:
        raise RowsError(f"{name}: no rows; it must hold a list of rows, or groups of rows under `calibration`")
    rows: list[Row] = []
    skipped: list[SkippedFigure] = []
    for group, entry in entries:
        outcome = _row(len(rows) + 1, group, entry)
        if isinstance(outcome, Row):
            rows.append(outcome)
        else:
            skipped.append(outcome)
        if "spec_decode" in entry:
            skipped.append(_skip(group, entry, "speculative decoding is not modelled"))
    return RowSet(rows=tuple(rows), skipped=tuple(skipped))


def _single_entries(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Split an entry that holds several measurements: one per batch, or one per point of a load test."""
    if "points" in entry:
        common = {key: value for key, value in entry.items() if key != "points"}
        yield from ({**common, **point} for point in entry["points"])
        return
    by_batch = {key: value for key, value in entry.items() if key in _FIELDS and isinstance(value, Mapping)}
    if not by_batch:
        yield entry
        return
    common = {key: value for key, value in entry.items() if key not in by_batch}
    for batch in sorted({batch for values in by_batch.values() for batch in values}):
        figures = {key: values[batch] for key, values in by_batch.items() if batch in values}
        yield {**common, **figures, "batch": batch, "mode": "plot"}


def _row(number: int, group: str, entry: Mapping[str, Any]) -> Row | SkippedFigure:
    figures = tuple(_figures(entry))
    if not figures:
        return _skip(group, entry, "no figure that is predicted")
    instance = str(entry.get("instance", ""))
    name, accelerator, instance_type = _instance(instance)
    if accelerator is None:
        return _skip(group, entry, f"instance {instance!r} is not in the catalog")
    if not entry.get("model"):
        return _skip(group, entry, "it names no model")
    model = str(entry["model"])
    fixed_shape = find_fixed_shape(model)
    work: DecoderWork | FixedShapeWork
    if fixed_shape is not None:
        work = FixedShapeWork(batch=entry.get("batch", 1), tokens=entry.get("seq"), passes=entry.get("steps"))
        family = fixed_shape.family
    else:
        if all(not figure.is_counted for figure, _ in figures):
            return _skip(group, entry, "a fleet's request rate alone, with neither lengths nor replicas")
        try:
            shape = _own_shape(model, entry)
            family = find_decoder(model).family if shape is None else family_of(model)
            work = replace(_decoder_work(entry, instance_type), shape=shape)
        except UnknownModelError as error:
            return _skip(
                group, entry, f"{error}; give it parameters_billions, and layers, hidden_size, kv_heads if you can"
            )
        except (TypeError, ValueError) as error:
            return _skip(group, entry, f"a field that cannot be read: {error}")
    return Row(
        number=number,
        group=group,
        model=model,
        family=family,
        instance_type=name,
        accelerator=accelerator,
        work=work,
        figures=figures,
        source=str(entry.get("source", "")),
    )


def _figures(entry: Mapping[str, Any]) -> Iterator[tuple[Figure, float]]:
    for key, (figure, factor) in _FIELDS.items():
        value = entry.get(key)
        if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
            # A range: its middle.
            value = sum(value) / len(value)
        if isinstance(value, int | float) and value > 0:
            yield figure, value * factor


def _instance(text: str) -> tuple[str, str | None, InstanceType | None]:
    """Return instance type, accelerator, and the catalog's entry; `trn2 (1 chip, LNC2)` is the size with one chip."""
    words = text.split()
    name = words[0] if words else ""
    found = load_catalog().instance_type(name)
    if isinstance(found, InstanceType):
        return name, found.accelerator, found
    if name == "trn2" and "1 chip" in text:
        name = "trn2.3xlarge"
    return name, _CHIPS_BY_PREFIX.get(name.split(".")[0]), None


def _decoder_work(entry: Mapping[str, Any], instance_type: InstanceType | None) -> DecoderWork:
    layout = str(entry.get("layout", ""))
    degree = re.search(r"TP\s*(\d+)", layout)
    whole = instance_type.devices * instance_type.cores_per_device if instance_type else 1
    cores = int(entry.get("tp") or (degree[1] if degree else whole))
    parallel = re.search(r"DP\s*(\d+)", layout)
    prompt_tokens, output_tokens = _lengths(entry)
    batch = int(entry.get("batch") or 1)
    load, rate = _load(str(entry.get("mode", "")))
    replicas = int(entry.get("dp") or (parallel[1] if parallel else 1))
    longest = prompt_tokens + output_tokens
    return DecoderWork(
        cores=cores,
        replicas=replicas,
        batch=batch,
        window_tokens=int(entry.get("seq") or max(_DEFAULT_WINDOW_TOKENS, longest)),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        weight_bits=_weight_bits(entry),
        load=load,
        # The throughput runs of one replica show at most one request under way per slot, whatever users they name.
        users=min(int(entry.get("max_users") or batch * replicas), batch * replicas),
        rate_per_second=rate,
        samples_on_host="cpu sampling" in layout.lower(),
    )


def _own_shape(model: str, entry: Mapping[str, Any]) -> ModelShape | None:
    """Return the model that a row describes by its parameters; None: it gives none."""
    billions = entry.get("parameters_billions")
    if billions is None:
        return None
    estimate = ModelShape.estimate(model, float(billions), weight_bits=_weight_bits(entry))
    own: dict[str, Any] = {name: kind(entry[name]) for name, kind in _SHAPE_FIELDS.items() if name in entry}
    return replace(estimate, **own)


def _weight_bits(entry: Mapping[str, Any]) -> int:
    weights = re.search(r"\d+", str(entry.get("weights", 16)))
    return int(weights[0]) if weights else 16


def _lengths(entry: Mapping[str, Any]) -> tuple[int, int]:
    prompt_tokens = entry.get("input_len") or entry.get("prompt_tokens")
    output_tokens = entry.get("output_len") or entry.get("output_tokens")
    if entry.get("mode") == "plot":
        defaults = _PLOT_LENGTHS
    elif "nxd-inference/tutorials" in str(entry.get("source", "")):
        defaults = _TUTORIAL_LENGTHS
    else:
        defaults = _OTHER_LENGTHS
    return int(prompt_tokens or defaults[0]), int(output_tokens or defaults[1])


def _load(mode: str) -> tuple[Load, float]:
    rate = re.search(r"@\s*([\d.]+)", mode)
    if rate:
        return Load.OPEN, float(rate[1])
    match mode.split()[0] if mode else "":
        case "synchronous" | "single":
            return Load.SINGLE, 0.0
        case "throughput" | "closed":
            return Load.CLOSED, 0.0
        case "plot":
            return Load.SERIAL_BATCH, 0.0
    return Load.BATCH, 0.0


def _skip(group: str, entry: Mapping[str, Any], reason: str) -> SkippedFigure:
    return SkippedFigure(
        group=group, model=str(entry.get("model", "")), instance_type=str(entry.get("instance", "")), reason=reason
    )

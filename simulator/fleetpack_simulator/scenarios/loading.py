"""Reads a scenario file.

    name: a-busy-hour            default: the file's name
    seed: 1
    duration: 1h                 how long requests come; tail: 5m, how long the last ones may take
    policy: fleetpack
    manifestFiles: [pool.yaml]   relative to this file; manifests may also follow as further YAML documents
    nodes: [{pool: p, instanceType: inf2.48xlarge, count: 2}]        machines that are there from the start
    loads:
      default/chat: {file: trace.csv.gz, speed: 2, scale: 0.5, start: 10m, duration: 30m, at: 0s}
      default/code: {generator: spike, options: {ratePerSecond: 4, peakRatePerSecond: 20}}
    startup: {default/chat: 90s}                                    instead of what the manifest says
    delays: {imagePull: 20s, ...}                                   see world/setting.py
    faults: [{kind: node-failure, at: 5m}]                          see scenarios/faults.py
    changes: [{at: 9m, deployment: default/chat, maxReplicas: 8}]   see scenarios/changes.py

A `file` is relative to this file, else to the folder of traces that was named; a trace given for a model replaces the file or generator
of its load, and whatever else the load says (`at`, `speed`, `scale`) holds for it too. `scale` multiplies the number of requests: below
1 each is kept with that chance, above 1 there are copies, up to ten seconds apart.
A field that is not known is refused: a typing error must not be a silent default.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from fleetpack.core.fleet import Node
from fleetpack_simulator.scenarios.changes import read_changes
from fleetpack_simulator.scenarios.faults import Targets, read_faults
from fleetpack_simulator.scenarios.manifests import Manifests, ScenarioError, UnderstoodModel, machines, seconds_of
from fleetpack_simulator.workload import (
    GENERATOR_OPTIONS,
    GENERATORS,
    GeneratorOptions,
    Request,
    compress,
    generate,
    read_trace,
    within,
)
from fleetpack_simulator.world.setting import Delays, ModelSetting, WorldSetting

_COPY_SPREAD_SECONDS = 10.0
_FIELDS = {
    "name",
    "seed",
    "duration",
    "tail",
    "policy",
    "manifestFiles",
    "manifests",
    "nodes",
    "loads",
    "startup",
    "delays",
    "faults",
    "changes",
}
_LOAD_FIELDS = {"file", "generator", "options", "speed", "scale", "start", "duration", "at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFiles:
    """Where traces are that are not beside the scenario."""

    folder: Path | None = None
    by_model: tuple[tuple[str, Path], ...] = ()
    """Name of a model (`namespace/name`, or a name in `default`) and the trace that it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario, read and understood."""

    name: str
    policy: str
    setting: WorldSetting


def load_scenario(path: Path, *, seed: int | None = None, traces: TraceFiles | None = None) -> Scenario:
    """Read a scenario file; `seed` replaces the one that it names, `traces` the files of its loads."""
    try:
        documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]
    except (OSError, yaml.YAMLError) as error:
        raise ScenarioError(f"scenario {path}: cannot be read: {error}") from error
    own = [one for one in documents if isinstance(one, dict) and "kind" not in one]
    if len(own) != 1:
        raise ScenarioError(f"scenario {path}: needs exactly one document without `kind`, has {len(own)}")
    fields_given = own[0]
    _known(fields_given, _FIELDS, f"scenario {path}")
    manifests = Manifests()
    for manifest in (*(one for one in documents if one is not fields_given), *(fields_given.get("manifests") or ())):
        manifests.add(manifest, str(path))
    for name in fields_given.get("manifestFiles") or ():
        _add_file(manifests, path.parent / name)
    if fields_given.get("loads") or traces is not None:
        fields_given = {
            **fields_given,
            "loads": _with_traces(fields_given.get("loads") or {}, traces or TraceFiles(), path),
        }
    drawn = int(fields_given.get("seed", 0)) if seed is None else seed
    return Scenario(
        name=str(fields_given.get("name", path.stem)),
        policy=str(fields_given.get("policy", "fleetpack")),
        setting=_setting(fields_given, manifests, path, drawn),
    )


def _with_traces(loads: Mapping[str, Any], traces: TraceFiles, path: Path) -> dict[str, Any]:
    """Return the loads with the files that were found or given."""
    found: dict[str, Any] = {_key(name): value for name, value in loads.items()}
    for name, file in traces.by_model:
        found[_key(name)] = _with_file(
            found.get(_key(name), {}), str(file.absolute()), f"scenario {path}: loads.{name}"
        )
    for entry in (one for value in found.values() for one in (value if isinstance(value, list) else [value])):
        named = entry.get("file") if isinstance(entry, dict) else None
        if named is not None and traces.folder is not None and not (path.parent / named).exists():
            entry["file"] = str((traces.folder / named).absolute())
    return found


def _with_file(load: Any, file: str, where: str) -> Any:
    """Return a load whose trace is another file; of several parts, the one that is a trace."""
    if isinstance(load, list):
        traced = [index for index, part in enumerate(load) if isinstance(part, dict) and "file" in part]
        if len(traced) != 1:
            raise ScenarioError(
                f"{where}: {len(traced)} of its parts are traces, so it is not clear which one --trace replaces"
            )
        return [{**part, "file": file} if index == traced[0] else part for index, part in enumerate(load)]
    return {**{key: value for key, value in load.items() if key not in ("generator", "options")}, "file": file}


def _add_file(manifests: Manifests, path: Path) -> None:
    try:
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if manifest is not None:
                manifests.add(manifest, str(path))
    except (OSError, yaml.YAMLError) as error:
        raise ScenarioError(f"manifestFiles: {path}: cannot be read: {error}") from error


def _setting(given: Mapping[str, Any], manifests: Manifests, path: Path, seed: int) -> WorldSetting:
    duration_seconds = seconds_of(given.get("duration", "10m"), "duration")
    tail_seconds = seconds_of(given.get("tail", "5m"), "tail")
    pools = manifests.understood_pools()
    startup = {_key(name): seconds_of(value, f"startup.{name}") for name, value in (given.get("startup") or {}).items()}
    understood = manifests.models(pools, startup)
    loads = {_key(name): value for name, value in (given.get("loads") or {}).items()}
    unknown = sorted((set(loads) | set(startup)) - {model.deployment.key for model in understood})
    if unknown:
        raise ScenarioError(f"scenario {path}: {', '.join(unknown)}: no InferenceDeployment of that name")
    models = tuple(
        _model(model, loads.get(model.deployment.key, []), path, duration_seconds, (seed, index))
        for index, model in enumerate(understood)
    )
    nodes: list[Node] = []
    for entry in given.get("nodes") or ():
        _known(entry, {"pool", "instanceType", "count"}, f"scenario {path}: nodes")
        nodes.extend(machines(pools, entry["pool"], entry["instanceType"], int(entry.get("count", 1))))
    return WorldSetting(
        models=models,
        pools=tuple(entry.pool for entry in pools),
        nodes=tuple(nodes),
        boots=manifests.boots(),
        faults=read_faults(
            given.get("faults") or (),
            Targets(
                models=tuple(model.deployment.key for model in understood),
                nodes=tuple(nodes),
                pools=tuple(entry.pool for entry in pools),
                end_seconds=duration_seconds + tail_seconds,
            ),
            f"scenario {path}: faults",
        ),
        changes=read_changes(
            given.get("changes") or (),
            {model.deployment.key: model.deployment for model in understood},
            f"scenario {path}: changes",
        ),
        delays=_delays(given.get("delays") or {}),
        duration_seconds=duration_seconds,
        tail_seconds=tail_seconds,
        seed=seed,
    )


def _model(
    model: UnderstoodModel, loads: Any, path: Path, duration_seconds: float, seeds: tuple[int, int]
) -> ModelSetting:
    """Return a model with its load; several loads add up."""
    where = f"scenario {path}: loads.{model.deployment.key}"
    parts = [
        _load(entry, where, path.parent, duration_seconds, (*seeds, part))
        for part, entry in enumerate(loads if isinstance(loads, list) else [loads])
    ]
    requests = sorted((one for part in parts for one in part), key=lambda one: one.arrival_seconds)
    return ModelSetting(
        deployment=model.deployment,
        engines=model.engines,
        startup_seconds=model.startup_seconds,
        image=model.image,
        load=within(requests, 0.0, duration_seconds),
        objective_ttft_seconds=model.objective_ttft_seconds,
        objective_percentile=model.objective_percentile,
    )


def _load(
    entry: Any, where: str, folder: Path, duration_seconds: float, seeds: tuple[int, int, int]
) -> tuple[Request, ...]:
    """Read or draw one load; arrivals count from the start of the simulation."""
    _known(entry, _LOAD_FIELDS, where)
    if ("file" in entry) == ("generator" in entry):
        raise ScenarioError(f"{where}: exactly one of file and generator must be given")
    if "file" in entry and "options" in entry:
        raise ScenarioError(
            f"{where}: options are for a generator; a file is changed by speed, scale, start and duration"
        )
    if "generator" in entry and "start" in entry:
        raise ScenarioError(
            f"{where}: start is where to begin in a file; a generator begins at `at`, and its options say the rest"
        )
    if "file" in entry and not (folder / entry["file"]).exists():
        file = folder / entry["file"]
        raise ScenarioError(
            f"{where}: {file}: cannot be read: it is not there; --traces FOLDER or --trace MODEL=FILE says where"
        )
    at_seconds = seconds_of(entry.get("at", "0s"), f"{where}: at")
    length_seconds = seconds_of(entry["duration"], f"{where}: duration") if "duration" in entry else duration_seconds
    speed = float(entry.get("speed", 1.0))
    try:
        if "file" in entry:
            requests = read_trace(folder / entry["file"])
            start_seconds = seconds_of(entry.get("start", "0s"), f"{where}: start")
            requests = within(requests, start_seconds, length_seconds * speed)
        else:
            requests = generate(str(entry["generator"]), _options(entry, where, length_seconds * speed, seeds))
        requests = compress(requests, speed)
    except ScenarioError:
        raise
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error
    scale = float(entry.get("scale", 1.0))
    if scale != 1.0:
        requests = scaled(requests, scale, random.Random(f"{seeds}/scale"))
    return tuple(replace(one, arrival_seconds=one.arrival_seconds + at_seconds) for one in requests)


def scaled(requests: tuple[Request, ...], scale: float, draw: random.Random) -> tuple[Request, ...]:
    """Return `scale` times as many requests of the same kind at about the same times."""
    if scale <= 0:
        raise ScenarioError(f"loads: scale is {scale}, it must be above zero")
    whole = int(scale)
    found = []
    for request in requests:
        copies = whole + (draw.random() < scale - whole)
        for copy in range(copies):
            shift = 0.0 if copy == 0 else draw.random() * _COPY_SPREAD_SECONDS
            found.append(replace(request, arrival_seconds=round(request.arrival_seconds + shift, 6)))
    return tuple(sorted(found, key=lambda one: one.arrival_seconds))


def _options(
    entry: Mapping[str, Any], where: str, duration_seconds: float, seeds: tuple[int, int, int]
) -> GeneratorOptions:
    generator = str(entry["generator"])
    used = GENERATOR_OPTIONS.get(generator)
    if used is None:
        known = ", ".join(sorted(GENERATORS))
        raise ScenarioError(f"{where}: generator {generator!r} is not known; known are {known}")
    kinds = {one.name: type(getattr(GeneratorOptions(), one.name)) for one in fields(GeneratorOptions)}
    taken = ", ".join(sorted(_camel(name) for name in used))
    seed, model, part = seeds
    # Models and their parts get seeds of their own, or they would all burst together.
    values: dict[str, Any] = {"duration_seconds": duration_seconds, "seed": seed * 1_000_003 + model * 1_009 + part}
    for name, value in (entry.get("options") or {}).items():
        field_name = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        if field_name not in used:
            told = f": {value!r} does nothing here" if field_name in kinds else " is not known"
            raise ScenarioError(f"{where}: options.{name}{told}; {generator} takes {taken}")
        try:
            values[field_name] = kinds[field_name](value)
        except (TypeError, ValueError) as error:
            raise ScenarioError(f"{where}: options.{name}: {value!r} is no {kinds[field_name].__name__}") from error
    return GeneratorOptions(**values)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _delays(given: Mapping[str, Any]) -> Delays:
    values: dict[str, float] = {}
    known = {one.name for one in fields(Delays)}
    for name, value in given.items():
        base = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        if f"{base}_seconds" in known:
            values[f"{base}_seconds"] = seconds_of(value, f"delays.{name}")
        elif base in known:
            values[base] = float(value)
        else:
            raise ScenarioError(f"delays.{name} is not known; known are {', '.join(sorted(known))}")
    return Delays(**values)


def _known(given: Any, known: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise ScenarioError(f"{where}: {given!r} is no mapping")
    unknown = sorted(set(given) - known)
    if unknown:
        raise ScenarioError(f"{where}: {', '.join(unknown)} is not known; known are {', '.join(sorted(known))}")


def _key(name: str) -> str:
    return name if "/" in name else f"default/{name}"

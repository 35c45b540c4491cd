"""Faults of a scenario: read from a file, and written as they would stand in one.

    faults:
    - {kind: node-failure, at: 5m}
    - {kind: metrics-missing, at: 8m, duration: 1m, share: 0.5, target: chat}

A kind takes the options that change what it does (`world.faults.OPTIONS`) and no others; a target must be able to exist. All else is
refused with `ScenarioError`: a fault that does nothing must not look like a fleet that bears it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fleetpack.core.fleet import Node, Pool, PoolProvider
from fleetpack_simulator.scenarios.manifests import ScenarioError, seconds_of
from fleetpack_simulator.world.faults import (
    OF_MACHINE_TYPES,
    OF_MODELS,
    OPTIONS,
    STRIKES,
    Fault,
    FaultKind,
    FaultOption,
)

_ALWAYS = ("kind", "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What faults of a scenario can be aimed at, and until when."""

    models: tuple[str, ...]
    """`namespace/name`."""
    nodes: tuple[Node, ...]
    """Machines that are there from the start."""
    pools: tuple[Pool, ...]
    end_seconds: float
    """When the scenario is over at the latest."""


def read_faults(entries: Iterable[Any], targets: Targets, where: str) -> tuple[Fault, ...]:
    """Return the faults of a scenario in its own order."""
    return tuple(_read(entry, targets, f"{where}[{index}]") for index, entry in enumerate(entries))


def fault_entry(fault: Fault) -> dict[str, Any]:
    """Return a fault as it stands in a scenario file."""
    values: dict[FaultOption, Any] = {
        FaultOption.DURATION: fault.duration_seconds,
        FaultOption.TARGET: fault.target,
        FaultOption.SHARE: fault.share,
        FaultOption.DELAY: fault.seconds,
        FaultOption.FACTOR: fault.factor,
        FaultOption.CORES: fault.cores,
    }
    used = {option.value: value for option, value in values.items() if option in OPTIONS[fault.kind]}
    return {"kind": fault.kind.value, "at": fault.at_seconds, **{name: one for name, one in used.items() if one != ""}}


def _read(entry: Any, targets: Targets, where: str) -> Fault:
    if not isinstance(entry, dict):
        raise ScenarioError(f"{where}: {entry!r} is no mapping")
    kind = _kind(entry, where)
    _refuse_what_does_nothing(entry, kind, where)
    values: dict[str, Any] = {"target": _target(str(entry.get("target", "")), kind, targets, where)}
    if "duration" in entry:
        values["duration_seconds"] = seconds_of(entry["duration"], f"{where}: duration")
    if "delay" in entry:
        values["seconds"] = seconds_of(entry["delay"], f"{where}: delay")
    at_seconds = seconds_of(entry.get("at", "0s"), f"{where}: at")
    if at_seconds >= targets.end_seconds:
        end = f"{targets.end_seconds:g} s"
        raise ScenarioError(
            f"{where}: {kind}: at: {entry.get('at')!r} never comes; the scenario is over at {end}, its tail included"
        )
    try:
        for name, as_number in (("share", float), ("factor", float), ("cores", int)):
            if name in entry:
                values[name] = as_number(entry[name])
        return Fault(kind=kind, at_seconds=at_seconds, **values)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}: {error}") from error


def _kind(entry: dict[str, Any], where: str) -> FaultKind:
    try:
        return FaultKind(str(entry.get("kind")))
    except ValueError as error:
        raise ScenarioError(f"{where}: {error} (kinds: {', '.join(kind.value for kind in FaultKind)})") from error


def _refuse_what_does_nothing(entry: dict[str, Any], kind: FaultKind, where: str) -> None:
    taken = ", ".join((*_ALWAYS, *sorted(option.value for option in OPTIONS[kind])))
    known = {option.value for option in FaultOption}
    for name in sorted(set(entry) - {*_ALWAYS, *(option.value for option in OPTIONS[kind])}):
        told = f": {entry[name]!r} does nothing here" if name in known else " is not known"
        raise ScenarioError(f"{where}: {kind}: {name}{told}; {kind} takes {taken}")


def _target(given: str, kind: FaultKind, targets: Targets, where: str) -> str:
    """Return the full name of a target, if there can be such a thing; empty: nothing is named."""
    if not given:
        return ""
    if kind in OF_MODELS:
        what, known, key = "InferenceDeployment", targets.models, given if "/" in given else f"default/{given}"
    elif kind in OF_MACHINE_TYPES:
        what, known, key = "instance type of a pool", tuple(sorted(_types(targets.pools))), given
    else:
        what, known, key = "machine", _machines(targets), given
    # Launched machines are numbered, and which numbers there will be nobody knows.
    if key in known or (what == "machine" and re.sub(r"-\d+$", "-N", key) in known):
        return key
    drawn = "one is drawn" if kind in STRIKES else "the fault is everybody's"
    raise ScenarioError(
        f"{where}: {kind}: target {given}: no {what} of that name; there are {', '.join(known) or 'none'}, and without a target {drawn}"
    )


def _types(pools: Iterable[Pool]) -> set[str]:
    return {offering.instance_type.name for pool in pools for offering in pool.offerings}


def _machines(targets: Targets) -> tuple[str, ...]:
    """Return the machines that are there, and how those will be called that pools launch."""
    launched = [
        f"{pool.name}-{name.replace('.', '-')}-N"
        for pool in targets.pools
        if pool.provider is PoolProvider.SIMULATED
        for name in sorted(_types((pool,)))
    ]
    return (*(node.name for node in targets.nodes), *launched)

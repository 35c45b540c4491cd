"""Edits of specs in a scenario: what somebody changes while it plays, read from a file and written as it would stand in one.

    changes:
    - {at: 5m, deployment: chat, minReplicas: 2, maxReplicas: 8}
    - {at: 6m, deployment: chat, mode: Manual, replicas: 3}
    - {at: 7m, deployment: chat, template: v2}            another Pod template for all variants; the word tells one from another
    - {at: 8m, deployment: chat, deleted: true}
    - {at: 9m, deployment: chat}                          made anew, as the scenario has it

Where another system's policy decides the numbers, `mode` and `replicas` are left out. An edit that the API server would refuse is
refused here too, with `ScenarioError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fleetpack.core.deployments import Deployment, Mode
from fleetpack_simulator.scenarios.manifests import ScenarioError, seconds_of
from fleetpack_simulator.world.setting import SpecChange

_FIELDS = {
    "minReplicas": "minimum_replicas",
    "maxReplicas": "maximum_replicas",
    "targetQueueDepth": "target_queue_depth",
    "maxUSDPerHour": "maximum_usd_per_hour",
    "mode": "mode",
    "replicas": "replicas",
}
"""What can be edited, by its name in the spec, and what the planner calls it."""
_NAMES = {field: name for name, field in _FIELDS.items()}


def read_changes(entries: Iterable[Any], deployments: Mapping[str, Deployment], where: str) -> tuple[SpecChange, ...]:
    """Return the edits of a scenario in the order of time; `deployments` by key are what they start from."""
    found = sorted(
        (_read(entry, where) for entry in entries), key=lambda change: (change.at_seconds, change.deployment)
    )
    current = dict(deployments)
    for change in found:
        own = current.get(change.deployment)
        if own is None:
            raise ScenarioError(f"{where}: {change.deployment}: no InferenceDeployment of that name")
        edited: Deployment = replace(own, **dict(change.fields))
        if not 0 <= edited.minimum_replicas <= edited.maximum_replicas:
            raise ScenarioError(
                f"{where}: at {change.at_seconds:g} s {change.deployment} has minReplicas {edited.minimum_replicas} and maxReplicas "
                f"{edited.maximum_replicas}: minReplicas must be 0 or more and at most maxReplicas"
            )
        current[change.deployment] = deployments[change.deployment] if change.deleted else edited
    return tuple(found)


def change_entry(change: SpecChange) -> dict[str, Any]:
    """Return an edit as it stands in a scenario file."""
    entry: dict[str, Any] = {"at": change.at_seconds, "deployment": change.deployment}
    if change.deleted:
        entry["deleted"] = True
    if change.template_hash:
        entry["template"] = change.template_hash
    for field, value in change.fields:
        entry[_NAMES[field]] = value.value if isinstance(value, Mode) else value
    return entry


def _read(entry: Any, where: str) -> SpecChange:
    if not isinstance(entry, dict):
        raise ScenarioError(f"{where}: {entry!r} is no mapping")
    unknown = sorted(set(entry) - {"at", "deployment", "template", "deleted", *_FIELDS})
    if unknown:
        known = ", ".join(sorted(("at", "deployment", "template", "deleted", *_FIELDS)))
        raise ScenarioError(f"{where}: {', '.join(unknown)} is not known; known are {known}")
    missing = sorted({"at", "deployment"} - set(entry))
    if missing:
        raise ScenarioError(f"{where}: {', '.join(missing)} must be given")
    edits = [name for name in _FIELDS if name in entry]
    if entry.get("deleted") and (edits or "template" in entry):
        raise ScenarioError(f"{where}: what is deleted has no {', '.join(edits) or 'template'}")
    name = str(entry["deployment"])
    return SpecChange(
        at_seconds=seconds_of(entry["at"], f"{where}: at"),
        deployment=name if "/" in name else f"default/{name}",
        fields=tuple((_FIELDS[edit], _value(edit, entry[edit], where)) for edit in edits),
        template_hash=str(entry.get("template", "")),
        deleted=bool(entry.get("deleted", False)),
    )


def _value(name: str, given: Any, where: str) -> Any:
    try:
        if name == "mode":
            return Mode(given)
        if name in ("targetQueueDepth", "maxUSDPerHour"):
            return float(given)
        return int(given)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}: {name}: {error}") from error

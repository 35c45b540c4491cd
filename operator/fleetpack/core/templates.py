"""Pod templates as plain data: merging a variant's changes, and what the resulting Pod asks for.

Boundary: reads and makes dictionaries; knows of Kubernetes only the merge keys of the lists it merges and how a Pod's requests
add up. A field that it has never heard of goes through unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fleetpack.api.values import Quantity
from fleetpack.core.fleet import Labels, Resources, Toleration

RENDER_VERSION = 1
"""Raised only when a Pod that is made from the same words must differ and running Pods should be replaced for it."""

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""The patchMergeKey of each list in Kubernetes' own Pod types; every other list is replaced as a whole."""


def merge_template(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` strategically merged: maps by key, lists by their merge key, null removes."""
    merged = dict(base)
    for key, value in changes.items():
        present = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(present, Mapping):
            merged[key] = merge_template(present, value)
        elif isinstance(value, list) and isinstance(present, list) and key in _MERGE_KEYS:
            merged[key] = _merge_list(present, value, _MERGE_KEYS[key])
        else:
            merged[key] = value
    return merged


def _merge_list(present: list[Any], changes: list[Any], merge_key: str) -> list[Any]:
    merged = list(present)
    positions = {entry.get(merge_key): index for index, entry in enumerate(merged) if isinstance(entry, Mapping)}
    for change in changes:
        position = positions.get(change.get(merge_key)) if isinstance(change, Mapping) else None
        if position is None:
            merged.append(change)
        else:
            merged[position] = merge_template(merged[position], change)
    return merged


def template_hash(template: Mapping[str, Any], *parts: object) -> str:
    """Return a short hash of what the user wrote (and the render version): another hash is another Pod."""
    text = json.dumps([RENDER_VERSION, template, *parts], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pod_requests(template: Mapping[str, Any]) -> Resources:
    """Return what kube-scheduler will count for the Pod: containers add up, the largest init container may exceed them.

    Sidecars (init containers that restart always) run beside the containers, so they add up too; a Pod overhead is added.
    """
    spec = template.get("spec") or {}
    always = [init for init in spec.get("initContainers") or () if init.get("restartPolicy") == "Always"]
    once = [init for init in spec.get("initContainers") or () if init.get("restartPolicy") != "Always"]
    running = [_container_requests(container) for container in [*(spec.get("containers") or ()), *always]]
    starting = [_container_requests(container) for container in once]
    overhead = spec.get("overhead") or {}
    cpu = max(sum(cpu for cpu, _ in running), max((cpu for cpu, _ in starting), default=0))
    memory = max(sum(memory for _, memory in running), max((memory for _, memory in starting), default=0))
    return Resources(
        cpu_millicores=cpu + _quantity(overhead.get("cpu"), 1000),
        memory_bytes=memory + _quantity(overhead.get("memory"), 1),
        pods=1,
    )


def _container_requests(container: Mapping[str, Any]) -> tuple[int, int]:
    resources = container.get("resources") or {}
    # A limit without a request is the request: the API server defaults it so.
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return _quantity(wanted.get("cpu"), 1000), _quantity(wanted.get("memory"), 1)


def _quantity(value: object, scale: int) -> int:
    """Read a quantity, rounded up; 0 where there is none or it is in a notation that only the API server judges."""
    if value is None:
        return 0
    try:
        number = Quantity.parse(str(value)).number
    except ValueError:
        return 0
    return int((number * scale).to_integral_value(rounding="ROUND_CEILING") if number else Decimal(0))


def node_selector(template: Mapping[str, Any]) -> Labels:
    """Return the Pod's node selector, sorted."""
    return tuple(sorted(((template.get("spec") or {}).get("nodeSelector") or {}).items()))


def tolerations(template: Mapping[str, Any]) -> tuple[Toleration, ...]:
    """Return the Pod's tolerations as written."""
    return tuple(
        Toleration(
            key=entry.get("key", ""),
            operator=entry.get("operator", "Equal"),
            value=entry.get("value", ""),
            effect=entry.get("effect", ""),
        )
        for entry in (template.get("spec") or {}).get("tolerations") or ()
    )

"""Reads a Kubernetes audit log, one JSON event a line, as a history.

Where an event has the response object it is taken as it stands; where it only has the request, the change is applied to what is
known of the object: creates and updates replace it, patches are merged, a binding sets the node, a delete takes a Pod away at once
when it has no grace time or no node, and otherwise only when the kubelet deletes it with none.

Boundary: requests that failed, dry runs, reads and other resources are passed over. A patch of an object that the log has not
shown before is passed over too, since nothing is known to apply it to. A line that is no JSON raises `ValueError` with its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from fleetpack_simulator.checking.judge import GRACE_SECONDS
from fleetpack_simulator.checking.recorder import RESOURCES, Recorder

_Object = dict[str, Any]


def recorder_from_audit_log(lines: Iterable[str], grace_seconds: float = GRACE_SECONDS) -> Recorder:
    """Return a recorder that has taken in the whole log; times are seconds since the epoch."""
    events = [_parse(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    recorder = Recorder(grace_seconds)
    known: dict[tuple[str, str, str], _Object] = {}
    for event in sorted(filter(_is_change, events), key=_seconds):
        for resource, watch_event in _changes(event, known):
            recorder.watch_event(resource, watch_event, _seconds(event))
    return recorder


def _parse(number: int, line: str) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ValueError(f"audit log, line {number}: no JSON: {error}") from error
    if not isinstance(event, dict):
        raise ValueError(f"audit log, line {number}: must be a JSON object, not {type(event).__name__}")
    return event


def _is_change(event: Mapping[str, Any]) -> bool:
    return (
        event.get("stage") == "ResponseComplete"
        and event.get("verb") in ("create", "update", "patch", "delete", "deletecollection")
        and (event.get("objectRef") or {}).get("resource") in RESOURCES
        and 200 <= (event.get("responseStatus") or {}).get("code", 0) < 300
        and "dryRun=" not in event.get("requestURI", "")
    )


def _changes(
    event: Mapping[str, Any], known: dict[tuple[str, str, str], _Object]
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    reference = event["objectRef"]
    resource, verb, subresource = reference["resource"], event["verb"], reference.get("subresource", "")
    request, response = event.get("requestObject") or {}, event.get("responseObject") or {}
    if verb == "deletecollection":
        for own in response.get("items") or ():
            key = (resource, own["metadata"].get("namespace", ""), own["metadata"]["name"])
            yield from _deleted(key, known, request)
        return
    name = reference.get("name") or (response.get("metadata") or request.get("metadata") or {}).get("name", "")
    key = (resource, reference.get("namespace", ""), name)
    if verb == "delete" or subresource == "eviction":
        yield from _deleted(key, known, request if verb == "delete" else request.get("deleteOptions") or {})
        return
    before = known.get(key)
    after = _after(before, verb, subresource, request, response)
    if after is None:
        return
    # Bodies of requests often leave out what the URL says.
    after.setdefault("metadata", {}).setdefault("name", name)
    if key[1]:
        after["metadata"].setdefault("namespace", key[1])
    if verb == "create" and not subresource:
        after["metadata"].setdefault("uid", f"{'/'.join(key)}@{event['stageTimestamp']}")
    elif before is not None and "uid" in before["metadata"]:
        after["metadata"].setdefault("uid", before["metadata"]["uid"])
    known[key] = after
    yield resource, {"type": "MODIFIED" if before else "ADDED", "object": after}


def _after(before: _Object | None, verb: str, subresource: str, request: Any, response: Any) -> _Object | None:
    """Return the object as the change leaves it; None: it cannot be known, or nothing of it changes."""
    if subresource == "binding":
        node = (request.get("target") or {}).get("name")
        return None if before is None or not node else _merge(before, {"spec": {"nodeName": node}})
    if subresource not in ("", "status"):
        return None
    if isinstance(response, dict) and response.get("spec") is not None:
        return dict(response)
    if verb == "create":
        return _merge({}, request)
    if before is None:
        return None
    if isinstance(request, list):
        return _json_patch(before, request)
    if verb == "update":
        part = "status" if subresource == "status" else None
        return _merge(before, {part: request.get(part)}) if part else _merge({"status": before.get("status")}, request)
    return _merge(before, request)


def _deleted(
    key: tuple[str, str, str], known: dict[tuple[str, str, str], _Object], options: Mapping[str, Any]
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    own = known.get(key)
    if own is None:
        return
    spec = own.get("spec") or {}
    grace_seconds = options.get("gracePeriodSeconds", spec.get("terminationGracePeriodSeconds", 30))
    # Only a Pod that runs somewhere outlives its first delete: the kubelet ends it, and deletes it with no grace.
    if key[0] != "pods" or grace_seconds == 0 or not spec.get("nodeName"):
        del known[key]
        yield key[0], {"type": "DELETED", "object": _unversioned(own)}


def _merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> _Object:
    """JSON merge patch (RFC 7396): maps merge, null removes, all else replaces."""
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            own = result.get(name)
            result[name] = _merge(own if isinstance(own, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _json_patch(base: _Object, operations: list[Mapping[str, Any]]) -> _Object:
    """JSON patch (RFC 6902) as far as maps go: paths into lists hold nothing that is checked."""
    result: _Object = json.loads(json.dumps(base))
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place: Any = result
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue
        if operation["op"] in ("add", "replace"):
            place[last] = operation["value"]
        elif operation["op"] == "remove":
            place.pop(last, None)
    return result


def _unversioned(own: _Object) -> _Object:
    """The object as it was last seen, without its version: a deletion is later than that, and has none in the log."""
    metadata = {name: value for name, value in own["metadata"].items() if name != "resourceVersion"}
    return {**own, "metadata": metadata}


def _seconds(event: Mapping[str, Any]) -> float:
    # A deletion shows in watches before its own request is answered: it counts from the moment it was asked for.
    gone = event["verb"] in ("delete", "deletecollection")
    timestamp = str((gone and event.get("requestReceivedTimestamp")) or event["stageTimestamp"])
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()

"""Takes in what watches and lists deliver, live, and gives a report at any moment.

A recorder is fed with `relist` for each resource when watching begins (what is there then was made before anybody looked) and
again after every cut, and with `watch_event` for all that comes in between. It never asks the API server for anything itself, so
it works with any client, and with recorded events as well.

Events of other kinds (bookmarks, errors) and of other resources are passed over. One thread feeds it; a report is a pass over
the whole history, some tens of milliseconds for ten thousand changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fleetpack_simulator.checking.facts import (
    Fact,
    KubernetesObject,
    read_deployment,
    read_node,
    read_pod,
    read_pool,
)
from fleetpack_simulator.checking.history import Change, Seen
from fleetpack_simulator.checking.judge import GRACE_SECONDS, check
from fleetpack_simulator.checking.report import CheckReport

_READERS: Mapping[str, Callable[[KubernetesObject], Fact]] = {
    "pods": read_pod,
    "nodes": read_node,
    "inferencedeployments": read_deployment,
    "acceleratorpools": read_pool,
}

RESOURCES = tuple(_READERS)
"""Resources to feed it with, by their plural names."""


class Recorder:
    """A growing history; `grace_seconds` is how long the operator may not yet know of other people's changes."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._history: list[Seen] = []
        self._present: dict[str, dict[str, Seen]] = {resource: {} for resource in RESOURCES}
        self._listed: set[str] = set()

    def __len__(self) -> int:
        return len(self._history)

    def relist(self, resource: str, objects: Iterable[KubernetesObject], at_seconds: float) -> None:
        """Take in a complete list: the first one is the initial state, later ones are compared with what is known."""
        _reader(resource)
        first = resource not in self._listed
        self._listed.add(resource)
        present = {_identity(own): own for own in objects}
        gone = [seen for identity, seen in self._present[resource].items() if identity not in present]
        for seen in gone:
            self._delete_unseen(resource, seen, at_seconds)
        for identity, own in present.items():
            known = identity in self._present[resource]
            change = Change.MODIFIED if known else Change.INITIAL if first else Change.ADDED
            self._note(resource, change, own, at_seconds)

    def watch_event(self, resource: str, event: Mapping[str, Any], at_seconds: float) -> None:
        """Take in one watch event, `{"type": ..., "object": ...}`."""
        _reader(resource)
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        own = event["object"]
        change = Change(event["type"])
        known = _identity(own) in self._present[resource]
        if change is not Change.DELETED:
            # A watch from the beginning tells of everything as added, also of what is known.
            change = Change.MODIFIED if known else Change.ADDED
        self._note(resource, change, own, at_seconds)

    def report(self, until_seconds: float | None = None) -> CheckReport:
        """Check all that was seen; money is counted to `until_seconds`, or to the last change."""
        return check(self._history, grace_seconds=self._grace_seconds, until_seconds=until_seconds)

    def _note(self, resource: str, change: Change, own: KubernetesObject, at_seconds: float) -> None:
        seen = Seen(at_seconds=at_seconds, change=change, fact=_reader(resource)(own), version=_version(own))
        before = self._present[resource].pop(_identity(own), None)
        if change is not Change.DELETED:
            self._present[resource][_identity(own)] = seen
        # Heartbeats and status texts change nothing that is checked, and would fill the memory.
        if change is not Change.MODIFIED or before is None or before.fact != seen.fact:
            self._history.append(seen)

    def _delete_unseen(self, resource: str, seen: Seen, at_seconds: float) -> None:
        identity = next(key for key, own in self._present[resource].items() if own is seen)
        del self._present[resource][identity]
        # Versions are whole numbers: half a step is right after the last one seen, before anything else.
        version = None if seen.version is None else seen.version + 0.5
        self._history.append(Seen(at_seconds=at_seconds, change=Change.DELETED, fact=seen.fact, version=version))


def _reader(resource: str) -> Callable[[KubernetesObject], Fact]:
    if resource not in _READERS:
        raise ValueError(f"resource {resource!r} is not checked; it must be one of {', '.join(RESOURCES)}")
    return _READERS[resource]


def _identity(own: KubernetesObject) -> str:
    metadata = own["metadata"]
    return metadata.get("uid") or f"{metadata.get('namespace', '')}/{metadata['name']}"


def _version(own: KubernetesObject) -> float | None:
    text = own["metadata"].get("resourceVersion")
    return float(text) if text and str(text).isdecimal() else None

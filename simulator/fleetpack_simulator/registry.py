"""Which replica answers at an address: from a fixed table, from one set of settings, or from the Pods of a cluster.

An answer is a value: a replica with its identity and settings, or the reason why there is none. Identity is the Pod's UID, so a
new Pod on an old address gets a new engine. Nothing is made here; the server makes an engine when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fleetpack.core.cores import parse_cores
from fleetpack_simulator.pods import (
    ALLOCATED_CORES_ANNOTATION,
    CORES_ANNOTATION,
    DEPLOYMENT_LABEL,
    PodView,
    PodWatcher,
)
from fleetpack_simulator.settings import ESTIMATED, ReplicaSettings, replica_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAt:
    """A replica that answers."""

    identity: str
    settings: ReplicaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReplica:
    """Why nobody answers."""

    reason: str


Gone = Callable[[str], None]
"""Called with the identity of a replica that went away."""
Tell = Callable[[str], None]
"""Called with a sentence for the person who serves."""


class Registry(Protocol):
    """Knows the replica of each address."""

    def locate(self, address: str) -> ReplicaAt | NoReplica:
        """Return who answers at an address."""
        ...

    def listen(self, gone: Gone) -> None:
        """Have `gone` called for each replica that goes away."""
        ...


class StaticRegistry:
    """A table that a program or a test fills; also the single replica of a container, under `EVERY_ADDRESS`."""

    EVERY_ADDRESS = "*"

    def __init__(self, replicas: Mapping[str, ReplicaSettings]) -> None:
        self._replicas = {
            address: ReplicaAt(identity=address, settings=settings) for address, settings in replicas.items()
        }
        self._gone: list[Gone] = []

    def locate(self, address: str) -> ReplicaAt | NoReplica:
        """Return the entry of this address, else the one for every address."""
        found = self._replicas.get(address) or self._replicas.get(self.EVERY_ADDRESS)
        return found or NoReplica(reason=f"no replica has the address {address}")

    def listen(self, gone: Gone) -> None:
        """Have `gone` called by `remove`."""
        self._gone.append(gone)

    def add(self, address: str, settings: ReplicaSettings) -> None:
        """Put a replica at an address."""
        self._replicas[address] = ReplicaAt(identity=address, settings=settings)

    def remove(self, address: str) -> None:
        """Take a replica away; its streams are cut."""
        replica = self._replicas.pop(address)
        for gone in self._gone:
            gone(replica.identity)


class PodRegistry:
    """The Pods that a watcher follows, by their IP. `tell` hears once of each deployment whose shape is estimated."""

    def __init__(self, watcher: PodWatcher, tell: Tell = lambda _: None) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._by_ip: dict[str, PodView] = {}
        # A Pod's engine does not change while it lives, so what was read of it once holds.
        self._located: dict[str, ReplicaAt] = {}
        self._gone: list[Gone] = []
        watcher.listen(self._changed)

    def locate(self, address: str) -> ReplicaAt | NoReplica:
        """Return the running Pod with this IP, its engine read from its environment and annotations."""
        pod = self._by_ip.get(address)
        if pod is None:
            return NoReplica(reason=f"no Pod has the address {address}")
        if pod.phase != "Running":
            return NoReplica(reason=f"Pod {pod.namespace}/{pod.name} is {pod.phase}, it is not Running")
        found = self._located.get(pod.uid)
        if found is None:
            try:
                settings = replica_settings(pod.environment, cores=pod_cores(pod))
            except ValueError as error:
                return NoReplica(reason=f"Pod {pod.namespace}/{pod.name}: {error}")
            found = self._located[pod.uid] = ReplicaAt(identity=pod.uid, settings=settings)
            self._tell_of(pod, settings)
        return found

    def listen(self, gone: Gone) -> None:
        """Have `gone` called for each Pod that is deleted or has ended."""
        self._gone.append(gone)

    def _tell_of(self, pod: PodView, settings: ReplicaSettings) -> None:
        text = f"{pod.namespace}/{pod.labels.get(DEPLOYMENT_LABEL, pod.name)}: {settings.model_name}: {ESTIMATED}"
        if settings.profile.model.estimated and text not in self._told:
            self._told.add(text)
            self._tell(text)

    def _changed(self, before: PodView | None, after: PodView | None) -> None:
        if before is not None and before.ip and self._by_ip.get(before.ip, before).uid == before.uid:
            self._by_ip.pop(before.ip, None)
        has_ended = after is None or after.phase in ("Succeeded", "Failed")
        if after is not None and after.ip and not has_ended:
            self._by_ip[after.ip] = after
        if before is not None and has_ended:
            self._located.pop(before.uid, None)
            for gone in self._gone:
                gone(before.uid)


def pod_cores(pod: PodView) -> int | None:
    """Return how many cores a Pod has: as the kubelet gave them, else as planned; None: no annotation says so."""
    text = pod.annotations.get(ALLOCATED_CORES_ANNOTATION) or pod.annotations.get(CORES_ANNOTATION)
    return parse_cores(text).bit_count() if text else None

"""Kubernetes objects as an API server sends them, for histories: plain JSON with only what a check reads.

Each builder has defaults that make a legal object; a test says what matters to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from fleetpack_simulator.checking import Recorder

Json = dict[str, Any]


def node(name: str = "a", instance_type: str = "inf2.24xlarge", cores: int | None = 12, **labels: str) -> Json:
    """A node; keyword arguments `pool` and `capacity_type` become its labels."""
    keys = {"pool": "fleetpack.dev/pool", "capacity_type": "karpenter.sh/capacity-type"}
    resources = {"cpu": "95690m", "memory": "355262Mi", "pods": "737"}
    if cores is not None:
        resources["aws.amazon.com/neuroncore"] = str(cores)
    return {
        "metadata": {
            "name": name,
            "uid": f"node-{name}",
            "labels": {
                "node.kubernetes.io/instance-type": instance_type,
                **{keys[key]: value for key, value in labels.items()},
            },
        },
        "status": {"capacity": resources, "allocatable": dict(resources)},
    }


def replica(
    name: str, cores: str | None, *, on: str = "a", count: int | None = None, allocated: str | None = None, **more: Any
) -> Json:
    """A replica of `default/chat` (or `deployment=`) with its cores; `count` where it differs from them."""
    annotations = {"fleetpack.dev/cores": cores, "fleetpack.dev/allocated-cores": allocated}
    resources = more.get("requests", {"aws.amazon.com/neuroncore": str(_size(cores) if count is None else count)})
    spec: Json = {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [on]}]}]
                }
            }
        },
        "containers": [{"name": "server", "resources": {"requests": resources}}],
    }
    if more.get("bound"):
        spec["nodeName"] = on
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"pod-{name}",
            "labels": {"fleetpack.dev/deployment": more.get("deployment", "chat")},
            "annotations": {key: value for key, value in annotations.items() if value is not None},
        },
        "spec": spec,
        "status": {"phase": more.get("phase", "Pending")},
    }


def foreign_pod(name: str, *, on: str = "a", **requests: str) -> Json:
    """A bound Pod of somebody else; `cores="4"` or `cpu="2"` says what it asks for."""
    names = {"cores": "aws.amazon.com/neuroncore"}
    return {
        "metadata": {"name": name, "namespace": "other", "uid": f"pod-{name}"},
        "spec": {
            "nodeName": on,
            "containers": [
                {"name": "main", "resources": {"limits": {names.get(key, key): own for key, own in requests.items()}}}
            ],
        },
        "status": {"phase": "Running"},
    }


def deployment(ceiling_usd_per_hour: str | None = None, name: str = "chat") -> Json:
    """An InferenceDeployment, as far as money goes."""
    cost = {} if ceiling_usd_per_hour is None else {"maxUSDPerHour": ceiling_usd_per_hour}
    return {"metadata": {"name": name, "namespace": "default", "uid": f"infd-{name}"}, "spec": {"cost": cost}}


def pool(name: str = "fleet", **spec: Any) -> Json:
    """An AcceleratorPool; keyword arguments are fields of its spec."""
    return {"metadata": {"name": name, "uid": f"pool-{name}"}, "spec": {"provider": "Simulated", **spec}}


class Story:
    """Tells a recorder what happens, one second after the other, with rising resource versions."""

    def __init__(self, **initial: list[Json]) -> None:
        self.recorder = Recorder()
        self.now_seconds = 0.0
        self._versions = itertools.count(100)
        for resource in ("pods", "nodes", "inferencedeployments", "acceleratorpools"):
            self.recorder.relist(resource, [self._stamped(own) for own in initial.get(resource, [])], 0.0)

    def after(self, seconds: float) -> Story:
        """Let time pass."""
        self.now_seconds += seconds
        return self

    def add(self, *objects: Json) -> Story:
        """Objects are created, a second apart from what came before."""
        return self._tell("ADDED", objects)

    def change(self, *objects: Json) -> Story:
        """Objects are changed."""
        return self._tell("MODIFIED", objects)

    def delete(self, *objects: Json) -> Story:
        """Objects are gone."""
        return self._tell("DELETED", objects)

    def _tell(self, kind: str, objects: tuple[Json, ...]) -> Story:
        for own in objects:
            self.now_seconds += 1
            event = {"type": kind, "object": self._stamped(own)}
            self.recorder.watch_event(resource_of(own), event, self.now_seconds)
        return self

    def _stamped(self, own: Json) -> Json:
        return {**own, "metadata": {**own["metadata"], "resourceVersion": str(next(self._versions))}}


def resource_of(own: Mapping[str, Any]) -> str:
    """Which resource an object of these builders is."""
    kinds = {"node": "nodes", "pod": "pods", "infd": "inferencedeployments", "pool": "acceleratorpools"}
    return kinds[own["metadata"]["uid"].split("-")[0]]


def _size(cores: str | None) -> int:
    if not cores:
        return 0
    parts = [part.partition("-") for part in cores.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in parts)

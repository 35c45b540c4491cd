"""What the demo sees of the cluster: everything that changes, followed by watches as the administrator.

Concept: one `World` value that four watches keep up to date, and that feeds the independent checker on the way; the operator is
asked for nothing but its metrics page. Boundary: reads only. Failure: a watch that breaks is taken up again by a new list; what was
missed meanwhile the checker is told by that list.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.errors import KubernetesError
from fleetpack_simulator.checking import Recorder

PATHS = {
    "pods": "/api/v1/pods",
    "nodes": "/api/v1/nodes",
    "inferencedeployments": "/apis/fleetpack.dev/v1alpha1/inferencedeployments",
    "acceleratorpools": "/apis/fleetpack.dev/v1alpha1/acceleratorpools",
}


@dataclass(slots=True)
class World:
    """The latest form of every object, by resource and UID."""

    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in PATHS})
    recorder: Recorder = field(default_factory=Recorder)
    on_event: Callable[[str, str, dict[str, Any]], None] = lambda resource, kind, own: None
    """Told of each event: resource, type, object."""

    def all(self, resource: str) -> list[dict[str, Any]]:
        """Return the objects of a resource, sorted by name."""
        return sorted(self.objects[resource].values(), key=lambda own: own["metadata"]["name"])

    async def follow(self, client: KubernetesClient, resource: str, clock: Callable[[], float] = time.time) -> None:
        """List and watch one resource until cancelled."""
        while True:
            try:
                listed = await client.list_all(PATHS[resource])
                self.objects[resource] = {own["metadata"]["uid"]: own for own in listed["items"]}
                self.recorder.relist(resource, listed["items"], clock())
                version = listed["metadata"]["resourceVersion"]
                while True:
                    async with client.watch(PATHS[resource], version) as events:
                        async for kind, own in events:
                            version = own["metadata"]["resourceVersion"]
                            self._take(resource, kind, own, clock())
            except KubernetesError:
                await asyncio.sleep(0.2)

    def _take(self, resource: str, kind: str, own: dict[str, Any], at_seconds: float) -> None:
        if kind == "DELETED":
            self.objects[resource].pop(own["metadata"]["uid"], None)
        elif kind in ("ADDED", "MODIFIED"):
            self.objects[resource][own["metadata"]["uid"]] = own
        self.recorder.watch_event(resource, {"type": kind, "object": own}, at_seconds)
        self.on_event(resource, kind, own)

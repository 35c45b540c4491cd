"""All that is known of the cluster: four reflectors and two caches of our own resources, and whether they can be trusted.

Nothing is planned before every one of them has had its first complete list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.projections import (
    NamespaceRow,
    NodeRow,
    PriorityRow,
    project_namespace,
    project_node,
    project_pod,
    project_priority_class,
)
from fleetpack.cluster.reflector import Reflector
from fleetpack.cluster.resources import ResourceCache
from fleetpack.cluster.snapshot import Rows
from fleetpack.core.fleet import ForeignPod, Replica


class Caches:
    """The operator's picture of the cluster."""

    def __init__(self, client: KubernetesClient, on_change: Callable[[], None]) -> None:
        self.pods: Reflector[Replica | ForeignPod] = Reflector(client, names.PODS, project_pod, on_change=on_change)
        self.nodes: Reflector[NodeRow] = Reflector(client, names.NODES, project_node, on_change=on_change)
        self.namespaces: Reflector[NamespaceRow] = Reflector(
            client, names.NAMESPACES, project_namespace, on_change=on_change
        )
        self.priority_classes: Reflector[PriorityRow] = Reflector(
            client, names.PRIORITY_CLASSES, project_priority_class, on_change=on_change
        )
        self.deployments: ResourceCache[InferenceDeployment] = ResourceCache(
            client, names.INFERENCE_DEPLOYMENTS, InferenceDeployment.parse, on_change
        )
        self.pools: ResourceCache[AcceleratorPool] = ResourceCache(
            client, names.ACCELERATOR_POOLS, AcceleratorPool.parse, on_change
        )
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def reflectors(self) -> dict[str, Reflector[Any]]:
        """The reflectors by the name of what they hold."""
        return {
            "pods": self.pods,
            "nodes": self.nodes,
            "namespaces": self.namespaces,
            "priorityclasses": self.priority_classes,
        }

    def start(self) -> None:
        """Start to list and watch."""
        self._tasks = [
            *(
                asyncio.create_task(reflector.run(), name=f"reflect {name}")
                for name, reflector in self.reflectors.items()
            ),
            asyncio.create_task(self.deployments.relist_forever(), name="relist inferencedeployments"),
            asyncio.create_task(self.pools.relist_forever(), name="relist acceleratorpools"),
        ]

    async def stop(self) -> None:
        """Stop to watch."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_synced(self) -> None:
        """Wait until every cache has had its first complete list."""
        await asyncio.gather(
            *(reflector.synced.wait() for reflector in self.reflectors.values()),
            self.deployments.synced.wait(),
            self.pools.synced.wait(),
        )

    @property
    def waiting_for(self) -> list[str]:
        """Names of the caches that have not had their first complete list."""
        flags = {name: reflector.synced for name, reflector in self.reflectors.items()}
        flags |= {"inferencedeployments": self.deployments.synced, "acceleratorpools": self.pools.synced}
        return [name for name, synced in flags.items() if not synced.is_set()]

    def age_seconds(self) -> float:
        """Return how long ago the oldest of the reflectors last heard from the API server."""
        now = time.monotonic()
        ages = [reflector.age_seconds(now) for reflector in self.reflectors.values()]
        return max((age for age in ages if age is not None), default=float("inf"))

    def rows(self) -> Rows:
        """Return everything as values of this moment."""
        return Rows(
            nodes=tuple(self.nodes.store.values()),
            pods=tuple(self.pods.store.values()),
            deployments=tuple(self.deployments.objects.values()),
            pools=tuple(self.pools.objects.values()),
            namespaces=tuple(self.namespaces.store.values()),
            priority_classes=tuple(self.priority_classes.store.values()),
        )

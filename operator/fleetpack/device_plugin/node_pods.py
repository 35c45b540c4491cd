"""The API server's side: the Pods of this node and the node itself, watched, and asked for once when the watch is behind.

Only this node is watched (field selectors). The node gives its instance type, once, and the conditions that speak of health.

Failure: the watches go on by themselves; `ask` ends in `PodsUnavailableError`. A view that has not heard from the server for half
a minute is not current: from it nobody may conclude that a Pod is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient, Selector, list_items
from fleetpack.cluster.errors import KubernetesError
from fleetpack.cluster.node_health import HEALTH_CONDITION
from fleetpack.cluster.reflector import Reflector, ReflectorSettings
from fleetpack.device_plugin.plugin import PodsUnavailableError
from fleetpack.device_plugin.pods import NodePod, project_node_pod

_logger = logging.getLogger(__name__)

CURRENT_SECONDS = 30.0
"""As for the operator's own caches: older ones permit no conclusions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """What is kept of the node: its health conditions, its instance type (empty: no label), what we wrote on it."""

    instance_type: str
    conditions: tuple[tuple[tuple[str, str], ...], ...]
    unhealthy_cores: str = ""
    """The annotation as it stands."""

    @property
    def health_conditions(self) -> tuple[Mapping[str, str], ...]:
        """The conditions as mappings."""
        return tuple(dict(condition) for condition in self.conditions)


class NodePods:
    """A view of one node; `reflectors` are to be run as tasks."""

    def __init__(self, client: KubernetesClient, node: str, on_change: Callable[[], None]) -> None:
        self._client = client
        self._node = node
        self._pods_of_node = Selector(fields=f"spec.nodeName={node}")
        self._pods = Reflector(
            client,
            names.PODS,
            project_node_pod,
            on_change=on_change,
            settings=ReflectorSettings(selector=self._pods_of_node),
        )
        self._nodes = Reflector(
            client,
            names.NODES,
            project_node,
            on_change=on_change,
            settings=ReflectorSettings(selector=Selector(fields=f"metadata.name={node}")),
        )
        self.reflectors = (self._pods, self._nodes)

    def cached(self) -> tuple[NodePod, ...]:
        """Return the Pods that the watch has brought, by name."""
        return tuple(sorted(self._pods.store.values(), key=lambda pod: pod.key))

    def is_current(self) -> bool:
        """Whether the watch of the Pods is complete and fresh."""
        age_seconds = self._pods.age_seconds(time.monotonic())
        return age_seconds is not None and age_seconds < CURRENT_SECONDS

    def age_seconds(self) -> float | None:
        """Return the age of the watch of the Pods; None before its first list."""
        return self._pods.age_seconds(time.monotonic())

    def node(self) -> NodeRow | None:
        """Return the node as the watch has it; None before the first list, or where there is no such node."""
        return self._nodes.store.get(("", self._node))

    async def ask(self) -> tuple[NodePod, ...]:
        """Ask the server for the Pods of the node; raises `PodsUnavailableError`."""
        try:
            page = await self._client.list_all(names.PODS, selector=self._pods_of_node)
        except KubernetesError as error:
            raise PodsUnavailableError(str(error)) from error
        pods = []
        for raw in list_items(page):
            try:
                pod = project_node_pod(raw)
            except (ValueError, KeyError, TypeError) as error:
                _logger.warning("cannot read Pod %s: %s", raw.get("metadata", {}).get("name"), error)
                continue
            if pod is not None:
                pods.append(pod)
        return tuple(sorted(pods, key=lambda pod: pod.key))


async def read_instance_type(client: KubernetesClient, node: str) -> str:
    """Return the instance type in the node's label, empty where there is none; raises `KubernetesError`."""
    raw = await client.get(f"{names.NODES}/{node}")
    return project_node(raw).instance_type


def project_node(raw: Mapping[str, Any]) -> NodeRow:
    """Return the row of a node."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return NodeRow(
        instance_type=(raw["metadata"].get("labels") or {}).get(names.INSTANCE_TYPE_LABEL, ""),
        unhealthy_cores=(raw["metadata"].get("annotations") or {}).get(names.UNHEALTHY_CORES_ANNOTATION, ""),
        conditions=tuple(
            tuple((field, str(condition.get(field, ""))) for field in ("type", "status", "reason", "message"))
            for condition in conditions
            if condition.get("type") == HEALTH_CONDITION
        ),
    )

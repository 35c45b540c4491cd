"""Follows Pods and tells of each change: who serves, where, and with which settings.

This is the simulator's own eye on the cluster, for the real-time server and the load replayer alone; it writes nothing. Lists,
watches, lost histories and broken connections are the operator's reflector's work; while the API server is away the last view stays,
and simulated replicas go on answering. A Pod that was deleted and made anew under its name is a new one, by its UID.

The Kubernetes client is loaded when a cluster is followed, not before: it costs a second of CPU and 60 MB, which a replica in its own
container neither needs nor has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetpack.cluster.api_client import KubernetesClient
    from fleetpack.cluster.reflector import Key

DEPLOYMENT_LABEL = "fleetpack.dev/deployment"
SERVING_LABEL = "fleetpack.dev/serving"
CORES_ANNOTATION = "fleetpack.dev/cores"
ALLOCATED_CORES_ANNOTATION = "fleetpack.dev/allocated-cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What matters of a Pod. `ip` is None until the Pod has one."""

    namespace: str
    name: str
    uid: str
    ip: str | None
    phase: str
    ready: bool
    terminating: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Plain values of all containers' variables together; references to Secrets and the like are left out."""


def pod_view(pod: Mapping[str, Any]) -> PodView:
    """Project a Pod as the API server gives it."""
    metadata, status, spec = pod["metadata"], pod.get("status") or {}, pod.get("spec") or {}
    environment: dict[str, str] = {}
    for container in spec.get("containers") or ():
        for variable in container.get("env") or ():
            if isinstance(variable.get("value"), str):
                environment.setdefault(variable["name"], variable["value"])
    conditions = status.get("conditions") or ()
    return PodView(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata["uid"],
        ip=status.get("podIP") or None,
        phase=status.get("phase", "Pending"),
        ready=any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions),
        terminating="deletionTimestamp" in metadata,
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        environment=environment,
    )


Listener = Callable[[PodView | None, PodView | None], None]
"""Called with the view before (None: new) and after (None: deleted)."""


class PodWatcher:
    """The Pods that match a label selector. `synced` is set once the first list has been told to the listeners."""

    def __init__(self, client: KubernetesClient, *, label_selector: str, namespace: str | None = None) -> None:
        from fleetpack.cluster.api_client import Selector, resource_path
        from fleetpack.cluster.reflector import Reflector, ReflectorSettings

        self.pods: dict[str, PodView] = {}
        """By UID."""
        self.synced = asyncio.Event()
        self._listeners: list[Listener] = []
        self._seen: list[PodView] = []
        self._reflector = Reflector(
            client,
            resource_path("v1", "pods", namespace),
            self._project,
            on_change=self._tell_seen,
            on_deleted=self._deleted,
            settings=ReflectorSettings(selector=Selector(labels=label_selector)),
        )

    def listen(self, listener: Listener) -> None:
        """Have `listener` called on every change from now on."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._reflector.run()

    def _project(self, pod: Mapping[str, Any]) -> PodView:
        view = pod_view(pod)
        # The reflector says that something changed, not what; comparing all Pods on each event would be quadratic.
        self._seen.append(view)
        return view

    def _tell_seen(self) -> None:
        seen, self._seen = self._seen, []
        for view in seen:
            before = self.pods.get(view.uid)
            if before != view and self._reflector.store.get((view.namespace, view.name)) == view:
                self.pods[view.uid] = view
                self._tell(before, view)
        self.synced.set()

    def _deleted(self, _: Key, last: PodView) -> None:
        before = self.pods.pop(last.uid, None)
        if before is not None:
            self._tell(before, None)

    def _tell(self, before: PodView | None, after: PodView | None) -> None:
        for listener in self._listeners:
            listener(before, after)


@contextlib.asynccontextmanager
async def watching(kubeconfig: Path, *, label_selector: str, namespace: str | None = None) -> AsyncIterator[PodWatcher]:
    """Give a watcher that runs as long as the context; add listeners before the first await to miss nothing."""
    from fleetpack.cluster.api_client import KubernetesClient

    async with await KubernetesClient.from_kubeconfig(kubeconfig) as client:
        watcher = PodWatcher(client, label_selector=label_selector, namespace=namespace)
        task = asyncio.create_task(watcher.run(), name=f"watch Pods {label_selector}")
        try:
            yield watcher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

"""Follows Pods through list and watch, and keeps the last known view of each: who serves, where, and with which settings.

This is the simulator's own eye on the cluster, for the real-time server and the load replayer alone; it writes nothing. It is told
of a lost history (410) by relisting, and of a broken connection by trying again after a short, growing pause, keeping its last
view meanwhile: simulated replicas go on answering while the API server is away. Pods are compared by UID, so a Pod that was
deleted and made anew under its name is a new one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from fleetpack_simulator.kubeconfig import ApiAccess

DEPLOYMENT_LABEL = "fleetpack.dev/deployment"
SERVING_LABEL = "fleetpack.dev/serving"
CORES_ANNOTATION = "fleetpack.dev/cores"
ALLOCATED_CORES_ANNOTATION = "fleetpack.dev/allocated-cores"

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_SECONDS = 5.0


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
    """Pods that match a label selector; `run()` keeps `pods` up to date until it is cancelled."""

    def __init__(self, access: ApiAccess, *, label_selector: str, namespace: str | None = None) -> None:
        self.pods: dict[str, PodView] = {}
        self.synced = asyncio.Event()
        self._access = access
        self._selector = label_selector
        self._path = f"api/v1/namespaces/{namespace}/pods" if namespace else "api/v1/pods"
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have `listener` called on every change from now on."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """List, watch, and begin again when the stream ends; returns only by cancellation."""
        pause_seconds = 0.1
        async with self._access.session() as session:
            while True:
                try:
                    version = await self._list(session)
                    pause_seconds = 0.1
                    await self._watch(session, version)
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
                    _log.warning(
                        "watching Pods: %s; trying again in %.1f s", error or type(error).__name__, pause_seconds
                    )
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(_LONGEST_PAUSE_SECONDS, pause_seconds * 2)

    async def _list(self, session: aiohttp.ClientSession) -> str:
        async with session.get(self._path, params={"labelSelector": self._selector}) as response:
            response.raise_for_status()
            content = await response.json()
        views = {view.uid: view for view in map(pod_view, content["items"])}
        for uid in [uid for uid in self.pods if uid not in views]:
            self._change(self.pods[uid], None)
        for view in views.values():
            self._change(self.pods.get(view.uid), view)
        self.synced.set()
        version: str = content["metadata"]["resourceVersion"]
        return version

    async def _watch(self, session: aiohttp.ClientSession, version: str) -> None:
        while True:
            async for event in self._events(session, version):
                kind, content = event["type"], event["object"]
                if kind == "ERROR":
                    _log.info("watching Pods: listing anew: %s", content.get("message"))
                    return
                version = content["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    continue
                view = pod_view(content)
                self._change(self.pods.get(view.uid), None if kind == "DELETED" else view)

    async def _events(self, session: aiohttp.ClientSession, version: str) -> AsyncIterator[dict[str, Any]]:
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "labelSelector": self._selector,
            "timeoutSeconds": "300",
        }
        async with session.get(self._path, params=parameters) as response:
            response.raise_for_status()
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)

    def _change(self, before: PodView | None, after: PodView | None) -> None:
        if before == after:
            return
        if after is not None:
            self.pods[after.uid] = after
        elif before is not None:
            del self.pods[before.uid]
        for listener in self._listeners:
            listener(before, after)

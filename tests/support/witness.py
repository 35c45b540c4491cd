"""A witness of one test: follows everything that changes in the cluster, and hands it to the independent checker.

Concept: four watches as the administrator, in a thread of their own, from before the test's first step to after its last. What was
seen stays, in order, so that a test can ask about the way (`was there ever`) and not only about the end. A watch tells a moment after
the API server has done it, on a busy machine seconds after: whatever is asked about the way waits until the witness has seen all that
a list shows at that moment (`catch_up`). Boundary: reads only, and asks the operator for nothing. Failure: a watch that breaks is taken
up again by a list; a witness that has nothing to say after its limit raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient
from fleetpack.cluster.api_client import KubernetesClient, let_transports_close
from fleetpack.cluster.errors import KubernetesError
from fleetpack_simulator.checking import Recorder
from fleetpack_simulator.checking.report import CheckReport

PATHS = {
    "pods": "/api/v1/pods",
    "nodes": "/api/v1/nodes",
    "inferencedeployments": "/apis/fleetpack.dev/v1alpha1/inferencedeployments",
    "acceleratorpools": "/apis/fleetpack.dev/v1alpha1/acceleratorpools",
}
DEPLOYMENT_LABEL = "fleetpack.dev/deployment"
GRACE_SECONDS = 10.0
"""How long an operator may not know of other people's changes: the checker's own two seconds are for a machine that is not busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that was seen."""

    at_seconds: float
    """On the monotonic clock."""
    kind: str
    """ADDED, MODIFIED or DELETED; a list gives ADDED."""
    resource: str
    object: dict[str, Any]

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.object["metadata"]["name"])


@dataclass(slots=True)
class Witness:
    """What was seen so far."""

    changes: list[Change] = field(default_factory=list)
    _recorder: Recorder = field(default_factory=lambda: Recorder(grace_seconds=GRACE_SECONDS))
    _listed: set[str] = field(default_factory=set)
    _ended: set[str] = field(default_factory=set)
    """The UIDs of what was there and is not any more."""
    _present: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in PATHS})
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kubeconfig: Path | None = None
    """Of the cluster that is watched; None for a witness of nothing."""

    def catch_up(self) -> None:
        """Wait until everything that the API server has done by now has been seen; one whose watch has ended knows all it will."""
        if self._kubeconfig is None:
            return
        with ApiClient(self._kubeconfig) as client:
            for resource, path in PATHS.items():
                answer = client.get(path)
                wait_for(partial(self._has_seen, resource, answer), what=f"a witness of all {resource}")

    def now_seconds(self) -> float:
        """Return the time on the clock of `Change.at_seconds`: what was done before has been seen, with an earlier time."""
        self.catch_up()
        return time.monotonic()

    def pods(self, namespace: str, deployment: str | None = None) -> list[dict[str, Any]]:
        """Return our Pods that are there, sorted by name."""
        with self._lock:
            found = [pod for pod in self._present["pods"].values() if _is_ours(pod, namespace, deployment)]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def all(self, resource: str) -> list[dict[str, Any]]:
        """Return every object of a resource that is there."""
        with self._lock:
            return list(self._present[resource].values())

    def of_pods(self, namespace: str, deployment: str | None = None) -> list[Change]:
        """Return every change of our Pods until now."""
        self.catch_up()
        with self._lock:
            changes = list(self.changes)
        return [own for own in changes if own.resource == "pods" and _is_ours(own.object, namespace, deployment)]

    def created(self, namespace: str, deployment: str | None = None) -> list[str]:
        """Return the names of all Pods that were ever created, in order; a name that came twice is there twice."""
        return [change.name for change in self.of_pods(namespace, deployment) if change.kind == "ADDED"]

    def fewest_ready(self, namespace: str, deployment: str, since_seconds: float) -> int:
        """Return the smallest number of replicas that were ready and in service at once since a moment."""
        ready: set[str] = set()
        fewest = None
        for change in self.of_pods(namespace, deployment):
            if change.at_seconds > since_seconds and fewest is None:
                fewest = len(ready)
            uid = change.object["metadata"]["uid"]
            serves = change.kind != "DELETED" and in_service(change.object)
            ready.add(uid) if serves else ready.discard(uid)
            if change.at_seconds > since_seconds:
                fewest = min(len(ready) if fewest is None else fewest, len(ready))
        return len(ready) if fewest is None else fewest

    def most_live(self, namespace: str, deployment: str) -> int:
        """Return the largest number of Pods that were neither on their way out nor failed at once."""
        live: set[str] = set()
        most = 0
        for change in self.of_pods(namespace, deployment):
            uid = change.object["metadata"]["uid"]
            here = change.kind != "DELETED" and is_live(change.object)
            live.add(uid) if here else live.discard(uid)
            most = max(most, len(live))
        return most

    def report(self) -> CheckReport:
        """Return the checker's word on all that was seen."""
        with self._lock:
            return self._recorder.report()

    def _has_seen(self, resource: str, answer: dict[str, Any]) -> bool:
        """Whether nothing of a list is news, and what it does not show is not believed to be there, unless it came since.

        Versions of one resource are compared as numbers: so Kubernetes says since 1.35, and etcd's have always been.
        """
        listed = {own["metadata"]["uid"]: _version(own) for own in answer["items"]}
        as_of = int(answer["metadata"]["resourceVersion"])
        with self._lock:
            present = {uid: _version(own) for uid, own in self._present[resource].items()}
            ended = set(self._ended)
        news = [uid for uid, version in listed.items() if uid not in ended and present.get(uid, 0) < version]
        return not news and all(uid in listed or version > as_of for uid, version in present.items())

    async def _follow(self, client: KubernetesClient, resource: str) -> None:
        while True:
            try:
                listed = await client.list_all(PATHS[resource])
                self._take_list(resource, listed["items"])
                version = listed["metadata"]["resourceVersion"]
                while True:
                    async with client.watch(PATHS[resource], version) as events:
                        async for kind, own in events:
                            version = own["metadata"]["resourceVersion"]
                            self._take(resource, kind, own)
            except KubernetesError:
                await asyncio.sleep(0.2)

    def _take_list(self, resource: str, items: list[dict[str, Any]]) -> None:
        with self._lock:
            before = self._present[resource]
            self._present[resource] = {own["metadata"]["uid"]: own for own in items}
            for uid, own in before.items():
                if uid not in self._present[resource]:
                    self._note(resource, "DELETED", own)
            for uid, own in self._present[resource].items():
                self._note(resource, "MODIFIED" if uid in before else "ADDED", own)
            self._recorder.relist(resource, items, time.time())
            self._listed.add(resource)

    def _take(self, resource: str, kind: str, own: dict[str, Any]) -> None:
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            return
        with self._lock:
            if kind == "DELETED":
                self._present[resource].pop(own["metadata"]["uid"], None)
            else:
                self._present[resource][own["metadata"]["uid"]] = own
            self._note(resource, kind, own)
            self._recorder.watch_event(resource, {"type": kind, "object": own}, time.time())

    def _note(self, resource: str, kind: str, own: dict[str, Any]) -> None:
        if kind == "DELETED":
            self._ended.add(own["metadata"]["uid"])
        self.changes.append(Change(at_seconds=time.monotonic(), kind=kind, resource=resource, object=own))

    async def _run(self, kubeconfig: Path, stopping: asyncio.Event) -> None:
        async with await KubernetesClient.from_kubeconfig(kubeconfig) as client:
            tasks = [asyncio.create_task(self._follow(client, resource)) for resource in PATHS]
            await stopping.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # What the cancelled watches have aborted while the client closed.
        await let_transports_close()

    @property
    def complete(self) -> bool:
        """Whether everything has been listed once."""
        return len(self._listed) == len(PATHS)


@contextlib.contextmanager
def witnessing(kubeconfig: Path) -> Iterator[Witness]:
    """Watch while the block runs."""
    witness, loop, stopping = Witness(_kubeconfig=kubeconfig), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(witness._run(kubeconfig, stopping)), daemon=True)
    thread.start()
    try:
        wait_for(lambda: witness.complete, what="a witness that has seen the cluster")
        yield witness
        witness.catch_up()
    finally:
        witness._kubeconfig = None
        loop.call_soon_threadsafe(stopping.set)
        thread.join(timeout=60.0)
        loop.close()


def _version(own: dict[str, Any]) -> int:
    return int(own["metadata"]["resourceVersion"])


def _is_ours(pod: dict[str, Any], namespace: str, deployment: str | None) -> bool:
    label = pod["metadata"].get("labels", {}).get(DEPLOYMENT_LABEL)
    return pod["metadata"]["namespace"] == namespace and label is not None and label == (deployment or label)


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the Pod is Ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(own["type"] == "Ready" and own["status"] == "True" for own in conditions)


def is_live(pod: dict[str, Any]) -> bool:
    """Whether the Pod serves or will serve: neither draining, nor on its way out, nor failed."""
    serving = pod["metadata"].get("labels", {}).get("fleetpack.dev/serving") == "true"
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return serving and not ended and "deletionTimestamp" not in pod["metadata"]


def in_service(pod: dict[str, Any]) -> bool:
    """Whether the Pod is ready, in its Service, and stays."""
    return is_live(pod) and is_ready(pod)

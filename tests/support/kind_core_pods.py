"""Pods that hold Neuron cores on real nodes, and what they and everybody else say of their cores.

Concept: `core_pod` is a Pod whose container holds its cores alone (kind_programs/core_holder.py); `CorePods` makes, reads and removes
them in one namespace. `visible_cores_inside` is what `kubectl exec` shows in any replica. Boundary: reads; compares only through
`core_timeline`. Failure: what does not come about in time fails the test with the Pod's own status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from core_timeline import CORE_RESOURCE, Views, views_of
from kind_device_plugin import LOCK_FOLDER, PROGRAMS, InstalledPlugin
from kubectl import Kubectl

Manifest = dict[str, Any]


def core_pod(plugin: InstalledPlugin, name: str, node: str, cores: Mapping[str, int], *, planned: str = "") -> Manifest:
    """Return a Pod that asks for cores of a node (or whole devices, by resource), and holds them until it is deleted."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"fleetpack.dev/cores": planned} if planned else {}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            # They talk to nobody, and a network of its own is a good part of what a Pod costs to start and to end.
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 10,
            "containers": [
                {
                    "name": "server",
                    "image": plugin.image,
                    "command": ["python3", "-S", "-c", (PROGRAMS / "core_holder.py").read_text()],
                    "env": [
                        {"name": "CORES_PER_DEVICE", "value": str(plugin.cores_per_device)},
                        {"name": "CORE_NUMBERING", "value": plugin.core_numbering},
                    ],
                    "resources": {"limits": {resource: str(count) for resource, count in cores.items()}},
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "locks", "mountPath": "/locks"}],
                }
            ],
            "volumes": [{"name": "locks", "hostPath": {"path": LOCK_FOLDER, "type": "DirectoryOrCreate"}}],
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePods:
    """The Pods of one test, on one node."""

    plugin: InstalledPlugin
    client: ApiClient
    namespace: str
    node: str

    @property
    def path(self) -> str:
        """The collection."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def create(
        self, name: str, count: int, *, planned: str = "", resource: str = CORE_RESOURCE, **spec: Any
    ) -> Manifest:
        """Create a Pod on this node; further arguments become fields of its spec."""
        pod = core_pod(self.plugin, name, self.node, {resource: count}, planned=planned)
        pod["spec"] |= spec
        return self.client.create(self.path, pod)

    def get(self, name: str) -> Manifest:
        """Return a Pod."""
        return self.client.get(f"{self.path}/{name}")

    def delete(self, name: str) -> None:
        """Delete a Pod and go on."""
        self.client.delete(f"{self.path}/{name}")

    def delete_all(self) -> None:
        """Delete every Pod and wait until the kubelet has the cores back.

        PodResources lists no Pod whose containers have ended, half a second or more before the API server has let the Pod go; a kubelet
        that is restarted in between takes it for one that lives.
        """
        self.client.delete(self.path)
        wait_for(
            lambda: not self.client.get(self.path)["items"] and self.plugin.reading(self.node)["pod_resources"] == {},
            limit_seconds=60.0,
            what=f"a kubelet on {self.node} that has given nothing out",
        )

    def told(self, name: str) -> Manifest | None:
        """Return what the container has printed of its cores; None: nothing yet."""
        try:
            lines = self.client.request_text("GET", f"{self.path}/{name}/log?container=server").splitlines()
        except ApiError as error:
            if error.code in (400, 404, 500):
                # No container yet, none any more, or a kubelet that is away.
                return None
            raise
        found: Manifest | None = json.loads(lines[0]) if lines else None
        return found

    def views(self, name: str) -> Views:
        """Return what everybody says of a Pod now."""
        return views_of(
            self.get(name),
            self.plugin.reading(self.node),
            self.told(name),
            cores_per_device=self.plugin.cores_per_device,
            numbering=self.plugin.core_numbering,
        )

    def agreed_cores(self, name: str, *, within_seconds: float = 40.0) -> frozenset[int]:
        """Return a Pod's cores once kubelet checkpoint, PodResources, environment and annotation agree on them."""
        deadline_seconds = time.monotonic() + within_seconds
        while not (views := self.views(name)).agree:
            pod = self.get(name)
            assert pod["status"]["phase"] != "Failed", f"{name}: {pod['status'].get('message')}"
            assert time.monotonic() < deadline_seconds, f"{name}: {views}, status {pod['status']}"
            time.sleep(0.1)
        assert views.environment is not None
        return views.environment


def visible_cores_inside(kubectl: Kubectl, namespace: str, pod: str, container: str) -> str:
    """Return what `kubectl exec` shows as NEURON_RT_VISIBLE_CORES in a container."""
    return kubectl.read(
        "-n", namespace, "exec", pod, "-c", container, "--", "printenv", "NEURON_RT_VISIBLE_CORES"
    ).strip()

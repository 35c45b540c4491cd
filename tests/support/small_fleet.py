"""One test's own corner of the cluster: a namespace, its pools and nodes, its models; what people do to them and what they read.

Concept: everything is made under names that no other test has, a pool admits only the test's namespace, and all of it is gone at
the end, so that one operator serves many tests. Boundary: acts as the administrator, through the API server alone; asserts nothing.
Failure: what does not come about within its limit raises with what was seen last and the operator's own words in status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster_fixtures import WAIT_LIMIT_SECONDS, wait_for
from control_plane.api_client import ApiClient, ApiError
from simulated_nodes import SimulatedNode, create_nodes
from witness import Witness, in_service, is_live

GROUP = "/apis/fleetpack.dev/v1alpha1"
Json = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class SmallFleet:
    """What a test has of the cluster."""

    admin: ApiClient
    namespace: str
    witness: Witness
    _pools: list[str] = field(default_factory=list)
    _nodes: list[str] = field(default_factory=list)

    # -- making things

    def pool(self, name: str = "pool", **spec: Any) -> str:
        """Make a pool that only this test's models may use; simulated, of inf2.24xlarge, unless told otherwise."""
        provider = spec.pop("provider", "Simulated")
        body: Json = {"provider": provider, "instanceTypes": ["inf2.24xlarge"]}
        if provider == "Simulated":
            body["simulation"] = {"bootDelay": "0s"}
        body |= {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}, **spec}
        own = f"{self.namespace}-{name}"
        self._pools.append(own)
        manifest = {"apiVersion": "fleetpack.dev/v1alpha1", "kind": "AcceleratorPool", "metadata": {"name": own}}
        self.admin.create(f"{GROUP}/acceleratorpools", {**manifest, "spec": body})
        return own

    def nodes(self, pool: str, *names: str, **kind: Any) -> list[str]:
        """Make Ready nodes of a pool, as somebody else does for provider Static; returns their names."""
        made = [SimulatedNode(name=f"{self.namespace}-{name}", pool=pool, **kind) for name in names]
        self._nodes.extend(node.name for node in made)
        create_nodes(self.admin, *made)
        for node in made:
            wait_for(lambda name=node.name: self._schedulable(name), what=f"node {node.name}")  # type: ignore[misc]
        return [node.name for node in made]

    def static_pool(self, *names: str, **spec: Any) -> list[str]:
        """Make a Static pool of inf2.24xlarge nodes (12 cores each); returns the nodes' names."""
        return self.nodes(self.pool(provider="Static", **spec), *names)

    def deploy(self, name: str, **spec: Any) -> None:
        """Apply an InferenceDeployment: manual, two cores a replica, ready half a second after its start, unless told otherwise."""
        manifest = {
            "apiVersion": "fleetpack.dev/v1alpha1",
            "kind": "InferenceDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**deployment_spec(), **spec},
        }
        self.admin.apply(self._path(name), manifest)

    def change(self, name: str, **spec: Any) -> None:
        """Merge a change into the spec."""
        self.admin.patch(self._path(name), {"spec": spec})

    def scale(self, name: str, replicas: int) -> None:
        """Do what `kubectl scale` does."""
        self.admin.patch(f"{self._path(name)}/scale", {"spec": {"replicas": replicas}})

    def delete(self, name: str) -> None:
        """Delete an InferenceDeployment."""
        self.admin.delete(self._path(name))

    def foreign_pod(self, name: str, node: str, cores: int, annotations: dict[str, str] | None = None) -> None:
        """Put somebody else's Pod with cores on a node."""
        limits = {"aws.amazon.com/neuroncore": str(cores)}
        body: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "job", "image": "none", "resources": {"limits": limits, "requests": limits}}],
            },
        }
        self.admin.create(f"/api/v1/namespaces/{self.namespace}/pods", body)

    def lose_pod(self, pod: Json) -> None:
        """Remove a Pod as a node that is lost does, at once; it may have gone meanwhile, and its name may be another's."""
        metadata = pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            self.admin.delete(f"/api/v1/namespaces/{self.namespace}/pods/{metadata['name']}", body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    # -- reading

    def spec(self, name: str) -> Json:
        """Return the spec of a deployment."""
        spec: Json = self.admin.get(self._path(name))["spec"]
        return spec

    def status(self, name: str) -> Json:
        """Return the status of a deployment."""
        status: Json = self.admin.get(self._path(name)).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> Json:
        """Return one condition of a deployment; empty where it is not there."""
        return _condition(self.status(name), kind)

    def pool_condition(self, pool: str, kind: str) -> Json:
        """Return one condition of a pool; empty where it is not there."""
        return _condition(self.admin.get(f"{GROUP}/acceleratorpools/{pool}").get("status", {}), kind)

    def pool_shows(self, pool: str, **numbers: int) -> None:
        """Wait until a pool's status has these numbers: the operator then knows of the nodes and Pods that they count."""

        def look() -> bool:
            return numbers.items() <= self.admin.get(f"{GROUP}/acceleratorpools/{pool}").get("status", {}).items()

        self.until(look, f"status {numbers} of {pool}")

    def events(self, name: str) -> list[Json]:
        """Return the events about a deployment."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        regarding = ("InferenceDeployment", name)
        items = self.admin.get(path)["items"]
        return [own for own in items if (own["regarding"]["kind"], own["regarding"]["name"]) == regarding]

    def pods(self, name: str | None = None) -> list[Json]:
        """Return our Pods as the API server has them now."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items = self.admin.get(path)["items"]
        label = "fleetpack.dev/deployment"
        ours = [own for own in items if label in own["metadata"].get("labels", {})]
        return [own for own in ours if name in (None, own["metadata"]["labels"][label])]

    def serving(self, name: str) -> list[Json]:
        """Return the Pods that are ready, in service, and stay."""
        return [pod for pod in self.pods(name) if in_service(pod)]

    def live(self, name: str) -> list[Json]:
        """Return the Pods that serve or will serve."""
        return [pod for pod in self.pods(name) if is_live(pod)]

    def places(self, name: str) -> list[tuple[str, str]]:
        """Return node and planned cores of every Pod, sorted."""
        return sorted((node_of(pod), pod["metadata"]["annotations"]["fleetpack.dev/cores"]) for pod in self.pods(name))

    # -- waiting

    def settled(self, name: str, replicas: int, limit_seconds: float = WAIT_LIMIT_SECONDS) -> list[Json]:
        """Wait until exactly so many Pods are there, all of them serving, and return them."""

        def look() -> bool:
            pods = self.pods(name)
            return len(pods) == replicas and all(in_service(pod) for pod in pods)

        self.until(look, f"{replicas} serving replicas of {name}, and no other Pod", name, limit_seconds)
        return self.pods(name)

    def until(
        self, condition: Callable[[], Any], what: str, name: str = "", limit_seconds: float = WAIT_LIMIT_SECONDS
    ) -> Any:
        """Wait for a condition; a failure shows what was seen last."""
        try:
            return wait_for(condition, limit_seconds=limit_seconds, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe(name)}") from None

    def told(self, name: str, kind: str, **wanted: str) -> Json:
        """Wait until a condition of a deployment has these values, and return it."""

        return self.says(name, kind, "", **wanted)

    def says(self, name: str, kind: str, words: str, **wanted: str) -> Json:
        """Wait until a condition has these values and its message these words, and return it.

        Conditions come with every step of the way, and their words with the numbers of that step: the first one may tell of the start.
        """

        def look() -> Json | None:
            found = self.condition(name, kind)
            return found if wanted.items() <= found.items() and words in found["message"] else None

        found: Json = self.until(look, f"condition {kind} {wanted} of {name} that says {words!r}", name)
        return found

    def asks_for(self, name: str, replicas: int) -> None:
        """Wait until spec.replicas is so: it is written beside the Pods, in any order."""
        self.until(lambda: self.spec(name)["replicas"] == replicas, f"spec.replicas of {replicas}", name)

    def noted(self, name: str, reason: str) -> list[str]:
        """Wait until an event about a deployment has this reason; return the notes of all that have. It may come after the status."""
        return self.until(
            lambda: [event["note"] for event in self.events(name) if event["reason"] == reason], f"event {reason}", name
        )

    def stays(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Look again and again for a while; fail at the first time that it does not hold. A look that ends too late says nothing."""
        deadline = time.monotonic() + seconds
        while (holds := condition()) or time.monotonic() < deadline:
            assert holds, f"{what} did not last\n{self.describe('')}"
            if time.monotonic() >= deadline:
                return
            time.sleep(0.1)

    def describe(self, name: str) -> str:
        """Return Pods and status, for a failure's message."""
        pods = [
            f"  {pod['metadata']['name']} on {node_of(pod)} live={is_live(pod)} serving={in_service(pod)} "
            f"{pod['status'].get('phase')} {pod['metadata'].get('deletionTimestamp', '')}"
            for pod in self.pods()
        ]
        items = self.admin.get(f"{GROUP}/namespaces/{self.namespace}/inferencedeployments")["items"]
        texts = [
            f"  {own['metadata']['name']}: spec.replicas {own['spec']['replicas']}, status {json.dumps(own.get('status'))}"
            for own in items
            if name in ("", own["metadata"]["name"])
        ]
        return "\n".join(["Pods:", *pods, "InferenceDeployments:", *texts])

    # -- cleaning up

    def clear(self) -> None:
        """Remove everything that this test has made, and wait until it is gone."""
        self.admin.delete(f"{GROUP}/namespaces/{self.namespace}/inferencedeployments")
        wait_for(self._remove_pods, what=f"the end of all Pods in {self.namespace}")
        for pool in self._pools:
            self._delete_if_there(f"{GROUP}/acceleratorpools/{pool}")
        for node in self.admin.get("/api/v1/nodes")["items"]:
            label = node["metadata"].get("labels", {}).get("fleetpack.dev/pool")
            if label in self._pools or node["metadata"]["name"] in self._nodes:
                self._delete_if_there(f"/api/v1/nodes/{node['metadata']['name']}")

    def _remove_pods(self) -> bool:
        """Delete all Pods, and say whether none is left: an operator that has not heard of the end yet may make new ones."""
        self.admin.delete(f"/api/v1/namespaces/{self.namespace}/pods", {"gracePeriodSeconds": 0})
        return not self.pods()

    def _delete_if_there(self, path: str) -> None:
        try:
            self.admin.delete(path)
        except ApiError as error:
            if error.code != 404:
                raise

    def _path(self, name: str) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/inferencedeployments/{name}"

    def _schedulable(self, name: str) -> bool:
        node = self.admin.get(f"/api/v1/nodes/{name}")
        ready = any(own["type"] == "Ready" and own["status"] == "True" for own in node["status"].get("conditions", ()))
        taints = [taint["key"] for taint in node["spec"].get("taints", ())]
        return ready and "node.kubernetes.io/not-ready" not in taints


def deployment_spec() -> Json:
    """Return the spec that tests start from."""
    return {
        "template": template(),
        "variants": [{"name": "tp2", "accelerator": "inferentia2", "cores": 2}],
        "mode": "Manual",
        "replicas": 1,
        "disruption": {"drain": "0s"},
    }


def template(
    startup_seconds: float = 0.5, image: str = "example.com/engine:1", annotations: Mapping[str, str] | None = None
) -> Json:
    """Return a Pod template."""
    environment = {
        "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "1",
        "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
        "FLEETPACK_ENGINE_MAX_BATCH": "4",
    }
    return {
        "metadata": {
            "annotations": {"fleetpack.dev/simulated-startup-seconds": str(startup_seconds), **(annotations or {})}
        },
        "spec": {
            "containers": [
                {
                    "name": "server",
                    "image": image,
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                }
            ]
        },
    }


def variant(cores: int, accelerator: str = "inferentia2", **more: Any) -> list[Json]:
    """Return a list of one variant."""
    return [{"name": f"tp{cores}", "accelerator": accelerator, "cores": cores, **more}]


def queue_signal(url: str, stale_after: str = "3s") -> list[Json]:
    """Return a list of one signal: a queue that lies outside the Pods."""
    source = {"url": url, "jsonPath": "$.waiting"}
    return [
        {"name": "queue", "http": source, "measures": "waiting", "interval": "500ms", "staleAfter": stale_after},
    ]


def node_of(pod: Json) -> str:
    """Return the node that a Pod is planned for."""
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    node: str = required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
    return node


def _condition(status: Json, kind: str) -> Json:
    return next((own for own in status.get("conditions", ()) if own["type"] == kind), {})

"""The device plugin as the chart installs it on a kind cluster, with its kubelets: for tests on real nodes.

Concept: `InstalledPlugin` holds what the chart rendered of the plugin, and does to plugin and kubelet what happens to them in life:
restarts, ends, broken devices. A witness on each node (kind_programs/kubelet_witness.py) tells what the kubelet itself says.
Boundary: sets up, disturbs and reads; asserts nothing about the plugin. Failure: what does not come about in time fails the test with
what was waited for.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chart import rendered
from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from core_timeline import CORE_RESOURCE
from kind_fixtures import KindCluster

PROGRAMS = Path(__file__).parent / "kind_programs"
NAMESPACE = "fleetpack-conformance"
RELEASE = "conformance"
DAEMON_SET = f"{RELEASE}-fleetpack-device-plugin"
SIMULATED = ("devicePlugin.source=simulated",)
UNHEALTHY_FILE = "/etc/fleetpack-conformance/unhealthy"
"""On the node; the chart's value `devicePlugin.unhealthyFile`."""
WATCH_DELAY_SECONDS = 5.0
"""How late the plugin's watch of Pods is made."""
LOCK_FOLDER = "/run/fleetpack-conformance-locks"
NODE_STATUS_SECONDS = 40.0
"""A kubelet writes its node's status every 10 s; a busy machine takes its time."""

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPlugin:
    """Another vendor's plugin, which runs until it is let go (kind_programs/rival_plugin.py)."""

    process: subprocess.Popen[str]

    def send_again(self) -> None:
        """Send the kubelet the same list of devices once more."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        self.expect("sent")

    def expect(self, word: str) -> None:
        """Wait for a line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line == word, f"another plugin said {line!r} instead of {word!r}, exit code {self.process.poll()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPlugin:
    """The plugin on every accelerator node of a cluster."""

    cluster: KindCluster
    client: ApiClient
    image: str
    core_numbering: str
    cores_per_device: int
    manifests: list[Manifest]
    """What the chart rendered of the plugin."""

    def make_api_late(self) -> None:
        """Roll the plugin out anew with a slow way to the API server: its watch of Pods is 5 s late from then on."""
        late = kubernetes_list(behind_late_api(self.manifests))
        applied = self.cluster.kubectl.run("apply", "--server-side", "--filename=-", manifest=late)
        assert applied.returncode == 0, applied.stderr
        self.cluster.kubectl.read("-n", NAMESPACE, "rollout", "status", f"daemonset/{DAEMON_SET}", "--timeout=120s")

    def pod(self, node: str) -> Manifest | None:
        """Return the plugin's Pod on a node that is not ending; None: there is none."""
        return self._daemon_pod(node, "app.kubernetes.io/component=device-plugin")

    def wait_until_registered(self, node: str) -> None:
        """Wait until the node's plugin says that the kubelet knows it."""
        wait_for(lambda: is_ready(self.pod(node)), limit_seconds=90.0, what=f"a plugin on {node} that is ready")

    def wait_for_witness(self, node: str) -> None:
        """Wait until somebody tells what the node's kubelet says."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/witness-{node}"
        wait_for(lambda: is_ready(_get(self.client, path)), limit_seconds=90.0, what=f"a witness on {node}")

    def restart(self, node: str) -> None:
        """Replace the plugin's Pod, which must be there; returns at once."""
        pod = wait_for(lambda: self.pod(node), limit_seconds=30.0, what=f"a plugin on {node} to be replaced")
        self.client.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}")

    def restart_kubelet(self, node: str) -> None:
        """Restart the node's kubelet and wait until the plugin has registered with the new one, and it has its Pods.

        Before it has them, a kubelet counts the cores of every Pod in its checkpoint as taken, also of those that are gone by now
        (UpdateAllocatedDevices in devicemanager/manager.go waits until all sources are ready), and judges new Pods by that.
        """
        before = self.registrations(node)
        self.cluster.execute(node, "systemctl", "restart", "kubelet")
        wait_for(
            lambda: self.registrations(node) > before,
            limit_seconds=60.0,
            what=f"a plugin on {node} that registers with a restarted kubelet",
        )
        pod = self.pod(node)
        assert pod is not None, f"no plugin on {node}"
        wait_for(
            lambda: pod["metadata"]["uid"] in self._pods_of_kubelet(node),
            limit_seconds=60.0,
            what=f"a kubelet on {node} that has heard of its Pods",
        )

    def registrations(self, node: str) -> float:
        """Return how often the plugin has registered its cores."""
        return self.metrics(node)[
            f'fleetpack_device_plugin_registrations_total{{outcome="ok",resource="{CORE_RESOURCE}"}}'
        ]

    def send_signal(self, node: str, name: str) -> None:
        """Send a signal to the plugin's process, from the node."""
        self.cluster.execute(node, "sh", "-c", f"kill -{name} $(pgrep --full '[f]leetpack device-plugin')")

    def say_unhealthy(self, node: str, text: str) -> None:
        """Write the file on the node that names what is out; no text: there is no such file."""
        if text:
            self.cluster.execute(node, "cp", "/dev/stdin", UNHEALTHY_FILE, input_text=f"{text}\n")
        else:
            self.cluster.execute(node, "rm", "-f", UNHEALTHY_FILE)

    def metrics(self, node: str) -> dict[str, float]:
        """Return the plugin's series and their values."""
        pod = self.pod(node)
        assert pod is not None, f"no plugin on {node}"
        lines = self._ask(pod["metadata"]["name"], "8081/proxy/metrics").splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {series: float(value) for series, _, value in pairs}

    def reading(self, node: str) -> Manifest:
        """Return what the kubelet says now."""
        found: Manifest = json.loads(self._ask(f"witness-{node}", "8099/proxy/now"))
        return found

    def history(self, node: str) -> list[Manifest]:
        """Return everything that the kubelet said since the witness started, each change once."""
        found: list[Manifest] = json.loads(self._ask(f"witness-{node}", "8099/proxy/history"))
        return found

    def call_plugin(self, node: str, resource: str, call: str, ids: list[str]) -> str:
        """Call the plugin as its kubelet would, with a resource's socket; return `OK ...` or the status and its text."""
        script = (PROGRAMS / "plugin_call.py").read_text()
        command = ("exec", f"witness-{node}", "--", "python3", "-c", script, resource.rpartition("/")[2], call, *ids)
        return self.cluster.kubectl.read("-n", NAMESPACE, *command).strip()

    @contextlib.contextmanager
    def other_plugin(self, node: str, resource: str, *devices: str) -> Iterator[OtherPlugin]:
        """Let another vendor's plugin register a resource with these devices; it ends with the block."""
        script = (PROGRAMS / "rival_plugin.py").read_text()
        command = [*self.cluster.kubectl.command, "--namespace", NAMESPACE, "exec", "--stdin", f"witness-{node}", "--"]
        command += ["python3", "-c", script, resource, *devices]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            other = OtherPlugin(process=process)
            other.expect("registered")
            yield other
        assert process.returncode == 0, f"another plugin ended with exit code {process.returncode}"

    def counted_devices(self, node: str, resource: str) -> list[str]:
        """Return the healthy devices that the kubelet counts, given out or not (GetAllocatableResources)."""
        found: dict[str, list[str]] = json.loads(self._ask(f"witness-{node}", "8099/proxy/counted"))
        return found.get(resource, [])

    def reasons_to_register(self, node: str) -> list[str]:
        """Return why the node's plugin registered each time, by its log."""
        pod = self.pod(node)
        assert pod is not None, f"no plugin on {node}"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/log?container=device-plugin"
        return re.findall(r"registering with the kubelet: (.+)", self.client.request_text("GET", path))

    def device_counts(self, node: str, resource: str) -> tuple[int, int]:
        """Return a resource's capacity and allocatable in the node's status."""
        status = self.client.get(f"/api/v1/nodes/{node}")["status"]
        return int(status["capacity"].get(resource, 0)), int(status["allocatable"].get(resource, 0))

    def wait_for_counts(self, node: str, resource: str, capacity: int, allocatable: int) -> None:
        """Wait until the node's status has these numbers."""
        wait_for(
            lambda: self.device_counts(node, resource) == (capacity, allocatable),
            limit_seconds=NODE_STATUS_SECONDS,
            what=f"{resource} on {node} with capacity {capacity} and allocatable {allocatable}",
        )

    def _pods_of_kubelet(self, node: str) -> set[str]:
        """Return the UIDs of the Pods that a kubelet knows of; one that does not answer knows of none."""
        try:
            found = self.client.get(f"/api/v1/nodes/{node}/proxy/pods")["items"]
        except ApiError as error:
            if error.code in (500, 502, 503, 504):
                return set()
            raise
        return {pod["metadata"]["uid"] for pod in found or ()}

    def _ask(self, pod: str, rest: str) -> str:
        return self.client.request_text("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{rest}")

    def _daemon_pod(self, node: str, selector: str) -> Manifest | None:
        found = self.client.get(
            f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}&fieldSelector=spec.nodeName={node}"
        )["items"]
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return alive[0] if alive else None


@contextlib.contextmanager
def installed_plugin(
    cluster: KindCluster,
    image: str,
    *settings: str,
    watched: str,
    cores_per_device: int = 2,
    source: tuple[str, ...] = SIMULATED,
) -> Iterator[InstalledPlugin]:
    """Install the plugin's part of the chart, and a witness on the node of one instance type; take all of it away in the end.

    Every machine in kind-config.yaml has two cores per device. No `source` is the chart's own default.
    """
    kubectl = cluster.kubectl
    nodes = [node for node in cluster.nodes() if not node.endswith("control-plane")]
    repository, _, tag = image.rpartition(":")
    manifests = plugin_manifests(f"image.repository={repository}", f"image.tag={tag}", *source, *settings)
    watched_node = cluster.node_of(watched)
    everything = kubernetes_list([*manifests, witness(watched_node, image)])
    numbering = "host" if "devicePlugin.coreNumbering=host" in settings else "container"
    with cluster.client() as client:
        plugin = InstalledPlugin(
            cluster=cluster, client=client, image=image, core_numbering=numbering, cores_per_device=cores_per_device,
            manifests=manifests,
        )  # fmt: skip
        try:
            _refuse_second_plugin(client)
            _ensure_namespace(client)
            applied = kubectl.run("apply", "--server-side", "--filename=-", manifest=everything)
            assert applied.returncode == 0, applied.stderr
            for node in nodes:
                plugin.wait_until_registered(node)
            plugin.wait_for_witness(watched_node)
            yield plugin
        finally:
            kubectl.run("delete", "--ignore-not-found", "--filename=-", manifest=everything)


def plugin_manifests(*settings: str) -> list[Manifest]:
    """Return what the chart renders for the plugin alone."""
    chosen = (
        "devicePlugin.enabled=true",
        "devicePlugin.maxUnavailable=100%",
        f"devicePlugin.unhealthyFile={UNHEALTHY_FILE}",
        *settings,
    )
    return [
        own
        for own in rendered(*chosen, release=RELEASE, namespace=NAMESPACE)
        if own["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "device-plugin"
    ]


def behind_late_api(manifests: list[Manifest], watch_delay_seconds: float = WATCH_DELAY_SECONDS) -> list[Manifest]:
    """Return the manifests with a slow way to the API server in the plugin's Pod (kind_programs/late_api.py)."""
    manifests = copy.deepcopy(manifests)
    [daemon_set] = [own for own in manifests if own["kind"] == "DaemonSet"]
    spec = daemon_set["spec"]["template"]["spec"]
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "late", "cluster": {"server": "http://127.0.0.1:8098"}}],
        "users": [{"name": "late", "user": {}}],
        "contexts": [{"name": "late", "context": {"cluster": "late", "user": "late"}}],
        "current-context": "late",
    }
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "late-api", "namespace": NAMESPACE},
        "data": {"kubeconfig": yaml.safe_dump(kubeconfig), "late_api.py": (PROGRAMS / "late_api.py").read_text()},
    }
    spec["volumes"].append({"name": "late-api", "configMap": {"name": "late-api"}})
    mount = {"name": "late-api", "mountPath": "/late-api"}
    [container] = spec["containers"]
    container["args"].append("--kubeconfig=/late-api/kubeconfig")
    container["volumeMounts"].append(mount)
    spec["containers"].append(
        {
            "name": "late-api",
            "image": container["image"],
            "command": ["python3", "/late-api/late_api.py"],
            "env": [
                {"name": "WATCH_DELAY_SECONDS", "value": str(watch_delay_seconds)},
                {"name": "LIST_DELAY_SECONDS", "value": "0.5"},
            ],
            "volumeMounts": [mount],
        }
    )
    return [files, *manifests]


def witness(node: str, image: str) -> Manifest:
    """Return the Pod that tells what a node's kubelet says."""
    folders = {"device-plugins": False, "pod-resources": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"witness-{node}", "namespace": NAMESPACE},
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "witness",
                    "image": image,
                    "command": ["python3", "-c", (PROGRAMS / "kubelet_witness.py").read_text()],
                    "securityContext": {"runAsUser": 0},
                    "readinessProbe": {"httpGet": {"path": "/now", "port": 8099}, "periodSeconds": 1},
                    "volumeMounts": [
                        {"name": name, "mountPath": f"/var/lib/kubelet/{name}", "readOnly": read_only}
                        for name, read_only in folders.items()
                    ],
                }
            ],
            "volumes": [{"name": name, "hostPath": {"path": f"/var/lib/kubelet/{name}"}} for name in folders],
        },
    }


def kubernetes_list(manifests: list[Manifest]) -> Manifest:
    """Return many objects as one, for kubectl."""
    return {"apiVersion": "v1", "kind": "List", "items": manifests}


def is_ready(pod: Manifest | None) -> bool:
    """Whether a Pod is there and ready."""
    conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _refuse_second_plugin(client: ApiClient) -> None:
    """Two plugins of one resource take the node from each other; no test of either would mean anything."""
    found = client.get("/apis/apps/v1/daemonsets?labelSelector=app.kubernetes.io/component=device-plugin")["items"]
    others = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found} - {(NAMESPACE, DAEMON_SET)}
    assert not others, f"another device plugin is installed: {sorted(others)}; remove it first"


def _ensure_namespace(client: ApiClient) -> None:
    if _get(client, f"/api/v1/namespaces/{NAMESPACE}") is None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        client.create("/api/v1/namespaces", body)


def _get(client: ApiClient, path: str) -> Manifest | None:
    try:
        return client.get(path)
    except ApiError as error:
        if error.code == 404:
            return None
        raise

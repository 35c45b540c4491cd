"""The chart as people install it on a kind cluster, with the example models on top: for end-to-end tests.

Concept: `KindRelease` does what docs/install.md says to do with helm and kubectl, and reads what tests compare: the Pods, the
kubelets' own lists, what a container sees. Namespaces are named as in the docs, so one cluster has one such release at a time.
Boundary: acts as the administrator, from outside the cluster; Pods are reached through the API server only. Asserts nothing about
fleetpack. Failure: a command that fails raises with its own words; what does not come about raises with what was seen last.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from chart import CHART, ROOT, helm, set_arguments
from kind_fixtures import KindCluster

T = TypeVar("T")
Json = dict[str, Any]

RELEASE = "fleetpack"
NAMESPACE = "fleetpack-system"
PLUGIN_NAMESPACE = "fleetpack-device-plugin"
MODELS = "models"
"""The namespace of the example models; it enforces the `restricted` Pod Security standard, as the release's own does."""

EXAMPLES = ROOT / "examples" / "kind"
PROGRAMS = Path(__file__).parent / "kind_programs"
SETTINGS = (
    "devicePlugin.enabled=true",
    "devicePlugin.source=simulated",
    f"devicePlugin.namespace={PLUGIN_NAMESPACE}",
    "devicePlugin.createNamespace=true",
)
HELM_LIMIT = "300s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One Pod of a model that is not on its way out."""

    name: str
    uid: str
    node: str
    planned_cores: str
    allocated_cores: str
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRelease:
    """The release and its models."""

    cluster: KindCluster

    # -- what people type

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """Run kubectl and return what it prints."""
        return self._run([*self.cluster.kubectl.command, *arguments], input_text)

    def helm(self, *arguments: str) -> str:
        """Run helm in the release's namespace and return what it prints."""
        command = [str(helm()), *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={self.cluster.kubeconfig}"]
        return self._run(command, None)

    def install(self, *settings: str) -> str:
        """Make both namespaces restricted and install the chart, with further values, all Pods ready; returns what helm says."""
        for namespace in (NAMESPACE, MODELS):
            self.kubectl("create", "namespace", namespace)
            self.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        return self._bring("install", *settings)

    def upgrade(self, *settings: str) -> str:
        """Upgrade with further values, all Pods ready."""
        return self._bring("upgrade", *settings)

    def apply_examples(self) -> str:
        """Apply the folder examples/kind; returns what kubectl says."""
        return self.kubectl("apply", f"--namespace={MODELS}", "--filename", str(EXAMPLES))

    def patch(self, model: str, **spec: Any) -> None:
        """Merge a change into a model's spec."""
        body = json.dumps({"spec": spec})
        self.kubectl("patch", "infd", model, f"--namespace={MODELS}", "--type=merge", f"--patch={body}")

    def remove(self) -> None:
        """Take everything away that the release and its tests may have left, also after a run that was killed."""
        self._ignore("delete", "infd,jobs,pods", "--all", f"--namespace={MODELS}", "--wait=false")
        self._ignore("delete", "accpool", "--all", "--wait=false")
        subprocess.run(
            [str(helm()), "uninstall", RELEASE, f"--namespace={NAMESPACE}", f"--kubeconfig={self.cluster.kubeconfig}"],
            capture_output=True,
            check=False,
        )
        names = ("inferencedeployments.fleetpack.dev", "acceleratorpools.fleetpack.dev")
        self._ignore("delete", "crd", *names, "--ignore-not-found")
        self._ignore("delete", "namespace", NAMESPACE, PLUGIN_NAMESPACE, MODELS, "--ignore-not-found")
        for node in self.cluster.nodes():
            self._ignore("uncordon", node)

    # -- what people read

    def get(self, *arguments: str) -> Json:
        """Run `kubectl get ... -o json`."""
        answer: Json = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return answer

    def pods(self, namespace: str, component: str) -> list[Json]:
        """Return the release's Pods of a component that are not on their way out, by name."""
        selector = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        items = self.get("pods", f"--namespace={namespace}", selector)["items"]
        return sorted(filter(is_live, items), key=lambda pod: str(pod["metadata"]["name"]))

    def operators(self) -> list[Json]:
        """Return the operators' Pods."""
        return self.pods(NAMESPACE, "operator")

    def plugin_on(self, node: str) -> Json:
        """Return the device plugin's Pod on a node."""
        [pod] = [pod for pod in self.pods(PLUGIN_NAMESPACE, "device-plugin") if pod["spec"]["nodeName"] == node]
        return pod

    def leader(self) -> str:
        """Return the holder of the Lease: an operator's Pod, `_`, a random word. Empty: nobody holds it."""
        return self.get("lease", RELEASE, f"--namespace={NAMESPACE}")["spec"].get("holderIdentity") or ""

    def model(self, name: str) -> Json:
        """Return an InferenceDeployment."""
        return self.get("infd", name, f"--namespace={MODELS}")

    def replicas(self, model: str) -> tuple[Replica, ...]:
        """Return the model's replicas, by name."""
        pods = self.get("pods", f"--namespace={MODELS}", f"--selector=fleetpack.dev/deployment={model}")["items"]
        return tuple(sorted((_replica(pod) for pod in pods if is_live(pod)), key=lambda replica: replica.name))

    def settled(self, model: str, count: int, limit_seconds: float = 180.0) -> tuple[Replica, ...]:
        """Wait for exactly so many replicas, all ready and with the cores written back by the plugin."""

        def read() -> tuple[Replica, ...] | None:
            found = self.replicas(model)
            there = len(found) == count and all(replica.ready and replica.allocated_cores for replica in found)
            return found if there else None

        return eventually(read, limit_seconds=limit_seconds, what=f"{count} ready replicas of {model}", tell=self.story)

    def execute(self, namespace: str, pod: str, *command: str, input_text: str | None = None) -> str:
        """Run a command in a Pod's first container."""
        return self.kubectl("exec", "--stdin", f"--namespace={namespace}", pod, "--", *command, input_text=input_text)

    def kubelet_cores(self, node: str) -> dict[str, list[int]]:
        """Return which cores the node's kubelet says that each Pod holds (PodResources), by `namespace/name`."""
        program = (PROGRAMS / "pod_resources.py").read_text()
        plugin = self.plugin_on(node)["metadata"]["name"]
        answer: dict[str, list[int]] = json.loads(
            self.execute(PLUGIN_NAMESPACE, plugin, "python3", "-", input_text=program)
        )
        return answer

    def allocatable_cores(self) -> dict[str, str]:
        """Return the NeuronCores that each node offers, by name."""
        return {
            node["metadata"]["name"]: node["status"]["allocatable"].get("aws.amazon.com/neuroncore", "none")
            for node in self.get("nodes")["items"]
        }

    def story(self) -> str:
        """Return what a person would look at when something does not come about."""
        pods = self.kubectl("get", "pods", "--all-namespaces", "--output=wide")
        models = yaml.safe_dump([item.get("status") for item in self.get("infd", "--all-namespaces")["items"]])
        plugins = ("--selector=app.kubernetes.io/component=device-plugin", f"--namespace={PLUGIN_NAMESPACE}")
        # What is not there has no log; that is no reason to tell nothing.
        said = self.cluster.kubectl.run("logs", *plugins, "--prefix", "--timestamps", "--tail=60").stdout
        return f"{pods}\n{models}\n{said}"

    # -- how

    def _bring(self, command: str, *settings: str) -> str:
        values = set_arguments(*SETTINGS, *settings)
        return self.helm(command, RELEASE, str(CHART), *values, "--wait", f"--timeout={HELM_LIMIT}")

    def _run(self, command: list[str], input_text: str | None) -> str:
        answer = subprocess.run(
            command, input=input_text, capture_output=True, text=True, check=False, env=self.cluster.environment
        )
        if answer.returncode != 0:
            raise RuntimeError(f"{' '.join(command[:8])} failed: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout + answer.stderr

    def _ignore(self, *arguments: str) -> None:
        """Run kubectl where nothing may be there to act on."""
        self.cluster.kubectl.run(*arguments)


def is_live(pod: Json) -> bool:
    """Tell whether a Pod is not on its way out."""
    return "deletionTimestamp" not in pod["metadata"]


def is_ready(pod: Json) -> bool:
    """Tell whether a Pod is Ready."""
    conditions = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"


def _replica(pod: Json) -> Replica:
    annotations = pod["metadata"].get("annotations", {})
    return Replica(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        node=pod["spec"].get("nodeName", ""),
        planned_cores=annotations.get("fleetpack.dev/cores", ""),
        allocated_cores=annotations.get("fleetpack.dev/allocated-cores", ""),
        ready=is_ready(pod),
    )


def eventually(
    read: Callable[[], T | None],
    *,
    what: str,
    limit_seconds: float = 120.0,
    tell: Callable[[], str] = lambda: "",
) -> T:
    """Return the first truthy value of `read`, asked twice a second; `tell` is asked for more when it never comes."""
    deadline_seconds = time.monotonic() + limit_seconds
    while True:
        if value := read():
            return value
        if time.monotonic() > deadline_seconds:
            raise AssertionError(f"{what} did not come about within {limit_seconds:.0f} s\n{tell()}")
        time.sleep(0.5)


@contextmanager
def released(cluster: KindCluster) -> Iterator[KindRelease]:
    """Hold a cluster with no release on it, for one; it is left like that. The images must be there."""
    release = KindRelease(cluster=cluster)
    release.remove()
    try:
        yield release
    finally:
        release.remove()

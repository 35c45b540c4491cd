"""The kind cluster itself: what everything else in this folder stands on. Ready nodes alone can hide a broken network."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import wait_for
from control_plane.binaries import ensure
from control_plane.ports import free_ports
from control_plane.programs import Program
from kind_cluster.node_programs import folder_digest
from kind_cluster.oci_archive import ImageConfiguration, write_archive
from kind_fixtures import KindCluster
from kubectl import Kubectl

pytestmark = pytest.mark.kind

INSTANCE_TYPES = ("inf2.24xlarge", "inf2.48xlarge", "trn1.32xlarge")
IMAGE = "fleetpack.dev/kind-probe:1"
NAMESPACE = "kind-probe"
APPLICATION = "kind-probe"
SOURCE = Path(__file__).resolve().parents[1] / "support" / "kind_probe"
PROBE = Program(
    name="kind-probe",
    version=folder_digest(SOURCE)[:12],
    accepted_minors=(),
    version_arguments=(),
    module_folder=SOURCE.name,
    package=".",
    linker_flags="-s -w",
    build_core_seconds=20,
    modules_folder=SOURCE.parent,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePod:
    """A running probe."""

    name: str
    node: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """One probe on each worker, behind a Service and a headless one."""

    kubectl: Kubectl
    pods: tuple[ProbePod, ...]

    def ask(self, pod: ProbePod, *command: str) -> str:
        """Run the probe's program in a Pod."""
        return self.kubectl.read(*self._in(pod), *command).strip()

    def try_to_ask(self, pod: ProbePod, *command: str) -> str | None:
        """Run the probe's program in a Pod; None where it fails."""
        answer = self.kubectl.run(*self._in(pod), *command)
        return answer.stdout.strip() if answer.returncode == 0 else None

    def _in(self, pod: ProbePod) -> tuple[str, ...]:
        return ("-n", NAMESPACE, "exec", pod.name, "--", "/kind-probe")


def restricted_pod() -> dict[str, Any]:
    """Return a Pod template under Pod Security's `restricted`, so that every test also shows that nodes can run such Pods."""
    container = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["serve"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": APPLICATION}},
    }
    return {
        "metadata": {"labels": {"app": APPLICATION}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"fleetpack.dev/pool": "kind"},
            "topologySpreadConstraints": [spread],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


def manifest() -> dict[str, Any]:
    """Return everything that the tests look at, as one list."""
    selector = {"app": APPLICATION}
    namespace = {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    deployment = {"replicas": 3, "selector": {"matchLabels": selector}, "template": restricted_pod()}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": APPLICATION, "namespace": NAMESPACE},
            "spec": deployment,
        },
        service("web", {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]}),
        service("headless", {"selector": selector, "clusterIP": "None", "ports": [{"port": 8080}]}),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def running_pods(kubectl: Kubectl) -> tuple[ProbePod, ...]:
    columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{'\\n'}{end}"
    lines = kubectl.read("-n", NAMESPACE, "get", "pods", f"--selector=app={APPLICATION}", f"--output={columns}")
    # One that has just ended, or was just made, has no address.
    found = [words for words in map(str.split, lines.splitlines()) if len(words) == 3]
    return tuple(ProbePod(name=name, node=node, address=address) for name, node, address in sorted(found))


@pytest.fixture(scope="module")
def probe_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the probe's program and nothing else."""
    root = tmp_path_factory.mktemp("probe")
    shutil.copy(ensure((PROBE,))[PROBE.name], root / PROBE.name)
    return root


@pytest.fixture(scope="module")
def probes(kind_cluster: KindCluster, probe_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probes]:
    archive = tmp_path_factory.mktemp("archive") / "probe.tar"
    write_archive(archive, probe_root, ImageConfiguration(reference=IMAGE, entrypoint=("/kind-probe",)))
    kind_cluster.load_archive(archive)
    kubectl = kind_cluster.kubectl
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    applied = kubectl.run("apply", "-f", "-", manifest=manifest())
    assert applied.returncode == 0, applied.stderr
    kubectl.read("-n", NAMESPACE, "rollout", "status", f"deployment/{APPLICATION}", "--timeout=60s")
    yield Probes(kubectl=kubectl, pods=running_pods(kubectl))
    kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


def test_should_have_one_node_of_each_instance_type_in_the_pool(kind_cluster: KindCluster) -> None:
    columns = "{.metadata.labels.node\\.kubernetes\\.io/instance-type} {.metadata.labels.fleetpack\\.dev/pool}"
    output = f"--output=jsonpath={{range .items[*]}}{columns}{{'\\n'}}{{end}}"

    lines = kind_cluster.kubectl.read("get", "nodes", "--selector=fleetpack.dev/pool", output).splitlines()

    assert sorted(lines) == [f"{instance_type} kind" for instance_type in INSTANCE_TYPES]


def test_should_run_commands_in_a_node(kind_cluster: KindCluster) -> None:
    node = kind_cluster.node_of("inf2.24xlarge")

    assert kind_cluster.execute(node, "hostname").strip() == node


def test_should_run_restricted_pods_on_every_worker(kind_cluster: KindCluster, probes: Probes) -> None:
    workers = {kind_cluster.node_of(instance_type) for instance_type in INSTANCE_TYPES}

    assert {pod.node for pod in probes.pods} == workers


def test_should_carry_packets_between_nodes_from_the_pods_own_address(probes: Probes) -> None:
    asking, *others = probes.pods

    seen = {probes.ask(asking, "get", f"http://{other.address}:8080/from") for other in others}

    assert seen == {asking.address}


def test_should_reach_every_pod_of_a_service_by_its_name(probes: Probes) -> None:
    url = f"http://web.{NAMESPACE}.svc.cluster.local/"
    answered: set[str] = set()

    def reached_all() -> bool:
        # Pods are ready before every node's kube-proxy knows of it.
        if (name := probes.try_to_ask(probes.pods[0], "get", url)) is not None:
            answered.add(name)
        return len(answered) == len(probes.pods)

    wait_for(reached_all, what="an answer of every Pod")

    assert answered == {pod.name for pod in probes.pods}


def test_should_look_up_the_pods_of_a_headless_service(probes: Probes) -> None:
    answer = probes.ask(probes.pods[0], "lookup", f"headless.{NAMESPACE}.svc.cluster.local")

    assert set(answer.split()) == {pod.address for pod in probes.pods}


def test_should_reach_the_api_server_from_a_pod(probes: Probes) -> None:
    assert probes.ask(probes.pods[-1], "dial", "kubernetes.default.svc.cluster.local:443") == ""


def test_should_hold_a_network_policy_while_it_is_there(probes: Probes) -> None:
    asking, *_, asked = probes.pods
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"app": APPLICATION}}, "policyTypes": ["Ingress"]},
    }

    def answers() -> bool:
        return probes.try_to_ask(asking, "dial", f"{asked.address}:8080") is not None

    assert answers()
    probes.kubectl.run("apply", "-f", "-", manifest=policy)
    try:
        wait_for(lambda: not answers(), what="a policy that holds")
        ready = probes.kubectl.read("-n", NAMESPACE, "rollout", "status", f"deployment/{APPLICATION}", "--timeout=5s")
    finally:
        probes.kubectl.read("-n", NAMESPACE, "delete", "networkpolicy", "closed")
    wait_for(answers, what="an answer without the policy")

    # The kubelets' probes come through all the same.
    assert "successfully rolled out" in ready


def test_should_show_a_pods_log(probes: Probes) -> None:
    logs = {pod.name: probes.kubectl.read("-n", NAMESPACE, "logs", pod.name).strip() for pod in probes.pods}

    assert logs == {pod.name: f"serving as {pod.name}" for pod in probes.pods}


def test_should_forward_a_port_to_a_pod(probes: Probes) -> None:
    port, pod = free_ports(("local",))["local"], probes.pods[0]
    command = (*probes.kubectl.command, "-n", NAMESPACE, "port-forward", f"pod/{pod.name}", f"{port}:8080")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            assert "Forwarding from" in forwarding.stdout.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                assert answer.read().decode().strip() == pod.name
        finally:
            forwarding.terminate()


def test_should_measure_pods_through_the_kubelet(kind_cluster: KindCluster, probes: Probes) -> None:
    node = probes.pods[0].node

    summary = kind_cluster.kubectl.read("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary")

    assert probes.pods[0].name in summary


def test_should_load_an_image_of_the_engine(kind_cluster: KindCluster, probe_root: Path, tmp_path: Path) -> None:
    reference = "fleetpack.dev/kind-probe:imported"
    packed = shutil.make_archive(str(tmp_path / "root"), "tar", probe_root)
    kind_cluster.run_docker("import", packed, reference)
    try:
        kind_cluster.load_image(reference)
        images = {
            node: kind_cluster.execute(node, "ctr", "--namespace=k8s.io", "images", "list", "--quiet")
            for node in kind_cluster.nodes()
        }
    finally:
        kind_cluster.run_docker("rmi", reference)

    assert [node for node, listed in images.items() if reference not in listed] == []


def test_should_drain_a_node_and_take_it_back(probes: Probes) -> None:
    # Only the probes: whatever else the session runs on the node stays.
    node = probes.pods[0].node
    try:
        probes.kubectl.read("drain", node, "--ignore-daemonsets", f"--pod-selector=app={APPLICATION}", "--timeout=30s")
        probes.kubectl.read("-n", NAMESPACE, "rollout", "status", f"deployment/{APPLICATION}", "--timeout=30s")
        nodes_then = {pod.node for pod in running_pods(probes.kubectl)}
    finally:
        probes.kubectl.read("uncordon", node)

    assert node not in nodes_then

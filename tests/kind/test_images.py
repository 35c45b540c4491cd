"""The images as containers of real Pods: what is in them, as whom they run, and an engine that starts on its own cores only."""

from __future__ import annotations

import json
import platform
import time
from typing import Any

import pytest

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient
from images_build import locks, wheels
from images_build.images import FLEETPACK, IMAGES, SIMULATED_ENGINE, Image, project_version
from kind_fixtures import KindCluster
from kind_images import KindImages
from kubectl import Kubectl

pytestmark = pytest.mark.kind

ENGINE = {
    "FLEETPACK_ENGINE_MODEL": "tiny",
    "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "1",
    "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
}
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

LOOK_AROUND = """
import importlib.metadata, importlib.util, json, os, shutil, stat

FOLDERS = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/opt/fleetpack/bin"

def setuid():
    for top, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(top, name) not in ("/proc", "/sys", "/dev")]
        for name in names:
            path = os.path.join(top, name)
            if not os.path.islink(path) and os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
                yield path

def writable(folder):
    try:
        with open(os.path.join(folder, "x"), "w"):
            return True
    except OSError:
        return False

print(json.dumps({
    "user": os.getuid(),
    "programs": [name for name in PROGRAMS if shutil.which(name, path=FOLDERS)],
    "modules": [name for name in MODULES if importlib.util.find_spec(name)],
    "setuid": list(setuid()),
    "writable": [folder for folder in ("/", "/tmp", "/opt/fleetpack", "/var") if writable(folder)],
    "distributions": {entry.name.lower().replace("_", "-"): entry.version for entry in importlib.metadata.distributions()},
}))
"""
UNWANTED_PROGRAMS = (
    "gcc",
    "cc",
    "ld",
    "as",
    "make",
    "perl",
    "apt",
    "apt-get",
    "dpkg",
    "pip",
    "pip3",
    "bash",
    "curl",
    "wget",
    "su",
    "mount",
)
UNWANTED_MODULES = (
    *("pip", "setuptools", "wheel", "ensurepip", "pytest", "mypy", "hypothesis", "ruff", "hatchling", "grpc_tools"),
    *("cryptography", "highspy", "numpy"),
)


def pod(name: str, image: str, *, environment: dict[str, str] | None = None, **container: Any) -> dict[str, Any]:
    """Return a Pod of one container that keeps the restricted Pod Security standard."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "server",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
                    "securityContext": RESTRICTED,
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    **container,
                }
            ],
        },
    }


def engine_pod(image: str, *, visible: str, cores: str = "") -> dict[str, Any]:
    """Return a replica that has the device 0, as a device plugin would hand it over."""
    environment = {**ENGINE, "NEURON_RT_VISIBLE_CORES": visible, "FLEETPACK_ENGINE_CORES": cores}
    manifest = pod(
        "replica",
        image,
        environment=environment,
        volumeMounts=[{"name": "device", "mountPath": "/dev/neuron0"}],
        readinessProbe={"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
    )
    manifest["spec"]["volumes"] = [{"name": "device", "hostPath": {"path": "/dev/null", "type": "CharDevice"}}]
    return manifest


class Pods:
    """Pods of one namespace: made, awaited, read."""

    def __init__(self, kubectl: Kubectl, admin: ApiClient, namespace: str) -> None:
        self.kubectl = kubectl
        self._admin = admin
        self.namespace = namespace

    def create(self, manifest: dict[str, Any]) -> None:
        answer = self.kubectl.run("create", "-n", self.namespace, "-f", "-", manifest=manifest)
        assert answer.returncode == 0, answer.stderr
        assert "would violate" not in answer.stderr, answer.stderr

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return found

    def ended(self, name: str) -> dict[str, Any]:
        """Return how the Pod's container ended: exit code, message."""

        def terminated() -> dict[str, Any] | None:
            for status in self.get(name)["status"].get("containerStatuses", ()):
                found: dict[str, Any] | None = status["state"].get("terminated")
                return found
            return None

        return wait_for(terminated, limit_seconds=90, what=f"the end of Pod {name}")

    def become_ready(self, name: str) -> None:
        def ready() -> bool:
            status = self.get(name)["status"]
            assert status["phase"] in ("Pending", "Running"), status
            return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))

        wait_for(ready, limit_seconds=90, what=f"Pod {name} being ready")

    def logs(self, name: str) -> str:
        return self.kubectl.read("logs", "-n", self.namespace, name)

    def execute(self, name: str, *command: str) -> str:
        return self.kubectl.read("exec", "-n", self.namespace, name, "--", *command)


@pytest.fixture
def pods(kind_cluster: KindCluster, kind_admin: ApiClient, kind_namespace: str) -> Pods:
    return Pods(kind_cluster.kubectl, kind_admin, kind_namespace)


def reference(images: KindImages, image: Image) -> str:
    return {FLEETPACK: images.fleetpack, SIMULATED_ENGINE: images.simulated_engine}[image]


@pytest.mark.parametrize("image", IMAGES, ids=[image.name for image in IMAGES])
def test_should_run_restricted_with_the_locked_libraries_and_nothing_to_build_with(
    image: Image, kind_images: KindImages, kind_cluster: KindCluster, pods: Pods
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    kind_cluster.kubectl.read("label", "namespace", pods.namespace, label)
    program = f"PROGRAMS, MODULES = {UNWANTED_PROGRAMS!r}, {UNWANTED_MODULES!r}\n{LOOK_AROUND}"

    pods.create(pod("look", reference(kind_images, image), command=["python3", "-c", program]))

    assert pods.ended("look")["exitCode"] == 0, pods.logs("look")
    assert json.loads(pods.logs("look")) == {
        "user": 65532,
        "programs": [],
        "modules": [],
        "setuid": [],
        "writable": [],
        "distributions": {**locked_versions(image), "fleetpack": project_version()},
    }


def locked_versions(image: Image) -> dict[str, str]:
    """Return what an image should hold: its part of requirements.lock."""
    entries = locks.entries(wheels.lock_of(wheels.prepare(platform.machine()), image))
    return {name: blocks[0].split("==")[1].split()[0] for name, blocks in entries.items()}


def test_should_answer_with_its_version(kind_images: KindImages, pods: Pods) -> None:
    pods.create(pod("version", kind_images.fleetpack, args=["--version"]))

    assert pods.ended("version")["exitCode"] == 0
    assert pods.logs("version") == f"fleetpack, version {project_version()}\n"


def test_should_be_a_replica_on_its_cores_and_end_cleanly_when_told_to(kind_images: KindImages, pods: Pods) -> None:
    pods.create(engine_pod(kind_images.simulated_engine, visible="0-1", cores="2"))
    pods.become_ready("replica")

    cores = pods.execute("replica", "printenv", "NEURON_RT_VISIBLE_CORES")
    metrics = pods.execute(
        "replica",
        "python3",
        "-c",
        "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())",
    )
    start = time.monotonic()
    pods.execute("replica", "sh", "-c", "kill -TERM 1")
    ended = pods.ended("replica")

    assert cores == "0-1\n"
    assert 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 0' in metrics
    assert ended["exitCode"] == 0
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("visible", "cores", "message"),
    [
        ("", "2", "NEURON_RT_VISIBLE_CORES is not set: this container was given no cores"),
        ("0-1", "8", "the replica is made for 8 cores (FLEETPACK_ENGINE_CORES), and the container was given 2"),
        ("2-3", "2", "NEURON_RT_VISIBLE_CORES is '2-3', but /dev/neuron0 with 2 cores each have the cores 0-1"),
    ],
    ids=["none", "another number", "on no device of the container"],
)
def test_should_refuse_to_start_without_the_right_cores(
    visible: str, cores: str, message: str, kind_images: KindImages, pods: Pods
) -> None:
    pods.create(engine_pod(kind_images.simulated_engine, visible=visible, cores=cores))

    ended = pods.ended("replica")

    assert ended["exitCode"] == 3
    assert message in ended["message"]


def test_should_refuse_to_start_without_a_device(kind_images: KindImages, pods: Pods) -> None:
    environment = {**ENGINE, "NEURON_RT_VISIBLE_CORES": "0-1"}
    pods.create(pod("replica", kind_images.simulated_engine, environment=environment))

    ended = pods.ended("replica")

    assert ended["exitCode"] == 3
    assert "there is no /dev/neuron* in this container: no device was handed to it" in ended["message"]

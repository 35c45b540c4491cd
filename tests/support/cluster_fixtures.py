"""pytest fixtures: one real control plane for a whole test run, namespaces and simulated Nodes for single tests.

Concept: the session's cluster is started by `hack/cluster` on the first test that asks for it (a fresh machine builds
the programs then, and shows how far it is), and taken down at the end. `FLEETPACK_TEST_CLUSTER=NAME` uses a cluster of
that name instead and leaves it running: quicker while one works on a test. Clusters that a killed run left behind are
removed at the next start. Tests share the cluster: each takes a namespace of its own, and removes its Nodes.
Boundary: sets up and cleans up; asserts nothing. Failure: a cluster that does not start ends the run's cluster tests
with hack/cluster's own message.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from control_plane.api_client import ApiClient, ApiError
from simulated_nodes import SimulatedNode, create_nodes

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
HACK_CLUSTER = REPOSITORY / "hack" / "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Who asked the API server to change what: `create`, `pods/binding`."""

    user: str
    verb: str
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running control plane, for tests."""

    name: str
    kubeconfig: Path
    """The administrator's; the code under test runs as a service account instead."""
    audit_log: Path
    server: str

    def client(self, kubeconfig: Path | None = None) -> ApiClient:
        """Return a new connection, as the administrator unless another kubeconfig is given."""
        return ApiClient(kubeconfig or self.kubeconfig)

    def run(self, *arguments: str) -> str:
        """Run a command of `hack/cluster` on this cluster and return what it prints."""
        return run_hack_cluster("--name", self.name, *arguments)

    def service_account_kubeconfig(self, namespace: str, name: str, *, create: bool = False) -> Path:
        """Return a kubeconfig with a token of the service account, valid for a day."""
        return Path(self.run("service-account", namespace, name, *(("--create",) if create else ())))

    def user_kubeconfig(self, user: str, *groups: str) -> Path:
        """Return a kubeconfig for a user with a client certificate."""
        return Path(self.run("user", user, *(f"--group={group}" for group in groups)))

    def binary(self, program: str) -> Path:
        """Return the path of `kubectl` or `helm` in the version that belongs to this cluster."""
        return program_path(program)

    def kubectl(self, *arguments: str, input_text: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as the administrator; the caller looks at the exit code."""
        command = [str(self.binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=input_text, capture_output=True, text=True, check=False)

    def audit_events(self, *, start_at: int = 0) -> list[dict[str, Any]]:
        """Return the audit events from a byte position of the log (see `audit_position`) to its last whole line."""
        with self.audit_log.open("rb") as file:
            file.seek(start_at)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def writes(self, *, start_at: int = 0) -> "Counter[Write]":
        """Return how often each user wrote what since the position, refused requests included."""
        return Counter(
            Write(
                user=event["user"]["username"],
                verb=event["verb"],
                resource="/".join(
                    part for part in (event["objectRef"]["resource"], event["objectRef"].get("subresource")) if part
                ),
            )
            for event in self.audit_events(start_at=start_at)
        )

    def audit_position(self) -> int:
        """Return where the audit log ends now."""
        return self.audit_log.stat().st_size


def run_hack_cluster(*arguments: str) -> str:
    """Run `hack/cluster`; what it says to people goes to the terminal, what it prints is returned."""
    command = [sys.executable, str(HACK_CLUSTER), *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"hack/cluster {' '.join(arguments)} failed with exit code {answer.returncode}")
    return answer.stdout.strip()


@cache
def program_path(program: str) -> Path:
    """Return the path of a program of the control plane; looked for once a run, because versions are asked for."""
    return Path(run_hack_cluster("binary", program))


WAIT_LIMIT_SECONDS = 120.0
"""A limit tells a failure from a wait for ever, not quick from slow: on a busy machine what takes half a second may take twenty."""


def wait_for(
    read: Callable[[], T | None], *, limit_seconds: float = WAIT_LIMIT_SECONDS, what: str = "the condition"
) -> T:
    """Return the first truthy value of `read`, asked every 50 ms."""
    deadline_seconds = time.monotonic() + limit_seconds
    while True:
        if value := read():
            return value
        if time.monotonic() > deadline_seconds:
            raise AssertionError(f"{what} did not come about within {limit_seconds:.0f} s")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return the session's control plane."""
    kept_name = os.environ.get("FLEETPACK_TEST_CLUSTER")
    name = kept_name or f"test-{os.getpid()}"
    # The first start may build for minutes: a person must see that, whatever pytest captures.
    capture = request.config.pluginmanager.getplugin("capturemanager")
    owner = () if kept_name else ("--owner", str(os.getpid()))
    with capture.global_and_fixture_disabled():
        run_hack_cluster("prune")
        run_hack_cluster("up", "--name", name, *owner)
    status = json.loads(run_hack_cluster("status", "--name", name, "--json"))
    yield Cluster(
        name=name,
        kubeconfig=Path(status["kubeconfig"]),
        audit_log=Path(status["audit_log"]),
        server=status["server"],
    )
    if not kept_name:
        run_hack_cluster("down", "--name", name)


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[ApiClient]:
    """Return a connection as the administrator."""
    with cluster.client() as client:
        yield client


@pytest.fixture
def namespace(admin: ApiClient) -> Iterator[str]:
    """Return a new namespace, ready for Pods, removed after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_for(lambda: _exists(admin, f"/api/v1/namespaces/{name}/serviceaccounts/default"), what=f"namespace {name}")
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def simulated_nodes(admin: ApiClient) -> Iterator[Callable[..., None]]:
    """Return a function that creates Nodes and waits until they are Ready; they are removed after the test."""
    created: list[SimulatedNode] = []

    def create(*nodes: SimulatedNode) -> None:
        created.extend(nodes)
        create_nodes(admin, *nodes)
        for node in nodes:
            wait_for(partial(_is_schedulable, admin, node.name), what=f"node {node.name} Ready")

    yield create
    for node in created:
        admin.delete(f"/api/v1/nodes/{node.name}")


def _exists(client: ApiClient, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


def _is_schedulable(client: ApiClient, name: str) -> bool:
    """Ready, and the controller manager has taken the taint of new Nodes away."""
    node = client.get(f"/api/v1/nodes/{name}")
    conditions = {condition["type"]: condition["status"] for condition in node["status"].get("conditions", ())}
    taints = [taint["key"] for taint in node["spec"].get("taints", ())]
    return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints

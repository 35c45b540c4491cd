"""pytest fixtures: one kind cluster, with real kubelets and containers, for a whole test run.

Concept: the session's cluster is brought up by `hack/kind` on the first test that asks for it, and taken down at the end.
`FLEETPACK_KIND_CLUSTER=NAME` uses a cluster of that name instead and leaves it running: quicker while one works on a test. Such a
cluster may also have been made by hand: then DOCKER_HOST, KUBECONFIG and KIND say where it is. Tests share the cluster: each takes
a namespace of its own, and leaves the nodes as it found them.
Boundary: sets up and cleans up; asserts nothing. Failure: without a Docker engine the tests are skipped and the run's last lines say
so (FLEETPACK_KIND_REQUIRED=1 makes that a failure); a cluster that does not start fails them with hack/kind's own message.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster_fixtures import program_path, wait_for
from control_plane.api_client import ApiClient, ApiError
from kubectl import Kubectl

REPOSITORY = Path(__file__).resolve().parents[2]
HACK_KIND = REPOSITORY / "hack" / "kind"
NOT_RUN = pytest.StashKey[str]()
NAMES_OF_THE_ENVIRONMENT = ("DOCKER_HOST", "KUBECONFIG", "KIND")
"""What `hack/kind env` prints, and what says where a cluster is that was made by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCluster:
    """A running kind cluster, for tests."""

    name: str
    kubeconfig: Path
    """The administrator's; the code under test runs as a service account instead."""
    environment: dict[str, str] = field(repr=False)
    """For programs that talk to the cluster or to its engine: the process's own with DOCKER_HOST, KUBECONFIG and KIND."""

    @property
    def kubectl(self) -> Kubectl:
        """Return kubectl as the administrator."""
        return Kubectl(command=(str(program_path("kubectl")), f"--kubeconfig={self.kubeconfig}"))

    def client(self, kubeconfig: Path | None = None) -> ApiClient:
        """Return a new connection, as the administrator unless another kubeconfig is given."""
        return ApiClient(kubeconfig or self.kubeconfig)

    def nodes(self) -> tuple[str, ...]:
        """Return the names of all nodes, which are those of their containers, in order."""
        return tuple(sorted(self.run_kind("get", "nodes").split()))

    def node_of(self, instance_type: str) -> str:
        """Return the first node with this instance type."""
        selector = f"--selector=node.kubernetes.io/instance-type={instance_type}"
        names = self.kubectl.read("get", "nodes", selector, "--output=jsonpath={.items[*].metadata.name}").split()
        assert names, f"no node of kind cluster {self.name} has the instance type {instance_type}"
        return names[0]

    def execute(self, node: str, *command: str, input_text: str | None = None) -> str:
        """Run a command inside a node's container and return what it prints."""
        return self.run_docker("exec", "--interactive", node, *command, input_text=input_text)

    def run_docker(self, *arguments: str, input_text: str | None = None) -> str:
        """Run `docker` on the cluster's engine and return what it prints."""
        return self._read("docker", *arguments, input_text=input_text)

    def run_kind(self, *arguments: str) -> str:
        """Run `kind ARGUMENTS --name CLUSTER` and return what it prints."""
        return self._read(self.environment.get("KIND") or "kind", *arguments, "--name", self.name)

    def load_image(self, *references: str) -> None:
        """Copy images that the engine has to every node."""
        self.run_kind("load", "docker-image", *references)

    def load_archive(self, archive: Path) -> None:
        """Copy the images of an archive (`docker save`, or OCI) to every node."""
        self.run_kind("load", "image-archive", str(archive))

    def _read(self, *command: str, input_text: str | None = None) -> str:
        answer = subprocess.run(
            command, input=input_text, capture_output=True, text=True, check=False, env=self.environment
        )
        if answer.returncode != 0:
            told = answer.stderr.strip() or answer.stdout.strip()
            raise RuntimeError(f"{' '.join(command)} failed with exit code {answer.returncode}: {told}")
        return answer.stdout


@pytest.fixture(scope="session")
def kind_cluster(request: pytest.FixtureRequest) -> Iterator[KindCluster]:
    """Return the session's kind cluster."""
    kept_name = os.environ.get("FLEETPACK_KIND_CLUSTER")
    if kept_name and is_named_by_environment():
        yield KindCluster(
            name=kept_name, kubeconfig=Path(os.environ["KUBECONFIG"]), environment=_without_proxies(dict(os.environ))
        )
        return
    name = kept_name or f"test-{os.getpid()}"
    owner = () if kept_name else ("--owner", str(os.getpid()))
    # The first start may build or fetch for minutes: a person must see that, whatever pytest captures.
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        run_hack_kind("prune")
        kubeconfig = Path(run_hack_kind("up", "--name", name, *owner))
    yield KindCluster(name=name, kubeconfig=kubeconfig, environment=_without_proxies(hack_kind_environment(name)))
    if not kept_name:
        run_hack_kind("down", "--name", name)


@pytest.fixture
def kind_admin(kind_cluster: KindCluster) -> Iterator[ApiClient]:
    """Return a connection as the administrator."""
    with kind_cluster.client() as client:
        yield client


@pytest.fixture
def kind_namespace(kind_admin: ApiClient) -> Iterator[str]:
    """Return a new namespace, ready for Pods, removed after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kind_admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_for(lambda: _exists(kind_admin, account), what=f"namespace {name}")
    yield name
    kind_admin.delete(f"/api/v1/namespaces/{name}")


def run_hack_kind(*arguments: str) -> str:
    """Run `hack/kind`; what it says to people goes to the terminal, what it prints is returned."""
    command = [sys.executable, str(HACK_KIND), *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"hack/kind {' '.join(arguments)} failed with exit code {answer.returncode}")
    return answer.stdout.strip()


def hack_kind_environment(name: str) -> dict[str, str]:
    """Return this process's environment with what `hack/kind env` says of a cluster."""
    environment = dict(os.environ)
    for line in run_hack_kind("env", "--name", name).splitlines():
        variable, _, value = line.removeprefix("export ").partition("=")
        environment[variable] = value.strip("'")
    return environment


def is_named_by_environment() -> bool:
    """Tell whether the environment says all about a cluster that was made by hand."""
    return all(os.environ.get(name) for name in ("FLEETPACK_KIND_CLUSTER", *NAMES_OF_THE_ENVIRONMENT))


def engine_problem() -> str | None:
    """Return why no kind cluster can run here, or None where an engine answers."""
    if is_named_by_environment():
        return None
    command = [sys.executable, str(HACK_KIND), "engine", "status"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return None
    return answer.stderr.strip().removeprefix("kind: ") or f"hack/kind engine status: exit code {answer.returncode}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the kind suite where no engine answers; last, because what `-m` and `-k` leave out needs none."""
    wanted = [item for item in items if item.get_closest_marker("kind")]
    if not wanted or config.option.collectonly or (problem := engine_problem()) is None:
        return
    if os.environ.get("FLEETPACK_KIND_REQUIRED"):
        raise pytest.UsageError(f"the kind suite must run, and cannot: {problem}")
    config.stash[NOT_RUN] = f"The kind suite did NOT run ({len(wanted)} tests): {problem}"
    for item in wanted:
        item.add_marker(pytest.mark.skip(reason="no Docker engine: see the last lines"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run with what was left out, below everything else, where it is read."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and (told := config.stash.get(NOT_RUN, None)):
        terminal.write_line(told, yellow=True, bold=True)


def _without_proxies(environment: dict[str, str]) -> dict[str, str]:
    """Leave proxies out: kind would hand them on to the nodes, where nothing answers at such an address."""
    return {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}


def _exists(client: ApiClient, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True

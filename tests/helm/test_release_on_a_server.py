"""A release's whole life on a real API server: what installing, upgrading, rolling back and removing it do to replicas that serve.

helm is the real one, and so is the operator, which runs as the release's own service account and is started anew at each step, as the
Deployment would do. What needs containers (that the new image starts, that the Lease passes from Pod to Pod) is not shown here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from chart import CHART, ROOT, helm, set_arguments
from control_plane.api_client import ApiClient, ApiError
from installation import install
from operator_process import OperatorProcess, operator_running
from rights import wait_until_allowed
from small_fleet import GROUP, SmallFleet
from witness import witnessing

pytestmark = pytest.mark.cluster

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CALM_SECONDS = 4.0
"""Two ticks: what an operator would do to replicas after its start, it has begun by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release in a namespace of its own, both called by one name that no other run has."""

    name: str
    cluster: object
    log: Path

    def helm(self, *arguments: str) -> str:
        command = [str(helm()), *arguments, "--namespace", self.name, f"--kubeconfig={self.cluster.kubeconfig}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def apply(self, verb: str, chart: Path, *settings: str, force: bool = True) -> str:
        # The definitions and classes of a cluster for tests were there before: the release takes the first over, and leaves the others.
        settings = ("priorityClasses.create=false", *settings)
        forcing = ("--take-ownership", "--force-conflicts") if force else ()
        return self.helm(verb, self.name, str(chart), *forcing, *set_arguments(*settings))

    @contextmanager
    def operator(self, request: pytest.FixtureRequest) -> Iterator[OperatorProcess]:
        """Run an operator with the rights that the release gives now."""
        kubeconfig = self.cluster.service_account_kubeconfig(self.name, f"{self.name}-fleetpack")
        with self.cluster.client(kubeconfig) as client:
            wait_until_allowed(client, yaml.safe_load_all(self.helm("get", "manifest", self.name)))
        process = OperatorProcess(kubeconfig=kubeconfig, log=self.log, lease_name=self.name, identity="released")
        with operator_running(process, request):
            yield process


@pytest.fixture
def release(cluster, admin: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    install(admin)
    name = f"life-{uuid.uuid4().hex[:6]}"
    # As the Deployment sets it: the Lease lives where the release does, and nowhere else may the operator keep one.
    monkeypatch.setenv("POD_NAMESPACE", name)
    cluster.kubectl("create", "namespace", name)
    yield Release(name=name, cluster=cluster, log=tmp_path / "operator.log")
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    for kind in ("clusterrole", "clusterrolebinding"):
        cluster.kubectl("delete", kind, "-l", f"app.kubernetes.io/instance={name}")


@pytest.fixture
def fleet(cluster, admin: ApiClient, namespace: str, release: Release) -> Iterator[SmallFleet]:
    with witnessing(cluster.kubeconfig) as witness:
        fleet = SmallFleet(admin=admin, namespace=namespace, witness=witness)
        yield fleet
        fleet.clear()


@pytest.fixture
def next_chart(tmp_path: Path) -> Path:
    """The chart as its next version would be: other numbers, another image."""
    copy = tmp_path / "fleetpack"
    shutil.copytree(CHART, copy)
    file = copy / "Chart.yaml"
    file.write_text(file.read_text().replace("0.1.0", "0.2.0"))
    return copy


def identities(fleet: SmallFleet) -> dict[str, tuple[str, str]]:
    """Name to UID and cores of every replica that is not on its way out."""
    return {
        pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["metadata"]["annotations"]["fleetpack.dev/cores"])
        for pod in fleet.pods()
        if "deletionTimestamp" not in pod["metadata"]
    }


def test_should_never_touch_replicas_that_serve(
    release: Release, fleet: SmallFleet, admin: ApiClient, next_chart: Path, request: pytest.FixtureRequest
) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=3)
    release.apply("install", CHART)
    with release.operator(request):
        fleet.settled("chat", 3)
    before = identities(fleet)

    def replicas_stay() -> None:
        with release.operator(request):
            fleet.stays(lambda: identities(fleet) == before, CALM_SECONDS, "the same replicas")

    release.apply("upgrade", next_chart, "replicas=3", "image.tag=v9", "podLabels.team=a", "networkPolicy.enabled=true")
    assert "fleetpack-0.2.0" in release.helm("list")
    replicas_stay()
    release.helm("rollback", release.name, "1", "--force-conflicts")
    assert "fleetpack-0.1.0" in release.helm("list")
    replicas_stay()

    said = release.helm("uninstall", release.name)

    assert "resource policy" in said
    assert identities(fleet) == before
    assert fleet.spec("chat")["replicas"] == 3
    with pytest.raises(ApiError, match="NotFound"):
        admin.get(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{release.name}-fleetpack")

    release.apply("install", CHART)
    replicas_stay()
    assert admin.get(f"{GROUP}/acceleratorpools")["items"]
    release.helm("uninstall", release.name)


def pool_definition(admin: ApiClient) -> str:
    return json.dumps(admin.get(f"{DEFINITIONS}/acceleratorpools.fleetpack.dev")["spec"])


def test_should_upgrade_definitions_by_helm_alone_or_ahead_of_it_by_kubectl(
    cluster, release: Release, admin: ApiClient, next_chart: Path, tmp_path: Path
) -> None:
    newer = "A pool of the next version."
    template = next_chart / "templates" / "crds" / "fleetpack.dev_acceleratorpools.yaml"
    template.write_text(template.read_text().replace("description: ", f"description: {newer} ", 1))
    definition = tmp_path / "acceleratorpools.yaml"
    shipped = (ROOT / "crds" / "fleetpack.dev_acceleratorpools.yaml").read_text()
    definition.write_text(shipped.replace("description: ", f"description: {newer} ", 1))
    try:
        release.apply("install", CHART)
        release.apply("upgrade", next_chart)
        assert newer in pool_definition(admin)
        release.helm("rollback", release.name, "1", "--force-conflicts")
        assert newer not in pool_definition(admin)

        ahead = cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(definition))
        assert ahead.returncode == 0, ahead.stderr
        release.apply("upgrade", next_chart, "crds.enabled=false", force=False)
        assert newer in pool_definition(admin)
        release.helm("uninstall", release.name)
        assert newer in pool_definition(admin)
    finally:
        install(admin)

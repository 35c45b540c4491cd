"""What end-to-end tests share: an installed control plane, an operator for each module, and a witness that judges every test.

The operator runs as the chart's service account, never as the administrator. A module that shares one asks for `operator`; a module
whose tests kill, double or proxy theirs makes its own and never asks for it, since two that plan for one fleet under different Leases
would fight. After every test the independent checker must have found nothing, whatever the test itself looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from background import Queue
from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from installation import NAMESPACE, SERVICE_ACCOUNT, install, rendered_chart
from kubectl import Kubectl
from operator_process import Engines, OperatorProcess, operator_running
from rights import wait_until_allowed
from small_fleet import SmallFleet
from witness import Witness, witnessing


@pytest.fixture(scope="session")
def operator_kubeconfig(cluster: Cluster) -> Path:
    """Install CRDs and the chart's RBAC, and return the credentials of the operator's service account."""
    with cluster.client() as client:
        install(client)
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
    with cluster.client(kubeconfig) as client:
        wait_until_allowed(client, rendered_chart())
    return kubeconfig


@pytest.fixture(scope="module")
def operator(
    request: pytest.FixtureRequest, operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """Return the running operator that the tests of a module share."""
    module = request.module.__name__.rpartition(".")[2].replace("_", "-")
    process = OperatorProcess(
        kubeconfig=operator_kubeconfig,
        log=tmp_path_factory.mktemp("operator") / "operator.log",
        lease_name=f"{module}-{Path(tmp_path_factory.getbasetemp()).name}",
        identity="shared",
    )
    with operator_running(process, request):
        yield process
    assert process.errors() == [], process.log_end(200)


@pytest.fixture(scope="module")
def engines(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Return the process that answers for every simulated replica."""
    with Engines(kubeconfig=cluster.kubeconfig, log=tmp_path_factory.mktemp("engines") / "engines.log") as engines:
        yield engines


@pytest.fixture
def witness(cluster: Cluster) -> Iterator[Witness]:
    """Follow the cluster during the test; the checker must have found nothing at its end."""
    with witnessing(cluster.kubeconfig) as witness:
        yield witness
    assert [str(violation) for violation in witness.report().violations] == []


@pytest.fixture
def fleet(operator_kubeconfig: Path, admin: ApiClient, namespace: str, witness: Witness) -> Iterator[SmallFleet]:
    """Return the test's own corner of the cluster, cleared afterwards."""
    fleet = SmallFleet(admin=admin, namespace=namespace, witness=witness)
    yield fleet
    fleet.clear()


@pytest.fixture
def queue() -> Iterator[Queue]:
    """Return a queue outside the cluster whose length the test sets."""
    with Queue() as queue:
        yield queue


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """Return kubectl as the administrator."""
    return Kubectl(command=(str(cluster.binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}"))

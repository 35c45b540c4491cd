"""The real API server with our CRDs installed, spoken to as a person does: with kubectl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_fixtures import wait_for
from kubectl import Kubectl

if TYPE_CHECKING:
    from cluster_fixtures import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Return kubectl for a cluster that has our CRDs."""
    cache = tmp_path_factory.mktemp("kubectl-cache")
    program = str(cluster.binary("kubectl"))
    client = Kubectl(command=(program, f"--kubeconfig={cluster.kubeconfig}", f"--cache-dir={cache}"))
    client.read("apply", "-f", str(REPOSITORY / "crds"))
    # Not `kubectl wait`: it gives up on a CRD whose status is not written yet. Discovery and OpenAPI come last.
    for kind in ("infd", "accpool"):
        wait_for(lambda kind=kind: client.run("explain", f"{kind}.spec").returncode == 0, what=f"discovery of {kind}")  # type: ignore[misc]
    return client

"""The real API server with our CRDs installed, spoken to as a person does: with kubectl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kubectl import Kubectl

if TYPE_CHECKING:
    from cluster_fixtures import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """Return kubectl for a cluster that has our CRDs."""
    client = Kubectl(command=(str(cluster.binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}"))
    client.read("apply", "-f", str(REPOSITORY / "crds"))
    client.read("wait", "--for=condition=Established", "--timeout=30s", "-f", str(REPOSITORY / "crds"))
    return client

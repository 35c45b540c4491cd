"""Connections to the session's real API server: straight, and through the fault-injecting proxy."""

from collections.abc import AsyncIterator

import pytest

from cluster_fixtures import Cluster
from fault_proxy import FaultProxy
from fleetpack.cluster.api_client import KubernetesClient


@pytest.fixture
async def direct(cluster: Cluster) -> AsyncIterator[KubernetesClient]:
    """Return a client as the administrator, with TLS, and no proxy between."""
    async with await KubernetesClient.from_kubeconfig(cluster.kubeconfig) as client:
        yield client


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[FaultProxy]:
    """Return a proxy as the administrator, without faults."""
    async with FaultProxy(cluster.kubeconfig) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[KubernetesClient]:
    """Return a client that goes through the proxy."""
    async with KubernetesClient.from_url(proxy.url) as client:
        yield client

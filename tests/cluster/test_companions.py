"""What accompanies a deployment, on a real API server: what it stores is found as it was wanted; what is somebody else's stays so."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_fixtures import Cluster
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.companions import Companions
from fleetpack.cluster.errors import KubernetesError
from fleetpack.cluster.rendering import Manifest, covers, render_disruption_budget, render_service
from installation import install
from raw_objects import a_raw_resource

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: Cluster) -> None:
    with cluster.client() as client:
        install(client)


async def created(client: KubernetesClient, namespace: str) -> InferenceDeployment:
    """A deployment that the server knows: what has an owner that it does not know, its controllers remove."""
    raw = {**a_raw_resource(service={"port": 8000}), "metadata": {"name": "chat"}}
    path = f"/apis/fleetpack.dev/v1alpha1/namespaces/{namespace}/inferencedeployments"
    return InferenceDeployment.parse(await client.create(path, raw))


def service_of(resource: InferenceDeployment) -> Manifest:
    service = render_service(resource)
    assert service is not None
    return service


async def test_should_find_what_the_api_server_has_stored_as_it_was_wanted(
    direct: KubernetesClient, namespace: str
) -> None:
    resource, companions = await created(direct, namespace), Companions(direct)
    wanted = [service_of(resource), render_disruption_budget(resource, 0)]
    paths = [
        f"/api/v1/namespaces/{namespace}/services/chat",
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/chat",
    ]

    for manifest in wanted:
        await companions.ensure(resource, manifest, {}, 0.0)

    stored = [await direct.get(path) for path in paths]
    assert [covers(own, manifest) for own, manifest in zip(stored, wanted, strict=True)] == [True, True]
    assert companions.obstacles(resource) == {}


@pytest.mark.parametrize("seen", [None, "another one"])
async def test_should_not_take_what_has_come_since_the_look(
    direct: KubernetesClient, namespace: str, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource, companions = await created(direct, namespace), Companions(direct)
    collection = f"/api/v1/namespaces/{namespace}/services"
    theirs: dict[str, Any] = {"selector": {"app": "llama"}, "ports": [{"port": 80}]}
    await direct.create(collection, {"metadata": {"name": "chat"}, "spec": theirs})

    async def get(self: Companions, path: str) -> Manifest:
        if seen is None:
            return {}
        ours = service_of(resource)
        return {"metadata": {**ours["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}

    monkeypatch.setattr(Companions, "_get", get)

    with pytest.raises(KubernetesError):
        await companions.ensure(resource, service_of(resource), {}, 0.0)

    assert (await direct.get(f"{collection}/chat"))["spec"]["selector"] == {"app": "llama"}

"""What the plugin makes of writes that a real API server refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from eventually import WAIT_LIMIT_SECONDS
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.device_plugin.accounts import Holding, Reading
from fleetpack.device_plugin.comparison import PlannedPod
from fleetpack.device_plugin.metrics import PluginMetrics
from fleetpack.device_plugin.silicon import NeuronResource
from fleetpack.device_plugin.truth import TruthWriter

pytestmark = pytest.mark.cluster

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
DENIED = "annotations are frozen this week"


@pytest.fixture
def pod(admin: ApiClient, namespace: str) -> PlannedPod:
    spec = {"containers": [{"name": "server", "image": "none"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model"}, "spec": spec}
    created = admin.create(f"/api/v1/namespaces/{namespace}/pods", body)
    return PlannedPod(namespace=namespace, name="model", uid=created["metadata"]["uid"], planned=0, written=None)


@contextlib.contextmanager
def policy_that_denies(admin: ApiClient, namespace: str) -> Iterator[None]:
    """Let no Pod of the namespace be changed, from somewhere within the block on."""
    group = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec = {
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": selector},
        "validations": [{"expression": "false", "message": DENIED}],
    }
    admin.create(POLICIES, {**group, "kind": "ValidatingAdmissionPolicy", "spec": spec})
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    admin.create(BINDINGS, {**group, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding})
    try:
        yield
    finally:
        admin.delete(f"{BINDINGS}/{namespace}")
        admin.delete(f"{POLICIES}/{namespace}")


def holds(pod: PlannedPod, cores: int) -> Reading:
    holding = Holding(pod=pod.key, container="server", resource=NeuronResource.CORE, cores=cores)
    return Reading(started_at=0.0, holdings=(holding,))


def counted(metrics: PluginMetrics) -> dict[str, float]:
    """Return the outcomes of writes and how often each was."""
    found = {
        outcome: metrics.registry.get_sample_value(
            "fleetpack_device_plugin_annotation_writes_total", {"outcome": outcome}
        )
        for outcome in ("ok", "gone", "failed")
    }
    return {outcome: count for outcome, count in found.items() if count}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_should_count_a_write_that_a_policy_denies_as_failed_and_warn_of_it_once(
    pod: PlannedPod, admin: ApiClient, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = PluginMetrics()
    with policy_that_denies(admin, pod.namespace):
        async with await KubernetesClient.from_kubeconfig(cluster.kubeconfig) as client:
            truth = TruthWriter(client, "n", metrics)
            async with asyncio.timeout(WAIT_LIMIT_SECONDS):
                # A policy is in force a moment after it was made; each write is another one, or it would be let go as done.
                cores = 0
                while counted(metrics).get("failed", 0.0) < 3.0:
                    cores += 1
                    await truth.write((pod,), holds(pod, cores))
                    await asyncio.sleep(0.1)
    failed = [message for message in warnings(caplog) if message.startswith("cannot write the cores of Pod")]
    assert (len(failed), counted(metrics).get("gone")) == (1, None)
    assert failed[0].startswith(
        f"cannot write the cores of Pod {pod.key}: patch /api/v1/namespaces/{pod.namespace}/pods/model"
    )
    assert DENIED in failed[0]


async def test_should_count_a_write_as_gone_where_the_pod_is_gone_or_another_one(
    pod: PlannedPod, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = PluginMetrics()
    namesake, nobody = replace(pod, uid="11111111-2222-3333-4444-555555555555"), replace(pod, name="nobody")
    async with await KubernetesClient.from_kubeconfig(cluster.kubeconfig) as client:
        for one in (namesake, nobody):
            await TruthWriter(client, "n", metrics).write((one,), holds(one, 1))
    assert (counted(metrics), warnings(caplog)) == ({"gone": 2.0}, [])

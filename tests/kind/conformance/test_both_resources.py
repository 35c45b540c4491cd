"""Cores and whole devices over one silicon on a real kubelet, which keeps account of each resource alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient
from core_timeline import CORE_RESOURCE, DEVICE_RESOURCE, cores_of_text, double_gifts
from kind_core_pods import CorePods
from kind_device_plugin import InstalledPlugin, installed_plugin
from kind_fixtures import KindCluster
from kind_images import KindImages

pytestmark = pytest.mark.kind


@pytest.fixture(scope="module")
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    # The older numbering here, so that both are compared on real kubelets.
    settings = ("devicePlugin.wholeDevices=true", "devicePlugin.coreNumbering=host")
    with installed_plugin(kind_cluster, kind_images.fleetpack, *settings, watched="inf2.24xlarge") as installed:
        yield installed


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    node = plugin.cluster.node_of("inf2.24xlarge")
    found = CorePods(plugin=plugin, client=kind_admin, namespace=kind_namespace, node=node)
    plugin.wait_for_counts(node, DEVICE_RESOURCE, 6, 6)
    plugin.wait_for_counts(node, CORE_RESOURCE, 12, 12)
    yield found
    found.delete_all()


def test_should_count_what_is_given_out_in_both_resources(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("devices", 2, resource=DEVICE_RESOURCE)
    by_device = pods.agreed_cores("devices")
    pods.create("cores", 4)
    by_core = pods.agreed_cores("cores")

    assert (len(by_device), len(by_core)) == (4, 4)
    assert not by_device & by_core
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 8)
    plugin.wait_for_counts(pods.node, DEVICE_RESOURCE, 6, 4)
    held = min(by_device)
    answer = plugin.call_plugin(pods.node, CORE_RESOURCE, "allocate", [f"neuroncore-{held}"])
    assert answer.startswith("RESOURCE_EXHAUSTED aws.amazon.com/neuroncore: cores ")
    assert "given out through aws.amazon.com/neuron" in answer


def test_should_give_a_chip_once_when_both_are_asked_for_all_of_it_at_once(
    pods: CorePods, plugin: InstalledPlugin
) -> None:
    for name, count, resource in (("cores", 12, CORE_RESOURCE), ("devices", 6, DEVICE_RESOURCE)):
        # Bound by hand: kube-scheduler counts each resource alone, and might be told in time.
        pods.create(name, count, resource=resource, nodeName=pods.node)

    def outcome() -> dict[str, str]:
        phases = {name: pods.get(name)["status"]["phase"] for name in ("cores", "devices")}
        return phases if set(phases.values()) == {"Running", "Failed"} else {}

    phases = wait_for(outcome, limit_seconds=60.0, what="one Pod that runs and one that was refused")
    [winner] = [name for name, phase in phases.items() if phase == "Running"]

    assert pods.agreed_cores(winner) == cores_of_text("0-11")
    assert double_gifts(plugin.history(pods.node), plugin.cores_per_device) == ()


def test_should_hold_a_chip_over_restarts_of_kubelet_and_plugin(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("devices", 3, resource=DEVICE_RESOURCE)
    before = pods.agreed_cores("devices")

    plugin.restart_kubelet(pods.node)
    pods.create("next", 6, nodeName=pods.node)
    after_kubelet = pods.agreed_cores("next")
    plugin.restart(pods.node)
    plugin.wait_until_registered(pods.node)

    assert pods.agreed_cores("devices") == before
    assert pods.agreed_cores("next") == after_kubelet
    assert not before & after_kubelet
    assert double_gifts(plugin.history(pods.node), plugin.cores_per_device) == ()

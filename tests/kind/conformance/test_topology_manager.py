"""NUMA nodes told to a kubelet whose TopologyManager has a policy: it overrules plans, and what it takes is legal all the same.

The node calls itself a trn2.48xlarge, whose NUMA nodes the catalog has. The machine under the test may have but one NUMA node: the
devices of the other then align with nothing, which is the harder case. The policy is best-effort: others may fail a Pod by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane.api_client import ApiClient
from core_timeline import CORE_RESOURCE, cores_of_text
from fleetpack.catalog import load_catalog
from fleetpack.core.packing.topology import legal_masks
from fleetpack.device_plugin.sources import machine_of
from kind_core_pods import CorePods
from kind_device_plugin import InstalledPlugin, installed_plugin
from kind_fixtures import KindCluster
from kind_images import KindImages

pytestmark = pytest.mark.kind

MACHINE = machine_of(load_catalog(), "trn2.48xlarge")
KUBELET = "/var/lib/kubelet/config.yaml"


@pytest.fixture(scope="module")
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    settings = ("devicePlugin.instanceType=trn2.48xlarge", "devicePlugin.numa=true")
    with installed_plugin(
        kind_cluster, kind_images.fleetpack, *settings, watched="inf2.48xlarge", cores_per_device=4
    ) as installed:
        yield installed


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    """Pods on a node whose kubelet has the policy until the test ends."""
    node = plugin.cluster.node_of("inf2.48xlarge")
    command = f"cp {KUBELET} {KUBELET}.before && echo 'topologyManagerPolicy: best-effort' >> {KUBELET}"
    plugin.cluster.execute(node, "sh", "-c", command)
    try:
        plugin.restart_kubelet(node)
        plugin.wait_for_counts(node, CORE_RESOURCE, MACHINE.cores, MACHINE.cores)
        found = CorePods(plugin=plugin, client=kind_admin, namespace=kind_namespace, node=node)
        yield found
        found.delete_all()
    finally:
        plugin.cluster.execute(node, "mv", f"{KUBELET}.before", KUBELET)
        plugin.restart_kubelet(node)


def test_should_give_legal_ranges_under_a_topology_policy(pods: CorePods) -> None:
    near = {
        core for numa in MACHINE.numa_nodes if numa.node == 0 for device in numa.devices for core in cores_of(device)
    }
    [elsewhere, *_] = sorted(set(range(MACHINE.cores)) - near)

    pods.create("near", 16, planned="16-31")
    assert pods.agreed_cores("near") == cores_of_text("16-31")
    # Planned on the other NUMA node; the kubelet offers what it finds on one, the first.
    pods.create("far", 16, planned=f"{elsewhere}-{elsewhere + 15}")
    far = pods.agreed_cores("far")

    legal = legal_masks(MACHINE, 16)
    assert isinstance(legal, tuple)
    assert sum(1 << core for core in far) in legal
    assert far == near - cores_of_text("16-31")


def cores_of(device: int) -> range:
    return range(device * MACHINE.cores_per_device, (device + 1) * MACHINE.cores_per_device)

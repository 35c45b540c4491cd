"""NUMA nodes told to a kubelet whose TopologyManager has a policy: it overrules plans, and what it takes is legal all the same.

The node calls itself a trn2.48xlarge, whose NUMA nodes the catalog has. The machine under the test may have but one NUMA node: the
devices of the other then align with nothing, which is the harder case, and best-effort the one policy that makes sense. For
single-numa-node the kubelet is shown a machine with two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster_fixtures import wait_for
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
# Where a kubelet looks for NUMA nodes (cAdvisor, utils/sysfs): what it finds here is two, with every other CPU each.
TWO_NUMA_NODES = """
set -e
found=/sys/devices/system/node made=/run/two-numa-nodes number=0
for node in 0 1; do
  mkdir -p $made/node$node/hugepages
  cp $found/node0/meminfo $made/node$node/
done
echo 10 20 > $made/node0/distance
echo 20 10 > $made/node1/distance
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
  ln -s $cpu $made/node$((number % 2))/
  number=$((number + 1))
done
mount --bind $made $found
"""
AS_BEFORE = "umount /sys/devices/system/node; rm -rf /run/two-numa-nodes"


@pytest.fixture(scope="module")
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    settings = ("devicePlugin.instanceType=trn2.48xlarge", "devicePlugin.numa=true")
    with installed_plugin(
        kind_cluster, kind_images.fleetpack, *settings, watched="inf2.48xlarge", cores_per_device=4
    ) as installed:
        yield installed


@contextmanager
def under_policy(plugin: InstalledPlugin, client: ApiClient, namespace: str, policy: str) -> Iterator[CorePods]:
    """Give Pods on a node whose kubelet has a policy until the test ends."""
    node = plugin.cluster.node_of("inf2.48xlarge")
    command = f"cp {KUBELET} {KUBELET}.before && echo 'topologyManagerPolicy: {policy}' >> {KUBELET}"
    plugin.cluster.execute(node, "sh", "-c", command)
    try:
        plugin.restart_kubelet(node)
        plugin.wait_for_counts(node, CORE_RESOURCE, MACHINE.cores, MACHINE.cores)
        found = CorePods(plugin=plugin, client=client, namespace=namespace, node=node)
        yield found
        found.delete_all()
    finally:
        plugin.cluster.execute(node, "mv", f"{KUBELET}.before", KUBELET)
        plugin.restart_kubelet(node)


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    with under_policy(plugin, kind_admin, kind_namespace, "best-effort") as found:
        yield found


@pytest.fixture
def pods_on_two(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    node = plugin.cluster.node_of("inf2.48xlarge")
    plugin.cluster.execute(node, "sh", "-c", TWO_NUMA_NODES)
    try:
        with under_policy(plugin, kind_admin, kind_namespace, "single-numa-node") as found:
            yield found
    finally:
        plugin.cluster.execute(node, "sh", "-c", AS_BEFORE)


def test_should_give_legal_ranges_under_a_topology_policy(pods: CorePods) -> None:
    near = cores_of_numa_node(0)
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


def test_should_keep_a_pod_on_one_numa_node_or_have_it_refused(pods_on_two: CorePods) -> None:
    pods, first = pods_on_two, cores_of_numa_node(0)
    assert first == cores_of_text("16-47")

    # Each NUMA node has 32 cores, but no 32 that may serve one replica: these are 0-31 and 32-63.
    pods.create("wide-on-an-empty-node", 32, planned="0-31")
    on_empty = wait_for(lambda: failed_status(pods, "wide-on-an-empty-node"), what="a Pod that was refused")
    pods.create("planned-near", 16, planned="16-31")
    near = pods.agreed_cores("planned-near")
    # The kubelet takes the first NUMA node while there is room, whatever the plan; then it can only follow it.
    pods.create("planned-far", 16, planned="48-63")
    overruled = pods.agreed_cores("planned-far")
    pods.create("planned-far-again", 16, planned="48-63")
    followed = pods.agreed_cores("planned-far-again")
    pods.delete("planned-near")
    wait_for(lambda: free_cores(pods) == cores_of_text("0-31"), what="half of each NUMA node free")
    pods.create("wide", 32, planned="0-31")
    status = wait_for(lambda: failed_status(pods, "wide"), what="a Pod that was refused")

    assert (near, overruled, followed) == (cores_of_text("16-31"), cores_of_text("32-47"), cores_of_text("48-63"))
    assert (on_empty["reason"], status["reason"]) == ("UnexpectedAdmissionError", "TopologyAffinityError")
    refusal = "cores 16-47 may not serve one container on trn2.48xlarge: legal sets of 32 cores are 0-31, 32-63"
    assert refusal in on_empty["message"], on_empty["message"]


def free_cores(pods: CorePods) -> frozenset[int]:
    """Return the cores that no Pod holds, as the kubelet lists them."""
    held = pods.plugin.reading(pods.node)["pod_resources"].values()
    taken = {int(name.removeprefix("neuroncore-")) for names in held for name in names}
    return frozenset(set(range(MACHINE.cores)) - taken)


def failed_status(pods: CorePods, name: str) -> dict[str, str] | None:
    status: dict[str, str] = pods.get(name)["status"]
    return status if status.get("phase") == "Failed" else None


def cores_of_numa_node(number: int) -> frozenset[int]:
    devices = [device for numa in MACHINE.numa_nodes if numa.node == number for device in numa.devices]
    return frozenset(core for device in devices for core in cores_of(device))


def cores_of(device: int) -> range:
    return range(device * MACHINE.cores_per_device, (device + 1) * MACHINE.cores_per_device)

"""The chart's own source, `neuron`: the device files that a node has, made by hand here, where no driver makes them.

Nothing stands behind the files, and nothing opens them but one check: a container that may open its device hears from the kernel that
there is none (ENXIO), one that may not would hear EPERM. Everything else is as with real devices: the plugin looks into the node's
/dev, the kubelet and the container runtime pass the very files on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane.api_client import ApiClient
from core_timeline import CORE_RESOURCE, cores_of_text
from kind_core_pods import CorePods, visible_cores_inside
from kind_device_plugin import InstalledPlugin, installed_plugin
from kind_fixtures import KindCluster
from kind_images import KindImages

pytestmark = pytest.mark.kind

MACHINE = "inf2.24xlarge"
DEVICES = 6
MAJOR = 300
"""A driver's number that Linux has assigned to none (admin-guide/devices.txt), so that the files are told apart and open nothing."""
LOOK = """
import errno, os
for name in sorted(name for name in os.listdir("/dev") if name.startswith("neuron")):
    try:
        os.open("/dev/" + name, os.O_RDWR)
    except OSError as error:
        number = os.stat("/dev/" + name).st_rdev
        print(name, os.major(number), os.minor(number), errno.errorcode[error.errno])
"""


def make_device(cluster: KindCluster, node: str, device: int) -> None:
    cluster.execute(node, "mknod", f"/dev/neuron{device}", "c", str(MAJOR), str(device))


@pytest.fixture(scope="module")
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    node = kind_cluster.node_of(MACHINE)
    try:
        for device in range(DEVICES):
            make_device(kind_cluster, node, device)
        with installed_plugin(kind_cluster, kind_images.fleetpack, watched=MACHINE, source=()) as installed:
            yield installed
    finally:
        kind_cluster.execute(node, "sh", "-c", "rm -f /dev/neuron*")


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    node = plugin.cluster.node_of(MACHINE)
    found = CorePods(plugin=plugin, client=kind_admin, namespace=kind_namespace, node=node)
    yield found
    found.delete_all()


def test_should_offer_no_core_without_its_device_file(plugin: InstalledPlugin) -> None:
    [daemon_set] = [own for own in plugin.manifests if own["kind"] == "DaemonSet"]

    assert "--source=neuron" in daemon_set["spec"]["template"]["spec"]["containers"][0]["args"]
    plugin.wait_for_counts(plugin.cluster.node_of(MACHINE), CORE_RESOURCE, 12, 12)
    plugin.wait_for_counts(plugin.cluster.node_of("trn1.32xlarge"), CORE_RESOURCE, 32, 0)


def test_should_give_a_pod_the_device_files_of_its_cores(pods: CorePods, plugin: InstalledPlugin) -> None:
    pods.create("model", 4, planned="4-7")

    assert pods.agreed_cores("model") == cores_of_text("4-7")
    assert visible_cores_inside(plugin.cluster.kubectl, pods.namespace, "model", "server") == "0-3"
    command = ("-n", pods.namespace, "exec", "model", "--", "python3", "-c", LOOK)
    seen = plugin.cluster.kubectl.read(*command).splitlines()
    assert seen == [f"neuron2 {MAJOR} 2 ENXIO", f"neuron3 {MAJOR} 3 ENXIO"]


def test_should_take_a_device_out_while_its_file_is_gone(
    pods: CorePods, plugin: InstalledPlugin, kind_admin: ApiClient
) -> None:
    pods.create("model", 2, planned="10-11")
    held = pods.agreed_cores("model")

    plugin.cluster.execute(pods.node, "rm", "/dev/neuron5")
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 10)
    written = kind_admin.get(f"/api/v1/nodes/{pods.node}")["metadata"]["annotations"]["fleetpack.dev/unhealthy-cores"]
    kept = pods.agreed_cores("model")
    make_device(plugin.cluster, pods.node, 5)
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 12, 12)

    assert written == "10-11"
    assert kept == held == cores_of_text("10-11")

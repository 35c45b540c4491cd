"""The life of a release on real kubelets: installed as the docs say, loaded, broken, drained, upgraded and removed.

The tests share one release and run in the order of the file, each from the state that the one before leaves: replicas of one model that
are ready. The chart's NetworkPolicy is on, and held by the cluster's network, in all of them. What is asserted of cores is asserted
thrice: of the plan, of the kubelet's own list, and of what the container sees.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kind_fixtures import KindCluster
from kind_images import KindImages
from kind_release import (
    MODELS,
    NAMESPACE,
    PLUGIN_NAMESPACE,
    RELEASE,
    KindRelease,
    Replica,
    eventually,
    is_ready,
    released,
)
from prometheus_process import SCRAPE_SECONDS, Prometheus, prometheus_running

pytestmark = pytest.mark.kind

MODEL = "llama-1b"
LARGER_MODEL = "llama-8b"
CORES_PER_DEVICE = 2
"""Of Inferentia2, whose nodes serve the model."""
TAKEOVER_LIMIT_SECONDS = 20.0
READER = "team=monitoring"
"""The label of namespaces whose Pods may read the operator's metrics."""
# What an HTTP server says to a Pod that asks; `silence` where no packet comes back: so it is with what a policy stops.
ASK = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def answer(address):
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.settimeout(30)
            connection.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
            return connection.makefile("rb").readline().split()[1].decode()
    except TimeoutError:
        return "silence"
print(*ThreadPoolExecutor().map(answer, sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def release(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[KindRelease]:
    with released(kind_cluster) as release:
        yield release


@pytest.fixture(scope="module")
def prometheus(release: KindRelease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus_running(release.cluster.kubeconfig, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


def policy_settings(release: KindRelease) -> tuple[str, ...]:
    """Return the values of a NetworkPolicy that lets two in: readers, and the API server, through which this test's Prometheus asks."""
    server, _ = api_server(release)
    return (
        "networkPolicy.enabled=true",
        f"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.{READER}",
        f"networkPolicy.metricsFrom[1].ipBlock.cidr={server}/32",
    )


def api_server(release: KindRelease) -> tuple[str, int]:
    """Return the API server's own address and port, behind its Service."""
    found = release.get("endpointslice", "kubernetes", "--namespace=default")
    return found["endpoints"][0]["addresses"][0], found["ports"][0]["port"]


def answers(release: KindRelease, namespace: str, pod: str, addresses: list[str]) -> list[str]:
    """Return what a Pod hears from servers."""
    return release.execute(namespace, pod, "python3", "-c", ASK, *addresses).split()


def identities(replicas: tuple[Replica, ...]) -> set[tuple[str, str, str, str]]:
    """Return what must not change of replicas that are left alone."""
    return {(replica.name, replica.uid, replica.node, replica.allocated_cores) for replica in replicas}


def numbers(text: str) -> list[int]:
    """Read `0-3,8`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def seen_cores(release: KindRelease, replica: Replica) -> list[int]:
    """Return the node's cores that a container sees: NEURON_RT_VISIBLE_CORES counts over the devices that it has."""
    visible = release.execute(MODELS, replica.name, "printenv", "NEURON_RT_VISIBLE_CORES").strip()
    listed = release.execute(MODELS, replica.name, "sh", "-c", "ls -d /dev/neuron*").split()
    devices = sorted(int(name.removeprefix("/dev/neuron")) for name in listed)
    return [devices[core // CORES_PER_DEVICE] * CORES_PER_DEVICE + core % CORES_PER_DEVICE for core in numbers(visible)]


def listed_placements(release: KindRelease) -> dict[str, tuple[str, str]]:
    """Return node and cores of each Pod, as `kubectl get infd -o yaml` shows them."""
    placements = release.model(MODEL).get("status", {}).get("placements", ())
    return {placement["pod"]: (placement["node"], placement["cores"]) for placement in placements}


def answers_through_the_service(release: KindRelease, replica: Replica) -> str:
    """Return the status of one completion that a Pod asks of the model's Service."""
    program = (
        "import json, urllib.request as u;"
        f"r = u.Request('http://{MODEL}:8000/v1/completions', json.dumps({{'prompt': 'hi', 'max_tokens': 2}}).encode(),"
        " {'Content-Type': 'application/json'}); print(u.urlopen(r, timeout=30).status)"
    )
    return release.execute(MODELS, replica.name, "python3", "-c", program).strip()


def test_should_come_up_in_a_restricted_namespace_and_pass_its_own_test(release: KindRelease) -> None:
    said = release.install(*policy_settings(release))

    assert "leaves replicas running" in said
    assert len(release.operators()) == 2
    assert all(map(is_ready, release.operators()))
    assert "Phase:          Succeeded" in release.helm("test", RELEASE)
    cluster = release.cluster
    offered = {
        **dict.fromkeys(cluster.nodes(), "none"),
        cluster.node_of("inf2.24xlarge"): "12",
        cluster.node_of("inf2.48xlarge"): "24",
        cluster.node_of("trn1.32xlarge"): "32",
    }
    # A kubelet writes its node's status every ten seconds.
    eventually(
        lambda: release.allocatable_cores() == offered,
        what="every core offered",
        tell=lambda: str(release.allocatable_cores()),
    )


def test_should_scale_up_under_load_and_down_after_it(release: KindRelease) -> None:
    # Meanwhile, on a node that nobody needs now, the device plugin hangs; the next test looks what has become of it.
    release.cluster.execute(
        release.cluster.node_of("trn1.32xlarge"), "pkill", "-STOP", "--full", "fleetpack device-plugin"
    )

    release.apply_examples()

    eventually(
        lambda: sum(replica.ready for replica in release.replicas(MODEL)) >= 3,
        what="three ready replicas under load",
        limit_seconds=180.0,
        tell=release.story,
    )
    # On a busy machine the replayer is late and calls its own numbers void; that every request was answered holds all the same.
    eventually(
        lambda: {"succeeded", "failed"} & set(release.get("job", "load", f"--namespace={MODELS}")["status"]),
        limit_seconds=150.0,
        what="the end of the load",
    )
    told = release.kubectl("logs", "job/load", f"--namespace={MODELS}")
    counted = re.search(r"(\d+) of (\d+) requests completed", told)
    assert counted is not None, told
    assert counted[1] == counted[2], told
    release.settled(MODEL, 1, limit_seconds=180.0)
    events = release.kubectl("events", f"--for=infd/{MODEL}", f"--namespace={MODELS}")
    changes = {(int(was), int(now)) for was, now in re.findall(r"replicas (\d+) to (\d+):", events)}
    assert max(now for was, now in changes if now > was) >= 3, events
    assert min(now for was, now in changes if now < was) == 1, events


def test_should_have_a_plugin_that_hangs_restarted_by_its_kubelet(release: KindRelease) -> None:
    node = release.cluster.node_of("trn1.32xlarge")

    def restarts() -> int:
        [status] = release.plugin_on(node)["status"]["containerStatuses"]
        return int(status["restartCount"]) if status["ready"] else 0

    eventually(lambda: restarts() == 1, what="a plugin that was started again", tell=release.story)
    eventually(lambda: release.allocatable_cores()[node] == "32", what=f"all cores of {node} offered")


def test_should_run_replicas_on_the_very_cores_that_were_planned(release: KindRelease) -> None:
    larger = release.settled(LARGER_MODEL, 1)
    release.patch(MODEL, mode="Manual", replicas=3)

    replicas = release.settled(MODEL, 3)

    given = {replica.name: (replica.node, replica.allocated_cores) for replica in replicas}
    eventually(lambda: listed_placements(release) == given, what="the same placements in status", tell=release.story)
    # The kubelet may admit Pods of one size in another order than they were planned: then they have swapped.
    planned = sorted(replica.planned_cores for replica in replicas)
    assert planned == sorted(cores for _, cores in given.values()), release.story()
    held = {node: release.kubelet_cores(node) for node in {replica.node for replica in (*replicas, *larger)}}
    for replica in (*replicas, *larger):
        cores = numbers(replica.allocated_cores)
        assert held[replica.node][f"{MODELS}/{replica.name}"] == cores
        assert seen_cores(release, replica) == cores
    everywhere = [(replica.node, core) for replica in (*replicas, *larger) for core in numbers(replica.allocated_cores)]
    assert len(everywhere) == len(set(everywhere)) == 3 * 2 + 8
    assert answers_through_the_service(release, replicas[0]) == "200"
    # All that follows is about one model.
    release.kubectl("delete", "infd", LARGER_MODEL, f"--namespace={MODELS}")
    eventually(lambda: not release.replicas(LARGER_MODEL), what=f"no replica of {LARGER_MODEL}", tell=release.story)


def test_should_give_its_metrics_to_none_but_their_readers(release: KindRelease) -> None:
    reader = release.settled(MODEL, 3)[0].name
    stranger = release.plugin_on(release.cluster.node_of("trn1.32xlarge"))["metadata"]["name"]
    addresses = [f"{pod['status']['podIP']}:8080" for pod in release.operators()]

    before = answers(release, MODELS, reader, addresses)
    release.kubectl("label", "namespace", MODELS, READER)
    eventually(lambda: answers(release, MODELS, reader, addresses) == ["200", "200"], what="metrics for their readers")
    still = answers(release, PLUGIN_NAMESPACE, stranger, addresses)
    release.kubectl("label", "namespace", MODELS, f"{READER.partition('=')[0]}-")

    assert before == still == ["silence", "silence"]
    eventually(
        lambda: answers(release, MODELS, reader, addresses) == ["silence", "silence"], what="no metrics for strangers"
    )


def test_should_let_the_operator_out_to_replicas_and_api_server_only(release: KindRelease) -> None:
    replica = release.settled(MODEL, 3)[0]
    operator = release.operators()[0]["metadata"]["name"]
    server, port = api_server(release)
    engine = release.get("pod", replica.name, f"--namespace={MODELS}")["status"]["podIP"]
    # The control plane's kubelet is on no list: only who has no policy hears it. (Both servers speak TLS: plain HTTP is a bad request.)
    addresses = [f"{engine}:8000", f"{server}:{port}", f"{server}:10250"]

    heard = answers(release, NAMESPACE, operator, addresses)

    assert heard == ["200", "400", "silence"]
    assert answers(release, MODELS, replica.name, addresses) == ["200", "400", "400"]


def test_should_be_seen_by_prometheus_whose_alert_fires_on_a_fault_and_ends_with_it(
    release: KindRelease, prometheus: Prometheus
) -> None:
    pods = [*release.operators(), *release.pods(PLUGIN_NAMESPACE, "device-plugin")]
    eventually(
        lambda: prometheus.targets() == {pod["metadata"]["name"]: "up" for pod in pods},
        what="every operator and plugin scraped",
        tell=lambda: str(prometheus.targets()),
    )
    eventually(lambda: set(prometheus.rules().values()) == {"ok"}, what="every rule of the chart evaluated")
    ready = prometheus.query("sum by (deployment) (fleetpack_ready_replicas and on (instance) fleetpack_leader == 1)")
    assert ready == [({"deployment": f"{MODELS}/{MODEL}"}, 3.0)]
    # Before its first scrape no operator was seen to lead.
    eventually(
        lambda: prometheus.firing() == {}, what="no alert without a fault", tell=lambda: str(prometheus.firing())
    )
    node = release.cluster.node_of("trn1.32xlarge")
    plugin = release.plugin_on(node)["metadata"]["name"]

    release.execute(PLUGIN_NAMESPACE, plugin, "sh", "-c", "kill -USR1 1")

    fired = eventually(prometheus.firing, what="an alert of devices that are out")
    assert set(fired) == {"FleetpackDevicesUnhealthy"}
    assert fired["FleetpackDevicesUnhealthy"]["node"] == node
    eventually(lambda: release.allocatable_cores()[node] == "0", what=f"no allocatable core on {node}")
    release.execute(PLUGIN_NAMESPACE, plugin, "sh", "-c", "kill -USR2 1")
    eventually(lambda: prometheus.firing() == {}, what="no alert any more", tell=lambda: str(prometheus.firing()))
    eventually(lambda: release.allocatable_cores()[node] == "32", what=f"all cores of {node} back")


def test_should_alert_where_pods_are_refused_cores(release: KindRelease, prometheus: Prometheus) -> None:
    node = release.cluster.node_of("trn1.32xlarge")
    names = [f"six-{number}" for number in range(5)]

    # On this torus three devices are no set for one replica. One after the other, so that Prometheus sees the counter rise.
    for name in names:
        release.kubectl(
            "apply", f"--namespace={MODELS}", "--filename=-", input_text=json.dumps(foreign_pod(name, node, 6))
        )
        status = eventually(lambda name=name: failed_status(release, name), what=f"Pod {name} refused")  # type: ignore[misc]
        assert status["reason"] == "UnexpectedAdmissionError"
        assert "trn1.32xlarge does not support requests for 6 cores" in status["message"]
        time.sleep(SCRAPE_SECONDS / 2)

    fired = eventually(prometheus.firing, what="an alert of refused cores")
    release.kubectl("delete", "pods", *names, f"--namespace={MODELS}")
    assert set(fired) == {"FleetpackAllocationsRefused"}
    found = fired["FleetpackAllocationsRefused"]
    assert (found["node"], found["reason"]) == (node, "UnsupportedSize")


def foreign_pod(name: str, node: str, cores: int) -> dict[str, Any]:
    """Return somebody else's Pod that asks for cores, fit for a restricted namespace."""
    limits = {"aws.amazon.com/neuroncore": str(cores)}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "job", "image": "none", "resources": {"limits": limits}, "securityContext": security}
    spec = {"nodeSelector": {"kubernetes.io/hostname": node}, "restartPolicy": "Never", "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def failed_status(release: KindRelease, name: str) -> dict[str, Any] | None:
    """Return the status of a Pod that has failed."""
    status: dict[str, Any] = release.get("pod", name, f"--namespace={MODELS}")["status"]
    return status if status.get("phase") == "Failed" else None


def test_should_move_nothing_when_another_takes_over_from_a_killed_leader(release: KindRelease) -> None:
    release.patch(MODEL, mode="Manual", replicas=3)
    before = release.settled(MODEL, 3)
    leader = release.leader()
    pod = next(pod for pod in release.operators() if leader.startswith(pod["metadata"]["name"]))

    # From the node, since nothing inside a container can end its first process like this.
    release.cluster.execute(pod["spec"]["nodeName"], "pkill", "-KILL", "--full", "fleetpack operator run")
    killed_at_seconds = time.monotonic()
    release.kubectl("delete", "pod", pod["metadata"]["name"], f"--namespace={NAMESPACE}", "--force", "--grace-period=0")

    new_leader = eventually(
        lambda: found if (found := release.leader()) not in ("", leader) else None, what="another leader"
    )
    assert time.monotonic() - killed_at_seconds <= TAKEOVER_LIMIT_SECONDS
    # The standby, or the Pod that came in the killed one's place: it is there in two seconds, and a Lease lasts for fifteen.
    assert not new_leader.startswith(pod["metadata"]["name"])
    assert any(new_leader.startswith(one["metadata"]["name"]) for one in release.operators())
    # It plans, too: what is asked of it now, it does; and nothing else.
    release.patch(MODEL, replicas=4)
    after = release.settled(MODEL, 4)
    assert identities(before) < identities(after)


def test_should_empty_a_drained_node_within_the_disruption_budget(release: KindRelease) -> None:
    before = release.settled(MODEL, 4)
    node = before[0].node
    allowed = release.get("pdb", MODEL, f"--namespace={MODELS}")["spec"]["minAvailable"]
    ready_counts: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            ready_counts.append(sum(replica.ready for replica in release.replicas(MODEL)))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        release.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
        after = release.settled(MODEL, 4)
    finally:
        ended.set()
        watcher.join()
        release.kubectl("uncordon", node)

    assert node not in {replica.node for replica in after}
    stayed = {identity for identity in identities(before) if identity[2] != node}
    assert stayed <= identities(after)
    assert min(ready_counts) >= allowed
    assert len({(replica.node, core) for replica in after for core in numbers(replica.allocated_cores)}) == 8


def test_should_touch_no_replica_when_the_release_is_upgraded_and_rolled_back(release: KindRelease) -> None:
    before = release.settled(MODEL, 4)
    pods_before = {pod["metadata"]["uid"] for pod in release.operators()}

    policy = policy_settings(release)
    release.upgrade(*policy, "podLabels.team=a", "devicePlugin.podLabels.team=a", "terminationGracePeriodSeconds=45")

    upgraded = release.operators()
    assert not pods_before & {pod["metadata"]["uid"] for pod in upgraded}
    assert all(pod["metadata"]["labels"]["team"] == "a" for pod in upgraded)
    assert identities(release.settled(MODEL, 4)) == identities(before)
    release.helm("rollback", RELEASE, "1", "--wait", "--timeout=300s")
    assert all("team" not in pod["metadata"]["labels"] for pod in release.operators())
    assert identities(release.settled(MODEL, 4)) == identities(before)


def test_should_leave_replicas_serving_when_it_is_uninstalled(release: KindRelease) -> None:
    before = release.settled(MODEL, 4)

    said = release.helm("uninstall", RELEASE, "--wait")

    assert "resource policy" in said
    assert release.operators() == []
    assert identities(release.replicas(MODEL)) == identities(before)
    assert all(replica.ready for replica in release.replicas(MODEL))
    assert answers_through_the_service(release, before[0]) == "200"
    assert release.model(MODEL)["spec"]["replicas"] == 4

"""The control plane itself: real programs, real requests."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import HACK_CLUSTER, Cluster, Write, run_hack_cluster, wait_for
from control_plane.api_client import ApiClient, ApiError
from control_plane.processes import start_time
from simulated_nodes import SimulatedNode

pytestmark = pytest.mark.cluster


def pod(name: str, *, cores: int = 0, init: bool = False, **annotations: str) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "server", "image": "example"}
    if cores:
        container["resources"] = {"limits": {"aws.amazon.com/neuroncore": str(cores)}}
    spec: dict[str, Any] = {"containers": [container], "tolerations": [{"operator": "Exists"}]}
    if init:
        spec["initContainers"] = [
            {"name": "fetch", "image": "example"},
            {"name": "proxy", "image": "example", "restartPolicy": "Always"},
        ]
    prefixed = {f"fleetpack.dev/simulated-{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": prefixed},
        "spec": spec,
    }


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        (entry for entry in pod["status"].get("conditions", ()) if entry["type"] == kind), {"status": "absent"}
    )
    return found


def is_ready(client: ApiClient, path: str) -> dict[str, Any] | None:
    found = client.get(path)
    return found if condition(found, "Ready")["status"] == "True" else None


def in_phase(client: ApiClient, path: str, phase: str) -> dict[str, Any] | None:
    found = client.get(path)
    return found if found["status"]["phase"] == phase else None


def is_gone(client: ApiClient, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        return error.code == 404
    return False


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


@pytest.fixture
def pods(namespace: str, simulated_nodes: Callable[..., None]) -> str:
    """The collection of Pods of a namespace in a cluster with one simulated Node."""
    simulated_nodes(SimulatedNode(name=f"node-{namespace}"))
    return f"/api/v1/namespaces/{namespace}/pods"


def test_should_run_a_pod_after_its_start_up_delay_with_an_address_of_its_own(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("a", cores=8, startup_seconds="7.5"))

    found = wait_for(partial(is_ready, admin, f"{pods}/a"), what="Pod a Ready")

    container = found["status"]["containerStatuses"][0]
    started = seconds(found["status"]["startTime"])
    assert re.fullmatch(r"127\.10\.\d+\.\d+", found["status"]["podIP"])
    assert found["status"]["phase"] == "Running"
    assert condition(found, "ContainersReady")["status"] == "True"
    assert container["ready"]
    # Times in the API are whole seconds: 7.5 s show as 7 or 8, on a busy machine as more; a Pod without a delay of its own has 5.
    assert seconds(container["state"]["running"]["startedAt"]) - started >= 7
    assert seconds(condition(found, "Ready")["lastTransitionTime"]) - started >= 7


def test_should_not_start_the_delay_anew_when_the_pod_is_changed_meanwhile(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("a", startup_seconds="2"))
    created_at_seconds = time.monotonic()

    def change_until_ready() -> dict[str, Any] | None:
        admin.patch(f"{pods}/a", {"metadata": {"annotations": {"touched": str(time.monotonic())}}})
        time.sleep(0.4)
        return is_ready(admin, f"{pods}/a")

    wait_for(change_until_ready, what="a Pod that is ready although it is changed all the time")
    assert time.monotonic() - created_at_seconds >= 1.9


def test_should_complete_init_containers_and_keep_sidecars_running(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("a", init=True, startup_seconds="0.2"))

    found = wait_for(partial(is_ready, admin, f"{pods}/a"), what="Pod a Ready")

    states = {status["name"]: next(iter(status["state"])) for status in found["status"]["initContainerStatuses"]}
    assert states == {"fetch": "terminated", "proxy": "running"}
    assert condition(found, "Initialized")["status"] == "True"


@pytest.mark.parametrize(("failure", "reason"), [("crash", None), ("evicted", "Evicted")])
def test_should_fail_a_running_pod_when_it_is_annotated(
    admin: ApiClient, pods: str, failure: str, reason: str | None
) -> None:
    admin.create(pods, pod("a", startup_seconds="0"))
    wait_for(partial(is_ready, admin, f"{pods}/a"), what="Pod a Ready")

    admin.patch(f"{pods}/a", {"metadata": {"annotations": {"fleetpack.dev/simulated-failure": failure}}})

    found = wait_for(partial(in_phase, admin, f"{pods}/a", "Failed"), what="Pod a Failed")
    assert found["status"].get("reason") == reason
    assert condition(found, "Ready")["status"] == "False"


def test_should_fail_a_pod_that_crashes_while_it_starts_without_its_ever_being_ready(
    admin: ApiClient, pods: str
) -> None:
    admin.create(pods, pod("a", init=True, startup_seconds="30", failure="crash", failure_after_seconds="0.5"))

    found = wait_for(partial(in_phase, admin, f"{pods}/a", "Failed"), what="Pod a Failed")

    assert "terminated" in found["status"]["containerStatuses"][0]["state"]


def test_should_be_ready_first_when_the_failure_is_due_later(admin: ApiClient, pods: str) -> None:
    version = admin.get(pods)["metadata"]["resourceVersion"]
    admin.create(pods, pod("a", startup_seconds="0.2", failure="crash", failure_after_seconds="2"))

    wait_for(partial(in_phase, admin, f"{pods}/a", "Failed"), what="Pod a Failed")

    # Asked for afterwards, and told from the beginning: nobody has to look at the right moment.
    events = admin.request_text("GET", f"{pods}?watch=true&resourceVersion={version}&timeoutSeconds=3").splitlines()
    story = [json.loads(event)["object"] for event in events]
    ready = [condition(own, "Ready")["status"] == "True" for own in story]
    failed = [own["status"]["phase"] == "Failed" for own in story]
    assert ready.index(True) < failed.index(True)


def test_should_remove_a_deleted_pod(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("a", startup_seconds="0"))
    wait_for(partial(is_ready, admin, f"{pods}/a"), what="Pod a Ready")

    admin.delete(f"{pods}/a")

    # Well before the 30 s of grace that a Pod has by itself.
    wait_for(partial(is_gone, admin, f"{pods}/a"), limit_seconds=25, what="Pod a gone")


def test_should_take_the_shutdown_time_of_a_deleted_pod(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("a", startup_seconds="0", shutdown_seconds="2"))
    wait_for(partial(is_ready, admin, f"{pods}/a"), what="Pod a Ready")
    deleted_at_seconds = time.monotonic()

    admin.delete(f"{pods}/a")

    wait_for(partial(is_gone, admin, f"{pods}/a"), what="Pod a gone")
    # The deletion timestamp is a whole second, so the wait may be up to one shorter.
    assert 0.9 <= time.monotonic() - deleted_at_seconds < 30


def test_should_not_place_more_cores_than_the_node_offers(admin: ApiClient, pods: str) -> None:
    admin.create(pods, pod("first", cores=8, startup_seconds="0"))
    wait_for(partial(is_ready, admin, f"{pods}/first"), what="Pod first Ready")

    admin.create(pods, pod("second", cores=8, startup_seconds="0"))

    found = wait_for(
        lambda: (it := admin.get(f"{pods}/second")) and condition(it, "PodScheduled")["status"] == "False" and it,
        what="Pod second refused by the scheduler",
    )
    assert "Insufficient aws.amazon.com/neuroncore" in condition(found, "PodScheduled")["message"]


def test_should_keep_the_resources_that_a_node_was_created_with(admin: ApiClient, namespace: str, pods: str) -> None:
    node = admin.get(f"/api/v1/nodes/node-{namespace}")

    assert node["status"]["allocatable"]["aws.amazon.com/neuroncore"] == "12"
    assert node["status"]["allocatable"]["cpu"] == "64"


def test_should_take_the_boot_time_of_a_node(admin: ApiClient, namespace: str) -> None:
    annotations = {"fleetpack.dev/simulated-boot-seconds": "2"}
    node = SimulatedNode(name=f"slow-{namespace}", annotations=annotations)
    created_at_seconds = time.monotonic()
    admin.create("/api/v1/nodes", node.manifest())
    path = f"/api/v1/nodes/{node.name}"

    wait_for(partial(is_ready, admin, path), what="the node Ready")

    took_seconds = time.monotonic() - created_at_seconds
    admin.delete(path)
    assert took_seconds >= 0.9


def test_should_deny_a_service_account_that_nothing_is_bound_to(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.service_account_kubeconfig(namespace, "unbound", create=True)

    with cluster.client(kubeconfig) as client, pytest.raises(ApiError) as denied:
        client.get(f"/api/v1/namespaces/{namespace}/pods")

    assert (denied.value.code, denied.value.reason) == (403, "Forbidden")
    assert f"system:serviceaccount:{namespace}:unbound" in denied.value.message


def test_should_allow_a_service_account_what_a_role_binding_says(
    cluster: Cluster, admin: ApiClient, namespace: str
) -> None:
    kubeconfig = cluster.service_account_kubeconfig(namespace, "reader", create=True)
    group = "rbac.authorization.k8s.io"
    admin.create(
        f"/apis/{group}/v1/namespaces/{namespace}/rolebindings",
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
        },
    )

    def list_pods() -> dict[str, Any] | None:
        # The API server takes a binding up a moment after it has stored it.
        try:
            return client.get(f"/api/v1/namespaces/{namespace}/pods")
        except ApiError as error:
            if error.code != 403:
                raise
            return None

    with cluster.client(kubeconfig) as client:
        found = wait_for(list_pods, what="the right to list Pods")

    assert found["items"] == []


def test_should_say_which_service_account_is_missing(cluster: Cluster) -> None:
    command = [sys.executable, str(HACK_CLUSTER), "--name", cluster.name, "service-account", "default", "nobody"]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert 'serviceaccounts "nobody" not found' in answer.stderr


def test_should_deny_a_user_without_a_binding(cluster: Cluster) -> None:
    with cluster.client(cluster.user_kubeconfig("alice", "writers")) as client, pytest.raises(ApiError) as denied:
        client.get("/api/v1/nodes")

    assert (denied.value.code, 'User "alice"' in denied.value.message) == (403, True)


def test_should_write_down_who_wrote_what(cluster: Cluster, admin: ApiClient, pods: str) -> None:
    position = cluster.audit_position()
    admin.create(pods, pod("audited", cores=4, startup_seconds="0"))
    wait_for(partial(is_ready, admin, f"{pods}/audited"), what="Pod audited Ready")
    admin.delete(f"{pods}/audited")
    wait_for(partial(is_gone, admin, f"{pods}/audited"), what="Pod audited gone")

    expected = {
        ("admin", "create", None),
        ("system:kube-scheduler", "create", "binding"),
        ("kwok", "patch", "status"),
        ("admin", "delete", None),
        ("kwok", "delete", None),
    }

    def about_it() -> list[dict[str, Any]]:
        events = cluster.audit_events(start_at=position)
        return [event for event in events if event["objectRef"].get("name") == "audited"]

    def written() -> set[tuple[str, str, str | None]]:
        return {(own["user"]["username"], own["verb"], own["objectRef"].get("subresource")) for own in about_it()}

    # What is written down is written after the answer.
    wait_for(lambda: expected <= written(), what=f"{expected} in the audit log")
    created = next(own for own in about_it() if own["verb"] == "create" and own["user"]["username"] == "admin")
    assert created["responseObject"]["metadata"]["uid"]


def test_should_find_the_matching_kubectl(cluster: Cluster) -> None:
    answer = cluster.kubectl("version", "-o", "json")

    versions = json.loads(answer.stdout)
    assert versions["clientVersion"]["gitVersion"] == versions["serverVersion"]["gitVersion"]


def test_should_keep_address_and_start_of_a_pod_that_is_changed_while_it_starts(admin: ApiClient, pods: str) -> None:
    names = [f"p{number}" for number in range(20)]
    for name in names:
        admin.create(pods, pod(name, startup_seconds="0.5"))
    seen: dict[str, set[str]] = {name: set() for name in names}
    patches = 0
    while not all(is_ready(admin, f"{pods}/{name}") for name in names):
        for name in names:
            patches += 1
            found = admin.patch(f"{pods}/{name}", {"metadata": {"annotations": {"touched": str(patches)}}})
            seen[name].add(found["status"].get("podIP", ""))
    for name in names:
        seen[name].add(admin.get(f"{pods}/{name}")["status"]["podIP"])
    addresses = {name: seen[name] - {""} for name in names}

    assert {name: len(found) for name, found in addresses.items()} == dict.fromkeys(names, 1)
    assert len(set.union(*addresses.values())) == len(names)


def test_should_delete_a_pod_once_and_spare_the_next_of_its_name(cluster: Cluster, admin: ApiClient, pods: str) -> None:
    position = cluster.audit_position()
    for _ in range(10):
        admin.create(pods, pod("again", startup_seconds="0"))
        wait_for(partial(is_ready, admin, f"{pods}/again"), what="Pod again Ready")
        admin.delete(f"{pods}/again")
        wait_for(partial(is_gone, admin, f"{pods}/again"), what="Pod again gone")
    admin.create(pods, pod("again", startup_seconds="0"))

    wait_for(partial(is_ready, admin, f"{pods}/again"), what="Pod again Ready")

    def deletions() -> int:
        return cluster.writes(start_at=position)[Write(user="kwok", verb="delete", resource="pods")]

    wait_for(lambda: deletions() >= 10, what="ten deletions in the audit log")
    time.sleep(0.5)
    assert deletions() == 10
    assert is_ready(admin, f"{pods}/again")


class TestLifeCycle:
    """Clusters of their own, beside the session's."""

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        return tmp_path / "state"

    PODS = "/api/v1/namespaces/default/pods"

    def running_address(self, client: ApiClient, name: str) -> str:
        client.create(self.PODS, pod(name, startup_seconds="0"))
        found = wait_for(partial(is_ready, client, f"{self.PODS}/{name}"), what=f"Pod {name} Ready")
        return str(found["status"]["podIP"])

    def call(self, state: Path, *arguments: str) -> str:
        return run_hack_cluster(*arguments, "--name", "own", "--state", str(state))

    def status(self, state: Path) -> dict[str, Any]:
        command = [sys.executable, str(HACK_CLUSTER), "status", "--json", "--name", "own", "--state", str(state)]
        found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
        return found

    def test_should_come_up_beside_another_cluster_repair_itself_and_leave_nothing(
        self, cluster: Cluster, state: Path
    ) -> None:
        kubeconfig = self.call(state, "up")
        try:
            first = self.status(state)
            assert first["healthy"]
            assert first["kubeconfig"] == kubeconfig == self.call(state, "kubeconfig")
            assert first["server"] != cluster.server

            # Again: nothing changes.
            self.call(state, "up")
            assert self.status(state)["programs"][1]["process_id"] == first["programs"][1]["process_id"]

            # Half dead: only what died is started anew, on the data that is there.
            with ApiClient(Path(kubeconfig)) as client:
                client.create("/api/v1/nodes", SimulatedNode(name="node").manifest())
                before = self.running_address(client, "before")
            for program in first["programs"][3:]:
                os.kill(program["process_id"], signal.SIGKILL)
            wait_for(lambda: not self.status(state)["healthy"], what="the cluster not healthy")
            self.call(state, "up")
            repaired = self.status(state)
            assert repaired["healthy"]
            assert [
                old["process_id"] == new["process_id"]
                for old, new in zip(first["programs"], repaired["programs"], strict=True)
            ] == [True, True, True, False, False]
            with ApiClient(Path(kubeconfig)) as client:
                assert client.get(f"{self.PODS}/before")["status"]["podIP"] == before
                assert self.running_address(client, "after") != before
        finally:
            self.call(state, "down")

        assert list(state.parent.iterdir()) == []
        # By their ids: a port may be another cluster's by now.
        assert [own["name"] for own in repaired["programs"] if start_time(own["process_id"]) is not None] == []
        assert self.status(state) == {"name": "own", "healthy": False, "programs": []}

    def test_should_refuse_a_state_folder_that_holds_something_else(self, state: Path) -> None:
        state.mkdir()
        (state / "thesis.txt").write_text("years of work")

        with pytest.raises(RuntimeError, match="exit code 1"):
            self.call(state, "down")

        assert (state / "thesis.txt").exists()

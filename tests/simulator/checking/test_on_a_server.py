"""The judge on what a real API server sends: the same story through a watch and through the audit log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cluster_fixtures import Cluster, wait_for
from control_plane.api_client import ApiClient, ApiError
from fleetpack_simulator.checking import CheckReport, Recorder, ViolationKind, recorder_from_audit_log
from seen_objects import replica
from simulated_nodes import SimulatedNode

pytestmark = pytest.mark.cluster


class Told:
    """Replicas that come and go on one node, and what the watch and the audit log say of them."""

    def __init__(self, cluster: Cluster, admin: ApiClient, namespace: str, node: str) -> None:
        self.cluster, self.admin, self.namespace, self.node = cluster, admin, namespace, node
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.recorder = Recorder()
        self.version = self._list("nodes", "/api/v1/nodes")
        self.version = self._list("pods", self.pods)

    def create(self, name: str, cores: str) -> None:
        pod = replica(name, cores, on=self.node)
        for field in ("uid", "namespace"):
            del pod["metadata"][field]
        resources = pod["spec"]["containers"][0]["resources"]
        resources["limits"] = resources["requests"]
        pod["spec"]["containers"][0]["image"] = "example.com/server:1"
        del pod["status"]
        self.admin.create(self.pods, {"apiVersion": "v1", "kind": "Pod", **pod})

    def running(self, name: str) -> None:
        wait_for(lambda: self.admin.get(f"{self.pods}/{name}")["status"]["phase"] == "Running", what=f"{name} runs")

    def delete(self, name: str) -> None:
        self.admin.delete(f"{self.pods}/{name}")

    def gone(self, name: str) -> None:
        wait_for(lambda: self._absent(name), what=f"{name} is gone")

    def by_watch(self) -> CheckReport:
        query = f"watch=true&resourceVersion={self.version}&timeoutSeconds=3"
        for text in self.admin.request_text("GET", f"{self.pods}?{query}").splitlines():
            self.recorder.watch_event("pods", json.loads(text), time.time())
        return self.recorder.report()

    def by_audit_log(self, lines: Iterable[dict[str, Any]]) -> CheckReport:
        # The log is everybody's: another test's Pods may still be ending.
        mine = (event for event in lines if event["objectRef"].get("namespace") in (None, "", self.namespace))
        return recorder_from_audit_log(json.dumps(event) for event in mine).report()

    def _list(self, resource: str, path: str) -> str:
        answer = self.admin.get(path)
        self.recorder.relist(resource, answer["items"], time.time())
        version: str = answer["metadata"]["resourceVersion"]
        return version

    def _absent(self, name: str) -> bool:
        try:
            self.admin.get(f"{self.pods}/{name}")
        except ApiError as error:
            return error.code == 404
        return False


@pytest.mark.parametrize("patient", [True, False], ids=["waits for the old one", "does not wait"])
def test_should_tell_a_takeover_from_a_double_booking(
    cluster: Cluster,
    admin: ApiClient,
    namespace: str,
    simulated_nodes: Callable[..., None],
    patient: bool,
) -> None:
    node = f"{namespace}-a"
    begin = cluster.audit_position()
    simulated_nodes(SimulatedNode(name=node))
    told = Told(cluster, admin, namespace, node)
    told.create("chat-0", "0-3")
    told.running("chat-0")
    if patient:
        told.delete("chat-0")
        told.gone("chat-0")
    told.create("chat-1", "0-3")
    told.running("chat-1")
    if not patient:
        told.delete("chat-0")
        told.gone("chat-0")

    wanted = [] if patient else [ViolationKind.DOUBLE_BOOKED]
    for report in (told.by_watch(), told.by_audit_log(cluster.audit_events(start_at=begin))):
        assert [violation.kind for violation in report.violations] == wanted
        assert (report.pods_seen, report.placements_checked) == (2, 2)
        assert report.usd_spent > 0

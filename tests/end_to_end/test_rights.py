"""The operator asks for exactly what the chart grants: nothing more, or it would not work; nothing less, or the grant is too wide.

One operator does everything that it can do, through a proxy that notes each request, refused ones included (the audit log leaves reads
out). So taking any verb of any rule out of the chart breaks this test, and so does adding one that nobody needs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from background import Queue, ThreadedProxy, proxy_running
from fault_proxy import RequestRecord
from installation import rendered_chart
from operator_process import OperatorProcess, operator_running
from small_fleet import SmallFleet, queue_signal

pytestmark = pytest.mark.cluster

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""

UNSEEN: dict[Right, str] = {
    ("", "services", "create"): "a server-side apply of an object that is not there needs it, and is logged as patch",
    ("policy", "poddisruptionbudgets", "create"): "the same",
    (
        "fleetpack.dev",
        "inferencedeployments/finalizers",
        "update",
    ): "asked by OwnerReferencesPermissionEnforcement, no request",
}
"""Grants that no request shows, and what they are for."""


def granted() -> set[Right]:
    """Return what the chart grants the operator, Simulated pools included."""
    rights: set[Right] = set()
    for manifest in rendered_chart():
        if manifest["kind"] in ("ClusterRole", "Role"):
            for rule in manifest["rules"]:
                rights |= {
                    (group, resource, verb)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                }
    return rights


def asked(records: list[RequestRecord]) -> set[Right]:
    """Return what the operator asked the API server for; discovery and versions are nobody's to grant."""
    rights: set[Right] = set()
    for record in records:
        parts = record.path.strip("/").split("/")
        core, rest = parts[0] == "api", parts[2:] if parts[0] == "api" else parts[3:]
        if parts[0] not in ("api", "apis") or not rest:
            continue
        if len(rest) > 2 and rest[0] == "namespaces":
            rest = rest[2:]
        resource = rest[0] if len(rest) < 3 else f"{rest[0]}/{rest[2]}"
        rights.add(("" if core else parts[1], resource, record.verb))
    return rights


def test_should_ask_for_exactly_what_the_chart_grants(
    operator_kubeconfig: Path,
    fleet: SmallFleet,
    queue: Queue,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    with proxy_running(operator_kubeconfig) as proxy:
        work(proxy, fleet, queue, tmp_path, request)
    found = asked(proxy.requests)

    assert sorted(found - granted()) == [], "asked for without a grant"
    assert sorted(granted() - found - UNSEEN.keys()) == [], "granted and never asked for"
    assert UNSEEN.keys() <= granted()


def work(proxy: ThreadedProxy, fleet: SmallFleet, queue: Queue, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Let an operator do all that it ever does."""
    process = OperatorProcess(
        kubeconfig=proxy.write_kubeconfig(tmp_path / "kubeconfig"),
        log=tmp_path / "operator.log",
        lease_name=fleet.namespace,
        identity="rights",
    )
    with operator_running(process, request):
        # A node is launched, a replica is made, its Service and budget too; spec.replicas is written.
        fleet.pool(disruption={"consolidateAfter": "1s"})
        scaling = {"minReplicas": 1, "maxReplicas": 3, "targetQueueDepth": 1, "signals": queue_signal(queue.url)}
        queue.waiting = 8
        fleet.deploy("chat", mode="Auto", scaling=scaling, service={"port": 8000})
        fleet.settled("chat", 3)
        fleet.until(lambda: fleet.spec("chat")["replicas"] == 3, "the scale", "chat")
        # A replica drains and is deleted, and the node is given back.
        fleet.change("chat", mode="Manual", replicas=0, scaling={"minReplicas": 1})
        fleet.settled("chat", 0)
        fleet.until(
            lambda: (
                fleet.namespace not in str([n["metadata"]["name"] for n in fleet.admin.get("/api/v1/nodes")["items"]])
            ),
            "the end of the empty node",
        )

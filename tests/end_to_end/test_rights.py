"""The operator asks for exactly what the chart grants: nothing more, or it would not work; nothing less, or the grant is too wide.

One operator does everything that it can do, through a proxy that notes each request, refused ones included (the audit log leaves reads
out), and that refuses each right once: the operator must say so and go on. What it sent is then sent to the API server by users who
have all of these rights but one. So taking any verb of any rule out of the chart breaks a test here, and so does adding one that
nobody needs.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from background import Queue, ThreadedProxy, proxy_running
from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from fault_proxy import RequestRecord
from installation import apply, rendered_chart
from operator_process import OperatorProcess, operator_running
from rights import (
    Impostor,
    Right,
    first_of_each,
    missing_right_message,
    refused,
    refused_and_granted_later,
    right_of,
    rights_of,
    trial,
    wait_until_allowed,
    withhold_once,
)
from small_fleet import SmallFleet, queue_signal
from strict_api_server import strict_api_server

pytestmark = pytest.mark.cluster

CREATED_BY_APPLY: tuple[Right, ...] = (("", "services", "create"), ("policy", "poddisruptionbudgets", "create"))
"""A server-side apply of an object that is not there needs these, and is logged as patch."""
OWNING: Right = ("fleetpack.dev", "inferencedeployments/finalizers", "update")
"""Asked by the admission plugin OwnerReferencesPermissionEnforcement for every Pod; no request shows it."""
UNSEEN: frozenset[Right] = frozenset((*CREATED_BY_APPLY, OWNING))
SETTINGS = ("signals.secrets.enabled=true",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operator asked for while it did all that it ever does, and what it wrote in its log."""

    requests: tuple[RequestRecord, ...]
    log: str


def granted() -> set[Right]:
    """Return what the chart grants the operator, Secrets and Simulated pools included."""
    roles = [one for one in rendered_chart(*SETTINGS) if one["kind"] in ("ClusterRole", "Role")]
    return rights_of(roles)


@pytest.fixture
def work(
    cluster: Cluster,
    operator_kubeconfig: Path,
    fleet: SmallFleet,
    queue: Queue,
    admin: ApiClient,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Work]:
    """Let an operator work that is refused each right once."""
    for role in rendered_chart(*SETTINGS):
        apply(admin, role)
    with cluster.client(operator_kubeconfig) as client:
        wait_until_allowed(client, rendered_chart(*SETTINGS))
    try:
        with proxy_running(operator_kubeconfig) as proxy:
            log = do_everything(proxy, fleet, queue, tmp_path, request)
        yield Work(requests=tuple(proxy.requests), log=log)
    finally:
        for role in rendered_chart():
            apply(admin, role)


def do_everything(
    proxy: ThreadedProxy, fleet: SmallFleet, queue: Queue, folder: Path, request: pytest.FixtureRequest
) -> str:
    """Let an operator do all that it ever does; returns its log."""
    process = OperatorProcess(
        kubeconfig=proxy.write_kubeconfig(folder / "kubeconfig"),
        log=folder / "operator.log",
        lease_name=fleet.namespace,
        identity="rights",
    )
    rights = granted()
    # Two rounds: a Lease is made once; a node that could not be launched is tried again half a minute later, but at once by another
    # process.
    first = {("coordination.k8s.io", "leases", "create"), ("", "nodes", "create")}
    # A node is launched, a replica is made, its Service and budget too; spec.replicas is written.
    fleet.pool(disruption={"consolidateAfter": "1s"})
    scaling = {"minReplicas": 1, "maxReplicas": 2, "targetQueueDepth": 1, "signals": queue_signal(queue.url)}
    queue.waiting = 8
    fleet.deploy("chat", mode="Auto", scaling=scaling, service={"port": 8000})
    withhold_once(proxy, first)
    with operator_running(process, request):
        # And said so: an operator that is ended between an answer and its line in the log says nothing.
        fleet.until(
            lambda: refused(proxy.requests) >= first and untold(proxy.requests, said(process)) == [],
            "the Lease and the first node refused",
            "chat",
        )
    withhold_once(proxy, rights - first)
    # So that there is something to write through the scale again, and in the Service: what is as it should be is only looked at.
    fleet.change("chat", scaling={"maxReplicas": 3}, service={"port": 8001})
    with operator_running(process, request):
        fleet.settled("chat", 3)
        fleet.until(lambda: fleet.spec("chat")["replicas"] == 3, "the scale", "chat")
        # Of two Secrets one is refused; it is asked for again a minute later, the other at once.
        signals = [
            {**queue_signal(queue.url)[0], "name": name, "authentication": {"secretRef": {"name": name}}}
            for name in ("one", "other")
        ]
        for name in ("one", "other"):
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": "word"}}
            fleet.admin.create(f"/api/v1/namespaces/{fleet.namespace}/secrets", secret)
        fleet.deploy("mail", replicas=0, scaling={"minReplicas": 0, "signals": signals})
        # A replica drains and is deleted, and the node is given back.
        fleet.change("chat", mode="Manual", replicas=0, scaling={"minReplicas": 1})
        fleet.settled("chat", 0)
        fleet.until(
            lambda: (
                fleet.namespace not in str([n["metadata"]["name"] for n in fleet.admin.get("/api/v1/nodes")["items"]])
            ),
            "the end of the empty node",
        )
        # The test itself says what is missing.
        with contextlib.suppress(AssertionError):
            fleet.until(
                lambda: refused_and_granted_later(proxy.requests) >= rights - UNSEEN, "everything asked for again"
            )
    return said(process)


def said(process: OperatorProcess) -> str:
    """Return the log of a process so far."""
    return process.log.read_text(errors="replace")


def test_should_ask_for_exactly_what_the_chart_grants_and_miss_each_right(
    work: Work, admin: ApiClient, cluster: Cluster, tmp_path: Path, namespace: str
) -> None:
    rights, requests = granted(), first_of_each(work.requests)

    assert sorted(requests.keys() - rights) == [], "asked for without a grant"
    assert sorted(rights - requests.keys() - UNSEEN) == [], "granted and never asked for"
    # Each right was refused once: the operator has said so, and gone on.
    assert refused_and_granted_later(work.requests) == rights - UNSEEN
    assert untold(work.requests, work.log) == []
    # The API server itself refuses each of these requests to whoever lacks the one right.
    with (
        strict_api_server(cluster, tmp_path) as strict,
        Impostor(strict) as impostor,
        trial(admin, impostor, rights, name=namespace) as users,
    ):
        answers = {right: users.answer(one, without=right) for right, one in requests.items()}
        answers |= {right: users.answer(creating(requests, right), without=right) for right in CREATED_BY_APPLY}
        owning = users.answer(requests["", "pods", "create"], without=OWNING)
    wrong = {right: said for right, said in answers.items() if missing_right_message(right) not in said}
    assert wrong == {}
    assert (
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on" in owning
    )


def untold(requests: Iterable[RequestRecord], log: str) -> list[Right]:
    """Return the rights that were refused and of which no refusal is told in the log."""
    answers = [(right, one) for one in tuple(requests) if one.status == 403 and (right := right_of(one)) is not None]
    return sorted({right for right, _ in answers} - {right for right, one in answers if tells_of_refusal(log, one)})


def tells_of_refusal(log: str, record: RequestRecord) -> bool:
    """Return whether the log names the request and the answer, in our own words or (of what kopf watches) in kopf's."""
    path = re.escape(record.path)
    return re.search(rf"{record.verb} {path} \(HTTP 403|GET \S+{path}\?{record.verb}=true\S* .*403", log) is not None


def creating(requests: dict[Right, RequestRecord], right: Right) -> RequestRecord:
    """Return the apply of a right's resource for an object that is not there."""
    applied = requests[right[0], right[1], "patch"]
    body = json.loads(applied.body)
    body["metadata"]["name"] = "not-there-yet"
    return replace(applied, path=applied.path.rpartition("/")[0] + "/not-there-yet", body=json.dumps(body).encode())

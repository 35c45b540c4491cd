"""What goes wrong between the operator and the API server: lost watches, refusals, slowness, a second operator, a death.

Each test has operators of its own, behind a proxy that fails on demand where the test needs one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from background import ThreadedProxy, proxy_running
from cluster_fixtures import Cluster
from control_plane.api_client import ApiError
from fault_proxy import CutStream, ErrorEvent, Match, RefuseRequest, SlowAnswer
from operator_process import OperatorProcess, operator_running
from small_fleet import SmallFleet

pytestmark = pytest.mark.cluster

POD_WATCH = Match(verb="watch", path="^/api/v1/pods$")
POD_CREATION = Match(verb="create", path="/pods$")
LEASE_SECONDS = 15.0
FOUR = [f"chat-tp2-{ordinal}" for ordinal in range(4)]


@pytest.fixture
def proxy(operator_kubeconfig: Path) -> Iterator[ThreadedProxy]:
    """Return a proxy with the operator's own credentials."""
    with proxy_running(operator_kubeconfig) as proxy:
        yield proxy


@pytest.fixture
def make(fleet: SmallFleet, tmp_path: Path) -> Callable[[Path, str], OperatorProcess]:
    """Return a function that describes an operator; those of one test share a Lease."""

    def make(kubeconfig: Path, identity: str) -> OperatorProcess:
        log = tmp_path / f"{identity}.log"
        return OperatorProcess(kubeconfig=kubeconfig, log=log, lease_name=fleet.namespace, identity=identity)

    return make


@pytest.fixture
def proxied(
    make: Callable[[Path, str], OperatorProcess], proxy: ThreadedProxy, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[OperatorProcess]:
    """Return a running operator behind the proxy."""
    operator = make(proxy.write_kubeconfig(tmp_path / "proxy.kubeconfig"), "proxied")
    with operator_running(operator, request):
        yield operator
    assert operator.errors() == [], operator.log_end(200)


@pytest.fixture
def pair(
    fleet: SmallFleet,
    make: Callable[[Path, str], OperatorProcess],
    operator_kubeconfig: Path,
    request: pytest.FixtureRequest,
) -> Iterator[tuple[OperatorProcess, OperatorProcess]]:
    """Return two operators of one Lease; the first one holds it."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(operator_running(make(operator_kubeconfig, "first"), request))
        # Ready is who has seen the cluster; the Lease may come later.
        fleet.until(lambda: holder(fleet) == "first", "the first operator as the holder")
        yield first, stack.enter_context(operator_running(make(operator_kubeconfig, "second"), request))


def test_should_replace_what_was_deleted_in_the_gap_before_a_410(
    fleet: SmallFleet, proxy: ThreadedProxy, proxied: OperatorProcess
) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=4)
    fleet.settled("chat", 4)

    with proxy.outage():
        for name in FOUR[1:3]:
            fleet.admin.delete(f"/api/v1/namespaces/{fleet.namespace}/pods/{name}", {"gracePeriodSeconds": 0})
        proxy.inject(ErrorEvent(POD_WATCH), times=1)

    fleet.settled("chat", 4)
    assert sorted(fleet.witness.created(fleet.namespace)) == sorted([*FOUR, *FOUR[1:3]])


def test_should_go_on_where_a_watch_was_cut_in_the_middle_of_an_event(
    fleet: SmallFleet, proxy: ThreadedProxy, proxied: OperatorProcess
) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=1)
    fleet.settled("chat", 1)
    with proxy.outage():
        proxy.inject(CutStream(Match(verb="watch"), after_events=2, in_the_middle=True), times=8)

    fleet.scale("chat", 4)

    fleet.settled("chat", 4)
    assert sorted(fleet.witness.created(fleet.namespace)) == FOUR


@pytest.mark.parametrize("status", [429, 500])
def test_should_create_nothing_twice_while_creations_are_refused(
    fleet: SmallFleet, proxy: ThreadedProxy, proxied: OperatorProcess, status: int
) -> None:
    fleet.static_pool("a")
    proxy.inject(RefuseRequest(POD_CREATION, status=status, reason="Injected"))
    fleet.deploy("chat", replicas=4)
    fleet.told("chat", "Accepted", status="True")
    time.sleep(5.0)
    assert fleet.pods("chat") == []

    proxy.heal()

    fleet.settled("chat", 4)
    assert sorted(fleet.witness.created(fleet.namespace)) == FOUR


def test_should_create_nothing_twice_when_answers_come_after_the_time_out(
    fleet: SmallFleet, proxy: ThreadedProxy, proxied: OperatorProcess
) -> None:
    fleet.static_pool("a")
    # Writes are given up after 4 s; the API server has done what was asked for all the same.
    proxy.inject(SlowAnswer(POD_CREATION, seconds=10.0))

    fleet.deploy("chat", replicas=4)

    fleet.settled("chat", 4)
    fleet.stays(lambda: len(fleet.pods("chat")) == 4, 6.0, "4 Pods")
    assert sorted(fleet.witness.created(fleet.namespace)) == FOUR


def test_should_hand_over_when_told_to_stop(
    fleet: SmallFleet, cluster: Cluster, pair: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = pair
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=2)
    before = {pod["metadata"]["uid"] for pod in fleet.settled("chat", 2)}
    assert holder(fleet) == "first"

    assert first.terminate() == 0

    # Given back by the time that the first has ended: nobody waits for it to run out.
    assert holder(fleet) in ("", "second")
    fleet.until(lambda: holder(fleet) == "second", "the second operator as the holder")
    fleet.scale("chat", 3)
    after = fleet.settled("chat", 3)
    assert before <= {pod["metadata"]["uid"] for pod in after}
    assert second.errors() == []


def test_should_take_over_from_a_dead_operator_and_move_nothing_meanwhile(
    fleet: SmallFleet, pair: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = pair
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=2)
    fleet.settled("chat", 2)

    first.kill()

    fleet.scale("chat", 3)
    # As long as the dead one promised to renew it, counted from when it last did, less a second for clocks.
    seconds_left = renewed_at(fleet) + LEASE_SECONDS - 1.0 - time.time()
    fleet.stays(
        lambda: holder(fleet) == "first" and len(fleet.pods("chat")) == 2, seconds_left, "the dead operator's Lease"
    )
    fleet.until(lambda: holder(fleet) == "second", "the second operator as the holder")
    fleet.settled("chat", 3)
    assert sorted(fleet.witness.created(fleet.namespace)) == FOUR[:3]
    assert second.errors() == []


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/api/v1/namespaces/fleetpack-system/secrets"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/configmaps"),
        ("GET", "/apis/apps/v1/deployments"),
        ("DELETE", "/api/v1/namespaces/fleetpack-system"),
        ("DELETE", "/apis/fleetpack.dev/v1alpha1/namespaces/default/inferencedeployments/any"),
        ("DELETE", "/apis/fleetpack.dev/v1alpha1/acceleratorpools/any"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases"),
    ],
)
def test_should_have_no_right_to_what_it_does_not_need(
    cluster: Cluster, operator_kubeconfig: Path, verb: str, path: str
) -> None:
    with cluster.client(operator_kubeconfig) as client, pytest.raises(ApiError) as refused:
        client.request(verb, path)

    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")


def holder(fleet: SmallFleet) -> str:
    """Return who holds the Lease of the test's operators; nobody while there is none."""
    return str(lease(fleet).get("holderIdentity") or "")


def renewed_at(fleet: SmallFleet) -> float:
    """Return when it was renewed last, in seconds since 1970: operators and tests run on one machine."""
    return datetime.fromisoformat(lease(fleet)["renewTime"]).timestamp()


def lease(fleet: SmallFleet) -> dict[str, Any]:
    """Return what the Lease of the test's operators says."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/fleetpack-system/leases/{fleet.namespace}"
    try:
        spec: dict[str, Any] = fleet.admin.get(path)["spec"]
    except ApiError as error:
        if error.code != 404:
            raise
        return {}
    return spec

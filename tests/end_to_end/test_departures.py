"""Replicas leave places that are going, one after its successor; and what the kubelet gave replaces what was planned."""

from __future__ import annotations

import pytest

from small_fleet import SmallFleet, node_of, variant

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


def test_should_use_the_notice_of_a_spot_machine_and_never_serve_with_fewer(fleet: SmallFleet) -> None:
    first, second = fleet.static_pool("a", "b")
    fleet.deploy("chat", replicas=2, variants=variant(4))
    taken = {node_of(pod) for pod in fleet.settled("chat", 2)}
    lost = taken.pop()
    spare = second if lost == first else first
    started_at = fleet.witness.now_seconds()

    taint = {"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"}
    fleet.admin.patch(f"/api/v1/nodes/{lost}", {"spec": {"taints": [taint], "unschedulable": True}})

    fleet.until(lambda: {node_of(pod) for pod in fleet.pods("chat")} == {spare}, "both replicas elsewhere", "chat")
    fleet.settled("chat", 2)
    assert fleet.witness.fewest_ready(fleet.namespace, "chat", started_at) == 2
    # One that was there already stays, so at most one successor each.
    assert len(fleet.witness.created(fleet.namespace)) <= 4
    assert any("its spot capacity is taken back in two minutes" in note for note in fleet.noted("chat", "NodeLeaving"))


def test_should_leave_a_cordoned_node_and_broken_cores(fleet: SmallFleet) -> None:
    pool = fleet.pool(provider="Static")
    (old,) = fleet.nodes(pool, "a")
    fleet.deploy("chat", replicas=2, variants=variant(4))
    fleet.settled("chat", 2)
    (spare,) = fleet.nodes(pool, "b")
    started_at = fleet.witness.now_seconds()

    fleet.admin.patch(f"/api/v1/nodes/{old}", {"spec": {"unschedulable": True}})

    fleet.until(lambda: {node_of(pod) for pod in fleet.pods("chat")} == {spare}, "both replicas elsewhere", "chat")
    fleet.settled("chat", 2)
    assert fleet.places("chat") == [(spare, "0-3"), (spare, "4-7")]

    fleet.admin.patch(f"/api/v1/nodes/{spare}", {"metadata": {"annotations": {"fleetpack.dev/unhealthy-cores": "1"}}})

    fleet.until(lambda: fleet.places("chat") == [(spare, "4-7"), (spare, "8-11")], "no replica on core 1", "chat")
    fleet.settled("chat", 2)
    assert fleet.witness.fewest_ready(fleet.namespace, "chat", started_at) == 2
    assert len(fleet.witness.created(fleet.namespace)) == 5
    fleet.noted("chat", "NodeUnhealthy")


def test_should_go_on_from_the_cores_that_the_kubelet_gave(fleet: SmallFleet) -> None:
    (node,) = fleet.static_pool("a")
    fleet.deploy("chat", replicas=2)
    first, second = sorted(pod["metadata"]["name"] for pod in fleet.settled("chat", 2))
    assert fleet.places("chat") == [(node, "0-1"), (node, "2-3")]

    # As the device plugin writes it: one moved to cores that were planned for nobody, the other stayed.
    for name, cores in ((first, "10-11"), (second, "2-3")):
        path = f"/api/v1/namespaces/{fleet.namespace}/pods/{name}"
        fleet.admin.patch(path, {"metadata": {"annotations": {"fleetpack.dev/allocated-cores": cores}}})
    fleet.until(
        lambda: (
            {place["pod"]: place["cores"] for place in fleet.status("chat")["placements"]}
            == {first: "10-11", second: "2-3"}
        ),
        "the corrected map in status",
        "chat",
    )
    fleet.scale("chat", 7)

    fleet.settled("chat", 6)
    held = [
        pod["metadata"]["annotations"].get("fleetpack.dev/allocated-cores")
        or pod["metadata"]["annotations"]["fleetpack.dev/cores"]
        for pod in fleet.pods("chat")
    ]
    assert sorted(held, key=lambda cores: int(cores.partition("-")[0])) == ["0-1", "2-3", "4-5", "6-7", "8-9", "10-11"]
    fleet.told("chat", "CapacityAvailable", status="False")

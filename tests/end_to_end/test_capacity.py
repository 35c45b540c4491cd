"""What happens where room, money or understanding runs out: the one concerned is told, the rest of the fleet goes on."""

from __future__ import annotations

import pytest

from small_fleet import GROUP, SmallFleet, node_of, template, variant

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

PRICE = [{"instanceType": "inf2.24xlarge", "usdPerHour": "6.00"}]
"""Two of twelve cores then cost one US dollar per hour."""


def test_should_stop_at_the_pools_node_limit_and_go_on_when_it_is_raised(fleet: SmallFleet) -> None:
    pool = fleet.pool(limits={"nodes": 1})

    fleet.deploy("large", replicas=2, variants=variant(8))
    fleet.deploy("small", replicas=2)

    fleet.settled("small", 2)
    fleet.settled("large", 1)
    fleet.says("large", "CapacityAvailable", "1 replicas have no place", status="False", reason="NoFeasiblePlacement")
    fleet.told("large", "Ready", status="False", reason="ReplicasUnplaced")
    fleet.noted("large", "NoFeasiblePlacement")
    assert len(fleet.witness.created(fleet.namespace)) == 3

    fleet.admin.patch(f"{GROUP}/acceleratorpools/{pool}", {"spec": {"limits": {"nodes": 2}}})

    fleet.settled("large", 2)
    fleet.told("large", "CapacityAvailable", status="True")


def test_should_never_cross_a_cost_ceiling_and_say_that_it_binds(fleet: SmallFleet) -> None:
    fleet.static_pool("a", priceOverrides=PRICE)

    fleet.deploy("chat", replicas=5, cost={"maxUSDPerHour": "3.50"})

    fleet.settled("chat", 3)
    words = "5 replicas wanted, spec.cost.maxUSDPerHour 3.5 pays for 3"
    fleet.says("chat", "WithinBudget", words, status="False", reason="CostCeiling")
    fleet.until(lambda: float(fleet.status("chat")["usdPerHour"]) == pytest.approx(3.0), "3 USD per hour", "chat")
    assert len(fleet.witness.created(fleet.namespace)) == 3


def test_should_let_the_important_model_have_the_room_that_there_is(fleet: SmallFleet) -> None:
    pool = fleet.pool(provider="Static")
    (node,) = fleet.nodes(pool, "a")
    batch, critical = template(), template()
    batch["spec"]["priorityClassName"], critical["spec"]["priorityClassName"] = "fleetpack-batch", "fleetpack-critical"
    # In the order of names the batch model would come first.
    fleet.deploy("a-batch", replicas=0, template=batch, variants=variant(8))
    fleet.deploy("z-critical", replicas=0, template=critical, variants=variant(8))
    fleet.told("z-critical", "Accepted", status="True")
    fleet.foreign_pod("blocker", node, 12, {"fleetpack.dev/allocated-cores": "0-11"})
    fleet.pool_shows(pool, coresUsed=12)
    fleet.scale("a-batch", 1)
    fleet.scale("z-critical", 1)
    fleet.told("a-batch", "Ready", reason="ReplicasUnplaced")
    fleet.told("z-critical", "Ready", reason="ReplicasUnplaced")

    fleet.admin.delete(f"/api/v1/namespaces/{fleet.namespace}/pods/blocker")

    fleet.settled("z-critical", 1)
    fleet.told("a-batch", "CapacityAvailable", status="False", reason="NoFeasiblePlacement")
    assert fleet.witness.created(fleet.namespace) == ["z-critical-tp8-0"]


def test_should_place_around_cores_that_a_foreign_pod_holds(fleet: SmallFleet) -> None:
    pool = fleet.pool(provider="Static")
    (node,) = fleet.nodes(pool, "a")
    fleet.foreign_pod("job", node, 2, {"fleetpack.dev/allocated-cores": "4-5"})
    fleet.pool_shows(pool, coresUsed=2)

    fleet.deploy("chat", replicas=3, variants=variant(4))

    # Four cores are two neighbouring chips; of the ring 0-11 without 4-5 that is 0-3 and 6-9, or with 10-11 and 0-1 as a pair.
    fleet.settled("chat", 2)
    fleet.told("chat", "CapacityAvailable", status="False")
    taken = {core for _, cores in fleet.places("chat") for core in range(*span(cores))}
    assert len(taken) == 8
    assert not taken & {4, 5}


def test_should_leave_room_for_a_foreign_pod_whose_cores_nobody_has_written_down(fleet: SmallFleet) -> None:
    pool = fleet.pool(provider="Static")
    occupied, free = fleet.nodes(pool, "a", "b")
    fleet.foreign_pod("job", occupied, 8)
    fleet.pool_shows(pool, coresUsed=8)

    fleet.deploy("chat", replicas=2, variants=variant(4))

    pods = fleet.settled("chat", 2)
    assert sorted(node_of(pod) for pod in pods) == [occupied, free]


def test_should_give_up_a_place_that_the_scheduler_refuses_and_take_another(fleet: SmallFleet) -> None:
    # Nothing in the plan's picture forbids node a: a host port that somebody else's Pod has taken there.
    first, second = fleet.static_pool("a", "b")
    ports = template()
    ports["spec"]["containers"][0]["ports"] = [{"containerPort": 8000, "hostPort": 8000}]
    blocker = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "port-holder"},
        "spec": {
            "nodeName": first,
            "containers": [
                {"name": "job", "image": "none", "ports": [{"containerPort": 8000, "hostPort": 8000}]},
            ],
        },
    }
    pods = f"/api/v1/namespaces/{fleet.namespace}/pods"
    fleet.admin.create(pods, blocker)
    # It runs: the scheduler has been told of it as the node's kubelet has.
    fleet.until(
        lambda: fleet.admin.get(f"{pods}/port-holder")["status"]["phase"] == "Running", "the holder of the port"
    )

    fleet.deploy("chat", replicas=1, template=ports)

    (pod,) = fleet.settled("chat", 1)
    places = [node_of(change.object) for change in fleet.witness.of_pods(fleet.namespace) if change.kind == "ADDED"]
    assert places == [first, second]
    assert pod["spec"]["nodeName"] == second


def test_should_refuse_a_device_count_with_a_hint_and_serve_the_others(fleet: SmallFleet) -> None:
    fleet.pool(instanceTypes=["trn1.32xlarge", "inf2.24xlarge"])

    fleet.deploy("odd", variants=[{"name": "odd", "accelerator": "trainium", "devices": 7}])
    fleet.deploy("chat", replicas=1)

    refused = fleet.told("odd", "Accepted", status="False", reason="UnsupportedDeviceCount")
    assert refused["message"].startswith("spec.variants[odd].devices: 7 fits no trainium machine")
    assert "8" in refused["message"]
    fleet.settled("chat", 1)
    fleet.noted("odd", "UnsupportedDeviceCount")
    assert [event["reason"] for event in fleet.events("odd")] == ["UnsupportedDeviceCount"]
    assert fleet.pods("odd") == []


def test_should_ask_whether_another_accelerator_was_meant(fleet: SmallFleet) -> None:
    fleet.deploy("typo", variants=variant(2, accelerator="inferentia-2"))

    refused = fleet.told("typo", "Accepted", status="False", reason="UnknownAccelerator")

    assert "'inferentia-2' is in neither the catalog nor a pool; did you mean inferentia2" in refused["message"]


def test_should_say_which_instance_type_of_a_pool_nobody_knows_and_use_the_rest(fleet: SmallFleet) -> None:
    pool = fleet.pool(instanceTypes=["inf2.24xlargo", "inf2.24xlarge"])

    fleet.deploy("chat")

    fleet.settled("chat", 1)
    refused = fleet.until(
        lambda: found if (found := fleet.pool_condition(pool, "Accepted")).get("status") == "False" else None,
        "condition Accepted False of the pool",
    )
    assert refused["reason"] == "UnknownInstanceType"
    assert "'inf2.24xlargo'" in refused["message"]
    assert "did you mean inf2.24xlarge" in refused["message"]


def test_should_back_off_from_a_template_that_the_api_server_refuses(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    broken = template()
    # Names a volume that is not there: only the API server's own validation of Pods knows.
    broken["spec"]["containers"][0]["volumeMounts"] = [{"name": "missing", "mountPath": "/models"}]

    fleet.deploy("broken", template=broken)
    fleet.deploy("chat")

    fleet.settled("chat", 1)
    fleet.noted("broken", "InvalidTemplate")
    assert fleet.pods("broken") == []


def test_should_roll_a_template_with_new_replicas_first_where_there_is_room(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=3)
    before = {pod["metadata"]["uid"] for pod in fleet.settled("chat", 3)}
    started_at = fleet.witness.now_seconds()

    fleet.change("chat", template=template(image="example.com/engine:2"))

    fleet.until(lambda: images(fleet) == {"example.com/engine:2"}, "the new image everywhere", "chat")
    after = fleet.settled("chat", 3)
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in after)
    assert fleet.witness.fewest_ready(fleet.namespace, "chat", started_at) == 3


def test_should_roll_a_template_on_a_full_fleet_within_what_may_be_missing(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=3, variants=variant(4), disruption={"drain": "0s", "maxUnavailable": 1})
    before = {pod["metadata"]["uid"] for pod in fleet.settled("chat", 3)}
    started_at = fleet.witness.now_seconds()

    fleet.change("chat", template=template(image="example.com/engine:2"))

    fleet.until(lambda: images(fleet) == {"example.com/engine:2"}, "the new image everywhere", "chat")
    after = fleet.settled("chat", 3)
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in after)
    assert fleet.witness.fewest_ready(fleet.namespace, "chat", started_at) == 2
    assert len(fleet.witness.created(fleet.namespace)) == 6


def test_should_replace_the_replicas_of_a_deleted_node_elsewhere(fleet: SmallFleet) -> None:
    pool = fleet.pool(provider="Static")
    (lost,) = fleet.nodes(pool, "a")
    fleet.deploy("chat", replicas=2, variants=variant(4))
    orphans = fleet.settled("chat", 2)
    (spare,) = fleet.nodes(pool, "b")

    fleet.admin.delete(f"/api/v1/nodes/{lost}")
    # Kubernetes' Pod garbage collector does this 40 to 60 s later; nobody wants to wait for it here.
    for pod in orphans:
        fleet.lose_pod(pod)

    replaced = fleet.settled("chat", 2)
    assert [node_of(pod) for pod in replaced] == [spare, spare]


def test_should_give_an_empty_node_back(fleet: SmallFleet) -> None:
    pool = fleet.pool(disruption={"consolidateAfter": "1s"})
    fleet.deploy("chat", replicas=1)
    fleet.settled("chat", 1)

    fleet.scale("chat", 0)

    fleet.settled("chat", 0)
    fleet.until(lambda: not nodes_of(fleet, pool), "the end of the empty node")


def test_should_admit_only_the_namespaces_that_a_pool_selects(fleet: SmallFleet) -> None:
    fleet.static_pool("a", namespaceSelector={"matchLabels": {"team": "research"}})

    fleet.deploy("chat")

    fleet.told("chat", "CapacityAvailable", status="False", reason="NoFeasiblePlacement")
    namespace = f"/api/v1/namespaces/{fleet.namespace}"
    fleet.admin.patch(namespace, {"metadata": {"labels": {"team": "research"}}})
    fleet.settled("chat", 1)


def span(cores: str) -> tuple[int, int]:
    """Read `4-7` as the ends of a Python range."""
    first, _, last = cores.partition("-")
    return int(first), int(last or first) + 1


def images(fleet: SmallFleet) -> set[str]:
    """Return the images that the Pods of the deployment `chat` run."""
    return {pod["spec"]["containers"][0]["image"] for pod in fleet.pods("chat")}


def nodes_of(fleet: SmallFleet, pool: str) -> list[str]:
    """Return the names of a pool's nodes."""
    nodes = [node["metadata"] for node in fleet.witness.all("nodes")]
    return [node["name"] for node in nodes if node["labels"].get("fleetpack.dev/pool") == pool]

"""How replicas come, change in number, and go, on the real API server."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from background import Queue
from kubectl import Kubectl
from operator_process import Engines, OperatorProcess
from small_fleet import SmallFleet, node_of, queue_signal, template, variant
from witness import is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


SIMULATED = "fleetpack.dev/simulated"


def essence(pod: dict[str, Any]) -> dict[str, Any]:
    """What of a Pod is the operator's doing."""
    server = pod["spec"]["containers"][0]
    owner = pod["metadata"]["ownerReferences"][0]
    return {
        "name": pod["metadata"]["name"],
        "node": node_of(pod),
        "cores": pod["metadata"]["annotations"]["fleetpack.dev/cores"],
        "labels": pod["metadata"]["labels"],
        "limit": server["resources"]["limits"]["aws.amazon.com/neuroncore"],
        "requests": server["resources"]["requests"],
        "owner": (owner["kind"], owner["name"], owner["controller"], owner["blockOwnerDeletion"]),
    }


def test_should_create_pods_for_exactly_their_node_and_cores(fleet: SmallFleet) -> None:
    (node,) = fleet.static_pool("a")

    fleet.deploy("chat", replicas=2, variants=variant(4), service={"port": 8000})

    pods = fleet.settled("chat", 2)
    labels = {
        "fleetpack.dev/deployment": "chat",
        "fleetpack.dev/variant": "tp4",
        "fleetpack.dev/serving": "true",
    }
    assert [essence(pod) for pod in pods] == [
        {
            "name": f"chat-tp4-{ordinal}",
            "node": node,
            "cores": cores,
            "labels": labels,
            "limit": "4",
            "requests": {"cpu": "1", "memory": "1Gi", "aws.amazon.com/neuroncore": "4"},
            "owner": ("InferenceDeployment", "chat", True, True),
        }
        for ordinal, cores in enumerate(("0-3", "4-7"))
    ]
    assert [pod["spec"]["nodeName"] for pod in pods] == [node, node]


def test_should_say_in_status_what_runs_where_and_what_it_costs(fleet: SmallFleet) -> None:
    (node,) = fleet.static_pool("a", priceOverrides=[{"instanceType": "inf2.24xlarge", "usdPerHour": "6.00"}])

    fleet.deploy("chat", replicas=2, variants=variant(4), service={"port": 8000})

    fleet.settled("chat", 2)
    status = fleet.until(
        lambda: found if (found := fleet.status("chat")).get("readyReplicas") == 2 else None,
        "2 ready in status",
        "chat",
    )
    reasons = {own["type"]: (own["status"], own["reason"]) for own in status["conditions"]}
    assert {key: status[key] for key in ("replicas", "readyReplicas", "desiredReplicas", "url", "placements")} == {
        "replicas": 2,
        "readyReplicas": 2,
        "desiredReplicas": 2,
        "url": f"http://chat.{fleet.namespace}.svc:8000",
        "placements": [
            {"pod": f"chat-tp4-{ordinal}", "variant": "tp4", "node": node, "cores": cores}
            for ordinal, cores in enumerate(("0-3", "4-7"))
        ],
    }
    assert reasons == {
        "Accepted": ("True", "Accepted"),
        "Ready": ("True", "AllReplicasReady"),
        "ScalingActive": ("False", "ManualReplicas"),
        "CapacityAvailable": ("True", "Placed"),
        "WithinBudget": ("True", "WithinBudget"),
    }
    assert float(status["usdPerHour"]) == pytest.approx(6.00 * 8 / 12)


def test_should_make_a_service_that_selects_the_replicas_in_service(fleet: SmallFleet) -> None:
    # No Pod: addresses of simulated replicas are on the loopback, and EndpointSlices refuse those.
    fleet.deploy("chat", replicas=0, service={"port": 80, "targetPort": 8000})

    path = f"/api/v1/namespaces/{fleet.namespace}/services"
    (service,) = fleet.until(lambda: fleet.admin.get(path)["items"], "a Service", "chat")
    port = service["spec"]["ports"][0]
    assert service["metadata"]["name"] == "chat"
    assert service["spec"]["selector"] == {"fleetpack.dev/deployment": "chat", "fleetpack.dev/serving": "true"}
    assert (port["port"], port["targetPort"]) == (80, 8000)


def test_should_leave_a_service_and_a_budget_of_somebody_else_alone_and_say_so(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    services = f"/api/v1/namespaces/{fleet.namespace}/services"
    budgets = f"/apis/policy/v1/namespaces/{fleet.namespace}/poddisruptionbudgets"
    service = {"selector": {"app": "llama"}, "ports": [{"port": 80}]}
    # Beside maxUnavailable the API server refuses any minAvailable.
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "llama"}}}
    fleet.admin.create(services, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": service})
    fleet.admin.create(
        budgets,
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "chat"}, "spec": budget},
    )

    fleet.deploy("chat", replicas=1, service={"port": 8000})

    told = fleet.says("chat", "Accepted", "Service chat is somebody else's", status="False", reason="NameTaken")
    assert "PodDisruptionBudget chat is somebody else's" in told["message"]
    fleet.settled("chat", 1)
    found = [fleet.admin.get(f"{collection}/chat") for collection in (services, budgets)]
    assert found[0]["spec"]["selector"] == service["selector"]
    assert found[1]["spec"] == budget
    assert [own["metadata"].get("ownerReferences") for own in found] == [None, None]
    assert "fleetpack" not in [field["manager"] for own in found for field in own["metadata"]["managedFields"]]
    assert "url" not in fleet.status("chat")

    # Without a Pod: see above.
    fleet.change("chat", replicas=0)
    fleet.settled("chat", 0)
    for collection in (services, budgets):
        fleet.admin.delete(f"{collection}/chat")
    fleet.told("chat", "Accepted", status="True")
    assert fleet.admin.get(f"{services}/chat")["spec"]["selector"]["fleetpack.dev/deployment"] == "chat"
    assert fleet.admin.get(f"{budgets}/chat")["spec"]["minAvailable"] == 0


def test_should_give_a_service_that_two_models_ask_for_to_the_first(fleet: SmallFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/services/front"
    fleet.deploy("chat", replicas=0, service={"port": 80, "name": "front"})
    fleet.until(lambda: fleet.status("chat").get("url"), "a Service", "chat")

    fleet.deploy("mail", replicas=0, service={"port": 80, "name": "front"})

    fleet.says("mail", "Accepted", "belongs to InferenceDeployment chat", status="False", reason="NameTaken")
    assert fleet.admin.get(path)["spec"]["selector"]["fleetpack.dev/deployment"] == "chat"
    assert fleet.condition("chat", "Accepted")["status"] == "True"
    # The address may change, in the object that is ours.
    fleet.change("chat", service={"port": 81})
    fleet.until(lambda: [own["port"] for own in fleet.admin.get(path)["spec"]["ports"]] == [81], "the new port", "chat")


def test_should_launch_a_node_for_replicas_that_have_no_room(fleet: SmallFleet) -> None:
    pool = fleet.pool(simulation={"bootDelay": "1s"})

    fleet.deploy("chat", replicas=3, variants=variant(8))

    pods = fleet.settled("chat", 3)
    nodes = sorted(node_of(pod) for pod in pods)
    assert nodes == [f"{pool}-inf2-24xlarge-{ordinal}" for ordinal in range(3)]


def test_should_obey_kubectl_scale_in_mode_manual(fleet: SmallFleet, kubectl: Kubectl) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=1)
    fleet.settled("chat", 1)

    kubectl.read("scale", "infd", "chat", f"--namespace={fleet.namespace}", "--replicas=4")

    fleet.settled("chat", 4)
    kubectl.read("scale", "infd", "chat", f"--namespace={fleet.namespace}", "--replicas=2")
    fleet.settled("chat", 2)
    assert fleet.spec("chat")["replicas"] == 2


def test_should_take_a_replica_out_of_its_service_before_it_is_deleted(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=2, disruption={"drain": "2s"})
    fleet.settled("chat", 2)

    fleet.scale("chat", 1)

    (kept,) = fleet.settled("chat", 1)
    story = [
        (change.kind, change.object["metadata"]["labels"]["fleetpack.dev/serving"])
        for change in fleet.witness.of_pods(fleet.namespace)
        if change.name != kept["metadata"]["name"]
        and ("deletionTimestamp" in change.object["metadata"] or is_ready(change.object))
    ]
    drained = next(index for index, (_, serving) in enumerate(story) if serving == "false")
    assert {serving for _, serving in story[drained:]} == {"false"}
    assert story[-1] == ("DELETED", "false")
    assert fleet.witness.fewest_ready(fleet.namespace, "chat", fleet.witness.now_seconds()) == 1


def test_should_scale_up_on_the_queue_of_its_own_engines(fleet: SmallFleet, engines: Engines) -> None:
    fleet.static_pool("a")
    signal = {"name": "engine", "podMetrics": {"port": engines.port}, "interval": "500ms"}
    scaling = {"minReplicas": 1, "maxReplicas": 3, "targetQueueDepth": 2, "signals": [signal]}
    fleet.deploy("chat", mode="Auto", scaling=scaling)
    (first,) = fleet.settled("chat", 1)

    # Four run, twenty wait: that is more than three replicas keep at a queue of two.
    with engines.load(first["status"]["podIP"], requests=24):
        fleet.settled("chat", 3)

    fleet.asks_for("chat", 3)
    fleet.noted("chat", "AtMaximumReplicas")


def test_should_go_down_when_idle_and_to_zero_and_back(fleet: SmallFleet, queue: Queue) -> None:
    # Surplus is kept for 30 s at least, so both ways down are walked side by side.
    fleet.static_pool("a")
    known = variant(2, performance={"maxConcurrency": 4, "startup": "1s"})
    scaling = {"minReplicas": 0, "maxReplicas": 9, "scaleToZeroAfter": "1s"}
    with Queue(waiting=1) as night_queue:
        # Eight per replica: four that run and four that wait.
        queue.waiting = 30
        fleet.deploy("day", mode="Auto", variants=known, scaling={**scaling, "signals": queue_signal(queue.url)})
        fleet.deploy(
            "night", mode="Auto", variants=known, scaling={**scaling, "signals": queue_signal(night_queue.url)}
        )
        fleet.settled("day", 4)
        fleet.settled("night", 1)

        queue.waiting, night_queue.waiting = 2, 0

        started_at = fleet.witness.now_seconds()
        fleet.stays(
            lambda: len(fleet.serving("day")) == 4, 5.0, "4 serving replicas: a surplus is not given up at once"
        )
        fleet.settled("day", 1)
        assert fleet.witness.fewest_ready(fleet.namespace, "day", started_at) == 1
        fleet.settled("night", 0)
        fleet.asks_for("day", 1)
        fleet.asks_for("night", 0)
        night_queue.waiting = 3
        fleet.settled("night", 1)
        fleet.asks_for("night", 1)


def test_should_hold_replicas_while_the_signal_is_silent(fleet: SmallFleet, queue: Queue) -> None:
    fleet.static_pool("a")
    scaling = {"minReplicas": 0, "maxReplicas": 4, "scaleToZeroAfter": "1s", "signals": queue_signal(queue.url, "1s")}
    queue.waiting = 8
    fleet.deploy("chat", mode="Auto", scaling=scaling)
    fleet.settled("chat", 2)

    queue.waiting = None

    fleet.says("chat", "ScalingActive", "replicas are held", status="False", reason="NoFreshSignal")
    fleet.stays(lambda: len(fleet.serving("chat")) == 2, 3.0, "2 serving replicas")


def test_should_correct_kubectl_scale_in_mode_auto(fleet: SmallFleet, queue: Queue, kubectl: Kubectl) -> None:
    fleet.static_pool("a")
    queue.waiting = 8
    fleet.deploy("chat", mode="Auto", scaling={"maxReplicas": 4, "signals": queue_signal(queue.url)})
    fleet.settled("chat", 2)

    kubectl.read("scale", "infd", "chat", f"--namespace={fleet.namespace}", "--replicas=4")

    fleet.asks_for("chat", 2)
    assert sorted(fleet.witness.created(fleet.namespace)) == ["chat-tp2-0", "chat-tp2-1"]


def test_should_show_what_auto_would_do_in_mode_advisory_and_not_do_it(fleet: SmallFleet, queue: Queue) -> None:
    fleet.static_pool("a")
    queue.waiting = 12
    fleet.deploy("chat", mode="Advisory", replicas=1, scaling={"maxReplicas": 4, "signals": queue_signal(queue.url)})

    fleet.settled("chat", 1)

    fleet.until(lambda: fleet.status("chat").get("desiredReplicas") == 3, "status.desiredReplicas of 3", "chat")
    fleet.until(
        lambda: "Auto would run 3" in fleet.status("chat")["lastDecision"]["message"], "the advice in words", "chat"
    )
    assert fleet.spec("chat")["replicas"] == 1
    assert fleet.witness.created(fleet.namespace) == ["chat-tp2-0"]


def test_should_touch_nothing_in_mode_paused(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    fleet.deploy("chat", replicas=2)
    before = fleet.settled("chat", 2)

    fleet.change("chat", mode="Paused", replicas=3)

    fleet.told("chat", "ScalingActive", status="False", reason="Paused")
    for pod in before:
        path = f"/api/v1/namespaces/{fleet.namespace}/pods/{pod['metadata']['name']}"
        fleet.admin.patch(path, {"metadata": {"annotations": {f"{SIMULATED}-failure": "crash"}}})
    fleet.until(lambda: all(pod["status"]["phase"] == "Failed" for pod in fleet.pods("chat")), "2 failed Pods", "chat")
    time.sleep(3.0)
    after = fleet.pods("chat")
    assert [pod["metadata"]["uid"] for pod in after] == [pod["metadata"]["uid"] for pod in before]
    assert [pod["status"]["phase"] for pod in after] == ["Failed", "Failed"]


def test_should_leave_nothing_behind_of_a_deployment_that_is_deleted(
    fleet: SmallFleet, operator: OperatorProcess
) -> None:
    fleet.static_pool("a")
    # Two deployments: Pods of a Service cannot have loopback addresses, so each shows one half.
    fleet.deploy("chat", replicas=2)
    fleet.deploy("front", replicas=0, service={"port": 8000})
    fleet.settled("chat", 2)
    services = f"/api/v1/namespaces/{fleet.namespace}/services"
    fleet.until(lambda: fleet.admin.get(services)["items"], "a Service", "front")
    assert f'deployment="{fleet.namespace}/chat"' in operator.metrics()

    fleet.delete("chat")
    fleet.delete("front")

    # A young controller manager learns of new kinds each 30 s, and collects no garbage of theirs before.
    fleet.until(lambda: not fleet.pods(), "the end of all Pods")
    fleet.until(lambda: not fleet.admin.get(services)["items"], "the end of the Service")
    series = f'deployment="{fleet.namespace}/'
    fleet.until(lambda: series not in operator.metrics(), "the end of the metrics series")
    assert sorted(fleet.witness.created(fleet.namespace)) == ["chat-tp2-0", "chat-tp2-1"]


def test_should_replace_a_failed_replica_after_a_growing_wait(fleet: SmallFleet) -> None:
    fleet.static_pool("a")
    failing = {f"{SIMULATED}-failure": "crash"}

    fleet.deploy("chat", replicas=1, template=template(annotations=failing))

    fleet.until(lambda: len(fleet.witness.created(fleet.namespace)) == 3, "three tries", "chat")
    tries = [change.object["metadata"] for change in fleet.witness.of_pods(fleet.namespace) if change.kind == "ADDED"]
    created_at = [datetime.fromisoformat(own["creationTimestamp"]) for own in tries]
    waits = [(later - earlier).total_seconds() for earlier, later in pairwise(created_at)]
    # At least 5 and 10 s, by clocks of whole seconds. At most is for the core's own tests: a busy machine takes what time it likes.
    assert waits[0] >= 4.5
    assert waits[1] >= 9.0
    fleet.noted("chat", "BackingOff")

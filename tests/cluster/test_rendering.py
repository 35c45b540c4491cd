from __future__ import annotations

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.cluster.rendering import (
    render_disruption_budget,
    render_pod,
    render_service,
    render_simulated_node,
    service_url,
)
from fleetpack.core.cores import parse_cores
from fleetpack.core.decision import CreateReplica
from raw_objects import a_resource

INF2 = load_catalog().instance_types["inf2.48xlarge"]
GPU = load_catalog().instance_types["g5.12xlarge"]
OWNER = {
    "apiVersion": "fleetpack.dev/v1alpha1",
    "kind": "InferenceDeployment",
    "name": "chat",
    "uid": "uid-chat",
    "controller": True,
    "blockOwnerDeletion": True,
}


def an_order(**changes: object) -> CreateReplica:
    values: dict[str, object] = {
        "deployment": "team/chat",
        "variant": "tp8",
        "name": "chat-tp8-0",
        "node": "node-a",
        "cores": parse_cores("8-15"),
        "cores_count": 8,
        "template_hash": "h",
        "usd_per_hour": 4.3,
        "reason": "BelowMinimum",
    }
    return CreateReplica(**{**values, **changes})  # type: ignore[arg-type]


def test_should_add_cores_place_labels_and_owner_to_the_template_and_nothing_else() -> None:
    assert render_pod(a_resource(), an_order(), INF2) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "chat-tp8-0",
            "namespace": "team",
            "labels": {
                "fleetpack.dev/deployment": "chat",
                "fleetpack.dev/variant": "tp8",
                "fleetpack.dev/serving": "true",
            },
            "annotations": {"fleetpack.dev/template-hash": "h", "fleetpack.dev/cores": "8-15"},
            "ownerReferences": [OWNER],
        },
        "spec": {
            "containers": [
                {
                    "name": "server",
                    "image": "example.com/engine:1",
                    "resources": {
                        "requests": {"cpu": "2", "memory": "4Gi", "aws.amazon.com/neuroncore": "8"},
                        "limits": {"aws.amazon.com/neuroncore": "8"},
                    },
                }
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}
                        ]
                    }
                }
            },
        },
    }


def test_should_not_take_over_what_was_said_of_the_pod_that_a_template_was_made_from() -> None:
    annotations = {
        "fleetpack.dev/cores": "0-7",
        "fleetpack.dev/allocated-cores": "0-7",
        "fleetpack.dev/draining-since": "2026-11-24T12:00:00Z",
        "fleetpack.dev/template-hash": "old",
        "fleetpack.dev/simulated-startup-seconds": "30",
        "team": "search",
    }
    template = {**a_resource().spec.template, "metadata": {"annotations": annotations}}

    assert render_pod(a_resource(template=template), an_order(), INF2)["metadata"]["annotations"] == {
        "fleetpack.dev/simulated-startup-seconds": "30",
        "team": "search",
        "fleetpack.dev/template-hash": "h",
        "fleetpack.dev/cores": "8-15",
    }


def test_should_give_cores_to_the_serving_container_only() -> None:
    containers = [{"name": "proxy", "image": "p"}, {"name": "server", "image": "s"}]
    resource = a_resource(template={"spec": {"containers": containers}}, servingContainer="server")

    pod = render_pod(resource, an_order(), INF2)

    assert ["resources" in container for container in pod["spec"]["containers"]] == [False, True]


def test_should_add_the_node_to_each_term_of_the_users_own_affinity() -> None:
    expression = {"key": "zone", "operator": "In", "values": ["a"]}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}, {"matchExpressions": [expression]}]
            }
        }
    }
    resource = a_resource(template={"spec": {"affinity": affinity, "containers": [{"name": "server", "image": "s"}]}})

    pod = render_pod(resource, an_order(), INF2)

    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    field = {"key": "metadata.name", "operator": "In", "values": ["node-a"]}
    assert terms == [{"matchExpressions": [expression], "matchFields": [field]}] * 2


def test_should_count_devices_without_ids_and_write_down_no_cores() -> None:
    pod = render_pod(a_resource(), an_order(cores=0, cores_count=2), GPU)

    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert "fleetpack.dev/cores" not in pod["metadata"]["annotations"]


def test_should_merge_the_variants_changes_by_container_name() -> None:
    change = {"spec": {"containers": [{"name": "server", "image": "example.com/engine:2"}]}}
    resource = a_resource(variants=[{"name": "tp8", "accelerator": "inferentia2", "cores": 8, "template": change}])

    pod = render_pod(resource, an_order(), INF2)

    assert pod["spec"]["containers"][0]["image"] == "example.com/engine:2"


def test_should_refuse_a_variant_that_the_spec_has_dropped() -> None:
    with pytest.raises(ValueError, match="variant 'gone' is no longer in"):
        render_pod(a_resource(), an_order(variant="gone"), INF2)


def test_should_make_a_service_of_the_replicas_in_service_only_where_it_is_asked_for() -> None:
    service = render_service(a_resource(service={"port": 8000}))

    assert service is not None
    assert service["spec"]["selector"] == {"fleetpack.dev/deployment": "chat", "fleetpack.dev/serving": "true"}
    assert service_url(a_resource(service={"port": 8000})) == "http://chat.team.svc:8000"
    assert (render_service(a_resource()), service_url(a_resource())) == (None, "")


def test_should_ask_for_a_whole_number_of_replicas_to_stay() -> None:
    budget = render_disruption_budget(a_resource(), 3)

    assert budget["spec"]["minAvailable"] == 3


def test_should_give_a_simulated_node_what_its_machine_would_have() -> None:
    node = render_simulated_node("n", "inferentia2", INF2, 4.0)

    assert node["status"]["allocatable"] == {
        "cpu": "191450m",
        "memory": str(718987 * 2**20),
        "pods": "737",
        "aws.amazon.com/neuroncore": "24",
        "aws.amazon.com/neuron": "12",
    }
    assert node["metadata"]["annotations"]["fleetpack.dev/simulated-boot-seconds"] == "4"

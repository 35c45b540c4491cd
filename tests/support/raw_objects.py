"""Raw Kubernetes objects and resources for tests of what is projected from them and rendered to them."""

from __future__ import annotations

from typing import Any

from fleetpack.api.inference_deployment import InferenceDeployment

CREATED = "2026-11-24T12:00:00Z"
CREATED_SECONDS = 1_795_521_600.0


def a_resource(**spec: Any) -> InferenceDeployment:
    return InferenceDeployment.parse(a_raw_resource(**spec))


def a_raw_resource(**spec: Any) -> dict[str, Any]:
    """An InferenceDeployment as the API server gives it."""
    container = {
        "name": "server",
        "image": "example.com/engine:1",
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
    }
    return {
        "apiVersion": "fleetpack.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "chat", "namespace": "team", "uid": "uid-chat", "generation": 3, "resourceVersion": "7"},
        "spec": {
            "template": {"spec": {"containers": [container]}},
            "variants": [{"name": "tp8", "accelerator": "inferentia2", "cores": 8}],
            "scaling": {"signals": [{"name": "engine", "podMetrics": {"port": 8000}}]},
            **spec,
        },
    }


def a_raw_pod(*, status: dict[str, Any] | None = None, node: str = "node-a", **metadata: Any) -> dict[str, Any]:
    """A replica's Pod as the API server gives it: bound, planned for cores 8 to 15, not ready yet."""
    return {
        "metadata": {
            "name": "chat-tp8-0",
            "namespace": "team",
            "uid": "uid-pod",
            "resourceVersion": "9",
            "creationTimestamp": CREATED,
            "labels": {
                "fleetpack.dev/deployment": "chat",
                "fleetpack.dev/variant": "tp8",
                "fleetpack.dev/serving": "true",
            },
            "annotations": {"fleetpack.dev/cores": "8-15", "fleetpack.dev/template-hash": "h"},
            **metadata,
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "server",
                    "resources": {
                        "requests": {"cpu": "2", "memory": "4Gi", "aws.amazon.com/neuroncore": "8"},
                        "limits": {"aws.amazon.com/neuroncore": "8"},
                    },
                }
            ],
        },
        "status": status or {"phase": "Pending"},
    }


def a_raw_node(**changes: Any) -> dict[str, Any]:
    """A ready inf2.48xlarge of the pool inferentia2."""
    return {
        "metadata": {
            "name": "node-a",
            "uid": "uid-node",
            "creationTimestamp": CREATED,
            "labels": {
                "fleetpack.dev/pool": "inferentia2",
                "node.kubernetes.io/instance-type": "inf2.48xlarge",
                **changes.pop("labels", {}),
            },
        },
        "spec": changes.pop("spec", {}),
        "status": {
            "allocatable": {"cpu": "191450m", "memory": "718987Mi", "pods": "737", "aws.amazon.com/neuroncore": "24"},
            "conditions": changes.pop("conditions", [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]),
        },
    }

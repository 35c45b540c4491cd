"""What the real API server makes of our CRDs and examples, as people meet it through kubectl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fleetpack.api import AcceleratorPool, Condition, ConditionStatus, InferenceDeployment, Money, Rate, Reason
from fleetpack.api.inference_deployment import InferenceDeploymentStatus, LastDecision, PlacementStatus, VariantStatus
from fleetpack.api.schema import RESOURCES
from fleetpack.api.values import Duration

if TYPE_CHECKING:
    from kubectl import Kubectl

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).resolve().parents[2]
_FOLDER = REPOSITORY / "examples"
# The load beside the models for kind is a Job, none of our resources.
EXAMPLES = sorted({*_FOLDER.glob("*.yaml"), *_FOLDER.glob("kind/*.yaml")} - {_FOLDER / "kind" / "load.yaml"})
SMALL: dict[str, Any] = {
    "apiVersion": "fleetpack.dev/v1alpha1",
    "kind": "InferenceDeployment",
    "metadata": {"name": "small"},
    "spec": {
        "template": {"spec": {"containers": [{"name": "server", "image": "example.com/server:1"}]}},
        "variants": [{"name": "tp2", "accelerator": "inferentia2", "cores": 2}],
        "scaling": {"signals": [{"name": "engine", "podMetrics": {"port": 8000}}]},
    },
}


def apply(kubectl: Kubectl, namespace: str, manifest: dict[str, Any]) -> None:
    answer = kubectl.run("apply", "-n", namespace, "-f", "-", manifest=manifest)
    assert answer.returncode == 0, answer.stderr


def get(kubectl: Kubectl, namespace: str, kind: str, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(kubectl.read("get", "-n", namespace, kind, name, "-o", "json"))
    return result


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_should_establish_each_crd_with_a_structural_schema(kubectl: Kubectl, resource: Any) -> None:
    definition = json.loads(kubectl.read("get", "crd", resource.name, "-o", "json"))

    conditions = {condition["type"]: condition["status"] for condition in definition["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("how", ["client-side", "server-side"])
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_should_take_every_example(kubectl: Kubectl, path: Path, how: str) -> None:
    options = ("--server-side", "--force-conflicts") if how == "server-side" else ()

    # A dry run: pools are cluster-scoped, and none of the tests around may find one that it did not make.
    answer = kubectl.run("apply", *options, "--dry-run=server", "-f", str(path))

    assert answer.returncode == 0, answer.stderr
    assert "Warning" not in answer.stderr


def test_should_take_the_crds_server_side_too(kubectl: Kubectl) -> None:
    answer = kubectl.run(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(REPOSITORY / "crds")
    )

    assert answer.returncode == 0, answer.stderr


def test_should_show_every_default_in_the_object(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)

    spec = get(kubectl, namespace, "infd", "small")["spec"]
    assert spec == {
        "template": SMALL["spec"]["template"],
        "variants": [{"name": "tp2", "accelerator": "inferentia2", "cores": 2, "performance": {}}],
        "mode": "Auto",
        "replicas": 1,
        "scaling": {
            "minReplicas": 1,
            "maxReplicas": 10,
            "targetQueueDepth": 4,
            "scaleToZeroAfter": "10m",
            "signals": [
                {
                    "name": "engine",
                    "podMetrics": {"port": 8000, "path": "/metrics", "format": "vllm"},
                    "interval": "2s",
                    "staleAfter": "10s",
                }
            ],
        },
        "cost": {},
        "disruption": {"maxUnavailable": "10%", "drain": "2m", "windows": []},
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_should_have_the_same_defaults_as_the_models(kubectl: Kubectl, path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    model = {"InferenceDeployment": InferenceDeployment, "AcceleratorPool": AcceleratorPool}[manifest["kind"]]

    answer = kubectl.run("apply", "--dry-run=server", "-o", "json", "-f", str(path))

    stored = json.loads(answer.stdout)["spec"]
    assert model.parse(manifest).to_manifest()["spec"] == stored
    assert model.parse({"spec": stored}).to_manifest()["spec"] == stored


def test_should_take_back_its_own_manifest(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)
    manifest = InferenceDeployment.parse(get(kubectl, namespace, "infd", "small")).to_manifest()

    apply(kubectl, namespace, {**SMALL, "spec": manifest["spec"]})

    assert get(kubectl, namespace, "infd", "small")["metadata"]["generation"] == 1


def test_should_be_scaled_as_any_workload(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)
    status = {"replicas": 2, "selector": "fleetpack.dev/deployment=small"}
    kubectl.read(
        "patch",
        "-n",
        namespace,
        "infd",
        "small",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )

    kubectl.read("scale", "-n", namespace, "infd", "small", "--replicas=5")

    scale = json.loads(
        kubectl.read(
            "get", "--raw", f"/apis/fleetpack.dev/v1alpha1/namespaces/{namespace}/inferencedeployments/small/scale"
        )
    )
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == status
    assert get(kubectl, namespace, "infd", "small")["spec"]["replicas"] == 5


def test_should_leave_replicas_to_whoever_scales_when_a_manifest_without_them_is_applied_again(
    kubectl: Kubectl, namespace: str
) -> None:
    apply(kubectl, namespace, SMALL)
    kubectl.read("scale", "-n", namespace, "infd", "small", "--replicas=5")

    apply(kubectl, namespace, SMALL)

    assert get(kubectl, namespace, "infd", "small")["spec"]["replicas"] == 5


def test_should_take_a_whole_status_as_the_models_write_it(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)
    status = InferenceDeploymentStatus(
        observed_generation=1,
        replicas=1,
        ready_replicas=1,
        desired_replicas=2,
        url="http://small.models:8000",
        queue_depth=7,
        arrival_rate=Rate.of(3.25),
        usd_per_hour=Money.of(1.08177),
        usd_per_million_requests=Money.of(92.4),
        variants=(VariantStatus(name="tp2", replicas=1, ready=1, measured_startup=Duration.of(4.2)),),
        placements=(PlacementStatus(pod="small-tp2-0", variant="tp2", node="node-1", cores="2-3"),),
        last_decision=LastDecision(time="2026-01-02T03:04:05Z", reason=Reason.QUEUE_ABOVE_TARGET, message="7 wait"),
        conditions=(
            Condition(
                type="Ready",
                status=ConditionStatus.TRUE,
                reason=Reason.ALL_REPLICAS_READY,
                message="1 of 1 replicas are ready",
                last_transition_time="2026-01-02T03:04:05Z",
                observed_generation=1,
            ),
        ),
        selector="fleetpack.dev/deployment=small",
    ).to_manifest()

    kubectl.read(
        "patch",
        "-n",
        namespace,
        "infd",
        "small",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )

    stored = get(kubectl, namespace, "infd", "small")
    assert stored["status"] == status
    assert InferenceDeployment.parse(stored).status.to_manifest() == status
    row = kubectl.read("get", "-n", namespace, "infd", "small", "--no-headers").split()
    assert row[:7] == ["small", "Auto", "2", "1", "1", "7", "1.0818"]


def test_should_keep_spec_and_status_apart(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, {**SMALL, "status": {"replicas": 9}})

    assert "status" not in get(kubectl, namespace, "infd", "small")


def test_should_refuse_the_same_condition_twice(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)
    condition = {"type": "Ready", "status": "True", "reason": "A", "lastTransitionTime": "2026-01-02T03:04:05Z"}

    answer = kubectl.run(
        "patch",
        "-n",
        namespace,
        "infd",
        "small",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": {"conditions": [condition, condition]}}),
    )

    assert answer.returncode != 0
    assert "status.conditions[1]: Duplicate value" in answer.stderr


def test_should_be_found_by_short_name_category_and_field(kubectl: Kubectl, namespace: str) -> None:
    apply(kubectl, namespace, SMALL)
    apply(kubectl, namespace, {**SMALL, "metadata": {"name": "other"}, "spec": {**SMALL["spec"], "mode": "Paused"}})

    in_category = kubectl.read("get", "-n", namespace, "fleetpack", "-o", "name")
    paused = kubectl.read("get", "-n", namespace, "infd", "--field-selector", "spec.mode=Paused", "-o", "name")

    assert {"inferencedeployment.fleetpack.dev/small", "inferencedeployment.fleetpack.dev/other"} <= set(
        in_category.split()
    )
    assert paused.split() == ["inferencedeployment.fleetpack.dev/other"]


def test_should_explain_a_field_in_words(kubectl: Kubectl) -> None:
    text = kubectl.read("explain", "infd.spec.cost.maxUSDPerHour")

    assert "Ceiling in US dollars per hour" in text


def test_should_take_a_template_as_kubectl_writes_it(kubectl: Kubectl, namespace: str) -> None:
    """`kubectl create --dry-run=client -o yaml` and people's own manifests have all this."""
    container = {
        "name": "server",
        "image": "example.com/server:1",
        "ports": [{"containerPort": 8000}],
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"requests": {"cpu": 2, "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }
    template: dict[str, Any] = {
        "metadata": {"creationTimestamp": None, "labels": {"app": "x"}, "annotations": {"a": "b"}},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "10Gi", "medium": "Memory"}}],
            "tolerations": [{"key": "aws.amazon.com/neuron", "operator": "Exists", "effect": "NoSchedule"}],
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
                    }
                }
            },
            "priorityClassName": "high",
        },
    }
    partial = {"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "server", "args": ["--x"]}]}}
    variants = [{**SMALL["spec"]["variants"][0], "template": partial}]

    apply(kubectl, namespace, {**SMALL, "spec": {**SMALL["spec"], "template": template, "variants": variants}})

    stored = get(kubectl, namespace, "infd", "small")["spec"]
    assert stored["variants"][0]["template"] == partial
    del template["metadata"]["creationTimestamp"]  # kubectl leaves out what is null
    assert stored["template"] == template

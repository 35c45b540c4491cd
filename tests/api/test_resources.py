"""Reading and writing both resources: nothing is lost, nothing is reformatted, newer fields do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fleetpack.api import AcceleratorPool, Condition, ConditionStatus, InferenceDeployment, Money, Rate, Reason
from fleetpack.api.accelerator_pool import LabelSelector, Provider
from fleetpack.api.inference_deployment import InferenceDeploymentStatus, Measure, Mode, Signal, VariantStatus
from fleetpack.api.values import Duration, IntOrPercent

_FOLDER = Path(__file__).resolve().parents[2] / "examples"
# The load beside the models for kind is a Job, none of our resources.
EXAMPLES = sorted({*_FOLDER.glob("*.yaml"), *_FOLDER.glob("kind/*.yaml")} - {_FOLDER / "kind" / "load.yaml"})
KINDS: dict[str, type[InferenceDeployment] | type[AcceleratorPool]] = {
    "InferenceDeployment": InferenceDeployment,
    "AcceleratorPool": AcceleratorPool,
}
CONTAINERS = {"spec": {"containers": [{"name": "server", "image": "example.com/server:1"}]}}


def deployment(**spec: Any) -> dict[str, Any]:
    """Return a small manifest of a deployment in mode Manual."""
    variants = [{"name": "tp8", "accelerator": "inferentia2", "cores": 8}]
    whole = {"template": CONTAINERS, "variants": variants, "mode": "Manual"} | spec
    return {"metadata": {"name": "llama", "namespace": "models"}, "spec": whole}


def contains(whole: Any, part: Any) -> bool:
    """Whether everything in `part` stands in `whole` unchanged; `whole` may have more fields."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_should_have_the_defaults_of_the_reference() -> None:
    spec = InferenceDeployment.parse(deployment()).spec

    assert (spec.replicas, spec.scaling.min_replicas, spec.scaling.max_replicas) == (1, 1, 10)
    assert spec.scaling.target_queue_depth == 4
    assert spec.scaling.scale_to_zero_after == Duration.parse("10m")
    assert spec.disruption.max_unavailable == IntOrPercent.parse("10%")
    assert spec.disruption.drain == Duration.parse("2m")
    assert (spec.model, spec.service, spec.serving_container, spec.cost.max_usd_per_hour) == (None, None, None, None)
    assert InferenceDeployment.parse(deployment(mode=Mode.AUTO)).spec.mode is Mode.AUTO


def test_should_keep_a_template_exactly_as_written() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {**CONTAINERS["spec"], "somethingNew": {"x": [1, None]}}}

    assert InferenceDeployment.parse(deployment(template=template)).to_manifest()["spec"]["template"] == template


def test_should_ignore_fields_of_a_newer_version() -> None:
    newer = deployment(tomorrow={"a": 1})
    newer["metadata"]["managedFields"] = []

    assert InferenceDeployment.parse(newer) == InferenceDeployment.parse(deployment())


def test_should_refuse_unknown_fields_when_a_person_wrote_them() -> None:
    with pytest.raises(ValidationError, match=r"spec\.maxReplicas"):
        InferenceDeployment.parse_strictly(deployment(maxReplicas=3))


def test_should_refuse_the_names_of_python_fields_in_a_manifest() -> None:
    with pytest.raises(ValidationError, match=r"spec\.serving_container"):
        InferenceDeployment.parse_strictly(deployment(serving_container="server"))


def test_should_trust_the_api_server_for_rules_when_reading_the_cluster() -> None:
    """A rule of a newer version must not make an object unreadable that an older one let in."""
    spec = InferenceDeployment.parse(deployment(scaling={"minReplicas": 20})).spec

    assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (20, 10)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_should_read_every_example_and_write_it_back_unchanged(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())

    parsed = KINDS[manifest["kind"]].parse_strictly(manifest)

    assert contains(parsed.to_manifest(), manifest)
    assert KINDS[manifest["kind"]].parse_strictly(parsed.to_manifest()) == parsed


def test_should_leave_out_of_status_what_is_not_known() -> None:
    status = InferenceDeploymentStatus(
        observed_generation=3,
        replicas=2,
        ready_replicas=0,
        usd_per_hour=Money.of(8.654),
        arrival_rate=Rate.of(1.25),
        variants=(VariantStatus(name="tp8", replicas=2, measured_startup=Duration.of(95.0)),),
        conditions=(
            Condition(
                type="Ready",
                status=ConditionStatus.FALSE,
                reason=Reason.REPLICAS_STARTING,
                message="0 of 2 replicas are ready",
                last_transition_time="2026-01-02T03:04:05Z",
                observed_generation=3,
            ),
        ),
    )

    assert status.to_manifest() == {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 0,
        "usdPerHour": "8.6540",
        "arrivalRate": "1.250",
        "variants": [{"name": "tp8", "replicas": 2, "ready": 0, "measuredStartup": "1m35s"}],
        "placements": [],
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ReplicasStarting",
                "message": "0 of 2 replicas are ready",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
                "observedGeneration": 3,
            }
        ],
    }


def test_should_tell_signals_that_wake_a_model_from_those_that_sleep_with_it() -> None:
    outside = {"name": "s", "http": {"url": "http://queue", "jsonPath": "$.depth"}}

    assert Signal.parse({**outside, "measures": "waiting"}).wakes
    assert Signal.parse({**outside, "measures": "arrivalRate"}).wakes
    assert not Signal.parse({**outside, "measures": Measure.RUNNING}).wakes
    assert not Signal.parse({"name": "s", "podMetrics": {"port": 8000}}).wakes


def test_should_select_labels_as_kubernetes_does() -> None:
    selector = LabelSelector.parse(
        {
            "matchLabels": {"team": "a"},
            "matchExpressions": [
                {"key": "stage", "operator": "NotIn", "values": ["test"]},
                {"key": "zone", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "tier", "operator": "In", "values": ["1", "2"]},
            ],
        }
    )
    labels = {"team": "a", "zone": "x", "tier": "2"}

    assert selector.matches(labels)
    assert not selector.matches(labels | {"stage": "test"})
    assert not selector.matches(labels | {"old": ""})
    assert not selector.matches(labels | {"tier": "3"})
    assert not selector.matches({"team": "a", "tier": "1"})
    assert LabelSelector.parse({}).matches({})


def test_should_read_a_pool_with_its_own_machines() -> None:
    own = {"name": "own", "accelerator": "inferentia2", "devices": 8, "cpu": "59500m", "memory": "240Gi"}

    spec = AcceleratorPool.parse({"spec": {"provider": "Static", "customInstanceTypes": [own]}}).spec

    assert spec.provider is Provider.STATIC
    assert spec.custom_instance_types[0].cpu.millicores == 59_500
    assert spec.custom_instance_types[0].memory.bytes == 240 * 2**30
    assert spec.custom_instance_types[0].price_usd_per_hour is None
    assert spec.disruption.consolidate_after.seconds == 300

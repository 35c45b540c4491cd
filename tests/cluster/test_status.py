from __future__ import annotations

from dataclasses import replace

import pytest

from fleetpack.api.inference_deployment import InferenceDeploymentStatus
from fleetpack.api.values import Rate
from fleetpack.cluster.status import deployment_status, worth_writing
from fleetpack.core.absent import Measurement
from fleetpack.core.decision import Decision
from fleetpack.core.deployments import LearnedProfile
from fleetpack.core.reports import Condition, DeploymentReport, VariantReport
from raw_objects import a_resource

NOW = 1_795_521_600.0
DECISION = Decision(subject="team/chat", kind="replicas", before=2, after=2, reason="OnTarget", message="2 needed")


def a_report(**changes: object) -> DeploymentReport:
    values: dict[str, object] = {
        "deployment": "team/chat",
        "mode": "Auto",
        "desired_replicas": 2,
        "automatic_replicas": 2,
        "replicas": 2,
        "ready_replicas": 2,
        "queue_depth": Measurement(value=3.2, age_seconds=1.0),
        "running": Measurement(value=10.0, age_seconds=1.0),
        "arrival_rate_per_second": Measurement(value=2.0, age_seconds=1.0),
        "usd_per_hour": 8.6542,
        "variants": (VariantReport(name="tp8", replicas=2, ready=2, measured=LearnedProfile(variant="tp8")),),
        "placements": (),
        "unplaced": (),
        "conditions": (Condition(type="Ready", status=True, reason="AllReplicasReady", message="all"),),
        "decision": DECISION,
    }
    return DeploymentReport(**{**values, **changes})  # type: ignore[arg-type]


def status_of(report: DeploymentReport, before: InferenceDeploymentStatus | None = None) -> InferenceDeploymentStatus:
    resource = a_resource()
    if before is not None:
        resource = resource.model_copy(update={"status": before})
    return deployment_status(resource, report, NOW)


def test_should_say_what_a_million_requests_cost_at_this_rate() -> None:
    status = status_of(a_report())

    # 8.6542 USD an hour for 7,200 requests an hour.
    assert str(status.usd_per_million_requests) == "1201.9722"


def test_should_keep_the_time_of_a_condition_that_has_not_turned() -> None:
    first = status_of(a_report())
    later = deployment_status(a_resource().model_copy(update={"status": first}), a_report(), NOW + 500)

    assert later.conditions == first.conditions


def test_should_keep_the_last_decision_until_something_moves() -> None:
    moved = replace(DECISION, before=1, after=2, reason="BacklogDraining", message="2 needed now")
    first = status_of(a_report(decision=moved))

    quiet = status_of(a_report(), before=first)

    assert quiet.last_decision == first.last_decision


@pytest.mark.parametrize(
    ("changes", "seconds", "expected"),
    [
        ({}, 1000.0, False),
        ({"ready_replicas": 1}, 0.0, True),
        ({"desired_replicas": 3}, 0.0, True),
        ({"queue_depth": Measurement(value=90.0, age_seconds=1.0)}, 29.0, False),
        ({"queue_depth": Measurement(value=90.0, age_seconds=1.0)}, 31.0, True),
        ({"arrival_rate_per_second": Measurement(value=2.1, age_seconds=1.0)}, 31.0, False),
    ],
)
def test_should_write_news_at_once_and_moving_numbers_seldom(
    changes: dict[str, object], seconds: float, expected: bool
) -> None:
    stored = status_of(a_report())
    wanted = status_of(a_report(**changes), before=stored)

    assert worth_writing(stored, wanted, seconds) is expected


def test_should_write_a_number_that_became_known() -> None:
    stored = status_of(a_report())
    without = stored.model_copy(update={"arrival_rate": None})

    assert worth_writing(without, stored, 31.0)
    assert stored.arrival_rate == Rate.of(2.0)

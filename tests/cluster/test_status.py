from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fleetpack.api.inference_deployment import InferenceDeploymentStatus
from fleetpack.api.values import Rate
from fleetpack.cluster.status import deployment_status, worth_writing
from fleetpack.core.absent import Measurement
from fleetpack.core.deployments import LearnedProfile
from fleetpack.core.reports import DeploymentReport, VariantReport
from raw_objects import a_resource
from report_builders import DECISION, NOW, a_report


def status_of(report: DeploymentReport, before: InferenceDeploymentStatus | None = None) -> InferenceDeploymentStatus:
    resource = a_resource()
    if before is not None:
        resource = resource.model_copy(update={"status": before})
    return deployment_status(resource, report, NOW)


def test_should_say_what_a_million_requests_cost_at_this_rate() -> None:
    status = status_of(a_report())

    # 8.6542 USD an hour for 7,200 requests an hour.
    assert str(status.usd_per_million_requests) == "1201.9722"


@pytest.mark.parametrize("rate", [1e-7, 2.9e-314, 1e12])
def test_should_leave_out_what_has_more_digits_than_its_notation(rate: float) -> None:
    endless = LearnedProfile(variant="tp8", requests_per_second=rate * 1e12, startup_seconds=1e30)
    report = a_report(
        arrival_rate_per_second=Measurement(value=rate, age_seconds=1.0),
        queue_depth=Measurement(value=math.inf, age_seconds=1.0),
        usd_per_hour=1e12,
        variants=(VariantReport(name="tp8", replicas=2, ready=2, measured=endless),),
    )

    status = status_of(report)

    written = InferenceDeploymentStatus.parse(status.to_manifest())
    assert (written.usd_per_hour, written.queue_depth, written.variants[0].measured_startup) == (None, None, None)
    # Nearly nothing can be written, what a million requests cost then cannot.
    assert (written.arrival_rate, written.usd_per_million_requests is None) == (
        (Rate.of(0.0), True) if rate < 1 else (None, False)
    )


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

"""A deployment that cannot be assessed: it is named, and planned around."""

from __future__ import annotations

import math

import pytest

from builders import a_deployment, a_replica, a_sample, said, some_inputs
from fleetpack.core.isolation import AssessmentError, without_failed
from fleetpack.core.planner import plan
from fleetpack.core.state import DeploymentState, State


def test_should_act_for_all_others_and_hold_the_one_whose_numbers_overflow() -> None:
    overflowing, busy = a_replica(), a_replica(0, "8-15", deployment="default/other")
    inputs = some_inputs(
        deployments=(a_deployment(), a_deployment("other")),
        replicas=(overflowing, busy),
        samples=(a_sample(overflowing, waiting=math.inf), a_sample(busy, waiting=90.0, running=32.0)),
    )

    with pytest.raises(AssessmentError) as raised:
        plan(inputs, State())
    found, _ = plan(*without_failed(inputs, State(), raised.value.failures))

    held = next(report for report in found.deployments if report.deployment == "default/chat")
    accepted = next(condition for condition in held.conditions if condition.type == "Accepted")
    assert (list(raised.value.failures), said(found), accepted.status, accepted.reason) == (
        ["default/chat"],
        ["create other-tp8-1 on node-a cores 16-23", "scale default/other to 2"],
        False,
        "AssessmentFailed",
    )


def test_should_forget_what_is_remembered_of_the_one_that_fails() -> None:
    remembered = tuple(DeploymentState(deployment=f"default/{name}", failures=2) for name in ("chat", "other"))

    _, state = without_failed(some_inputs(), State(deployments=remembered), {"default/chat": OverflowError()})

    assert state == State(deployments=remembered[1:])

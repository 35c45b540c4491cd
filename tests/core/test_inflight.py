"""What refusals teach: one failed try is one reason to wait, however many Pods were in it."""

from __future__ import annotations

from builders import NOW
from fleetpack.core.decision import CreateReplica, IssuedAction, LaunchNode, Outcome
from fleetpack.core.inflight import CREATE_BACK_OFF_SECONDS, LAUNCH_BACK_OFF_SECONDS, learn_from_failures
from fleetpack.core.state import DeploymentState, State


def refused_creations(count: int) -> tuple[IssuedAction, ...]:
    return tuple(
        IssuedAction(
            action=CreateReplica(
                deployment="default/chat",
                variant="tp2",
                name=f"chat-tp2-{ordinal}",
                node="node-a",
                cores=3 << 2 * ordinal,
                cores_count=2,
                template_hash="hash-1",
                usd_per_hour=None,
                reason="ManualReplicas",
            ),
            issued_at=NOW,
            outcome=Outcome.FAILED,
            detail="no",
        )
        for ordinal in range(count)
    )


def refused_launches(count: int) -> tuple[IssuedAction, ...]:
    return tuple(
        IssuedAction(
            action=LaunchNode(
                pool="inferentia2",
                name=f"node-{ordinal}",
                instance_type="inf2.24xlarge",
                price_usd_per_hour=None,
                reason="NodeNeeded",
            ),
            issued_at=NOW,
            outcome=Outcome.FAILED,
            detail="no",
        )
        for ordinal in range(count)
    )


def test_should_wait_no_longer_after_ten_creations_refused_at_once_than_after_one() -> None:
    state = State(deployments=(DeploymentState(deployment="default/chat"),))

    (learnt,) = learn_from_failures(state, refused_creations(10), NOW).deployments

    assert (learnt.failures, learnt.retry_at) == (1, NOW + CREATE_BACK_OFF_SECONDS)


def test_should_wait_twice_as_long_after_the_next_refused_try() -> None:
    first = learn_from_failures(
        State(deployments=(DeploymentState(deployment="default/chat"),)), refused_creations(3), NOW
    )
    later = NOW + CREATE_BACK_OFF_SECONDS

    (learnt,) = learn_from_failures(first, refused_creations(3), later).deployments

    assert (learnt.failures, learnt.retry_at) == (2, later + 2 * CREATE_BACK_OFF_SECONDS)


def test_should_wait_no_longer_after_ten_launches_refused_at_once_than_after_one() -> None:
    (blocked,) = learn_from_failures(State(), refused_launches(10), NOW).blocked

    assert (blocked.refusals, blocked.until) == (1, NOW + LAUNCH_BACK_OFF_SECONDS)

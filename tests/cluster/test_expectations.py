from __future__ import annotations

from builders import NOW, a_deployment, a_replica
from fleetpack.cluster.expectations import Expectations
from fleetpack.core.decision import CreateReplica, DeleteReplica, IssuedAction, Outcome, SetScale
from fleetpack.core.fleet import FleetSnapshot, ReplicaPhase

REPLICA = a_replica(0)
CREATE = CreateReplica(
    deployment="default/chat",
    variant="tp8",
    name="chat-tp8-0",
    node="node-a",
    cores=255,
    cores_count=8,
    template_hash="hash-1",
    usd_per_hour=None,
    reason="BelowMinimum",
)
DELETE = DeleteReplica(
    deployment="default/chat", name=REPLICA.name, uid=REPLICA.uid, resource_version="1", reason="Surplus"
)
NOTHING = FleetSnapshot()


def test_should_tell_of_an_action_until_the_cache_shows_it() -> None:
    expectations = Expectations()
    ticket = expectations.issue(CREATE, NOW)
    pending = expectations.take(NOTHING, (), NOW)
    expectations.settle(ticket, Outcome.DONE, "", NOW + 1)

    done = expectations.take(NOTHING, (), NOW + 1)
    seen = expectations.take(FleetSnapshot(replicas=(REPLICA,)), (), NOW + 2)

    assert (pending, done, seen) == (
        (IssuedAction(action=CREATE, issued_at=NOW),),
        (IssuedAction(action=CREATE, issued_at=NOW, outcome=Outcome.DONE),),
        (),
    )


def test_should_tell_of_a_failure_exactly_once() -> None:
    expectations = Expectations()
    expectations.settle(expectations.issue(CREATE, NOW), Outcome.FAILED, "422 no", NOW)

    first = expectations.take(NOTHING, (), NOW)
    second = expectations.take(NOTHING, (), NOW)

    assert (first, second) == (
        (IssuedAction(action=CREATE, issued_at=NOW, outcome=Outcome.FAILED, detail="422 no"),),
        (),
    )


def test_should_forget_an_unknown_outcome_when_a_fresh_cache_has_not_shown_it_in_time() -> None:
    expectations = Expectations()
    expectations.settle(expectations.issue(CREATE, NOW), Outcome.UNKNOWN, "timeout", NOW + 4)

    at_first = expectations.take(NOTHING, (), NOW + 5)
    later = expectations.take(NOTHING, (), NOW + 15)

    assert (len(at_first), later, len(expectations)) == (1, (), 0)


def test_should_take_a_deletion_for_seen_when_the_pod_terminates_or_another_has_its_name() -> None:
    for shown in (a_replica(0, phase=ReplicaPhase.TERMINATING), a_replica(0, uid="another")):
        expectations = Expectations()
        expectations.settle(expectations.issue(DELETE, NOW), Outcome.DONE, "", NOW)

        assert expectations.take(FleetSnapshot(replicas=(shown,)), (), NOW) == ()


def test_should_wait_for_the_written_scale_to_come_back() -> None:
    expectations = Expectations()
    scale = SetScale(deployment="default/chat", replicas=3, reason="BacklogDraining")
    expectations.settle(expectations.issue(scale, NOW), Outcome.DONE, "", NOW)

    before = expectations.take(NOTHING, (a_deployment(replicas=1),), NOW)
    after = expectations.take(NOTHING, (a_deployment(replicas=3),), NOW)

    assert (len(before), after) == (1, ())

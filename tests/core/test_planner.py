from __future__ import annotations

from dataclasses import replace

from builders import NOW, QUEUE, a_deployment, a_node, a_pool, a_replica, a_sample, said, some_inputs
from fleetpack.core.decision import IssuedAction, Outcome
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import ForeignPod, PoolProvider, ReplicaPhase, Resources
from fleetpack.core.planner import plan
from fleetpack.core.state import State


def test_should_create_the_minimum_on_free_cores() -> None:
    found, _ = plan(some_inputs(), State())

    assert said(found) == ["create chat-tp8-0 on node-a cores 0-7"]


def test_should_jump_at_once_to_the_size_that_drains_the_backlog() -> None:
    replica = a_replica()
    inputs = some_inputs(replicas=(replica,), samples=(a_sample(replica, waiting=90.0, running=32.0),))

    found, _ = plan(inputs, State())

    assert said(found) == [
        "create chat-tp8-1 on node-a cores 8-15",
        "create chat-tp8-2 on node-a cores 16-23",
        "scale default/chat to 3",
    ]


def test_should_not_create_twice_what_is_on_its_way() -> None:
    first, state = plan(some_inputs(), State())
    issued = tuple(IssuedAction(action=action, issued_at=NOW, outcome=Outcome.PENDING) for action in first.actions)

    second, _ = plan(some_inputs(now=NOW + 0.2, issued=issued), state)

    assert said(second) == []


def test_should_keep_the_cores_of_an_unknown_outcome_and_not_count_on_it() -> None:
    first, state = plan(some_inputs(), State())
    issued = tuple(IssuedAction(action=action, issued_at=NOW, outcome=Outcome.UNKNOWN) for action in first.actions)

    second, _ = plan(some_inputs(now=NOW + 5, issued=issued), state)

    assert said(second) == ["create chat-tp8-1 on node-a cores 8-15"]


def test_should_take_the_next_name_when_a_pod_outside_the_books_bears_the_first() -> None:
    # The last room for a replica, whose cores are kept while the bearer of the name may be our own Pod of a moment ago.
    nodes = (a_node(instance_type="inf2.24xlarge"),)
    state, issued, log = State(), (), []
    for tick in range(0, 24, 2):
        found, state = plan(some_inputs(now=NOW + tick, nodes=nodes, issued=issued), state)
        log += [(tick, line) for line in said(found) if line.startswith("create")]
        names = [action for action in found.actions if getattr(action, "name", "") == "chat-tp8-0"]
        if names:
            issued = (IssuedAction(action=names[0], issued_at=NOW + tick, outcome=Outcome.NAME_TAKEN),)
        elif issued and NOW + tick - issued[0].issued_at >= 10:
            issued = ()

    assert log[:2] == [(0, "create chat-tp8-0 on node-a cores 0-7"), (12, "create chat-tp8-1 on node-a cores 0-7")]


def test_should_not_ask_for_the_name_of_a_pod_that_was_taken_out_of_the_books() -> None:
    quarantined = ForeignPod(name="default/chat-tp8-0", node="node-a", requests=Resources(pods=1), cores=0xFF)

    found, _ = plan(some_inputs(foreign_pods=(quarantined,)), State())

    assert said(found) == ["create chat-tp8-1 on node-a cores 8-15"]


def test_should_hold_everything_when_the_cluster_was_not_seen_for_long() -> None:
    found, _ = plan(some_inputs(cache_age_seconds=31.0), State())

    assert (said(found), [decision.reason for decision in found.decisions]) == ([], ["CacheStale"])


def test_should_hold_replicas_when_no_signal_is_fresh() -> None:
    replicas = (a_replica(0), a_replica(1, "8-15"))
    deployment = a_deployment(replicas=2)
    samples = tuple(a_sample(replica, at=NOW - 60) for replica in replicas)

    found, _ = plan(some_inputs(deployments=(deployment,), replicas=replicas, samples=samples), State())

    assert (said(found), found.decisions[0].reason) == ([], "NoFreshSignal")


def test_should_drain_a_surplus_replica_once_its_idle_rent_equals_a_cold_start() -> None:
    replicas = (a_replica(0), a_replica(1, "8-15"))
    deployment = a_deployment(replicas=2)
    state = State()
    log = []
    for tick in range(0, 40, 2):
        samples = tuple(a_sample(replica, at=NOW + tick, running=0.0) for replica in replicas)
        inputs = some_inputs(now=NOW + tick, deployments=(deployment,), replicas=replicas, samples=samples)
        found, state = plan(inputs, state)
        log.append((tick, said(found)))

    assert next(entry for entry in log if entry[1]) == (30, ["drain chat-tp8-1", "scale default/chat to 1"])


def test_should_delete_a_drained_replica_that_is_idle() -> None:
    drained = a_replica(1, "8-15", phase=ReplicaPhase.DRAINING, draining_since=NOW - 4)
    replicas = (a_replica(0), drained)
    samples = tuple(a_sample(replica) for replica in replicas)

    found, _ = plan(some_inputs(replicas=replicas, samples=samples), State())

    assert said(found) == ["delete chat-tp8-1"]


def test_should_obey_manual_replicas_and_not_write_them() -> None:
    deployment = a_deployment(mode=Mode.MANUAL, replicas=2)

    found, _ = plan(some_inputs(deployments=(deployment,)), State())

    assert said(found) == ["create chat-tp8-0 on node-a cores 0-7", "create chat-tp8-1 on node-a cores 8-15"]


def test_should_touch_nothing_when_paused() -> None:
    deployment = a_deployment(mode=Mode.PAUSED, replicas=3)

    found, _ = plan(some_inputs(deployments=(deployment,)), State())

    assert said(found) == []


def test_should_let_the_ceiling_beat_the_minimum() -> None:
    deployment = a_deployment(minimum_replicas=3, replicas=3, maximum_usd_per_hour=9.0)

    found, _ = plan(some_inputs(deployments=(deployment,)), State())

    report = found.deployments[0]
    within = next(condition for condition in report.conditions if condition.type == "WithinBudget")
    assert (said(found)[:2], len(said(found)), within.status, within.reason) == (
        ["create chat-tp8-0 on node-a cores 0-7", "create chat-tp8-1 on node-a cores 8-15"],
        3,
        False,
        "CostCeiling",
    )


def test_should_never_ask_for_what_cannot_be_placed() -> None:
    deployment = a_deployment(minimum_replicas=4, replicas=4)

    found, _ = plan(some_inputs(deployments=(deployment,)), State())

    assert said(found)[-1] == "scale default/chat to 3"
    assert found.decisions[0].message == "4 wanted, 1 without a place: 0 of 1 node: 1 not enough free cores"


def test_should_launch_the_cheapest_node_for_what_has_no_room() -> None:
    pools = (a_pool(provider=PoolProvider.SIMULATED),)

    found, _ = plan(some_inputs(nodes=(), pools=pools), State())

    assert said(found) == ["LaunchNode inferentia2-inf2-24xlarge-0"]


def test_should_not_launch_twice_while_a_node_boots() -> None:
    pools = (a_pool(provider=PoolProvider.SIMULATED),)
    booting = a_node(ready=False, booting=True, created_at=NOW - 5)

    found, _ = plan(some_inputs(nodes=(booting,), pools=pools), State())

    assert said(found) == []


def test_should_wake_from_zero_when_requests_wait_outside() -> None:
    deployment = a_deployment(minimum_replicas=0, replicas=0, signals=(QUEUE,))
    sample = replace(a_sample(a_replica()), signal="inbox", pod_uid="", waiting=3.0, running=None, finished_total=None)

    found, _ = plan(some_inputs(deployments=(deployment,), samples=(sample,)), State())

    assert said(found) == ["create chat-tp8-0 on node-a cores 0-7", "scale default/chat to 1"]


def test_should_go_to_zero_only_after_the_idle_time_of_the_spec() -> None:
    replicas = (a_replica(0),)
    deployment = a_deployment(minimum_replicas=0, signals=(QUEUE,), scale_to_zero_after_seconds=120.0)
    state = State()
    log = []
    for tick in range(0, 200, 2):
        sample = replace(
            a_sample(replicas[0], at=NOW + tick), signal="inbox", pod_uid="", running=None, finished_total=None
        )
        inputs = some_inputs(now=NOW + tick, deployments=(deployment,), replicas=replicas, samples=(sample,))
        found, state = plan(inputs, state)
        log.append((tick, said(found)))

    assert next(entry for entry in log if entry[1]) == (120, ["drain chat-tp8-0", "scale default/chat to 0"])


def test_should_replace_an_old_template_make_before_break_where_there_is_room() -> None:
    old = a_replica(0, template_hash="old")

    found, _ = plan(some_inputs(replicas=(old,)), State())

    assert said(found) == ["create chat-tp8-1 on node-a cores 8-15"]


def test_should_drain_the_old_one_when_the_new_one_is_ready() -> None:
    replicas = (a_replica(0, template_hash="old"), a_replica(1, "8-15"))

    found, _ = plan(some_inputs(replicas=replicas), State())

    assert said(found) == ["drain chat-tp8-0"]


def test_should_break_before_make_within_the_budget_on_a_full_fleet() -> None:
    replicas = tuple(a_replica(index, f"{index * 8}-{index * 8 + 7}", template_hash="old") for index in range(3))
    deployment = a_deployment(replicas=3, minimum_replicas=3)

    found, _ = plan(some_inputs(deployments=(deployment,), replicas=replicas), State())

    assert said(found) == ["drain chat-tp8-2"]


def test_should_delete_and_replace_a_failed_replica_after_a_back_off() -> None:
    failed = a_replica(0, phase=ReplicaPhase.FAILED)

    first, state = plan(some_inputs(replicas=(failed,)), State())
    second, state = plan(some_inputs(now=NOW + 2), state)
    third, _ = plan(some_inputs(now=NOW + 6), state)

    assert (said(first), said(second), said(third)) == (
        ["delete chat-tp8-0"],
        [],
        ["create chat-tp8-0 on node-a cores 0-7"],
    )


def test_should_set_a_node_aside_that_the_scheduler_refuses() -> None:
    nodes = (a_node("node-a"), a_node("node-b"))
    unbound = a_replica(0, phase=ReplicaPhase.UNBOUND, created_at=NOW - 11, ready_at=None)

    first, state = plan(some_inputs(nodes=nodes, replicas=(unbound,)), State())

    assert said(first) == ["delete chat-tp8-0", "create chat-tp8-1 on node-b cores 0-7"]
    assert [entry.node for entry in state.set_aside] == ["node-a"]


def test_should_restore_a_draining_replica_instead_of_starting_a_new_one() -> None:
    draining = a_replica(0, phase=ReplicaPhase.DRAINING, draining_since=NOW - 1)

    found, _ = plan(some_inputs(replicas=(draining,)), State())

    assert said(found) == ["RestoreReplica chat-tp8-0"]

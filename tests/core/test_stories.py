"""Stories: what a fleet does over minutes, told by what it was asked and what it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builders import NOW, QUEUE, a_deployment, a_node, a_pool, a_replica, a_sample, a_variant, said, some_inputs
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.inputs import Plan
from fleetpack.core.planner import plan
from fleetpack.core.state import State


def three_replicas(**changes: Any) -> tuple[Replica, ...]:
    return tuple(a_replica(index, f"{index * 8}-{index * 8 + 7}", **changes) for index in range(3))


def of_deployment(found: Plan, key: str = "default/chat") -> tuple[int, int, str]:
    decision = next(entry for entry in found.decisions if entry.subject == key)
    return decision.before, decision.after, str(decision.reason)


def test_should_meet_a_burst_from_zero_with_one_jump() -> None:
    deployment = a_deployment(minimum_replicas=0, replicas=0, signals=(QUEUE,))
    state, log = State(), []
    for tick, waiting in ((0, 0.0), (2, 0.0), (4, 100.0)):
        sample = replace(
            a_sample(a_replica(), at=NOW + tick, waiting=waiting),
            signal="inbox",
            pod_uid="",
            running=None,
            finished_total=None,
        )
        found, state = plan(some_inputs(now=NOW + tick, deployments=(deployment,), samples=(sample,)), state)
        log.append((tick, said(found)))

    assert log == [
        (0, []),
        (2, []),
        (
            4,
            [
                "create chat-tp8-0 on node-a cores 0-7",
                "create chat-tp8-1 on node-a cores 8-15",
                "create chat-tp8-2 on node-a cores 16-23",
                "scale default/chat to 3",
            ],
        ),
    ]


def test_should_follow_a_ramp_before_a_queue_grows() -> None:
    replica = a_replica()
    state, sizes, finished = State(), [], 0.0
    for tick in range(0, 120, 2):
        arrivals_per_second = 1.0 + tick / 60
        finished += 2 * arrivals_per_second
        sample = a_sample(replica, at=NOW + tick, running=8.0, finished_total=finished)
        found, state = plan(some_inputs(now=NOW + tick, replicas=(replica,), samples=(sample,)), state)
        sizes.append(found.deployments[0].desired_replicas)

    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 2)


def test_should_not_go_down_while_one_of_three_replicas_is_silent() -> None:
    replicas = three_replicas()
    deployment = a_deployment(replicas=3)
    state = State()
    for tick in range(0, 120, 2):
        samples = tuple(a_sample(replica, at=NOW + tick) for replica in replicas[:2])
        inputs = some_inputs(now=NOW + tick, deployments=(deployment,), replicas=replicas, samples=samples)
        found, state = plan(inputs, state)

        assert said(found) == []


def test_should_not_take_a_restarted_counter_for_a_burst() -> None:
    replica = a_replica()
    state, log = State(), []
    for tick in range(0, 60, 2):
        finished = 5000.0 + tick if tick < 40 else tick - 40.0
        sample = a_sample(replica, at=NOW + tick, running=8.0, finished_total=finished)
        found, state = plan(some_inputs(now=NOW + tick, replicas=(replica,), samples=(sample,)), state)
        log += said(found)

    assert log == []


def test_should_not_take_the_past_of_a_replica_that_becomes_ready_again_for_a_burst() -> None:
    replica = a_replica()
    other = a_replica(1, "8-15")
    deployment = a_deployment(replicas=2, minimum_replicas=2)
    state = State()
    for tick in range(0, 20, 2):
        returned = (
            replace(other, ready_at=NOW + 10)
            if tick >= 10
            else replace(other, phase=ReplicaPhase.STARTING, ready_at=None)
        )
        samples = [a_sample(replica, at=NOW + tick, running=1.0)]
        if tick >= 10:
            samples.append(a_sample(other, at=NOW + tick, finished_total=1e6))
        inputs = some_inputs(
            now=NOW + tick, deployments=(deployment,), replicas=(replica, returned), samples=tuple(samples)
        )
        found, state = plan(inputs, state)

        assert said(found) == []


def test_should_hold_down_after_a_restart_until_the_window_is_full() -> None:
    replicas = three_replicas()
    deployment = a_deployment(replicas=3)
    state, first = State(), None
    for tick in range(0, 60, 2):
        samples = tuple(a_sample(replica, at=NOW + tick) for replica in replicas)
        inputs = some_inputs(now=NOW + tick, deployments=(deployment,), replicas=replicas, samples=samples)
        found, state = plan(inputs, state)
        if tick < 30:
            assert of_deployment(found)[2] == "HoldingWindowFilling"
        if said(found) and first is None:
            first = (tick, said(found))

    assert first == (30, ["drain chat-tp8-1", "drain chat-tp8-2", "scale default/chat to 1"])


def test_should_replace_the_promised_capacity_by_the_measured_one() -> None:
    replica = a_replica()
    state, measured = State(), []
    for tick in range(0, 120, 2):
        # Promised are 2 requests per second; it finishes 4 with 16 at once while others wait.
        sample = a_sample(replica, at=NOW + tick, waiting=5.0, running=16.0, finished_total=4.0 * tick)
        found, state = plan(some_inputs(now=NOW + tick, replicas=(replica,), samples=(sample,)), state)
        measured.append(found.deployments[0].variants[0].measured.requests_per_second)

    assert measured[0] is None
    assert measured[-1] is not None
    assert abs(measured[-1] - 4.0) < 0.01


def test_should_keep_a_surplus_replica_longer_where_a_cold_start_was_seen_to_be_long() -> None:
    deployment = a_deployment(replicas=2)
    replicas = (a_replica(0), a_replica(1, "8-15", phase=ReplicaPhase.STARTING, ready_at=None, created_at=NOW))
    state, first = State(), None
    for tick in range(0, 240, 2):
        if tick == 40:
            replicas = (replicas[0], replace(replicas[1], phase=ReplicaPhase.READY, ready_at=NOW + 40))
        asked = [replica for replica in replicas if replica.phase is ReplicaPhase.READY]
        running = 40.0 / len(asked) if tick <= 40 else 0.0
        samples = tuple(a_sample(replica, at=NOW + tick, running=running) for replica in asked)
        shown = replicas if tick else replicas[:1]
        inputs = some_inputs(now=NOW + tick, deployments=(deployment,), replicas=shown, samples=samples)
        found, state = plan(inputs, state)
        if any(line.startswith("drain") for line in said(found)) and first is None:
            first = tick

    # The last work was seen after 40 s. The prior of 10 s would give it up 30 s later; 40 s measured make it 80.
    assert first == 120


def test_should_serve_the_important_first_and_everybodys_minimum_before_growth() -> None:
    high = a_deployment("high", priority=10, mode=Mode.MANUAL, replicas=2)
    low = a_deployment("low", mode=Mode.MANUAL, replicas=2)
    peer = a_deployment("peer", mode=Mode.MANUAL, replicas=2)

    important, _ = plan(some_inputs(deployments=(low, high)), State())
    fair, _ = plan(some_inputs(deployments=(low, peer)), State())

    assert said(important) == [
        "create high-tp8-0 on node-a cores 0-7",
        "create high-tp8-1 on node-a cores 8-15",
        "create low-tp8-0 on node-a cores 16-23",
    ]
    assert said(fair) == [
        "create low-tp8-0 on node-a cores 0-7",
        "create low-tp8-1 on node-a cores 16-23",
        "create peer-tp8-0 on node-a cores 8-15",
    ]


def test_should_fall_back_to_the_variant_that_has_room() -> None:
    variants = (a_variant(), a_variant("trn", 8, accelerator="trainium"))
    nodes = (a_node(), a_node("node-t", "trn1.32xlarge", pool="trainium"))
    pools = (a_pool(), a_pool("trainium"))
    deployment = a_deployment(mode=Mode.MANUAL, replicas=4, variants=variants)

    found, _ = plan(some_inputs(deployments=(deployment,), nodes=nodes, pools=pools), State())

    assert said(found) == [
        "create chat-tp8-0 on node-a cores 0-7",
        "create chat-tp8-1 on node-a cores 8-15",
        "create chat-tp8-2 on node-a cores 16-23",
        "create chat-trn-0 on node-t cores 0-7",
    ]


def test_should_use_no_pool_that_is_closed_to_the_namespace() -> None:
    pools = (a_pool(namespaces=frozenset({"research"})),)

    found, _ = plan(some_inputs(pools=pools), State())

    assert [line for line in said(found) if line.startswith("create")] == []
    assert found.decisions[0].message == "1 wanted, 1 without a place: 0 of 1 node: 1 pool not open to the namespace"


def test_should_keep_no_model_away_from_a_node_that_refused_another() -> None:
    stuck = a_replica(0, phase=ReplicaPhase.UNBOUND, created_at=NOW - 11, ready_at=None)
    other = a_deployment("other")

    found, _ = plan(some_inputs(deployments=(a_deployment(), other), replicas=(stuck,)), State())

    assert "create other-tp8-0 on node-a cores 8-15" in said(found)


def test_should_roll_a_template_on_a_fleet_that_is_too_small_for_what_is_wanted() -> None:
    replicas = three_replicas(template_hash="old")
    deployment = a_deployment(mode=Mode.MANUAL, replicas=6)

    found, _ = plan(some_inputs(deployments=(deployment,), replicas=replicas), State())

    assert said(found) == ["drain chat-tp8-2"]


def test_should_let_what_is_on_its_way_go_before_what_serves() -> None:
    deployment = a_deployment(mode=Mode.MANUAL, replicas=1)
    replicas = (a_replica(0), a_replica(1, "8-15", phase=ReplicaPhase.REQUESTED, uid="", ready_at=None))

    found, _ = plan(some_inputs(deployments=(deployment,), replicas=replicas), State())

    assert said(found) == []

"""Replicas whose place is cordoned, taken back, silent, gone or broken: replaced first, given up then, and never twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, a_deployment, a_node, a_replica, a_sample, said, some_inputs
from fleetpack.api.conditions import Reason
from fleetpack.core.cores import parse_cores
from fleetpack.core.decision import CreateReplica, DeleteReplica, DrainReplica, IssuedAction, Outcome
from fleetpack.core.departures import SILENT_SECONDS, departing_nodes
from fleetpack.core.deployments import Disruption, Mode
from fleetpack.core.fleet import FleetSnapshot, Node, Replica, ReplicaPhase, Taint, Toleration
from fleetpack.core.inputs import Inputs
from fleetpack.core.planner import plan
from fleetpack.core.state import State

SPOT = Taint(key="aws-node-termination-handler/spot-itn")


def spot(node: Node) -> Node:
    return replace(node, taints=(SPOT,), ready=False, cordoned=True)


def cordoned(node: Node) -> Node:
    return replace(node, cordoned=True, ready=False)


def silent(node: Node, seconds: float = SILENT_SECONDS) -> Node:
    return replace(node, ready=False, unready_since=NOW - seconds)


def broken(node: Node) -> Node:
    return replace(node, unhealthy_cores=parse_cores("1"))


def three(**changes: object) -> tuple[Replica, ...]:
    return tuple(a_replica(i, f"{8 * i}-{8 * i + 7}", **changes) for i in range(3))


def obeying(replicas: int = 3, **changes: object):  # type: ignore[no-untyped-def]
    return a_deployment(mode=Mode.MANUAL, replicas=replicas, **changes)


def situation(first: Node, replicas: tuple[Replica, ...] | None = None, **changes: object) -> Inputs:
    """Three ready replicas on node-a as it is given, and an empty node-b."""
    values = {"deployments": (obeying(),), "nodes": (first, a_node("node-b")), "replicas": replicas or three()}
    return some_inputs(**{**values, **changes})


@pytest.mark.parametrize("change", [spot, lambda node: replace(node, deleting=True), silent])
def test_should_start_every_successor_at_once_where_the_place_is_lost(change) -> None:  # type: ignore[no-untyped-def]
    found, _ = plan(situation(change(a_node())), State())

    assert said(found) == [
        "create chat-tp8-3 on node-b cores 0-7",
        "create chat-tp8-4 on node-b cores 8-15",
        "create chat-tp8-5 on node-b cores 16-23",
    ]
    [decision] = found.decisions
    assert decision.reason in (Reason.NODE_LEAVING, Reason.NODE_UNHEALTHY)
    assert decision.message.startswith("chat-tp8-0 is replaced elsewhere: node node-a")
    assert decision.message.endswith(", 2 more must leave their places")


def test_should_start_every_successor_when_the_node_is_gone() -> None:
    found, _ = plan(some_inputs(deployments=(obeying(),), nodes=(a_node("node-b"),), replicas=three()), State())

    assert [line.partition(" on ")[2] for line in said(found)] == [
        "node-b cores 0-7",
        "node-b cores 8-15",
        "node-b cores 16-23",
    ]


def test_should_leave_replicas_alone_whose_node_is_there_and_only_not_understood() -> None:
    snapshot = FleetSnapshot(nodes=(a_node("node-b"),), replicas=three(), unusable_nodes=("node-a",))

    found, _ = plan(replace(some_inputs(deployments=(obeying(),)), snapshot=snapshot), State())

    assert said(found) == []


def test_should_leave_a_cordoned_node_within_the_disruption_budget() -> None:
    found, _ = plan(situation(cordoned(a_node())), State())

    assert said(found) == ["create chat-tp8-3 on node-b cores 0-7"]
    assert found.decisions[0].message == (
        "chat-tp8-0 is replaced elsewhere: node node-a is cordoned, 2 more must leave their places"
    )


def test_should_replace_the_replica_on_broken_cores_and_no_other() -> None:
    found, _ = plan(situation(broken(a_node()), three()[:2], deployments=(obeying(2),)), State())

    # Not beside the other two, since another place costs no more.
    assert said(found) == ["create chat-tp8-2 on node-b cores 0-7"]


def test_should_give_up_the_old_one_when_its_successor_is_ready() -> None:
    successor = a_replica(3, "0-7", node="node-b")

    found, _ = plan(situation(cordoned(a_node()), (*three(), successor)), State())

    assert said(found) == ["drain chat-tp8-2"]


def test_should_keep_what_serves_while_its_successor_starts() -> None:
    starting = tuple(
        a_replica(3 + i, f"{8 * i}-{8 * i + 7}", node="node-b", phase=ReplicaPhase.STARTING, ready_at=None)
        for i in range(3)
    )

    found, _ = plan(situation(spot(a_node()), (*three(), *starting)), State())

    assert said(found) == []


def test_should_start_no_successor_twice_while_the_first_is_on_its_way() -> None:
    inputs = situation(spot(a_node()))
    found, state = plan(inputs, State())
    issued = tuple(IssuedAction(action=action, issued_at=NOW, outcome=Outcome.DONE) for action in found.actions)

    again, _ = plan(replace(inputs, now=NOW + 2, issued=issued), state)

    assert said(again) == []


def test_should_hold_everything_while_the_caches_are_old() -> None:
    found, _ = plan(replace(situation(spot(a_node())), cache_age_seconds=31.0), State())

    assert said(found) == []


def test_should_not_believe_a_node_lost_that_was_silent_for_a_moment() -> None:
    unready = three(phase=ReplicaPhase.STARTING, ready_at=None)

    found, state = plan(situation(silent(a_node(), SILENT_SECONDS - 1), unready), State())
    back, _ = plan(replace(situation(a_node()), now=NOW + 2), state)

    assert (said(found), said(back)) == ([], [])


def test_should_keep_silent_replicas_until_others_serve_and_take_them_back_with_their_node() -> None:
    unready = three(phase=ReplicaPhase.STARTING, ready_at=None)
    successors = tuple(a_replica(3 + i, f"{8 * i}-{8 * i + 7}", node="node-b") for i in range(3))

    waiting, _ = plan(situation(silent(a_node()), unready), State())
    replaced, _ = plan(situation(silent(a_node()), (*unready, *successors)), State())
    returned, _ = plan(situation(a_node(), (*three(), *successors)), State())

    assert all(isinstance(action, CreateReplica) for action in waiting.actions)
    assert said(replaced) == ["delete chat-tp8-0", "delete chat-tp8-1", "delete chat-tp8-2"]
    assert sum(line.startswith("drain") for line in said(returned)) == 3


def test_should_take_many_silent_nodes_for_a_broken_network() -> None:
    nodes = tuple(a_node(f"node-{i}") for i in range(5))

    two = departing_nodes(FleetSnapshot(nodes=(*map(silent, nodes[:2]), *nodes[2:])), NOW)
    three_of_five = departing_nodes(FleetSnapshot(nodes=(*map(silent, nodes[:3]), *nodes[3:])), NOW)

    assert (sorted(two), sorted(three_of_five)) == (["node-0", "node-1"], [])


def test_should_stay_to_the_end_where_there_is_no_other_room() -> None:
    found, _ = plan(some_inputs(deployments=(obeying(),), nodes=(spot(a_node()),), replicas=three()), State())

    assert said(found) == []


def test_should_let_a_dead_replica_go_first_where_the_ceiling_pays_for_one_of_both() -> None:
    dead = a_replica(phase=ReplicaPhase.STARTING, ready_at=None)
    deployment = obeying(1, maximum_usd_per_hour=5.0)

    found, _ = plan(situation(silent(a_node()), (dead,), deployments=(deployment,)), State())

    assert said(found) == ["delete chat-tp8-0"]


def test_should_place_nothing_on_a_node_that_leaves_whatever_is_tolerated() -> None:
    leaving = a_node(taints=(SPOT,))
    everything = replace(a_deployment().variants[0], tolerations=(Toleration(operator="Exists"),))

    found, _ = plan(
        some_inputs(deployments=(obeying(1, variants=(everything,)),), nodes=(leaving,), replicas=()), State()
    )

    assert said(found) == []


def test_should_not_put_a_draining_replica_back_into_a_place_that_is_lost() -> None:
    draining = a_replica(phase=ReplicaPhase.DRAINING, draining_since=NOW - 1)

    found, _ = plan(situation(spot(a_node()), (draining,), deployments=(obeying(1),)), State())

    assert said(found) == ["create chat-tp8-1 on node-b cores 0-7"]


@given(
    wanted=st.integers(0, 6),
    fates=st.lists(
        st.tuples(
            st.sampled_from(["stay", "cordoned", "lost"]), st.sampled_from([ReplicaPhase.READY, ReplicaPhase.STARTING])
        ),
        max_size=6,
    ),
    unavailable=st.integers(0, 3),
)
@settings(deadline=None, max_examples=150)
def test_law_evacuation_never_breaks_before_it_has_made(
    wanted: int, fates: list[tuple[str, ReplicaPhase]], unavailable: int
) -> None:
    nodes = {
        "stay": a_node("stay", "inf2.48xlarge"),
        "cordoned": cordoned(a_node("cordoned")),
        "lost": spot(a_node("lost")),
    }
    more = [a_node(f"free-{i}") for i in range(2)]
    replicas = tuple(
        a_replica(
            i,
            f"{4 * i}-{4 * i + 3}",
            node=fate,
            phase=phase,
            ready_at=NOW - 10 if phase is ReplicaPhase.READY else None,
        )
        for i, (fate, phase) in enumerate(fates)
    )
    disruption = Disruption(maximum_unavailable=unavailable)
    deployment = obeying(wanted, maximum_replicas=10, disruption=disruption)
    samples = tuple(a_sample(replica) for replica in replicas if replica.phase is ReplicaPhase.READY)

    found, _ = plan(
        some_inputs(deployments=(deployment,), nodes=(*nodes.values(), *more), replicas=replicas, samples=samples),
        State(),
    )

    drained = [action for action in found.actions if isinstance(action, DrainReplica)]
    deleted = {action.name for action in found.actions if isinstance(action, DeleteReplica)}
    created = [action for action in found.actions if isinstance(action, CreateReplica)]
    ready = [replica for replica in replicas if replica.phase is ReplicaPhase.READY]
    staying = [replica for replica in replicas if replica.node == "stay"]
    assert len(ready) - len(drained) >= min(wanted, len(ready))
    assert all(replica.phase is ReplicaPhase.STARTING for replica in replicas if replica.name in deleted)
    assert len(created) <= max(0, wanted - len(staying))
    if all(fate != "cordoned" for fate, _ in fates):
        assert len(created) == max(0, wanted - len(staying))
    assert {action.node for action in created} <= {"stay", "free-0", "free-1"}

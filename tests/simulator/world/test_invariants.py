"""The rules must be able to fail: each is broken here on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fleetpack.core.decision import Action, CreateReplica, DeleteReplica, DrainReplica, LaunchNode
from fleetpack.core.fleet import PoolProvider
from fleetpack.core.inputs import Inputs, Plan
from fleetpack_simulator.world import Fault, FaultKind, SpecChange, simulate
from fleetpack_simulator.world.events import Kind
from fleetpack_simulator.world.simulation import World
from worlds import POOL, model, pool, requests, world

TWO_DOLLARS = {"maximum_usd_per_hour": 2.0}


def create(name: str, cores: int) -> CreateReplica:
    return CreateReplica(
        deployment="default/chat",
        variant="tp2",
        name=name,
        node="node-0",
        cores=cores,
        cores_count=2,
        template_hash="hash",
        usd_per_hour=1.0,
        reason="OnTarget",
    )


def launch(name: str) -> LaunchNode:
    return LaunchNode(pool=POOL, name=name, instance_type="inf2.24xlarge", price_usd_per_hour=6.5, reason="NodeNeeded")


def broken_by(own: World, *actions: Action) -> list[tuple[str, str]]:
    for action in actions:
        assert own.cluster.apply(action) is None
        own.invariants.after_write(action)
        own.invariants.after_step()
    return [(violation.rule, violation.subject) for violation in own.invariants.violations]


@pytest.mark.parametrize(
    ("name", "cores"),
    [
        ("across two chips", 0b110),
        ("not contiguous", 0b1001),
        ("beyond the machine", 0b11 << 12),
        ("one core too many", 0b111),
    ],
)
def test_should_see_cores_that_are_not_legal(name: str, cores: int) -> None:
    assert ("legal-cores", "default/a") in broken_by(World(world(model())), create("a", cores))


def test_should_see_cores_that_the_kubelet_gives_and_that_are_not_legal() -> None:
    own = World(world(model(), duration_seconds=20.0, tail_seconds=0.0))
    own.cluster._given = lambda wanted: 0b110  # type: ignore[method-assign]  # a broken kubelet; what was planned is legal
    own.run(None, until_rest=False)
    ((name, pod),) = own.cluster.pods.items()
    assert [(one.rule, one.subject) for one in own.invariants.violations] == [("legal-cores", name)]
    assert (pod.seen.planned_cores, pod.seen.cores) == (0b11, 0b110)


def test_should_see_a_core_that_is_given_twice() -> None:
    found = broken_by(World(world(model())), create("a", 0b11), create("b", 0b1100), create("c", 0b11))
    assert found == [("no-double-booking", "default/c")]


def test_should_see_a_ceiling_that_is_crossed() -> None:
    # Two of twelve cores of a node of 6.49 USD per hour cost 1.08.
    found = broken_by(World(world(model(**TWO_DOLLARS))), create("a", 0b11), create("b", 0b1100))
    assert found == [("no-ceiling-crossed", "default/b")]


@pytest.mark.parametrize("limit", [{"maximum_nodes": 2}, {"maximum_usd_per_hour": 15.0}])
def test_should_see_a_pool_limit_that_is_crossed(limit: dict[str, float]) -> None:
    own = World(world(model(), pools=(pool(**limit),)))
    assert broken_by(own, launch("a"), launch("b")) == [("no-ceiling-crossed", "b")]


def test_should_see_replicas_given_up_below_the_minimum() -> None:
    own = World(world(model(minimum_replicas=2, replicas=2)))
    own.run(None, until_rest=False)
    own.operator.cache.relist()
    seen = own.operator.cache.snapshot
    ready = [one for one in seen.replicas if one.phase == "ready"]
    drain = DrainReplica(
        deployment="default/chat",
        name=ready[0].name,
        uid=ready[0].uid,
        resource_version=ready[0].resource_version,
        reason="Surplus",
    )
    inputs = Inputs(now=own.clock.epoch_seconds, deployments=own.operator.cache.deployments, snapshot=seen)
    own.invariants.after_plan(inputs, Plan(actions=(drain,)))
    assert [violation.rule for violation in own.invariants.violations] == ["never-below-minimum"]


def stop_creating(own: World) -> None:
    send: Callable[[Action], None] = own.operator.writer.send
    own.operator.writer.send = lambda action: None if isinstance(action, CreateReplica) else send(action)  # type: ignore[method-assign]  # a broken operator


def test_should_see_a_minimum_that_is_not_restored_and_requests_that_never_end() -> None:
    own = World(world(model(requests(1.0, 10.0)), tail_seconds=400.0))
    stop_creating(own)
    own.run(None, until_rest=True)
    rules = ["minimum-kept", "minimum-restored", "every-request-ends"]
    assert [violation.rule for violation in own.invariants.violations] == rules


def test_should_see_a_minimum_that_is_not_kept_in_a_run_that_needs_no_rest() -> None:
    own = World(world(model(requests(1.0, 10.0)), duration_seconds=400.0))
    stop_creating(own)
    own.run(None, until_rest=False)
    assert [str(violation) for violation in own.invariants.violations] == [
        "152.000 minimum-kept: default/chat: 0 of 1 replicas for 152 s, and there is room or a machine to be had"
    ]


def test_should_see_a_minimum_that_is_not_kept_where_only_a_machine_is_missing() -> None:
    own = World(world(model(), nodes=0, duration_seconds=400.0))
    own.operator.writer.send = lambda action: None  # type: ignore[method-assign]  # a broken operator
    own.run(None, until_rest=False)
    assert [violation.rule for violation in own.invariants.violations] == ["minimum-kept"]


@pytest.mark.parametrize(
    "excuse",
    [
        {"nodes": 0, "pools": (pool(provider=PoolProvider.STATIC),)},
        {"nodes": 0, "pools": (pool(maximum_nodes=0),)},
        {"faults": (Fault(kind=FaultKind.REFUSED_WRITES, at_seconds=0.0, duration_seconds=60.0),)},
    ],
    ids=["no room and no machine", "a pool at its limit", "a fault and its back-off"],
)
def test_should_find_nothing_wrong_with_a_minimum_that_could_not_be_kept(excuse: dict[str, Any]) -> None:
    own = World(world(model(), duration_seconds=400.0, **excuse))
    own.operator.writer.send = lambda action: None  # type: ignore[method-assign]  # a broken operator
    own.run(None, until_rest=False)
    assert own.invariants.violations == []


def test_should_see_a_less_important_model_that_does_not_give_way() -> None:
    common: dict[str, Any] = {"nodes": 1, "pools": (pool(provider=PoolProvider.STATIC),), "duration_seconds": 500.0}
    low = model(minimum_replicas=6, maximum_replicas=6)
    high = model(name="support", uid="uid-support", priority=1000)
    changes = (
        SpecChange(at_seconds=1.0, deployment="default/support", deleted=True),
        SpecChange(at_seconds=60.0, deployment="default/chat", fields=(("minimum_replicas", 1),)),
        SpecChange(at_seconds=60.0, deployment="default/support"),
    )
    own = World(world(low, high, changes=changes, **common))
    send: Callable[[Action], None] = own.operator.writer.send
    gone = (DrainReplica, DeleteReplica)
    own.operator.writer.send = lambda action: None if isinstance(action, gone) else send(action)  # type: ignore[method-assign]  # never takes
    own.run(None, until_rest=False)
    assert [(one.rule, one.subject) for one in own.invariants.violations] == [
        ("less-important-gives-way", "default/support")
    ]


def test_should_see_a_request_that_nobody_has_any_more_and_one_in_two_places() -> None:
    lost, twice = World(world(model(requests(1.0, 5.0)))), World(world(model(requests(1.0, 5.0))))
    for own in (lost, twice):
        stop_creating(own)
        own.run(None, until_rest=False)
    lost.traffic.gateways[0].held.pop()
    twice.traffic.gateways[0].held.append(0)
    assert (lost.traffic.misplaced(), twice.traffic.misplaced()) == (
        [
            "5 requests have no end, 0 are to come and 4 are inside",
            "the gateways count 5 requests, 4 are inside",
        ],
        [
            "1 requests are in two places",
            "5 requests have no end, 0 are to come and 6 are inside",
            "the gateways count 5 requests, 6 are inside",
        ],
    )


def test_should_see_at_the_end_of_a_run_that_a_request_is_lost() -> None:
    own = World(world(model(requests(1.0, 5.0))))
    stop_creating(own)
    own.queue.push(60.0, Kind.LIFECYCLE, own.traffic.gateways[0].held.clear)
    own.run(None, until_rest=False)
    assert "every-request-accounted" in [violation.rule for violation in own.invariants.violations]


def test_should_see_a_request_that_ends_twice() -> None:
    own = World(world(model(requests(1.0, 10.0))))
    own.traffic.ended_twice.append(3)
    own.invariants.after_step()
    assert [str(violation.rule) for violation in own.invariants.violations] == ["every-request-ends-once"]


def test_should_find_nothing_wrong_with_a_model_that_its_ceiling_keeps_below_its_minimum() -> None:
    setting = world(model(minimum_replicas=4, **TWO_DOLLARS))
    result = simulate(replace(setting, tail_seconds=30.0), until_rest=True)
    assert (len(result.cluster.pods), result.violations) == (1, [])

"""Who gives way to whom on a full fleet, told by what a small fleet was asked and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, a_deployment, a_node, a_pool, a_replica, a_sample, a_variant, said, some_inputs
from fleetpack.core import planner
from fleetpack.core.cores import format_cores, range_mask
from fleetpack.core.decision import (
    CreateReplica,
    Decision,
    DeleteReplica,
    DrainReplica,
    RestoreReplica,
    SetScale,
)
from fleetpack.core.deployments import Deployment, Disruption, Mode
from fleetpack.core.fleet import FleetSnapshot, Node, Pool, PoolProvider, Replica, ReplicaPhase, Resources
from fleetpack.core.fleet_index import index_fleet
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.packing.pack import Placement
from fleetpack.core.planner import plan
from fleetpack.core.state import State
from fleetpack.core.yielding import concede
from seam_checks import check_plan

TICK_SECONDS = 2


@dataclass
class Fleet:
    """Does at once what a plan says; a drained replica finishes `drain_ticks` later, a new one is Ready in the next tick."""

    deployments: tuple[Deployment, ...]
    replicas: tuple[Replica, ...]
    nodes: tuple[Node, ...] = (a_node(),)
    pools: tuple[Pool, ...] = (a_pool(),)
    load: dict[str, float] = field(default_factory=dict)
    """Requests per second that each replica of a deployment serves; 0 where nothing is said."""
    drain_ticks: int = 2
    silent: frozenset[str] = frozenset()
    finished: dict[str, float] = field(default_factory=dict)
    state: State = field(default_factory=State)
    tick: int = 0
    last: Plan = field(default_factory=Plan)

    @property
    def now(self) -> float:
        return NOW + self.tick * TICK_SECONDS

    def inputs(self) -> Inputs:
        samples = tuple(self._sample(replica) for replica in self.replicas if replica.deployment not in self.silent)
        return some_inputs(
            now=self.now,
            deployments=self.deployments,
            replicas=self.replicas,
            nodes=self.nodes,
            pools=self.pools,
            samples=samples,
        )

    def _sample(self, replica: Replica) -> Any:
        serving = self.load.get(replica.deployment, 0.0)
        ended = replica.phase is ReplicaPhase.DRAINING and (
            self.now - (replica.draining_since or 0.0) >= self.drain_ticks * TICK_SECONDS
        )
        running = 0.0 if ended or not serving else 16.0
        return a_sample(
            replica, at=self.now, running=running, finished_total=self.finished.get(replica.deployment, 0.0)
        )

    def step(self) -> list[str]:
        """Plan once, do it, and let two seconds pass; returns what was done."""
        inputs = self.inputs()
        self.last, self.state = plan(inputs, self.state)
        check_plan(inputs, self.last)
        for action in self.last.actions:
            self._do(action)
        self.tick += 1
        for key, serving in self.load.items():
            self.finished[key] = self.finished.get(key, 0.0) + serving * TICK_SECONDS
        return said(self.last)

    def run(self, seconds: int) -> list[tuple[int, str]]:
        """Let time pass; returns what was done about replicas, and when."""
        log = []
        for _ in range(seconds // TICK_SECONDS):
            at = self.tick * TICK_SECONDS
            log += [(at, line) for line in self.step() if not line.startswith("scale")]
        return log

    def decision(self, key: str) -> Decision:
        return next(entry for entry in self.last.decisions if entry.subject == key)

    def live(self, key: str) -> int:
        return sum(one.deployment == key and one.phase is ReplicaPhase.READY for one in self.replicas)

    def _do(self, action: object) -> None:
        if isinstance(action, CreateReplica):
            new = a_replica(deployment=action.deployment, variant=action.variant, cores=format_cores(action.cores))
            deployment = next(one for one in self.deployments if one.key == action.deployment)
            variant = deployment.variant(action.variant)
            assert variant is not None
            requests = replace(variant.requests, accelerator_cores=action.cores_count)
            self.replicas += (
                replace(
                    new, name=action.name, uid=f"uid-{action.name}-{self.tick}", node=action.node, requests=requests
                ),
            )
        elif isinstance(action, DeleteReplica):
            self.replicas = tuple(one for one in self.replicas if one.uid != action.uid)
        elif isinstance(action, DrainReplica):
            self._change(action.uid, phase=ReplicaPhase.DRAINING, draining_since=self.now)
        elif isinstance(action, RestoreReplica):
            self._change(action.uid, phase=ReplicaPhase.READY, draining_since=None)
        elif isinstance(action, SetScale):
            self.deployments = tuple(
                replace(one, replicas=action.replicas) if one.key == action.deployment else one
                for one in self.deployments
            )

    def _change(self, uid: str, **changes: Any) -> None:
        self.replicas = tuple(replace(one, **changes) if one.uid == uid else one for one in self.replicas)


def high(replicas: int = 1, **changes: Any) -> Deployment:
    """Somebody important, whom a person has asked to run so many replicas."""
    values: dict[str, Any] = {"priority": 10, "mode": Mode.MANUAL, "replicas": replicas, "maximum_replicas": 40}
    return a_deployment("high", **{**values, **changes})


def low(name: str = "low", **changes: Any) -> Deployment:
    values: dict[str, Any] = {"replicas": 3, "maximum_replicas": 3}
    return a_deployment(name, **{**values, **changes})


def replicas_of(name: str, starts: tuple[int, ...], cores: int = 8, **changes: Any) -> tuple[Replica, ...]:
    return tuple(
        a_replica(index, f"{start}-{start + cores - 1}", deployment=f"default/{name}", **changes)
        for index, start in enumerate(starts)
    )


def a_full_fleet(*deployments: Deployment, **changes: Any) -> Fleet:
    """Three busy replicas of `low` on one node of 24 cores, unless something else is said."""
    values: dict[str, Any] = {"replicas": replicas_of("low", (0, 8, 16)), "load": {"default/low": 1.9}}
    return Fleet(deployments=deployments, **{**values, **changes})


def test_should_take_from_the_less_important_what_it_needs_above_its_minimum() -> None:
    fleet = a_full_fleet(low(), high())

    log = fleet.run(60)

    assert log == [
        (30, "drain low-tp8-2"),
        (34, "delete low-tp8-2"),
        (36, "create high-tp8-0 on node-a cores 16-23"),
    ]


def test_should_say_who_gave_way_to_whom() -> None:
    fleet = a_full_fleet(low(), high())

    fleet.run(32)
    found = fleet.decision("default/low")
    report = next(entry for entry in fleet.last.deployments if entry.deployment == "default/low")
    capacity = next(entry for entry in report.conditions if entry.type == "CapacityAvailable")
    within = next(entry for entry in report.conditions if entry.type == "WithinBudget")

    said_to_people = "2 of 3: default/high (priority 10) has 1 replica without a place"
    assert (found.before, found.after, found.reason, found.message) == (3, 2, "YieldedToPriority", said_to_people)
    assert (capacity.status, capacity.reason, capacity.message) == (False, "YieldedToPriority", said_to_people)
    assert (within.status, report.desired_replicas) == (True, 2)
    assert {action.reason for action in fleet.last.actions} == {"YieldedToPriority"}


def test_should_take_what_is_merely_kept_before_what_is_needed() -> None:
    deployments = (low("busy", replicas=2), low("calm", replicas=1, minimum_replicas=0), high())
    replicas = (*replicas_of("busy", (0, 8)), *replicas_of("calm", (16,)))
    # Without work it would go to zero after ten minutes only.
    fleet = a_full_fleet(*deployments, replicas=replicas, load={"default/busy": 1.9})

    log = fleet.run(32)

    assert log == [(30, "drain calm-tp8-0")]


def test_should_take_from_the_least_important_first() -> None:
    deployments = (
        low("least", replicas=2, maximum_replicas=2, priority=-5),
        low("lesser", replicas=1, minimum_replicas=0),
        high(),
    )
    replicas = (*replicas_of("least", (0, 8)), *replicas_of("lesser", (16,)))
    load = {"default/least": 1.9, "default/lesser": 1.9}

    log = a_full_fleet(*deployments, replicas=replicas, load=load).run(32)

    assert log == [(30, "drain least-tp8-1")]


@pytest.mark.parametrize(
    "giver",
    [
        low(priority=10),
        low(priority=11),
        low(minimum_replicas=3),
        low(mode=Mode.MANUAL),
        low(mode=Mode.ADVISORY),
        low(mode=Mode.PAUSED),
        low(deleting=True),
    ],
    ids=["equal", "higher", "at its minimum", "manual", "advisory", "paused", "deleting"],
)
def test_should_take_nothing(giver: Deployment) -> None:
    fleet = a_full_fleet(giver, high())

    assert fleet.run(120) == []


def test_should_take_nothing_from_whom_nothing_is_heard() -> None:
    fleet = a_full_fleet(low(), high(), silent=frozenset({"default/low"}))

    assert fleet.run(120) == []


def test_should_take_nothing_for_a_need_that_is_over_before_it_lasted() -> None:
    fleet = a_full_fleet(low(), high())

    before = fleet.run(28)
    fleet.deployments = (fleet.deployments[0], high(0))
    between = fleet.run(4)
    fleet.deployments = (fleet.deployments[0], high(1))
    after = fleet.run(28)

    assert (before, between, after) == ([], [], [])


def test_should_take_nothing_where_the_size_would_not_fit_yet() -> None:
    # Two of three can go at most one: eight cores come free, sixteen are asked for.
    wide = high(variants=(a_variant("tp16", 16),))
    fleet = a_full_fleet(low(minimum_replicas=2), wide)

    assert fleet.run(120) == []


def test_should_take_the_two_neighbours_that_make_room_for_a_larger_size() -> None:
    wide = high(variants=(a_variant("tp16", 16),))
    fleet = a_full_fleet(low(), wide)

    log = fleet.run(60)

    assert log == [
        (30, "drain low-tp8-1"),
        (30, "drain low-tp8-2"),
        (34, "delete low-tp8-1"),
        (34, "delete low-tp8-2"),
        (36, "create high-tp16-0 on node-a cores 8-23"),
    ]


@pytest.mark.parametrize(
    "requests",
    [Resources(cpu_millicores=10_000_000, pods=1), Resources(memory_bytes=2**50, pods=1)],
    ids=["CPU", "memory"],
)
def test_should_take_nothing_where_something_else_than_cores_is_short(requests: Resources) -> None:
    fleet = a_full_fleet(low(), high(variants=(a_variant(requests=requests),)))

    assert fleet.run(120) == []


def test_should_take_as_many_as_the_memory_asks_for() -> None:
    memory_bytes = a_node().allocatable.memory_bytes // 3
    heavy = Resources(memory_bytes=memory_bytes, pods=1, accelerator_cores=8)
    replicas = replicas_of("low", (0, 8, 16), requests=heavy)
    hungry = a_variant(requests=Resources(memory_bytes=2 * memory_bytes, pods=1))
    deployment = low(variants=(a_variant(requests=replace(heavy, accelerator_cores=0)),))
    fleet = a_full_fleet(deployment, high(variants=(hungry,)), replicas=replicas)

    log = fleet.run(60)

    assert [line for _, line in log] == [
        "drain low-tp8-1",
        "drain low-tp8-2",
        "delete low-tp8-1",
        "delete low-tp8-2",
        "create high-tp8-0 on node-a cores 8-15",
    ]


def test_should_launch_a_node_rather_than_take() -> None:
    pools = (a_pool(provider=PoolProvider.SIMULATED),)
    fleet = a_full_fleet(low(), high(), pools=pools)

    log = [line for tick in range(40) for line in fleet.step() if not line.startswith("scale")]

    assert set(log) == {"LaunchNode inferentia2-inf2-24xlarge-0"}


def test_should_take_no_second_batch_while_the_first_one_drains() -> None:
    fleet = a_full_fleet(low(), high(), drain_ticks=100)
    fleet.deployments = (low(disruption=Disruption(drain_seconds=60.0)), high())

    first = fleet.run(34)
    fleet.deployments = (fleet.deployments[0], high(2))
    while_it_drains = fleet.run(56)
    then = fleet.run(20)

    assert (first, while_it_drains) == ([(30, "drain low-tp8-2")], [])
    assert [line for _, line in then][:3] == [
        "delete low-tp8-2",
        "drain low-tp8-1",
        "create high-tp8-0 on node-a cores 16-23",
    ]


def test_should_give_what_drains_to_the_taker_and_not_back() -> None:
    # Only a fourth replica would serve all of low's load: it would take anything that comes free.
    fleet = a_full_fleet(low(maximum_replicas=10), high(2), load={"default/low": 3.0}, drain_ticks=4)

    log = fleet.run(120)

    assert [line for _, line in log] == [
        "drain low-tp8-1",
        "drain low-tp8-2",
        "delete low-tp8-1",
        "delete low-tp8-2",
        "create high-tp8-0 on node-a cores 8-15",
        "create high-tp8-1 on node-a cores 16-23",
    ]
    assert fleet.decision("default/low").reason == "NoFeasiblePlacement"


def test_should_keep_what_came_free_first_until_the_rest_has() -> None:
    # Sixteen cores are asked for; eight are free at once, and a third model would like to have them.
    other = low("other", mode=Mode.MANUAL)
    wide = high(variants=(a_variant("tp16", 16),))
    fleet = a_full_fleet(low(), replace(other, replicas=0), wide, drain_ticks=10)
    fleet.run(32)
    fleet.replicas = tuple(one for one in fleet.replicas if one.name != "low-tp8-1")
    fleet.deployments = tuple(replace(one, replicas=1) if one.name == "other" else one for one in fleet.deployments)

    log = fleet.run(40)

    assert [line for _, line in log] == [
        "delete low-tp8-2",
        "create high-tp16-0 on node-a cores 8-23",
    ]


def test_should_put_back_what_drains_when_the_need_is_over() -> None:
    fleet = a_full_fleet(low(), high(), drain_ticks=10)
    fleet.run(32)
    fleet.deployments = (fleet.deployments[0], high(0))

    log = fleet.run(10)

    assert log == [(32, "RestoreReplica low-tp8-2")]


def test_should_not_take_for_what_is_merely_kept() -> None:
    # One would serve it; it has two, because it needed them a moment ago.
    important = a_deployment("vip", priority=10, replicas=2, maximum_replicas=2)
    replicas = (*replicas_of("vip", (0, 8)), *replicas_of("low", (16,)))
    load = {"default/vip": 1.9, "default/low": 1.9}
    fleet = a_full_fleet(low(replicas=2, minimum_replicas=0), important, replicas=replicas, load=load)
    fleet.run(60)
    fleet.load["default/vip"] = 0.0
    # A Pod of somebody else takes the place of the second one.
    fleet.replicas = tuple(
        replace(one, deployment="default/gone") if one.name == "vip-tp8-1" else one for one in fleet.replicas
    )

    log = fleet.run(20)
    found = fleet.decision("default/vip")

    assert (log, found.reason, fleet.state.unplaced_since) == ([], "NoFeasiblePlacement", ())


def test_should_take_no_more_than_leaves_the_minimum() -> None:
    log = a_full_fleet(low(minimum_replicas=2), high(3)).run(120)

    assert [line for _, line in log if line.startswith("drain")] == ["drain low-tp8-2"]


def test_should_count_what_loads_towards_the_minimum_and_keep_as_many_that_serve() -> None:
    serving = replicas_of("low", (0, 8, 16))
    loading = tuple(
        replace(one, phase=ReplicaPhase.STARTING, ready_at=None) if one.name != "low-tp8-0" else one for one in serving
    )
    some = a_full_fleet(low(minimum_replicas=2), high(2), replicas=loading)

    assert [line for _, line in some.run(32)] == ["delete low-tp8-2"]


def test_should_take_no_serving_replica_below_the_minimum_because_another_one_loads() -> None:
    # Sixteen cores would cost both that serve; the third is no stand-in for them yet.
    others = low("others", mode=Mode.MANUAL, replicas=1)
    loading = replace(
        a_replica(9, "0-7", deployment="default/low", node="node-b"), phase=ReplicaPhase.STARTING, ready_at=None
    )
    replicas = (*replicas_of("others", (0,)), *replicas_of("low", (8, 16)), loading)
    nodes = (a_node(), a_node("node-b", "inf2.24xlarge"))
    wide = high(variants=(a_variant("tp16", 16),))

    assert a_full_fleet(low(), others, wide, replicas=replicas, nodes=nodes).run(60) == []


def test_should_not_touch_an_equal_because_somebody_else_is_less_important() -> None:
    peer = low("peer", priority=10, replicas=2, minimum_replicas=0, maximum_replicas=2)
    deployments = (
        low(replicas=1, minimum_replicas=0, maximum_replicas=1),
        peer,
        high(variants=(a_variant("tp16", 16),)),
    )
    replicas = (*replicas_of("low", (0,)), *replicas_of("peer", (8, 16)))
    load = {"default/low": 1.9, "default/peer": 1.9}

    assert a_full_fleet(*deployments, replicas=replicas, load=load).run(120) == []


def test_should_take_of_equals_from_the_one_that_keeps_the_largest_share() -> None:
    deployments = (
        low("few", replicas=1, minimum_replicas=0, maximum_replicas=1),
        low("more", replicas=2, minimum_replicas=0, maximum_replicas=2),
        high(),
    )
    replicas = (*replicas_of("few", (0,)), *replicas_of("more", (8, 16)))
    load = {"default/few": 1.9, "default/more": 1.9}

    log = a_full_fleet(*deployments, replicas=replicas, load=load).run(32)

    assert log == [(30, "drain more-tp8-1")]


def test_should_take_no_more_as_kept_than_is_kept() -> None:
    # Rent for 80 s before a replica is given up: one of two is kept, the other one is needed.
    slow = (a_variant(prior_startup_seconds=40.0),)
    one: dict[str, Any] = {"replicas": 1, "minimum_replicas": 0, "maximum_replicas": 1}
    calm = low("calm", replicas=2, minimum_replicas=0, maximum_replicas=2, variants=slow)
    deployments = (calm, low("least", priority=-5, **one), high(0))
    replicas = (*replicas_of("calm", (0, 8)), *replicas_of("least", (16,)))
    fleet = a_full_fleet(*deployments, replicas=replicas, load={"default/calm": 1.9, "default/least": 1.9})
    fleet.run(100)
    fleet.load["default/calm"] = 0.4
    fleet.run(10)
    fleet.deployments = (*fleet.deployments[:2], high(2))

    log = fleet.run(32)

    assert log == [(140, "drain calm-tp8-1"), (140, "drain least-tp8-0")]


def test_should_not_want_back_what_was_merely_kept() -> None:
    slow = (a_variant(prior_startup_seconds=600.0),)
    fleet = a_full_fleet(low(variants=slow), high(), load={"default/low": 0.4})

    fleet.run(62)
    report = next(entry for entry in fleet.last.deployments if entry.deployment == "default/low")

    assert (fleet.live("default/low"), report.desired_replicas, report.automatic_replicas) == (2, 2, 2)


def test_should_ask_only_those_whose_going_helps() -> None:
    # Eight cores are free, the memory is not: the less important has little of it, so its going would be of no use.
    third = a_node().allocatable.memory_bytes // 3
    little, much = Resources(memory_bytes=2**30, pods=1), Resources(memory_bytes=2 * third, pods=1)
    replicas = (
        *replicas_of("small", (0,), cores=2, requests=little),
        *replicas_of("others", (2, 10), cores=6, requests=little),
        *replicas_of("big", (8,), cores=2, requests=much),
    )
    one: dict[str, Any] = {"replicas": 1, "minimum_replicas": 0, "maximum_replicas": 1}
    deployments = (
        low("small", priority=-5, variants=(a_variant(cores=2, requests=little),), **one),
        low("big", variants=(a_variant(cores=2, requests=much),), **one),
        low("others", mode=Mode.MANUAL, replicas=2, variants=(a_variant(cores=6, requests=little),)),
        high(variants=(a_variant(requests=much),)),
    )
    load = {"default/small": 1.9, "default/big": 1.9}

    log = a_full_fleet(*deployments, replicas=replicas, load=load).run(32)

    assert log == [(30, "drain big-tp8-0")]


def test_should_not_wait_for_what_drains_and_is_deleted_by_nobody() -> None:
    draining = replace(
        a_replica(0, "16-23", deployment="default/still"), phase=ReplicaPhase.DRAINING, draining_since=NOW - 10
    )
    still = low("still", mode=Mode.PAUSED, replicas=0, minimum_replicas=0)
    fleet = a_full_fleet(low(replicas=2), still, high(), replicas=(*replicas_of("low", (0, 8)), draining))

    assert fleet.run(32) == [(30, "drain low-tp8-1")]


def test_should_remember_nothing_where_nobody_is_less_important() -> None:
    fleet = a_full_fleet(low(priority=10), high())

    fleet.run(10)

    assert fleet.state.unplaced_since == ()


def test_should_do_nothing_when_nothing_is_without_a_place() -> None:
    nothing = Placement(assigned=(), unplaced=(), launches=())
    fleet = index_fleet(FleetSnapshot(), NOW)

    assert concede((), nothing, fleet, State(), NOW) == ((), nothing, State())


# --- laws


@dataclass(frozen=True)
class Model:
    """One model of a drawn fleet: how large, how important, how many replicas it has, and how many more it would like."""

    cores: int
    priority: int
    replicas: int
    minimum: int
    more: int
    mode: Mode


models = st.builds(
    Model,
    cores=st.sampled_from([1, 2, 4, 8]),
    priority=st.sampled_from([0, 5, 10]),
    replicas=st.integers(0, 6),
    minimum=st.integers(0, 3),
    more=st.integers(0, 4),
    mode=st.sampled_from([Mode.AUTO, Mode.AUTO, Mode.MANUAL]),
)


def a_drawn_fleet(drawn: list[Model], drain_ticks: int) -> Fleet:
    """Two machines of twelve cores with as many of the drawn replicas as have room, one model after the other."""
    nodes = (a_node("node-a", "inf2.24xlarge"), a_node("node-b", "inf2.24xlarge"))
    free = {node.name: (1 << node.instance_type.cores) - 1 for node in nodes}
    deployments, replicas = [], []
    for index, model in enumerate(drawn):
        name, key = f"m{index}", f"default/m{index}"
        placed = 0
        for node in nodes:
            for start in range(0, 12, max(2, model.cores)):
                mask = range_mask(start, model.cores)
                if placed < model.replicas and mask & free[node.name] == mask:
                    free[node.name] ^= mask
                    new = a_replica(placed, format_cores(mask), deployment=key, node=node.name)
                    replicas.append(new)
                    placed += 1
        deployments.append(
            a_deployment(
                name,
                variants=(a_variant(cores=model.cores),),
                priority=model.priority,
                mode=model.mode,
                replicas=placed + model.more,
                minimum_replicas=min(model.minimum, placed),
                maximum_replicas=max(1, placed + model.more),
            )
        )
    load = {deployment.key: 1.9 for deployment in deployments}
    return Fleet(tuple(deployments), tuple(replicas), nodes=nodes, load=load, drain_ticks=drain_ticks)


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(models, min_size=2, max_size=5), drain_ticks=st.integers(1, 6))
def test_should_book_nothing_twice_and_take_only_from_the_less_important_above_their_minimum(
    drawn: list[Model], drain_ticks: int
) -> None:
    fleet = a_drawn_fleet(drawn, drain_ticks)
    for _ in range(60):
        by_key = {deployment.key: deployment for deployment in fleet.deployments}
        live = {key: fleet.live(key) for key in by_key}
        # Holds every plan against double booking and the other rules of the seam.
        fleet.step()
        waiting = [by_key[key].priority for key, since in fleet.state.unplaced_since if fleet.now - since >= 30]
        for key, deployment in by_key.items():
            given_up = [
                action
                for action in fleet.last.actions
                if isinstance(action, DrainReplica)
                and action.deployment == key
                and action.reason == "YieldedToPriority"
            ]
            if given_up:
                assert deployment.priority < max(waiting)
                assert deployment.mode is Mode.AUTO
                assert live[key] - len(given_up) >= deployment.minimum_replicas


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(models, min_size=2, max_size=5), drain_ticks=st.integers(1, 6))
def test_should_leave_the_most_important_no_worse_off_and_hurt_nobody_in_vain(
    drawn: list[Model], drain_ticks: int
) -> None:
    fleet, other = a_drawn_fleet(drawn, drain_ticks), a_drawn_fleet(drawn, drain_ticks)
    given_up = 0
    for _ in range(60):
        fleet.step()
        given_up += sum(
            action.reason == "YieldedToPriority" for action in fleet.last.actions if isinstance(action, DrainReplica)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "concede", lambda found, placement, _fleet, state, _now: (found, placement, state))
        other.run(60 * TICK_SECONDS)
    priorities = sorted({deployment.priority for deployment in fleet.deployments}, reverse=True)
    counts = [
        [sum(one.live(found.key) for found in one.deployments if found.priority == priority) for priority in priorities]
        for one in (fleet, other)
    ]

    # The first class in which both differ has gained; and where somebody gave way, one has.
    assert counts[0] >= counts[1]
    assert counts[0] != counts[1] or not given_up

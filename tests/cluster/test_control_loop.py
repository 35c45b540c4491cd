"""What goes on while a plan is made: everything but the next plan; what a plan may still do when it is there; how late ticks are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from eventually import eventually
from fleetpack.catalog import load_catalog
from fleetpack.cluster import control_loop
from fleetpack.cluster.control_loop import ControlLoop, Observer, Trigger
from fleetpack.cluster.recorder import PassRecorder
from fleetpack.cluster.snapshot import Rows
from fleetpack.core.decision import Decision, SetScale
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.isolation import AssessmentError
from fleetpack.core.state import State
from raw_objects import a_resource
from virtual_time import in_virtual_time

DECISION = Decision(subject="team/chat", kind="replicas", before=1, after=2, reason="QueueAboveTarget", message="")
ACTION = SetScale(deployment="team/chat", replicas=2, reason="QueueAboveTarget")
NOW = 1_800_000_000.0
PLAN = Plan(actions=(ACTION,), decisions=(DECISION,))


class Planner:
    """A plan that takes as long as the test wants."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.under_way = self.most_at_once = self.made = 0

    def __call__(self, inputs: Inputs, state: State) -> tuple[Plan, State]:
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        assert self.go_on.wait(60.0)
        self.under_way -= 1
        self.made += 1
        return PLAN, state


class World:
    """A cluster with one deployment, and a loop that plans for it."""

    def __init__(self) -> None:
        self.leads = True
        self.deployments: dict[str, Any] = {"team/chat": a_resource()}
        self.applied: list[Any] = []
        self.told: list[Any] = []
        self.forgotten = Mock()
        self.trigger = Trigger()
        caches = Mock(wait_synced=AsyncMock(), age_seconds=lambda: 0.0)
        caches.deployments.objects, caches.pools.objects = self.deployments, {}
        caches.rows = lambda: Rows(
            pods=(),
            nodes=(),
            namespaces=(),
            priority_classes=(),
            deployments=tuple(self.deployments.values()),
            pools=(),
        )
        self.loop = ControlLoop(
            catalog=load_catalog(),
            caches=caches,
            trigger=self.trigger,
            reader=Mock(read=AsyncMock(return_value=())),
            secrets=Mock(refresh=AsyncMock(return_value={})),
            actuator=Mock(apply=self.apply),
            teller=Mock(
                note=lambda decisions, deployments: self.told.append(dict(deployments)),
                tell=AsyncMock(),
                forget=self.forgotten,
            ),
            is_leading=lambda: self.leads,
            clock=time.time,
        )

    async def apply(self, action: Any, around: Any) -> Any:
        self.applied.append((action, dict(around.deployments)))
        return SimpleNamespace(outcome="done", detail="")


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    planner = Planner()
    monkeypatch.setattr(control_loop, "plan", planner)
    return planner


@contextlib.asynccontextmanager
async def running(world: World, planner: Planner) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    task = asyncio.create_task(world.loop.run(stopping))
    try:
        await eventually(lambda: planner.under_way, what="a plan under way")
        yield
    finally:
        planner.go_on.set()
        stopping.set()
        world.trigger.pull()
        await task


async def test_should_let_everything_go_on_while_a_plan_is_made_but_the_next_plan(planner: Planner) -> None:
    world = World()
    async with running(world, planner):
        for _ in range(20):
            # This very test runs in the loop that would stand still.
            world.trigger.pull()
            await asyncio.sleep(0.01)
        assert (planner.under_way, planner.made, world.applied) == (1, 0, [])
        planner.go_on.set()
        await eventually(lambda: planner.made >= 2, what="the next plan")
    assert planner.most_at_once == 1
    assert world.applied[0] == (ACTION, world.deployments)


async def test_should_plan_while_the_names_of_signals_are_looked_up_slowly(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: answered.wait(60.0) and [])
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=6))
    lookups = [asyncio.create_task(loop.getaddrinfo(f"broker-{number}.test", 80)) for number in range(40)]
    await asyncio.sleep(0)
    try:
        async with running(World(), planner):
            assert not any(lookup.done() for lookup in lookups)
    finally:
        answered.set()
        await asyncio.wait(lookups)


async def test_should_neither_act_nor_tell_when_the_lease_was_lost_meanwhile(planner: Planner) -> None:
    world = World()
    async with running(world, planner):
        world.leads = False
        planner.go_on.set()
        await eventually(lambda: planner.made, what="the end of the plan")
        await asyncio.sleep(0.05)
    assert (world.applied, world.told) == ([], [])


async def test_should_begin_anew_with_each_lease(planner: Planner) -> None:
    world = World()
    async with running(world, planner):
        planner.go_on.set()
        for leads in (False, True):
            world.leads = leads
            world.trigger.pull()
            await eventually(lambda: world.loop._led is leads, what=f"a pass that leads: {leads}")  # noqa: B023
    assert world.forgotten.call_count == 2


async def test_should_plan_around_a_deployment_that_cannot_be_assessed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problems: list[list[str]] = []

    def plan(inputs: Inputs, state: State) -> tuple[Plan, State]:
        problems.append([problem.reason for deployment in inputs.deployments for problem in deployment.problems])
        if len(problems) == 1:
            raise AssessmentError({"team/chat": OverflowError("cannot convert float infinity to integer")})
        return PLAN, state

    monkeypatch.setattr(control_loop, "plan", plan)
    world = World()
    world.loop.observer = Mock(spec=Observer)

    await world.loop._pass()
    await asyncio.sleep(0)

    logged = [(record.getMessage(), bool(record.exc_info)) for record in caplog.records if record.levelname == "ERROR"]
    assert (problems[1][-1:], world.applied[0][0], world.loop.observer.failed.call_count, logged) == (
        ["AssessmentFailed"],
        ACTION,
        1,
        [("team/chat cannot be assessed; its replicas stay as they are", True)],
    )


async def test_should_go_on_planning_by_the_clock_after_it_was_a_day_ahead_for_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    times: list[float] = []

    for now in (NOW, NOW + 86400.0, NOW + 2.0, NOW + 1.0):
        world.loop.clock = lambda: now  # noqa: B023
        await world.loop._pass()
        times.append(world.loop._state.last_now - NOW)

    logged = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    # A second back is no reason to forget: the planner's time stands still until then.
    assert (times, logged) == (
        [0.0, 86400.0, 2.0, 2.0],
        ["the clock was set back by 86398 s; what was remembered is forgotten"],
    )


async def test_should_act_upon_what_it_planned_from_and_not_upon_what_came_since(planner: Planner) -> None:
    world = World()
    before = world.deployments["team/chat"]
    async with running(world, planner):
        world.deployments["team/chat"] = a_resource(replicas=9)
        planner.go_on.set()
        await eventually(lambda: world.applied, what="an action")
    assert (world.applied[0], world.told[0]) == ((ACTION, {"team/chat": before}), {"team/chat": before})


async def test_should_forget_what_was_deleted_meanwhile(planner: Planner) -> None:
    world = World()
    async with running(world, planner):
        del world.deployments["team/chat"]
        planner.go_on.set()
        await eventually(lambda: world.applied, what="an action")
    assert (world.applied[0], world.told[0]) == ((ACTION, {}), {})


class Ticks(Observer):
    """Remembers by how much each tick was late."""

    def __init__(self) -> None:
        self.late_seconds: list[float] = []

    def ticked(self, late_seconds: float) -> None:
        self.late_seconds.append(late_seconds)


@in_virtual_time
async def test_should_tell_by_how_much_a_tick_comes_late_after_a_pass_that_took_long() -> None:
    seconds, ticks, stopping = iter([0.0, 0.5, 3.0, 0.0]), Ticks(), asyncio.Event()

    async def refresh(resources: Any) -> dict[str, Any]:
        took = next(seconds, None)
        if took is None:
            stopping.set()
        else:
            await asyncio.sleep(took)
        raise ConnectionError("this pass ends here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_loop, "time", SimpleNamespace(monotonic=asyncio.get_running_loop().time, time=time.time))
        world = World()
        world.loop.secrets, world.loop.observer = Mock(refresh=refresh), ticks
        await world.loop.run(stopping)

    # A tick is due two seconds after the one before; the pass of three seconds makes the next one a second late.
    assert ticks.late_seconds == pytest.approx([0.0, 0.0, 0.0, 1.0, 0.0])


def test_should_pass_everything_that_an_observer_sees_on_to_the_one_behind_the_recorder(tmp_path: Path) -> None:
    seen = [name for name in vars(Observer) if not name.startswith("_")]
    behind = Mock(spec=Observer)
    recorder = PassRecorder(tmp_path / "passes", behind)

    for name in seen:
        arguments = (Mock(), Mock(), Mock(actions=()), 0.1) if name == "planned" else (Mock(),)
        getattr(recorder, name)(*arguments)

    assert [call[0] for call in behind.method_calls] == seen

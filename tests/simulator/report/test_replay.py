"""A recording of many passes, planned again: the same, or what differs and where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetpack.core.decision import CreateReplica, Outcome
from fleetpack.core.planner import plan
from fleetpack.core.recording import RecordedPass, dump
from fleetpack_simulator.cli import main
from fleetpack_simulator.world import simulate
from fleetpack_simulator.world.faults import Fault, FaultKind
from worlds import model, requests, world


def is_in_the_middle(recorded: RecordedPass) -> bool:
    """Creations on their way, and a source that has gone stale."""
    on_their_way = any(
        isinstance(one.action, CreateReplica) and one.outcome is Outcome.PENDING for one in recorded.inputs.issued
    )
    return on_their_way and "NoFreshSignal" in {one.reason for one in recorded.plan.decisions}


@pytest.fixture(scope="module")
def passes() -> list[RecordedPass]:
    """What an operator planned while one model grew, answers to writes took seconds, and nothing was heard of another model."""
    growing = tuple(one for step in range(16) for one in requests(1.0 + step, 4.0, start_seconds=20.0 + 4.0 * step))
    faults = (
        Fault(kind=FaultKind.METRICS_MISSING, at_seconds=30.0, duration_seconds=120.0, target="default/code"),
        Fault(kind=FaultKind.SLOW_API, at_seconds=30.0, duration_seconds=90.0, seconds=3.0),
    )
    quiet = model(requests(0.2, 100.0), name="code", uid="uid-code")
    result = simulate(world(model(growing, maximum_replicas=12), quiet, nodes=3, faults=faults), record=True)
    planned = (
        RecordedPass(inputs=inputs, state=state, plan=plan(inputs, state)[0]) for inputs, state in result.recorded
    )
    return [one for one in planned if one.plan.actions or is_in_the_middle(one)]


def written(folder: Path, passes: Sequence[RecordedPass]) -> str:
    file = folder / "passes.jsonl"
    file.write_text("".join(dump(one) + "\n" for one in passes))
    return str(file)


def test_should_plan_every_pass_of_a_recording_again_and_come_to_the_same(
    tmp_path: Path, passes: list[RecordedPass]
) -> None:
    middle = [number for number, one in enumerate(passes) if is_in_the_middle(one)]

    answer = CliRunner().invoke(main, ["replay", written(tmp_path, passes)])

    lines = answer.output.splitlines()
    assert middle, "no pass in the middle of a scale-up with a stale source"
    assert all("same: " in lines[number] and "pending" in lines[number] for number in middle), answer.output
    assert (answer.exit_code, lines[-1]) == (0, f"{len(passes)} of {len(passes)} passes give the operator's own plan")


def test_should_show_what_was_decided_then_and_what_is_decided_now(tmp_path: Path, passes: list[RecordedPass]) -> None:
    one = next(one for one in passes if isinstance(one.plan.actions[-1], CreateReplica))
    other = replace(one, plan=replace(one.plan, actions=one.plan.actions[:-1]))

    answer = CliRunner().invoke(main, ["replay", written(tmp_path, [one, other]), "--json"])

    action = one.plan.actions[-1]
    assert isinstance(action, CreateReplica)
    assert (answer.exit_code, json.loads(answer.output)) == (
        1,
        {
            "passes": [
                {"pass": 0, "same": True, "differences": []},
                {"pass": 1, "same": False, "differences": [f"+ CreateReplica {action.name} ({action.reason})"]},
            ],
            "same": 1,
        },
    )


def test_should_name_what_differs_where_neither_decisions_nor_actions_do(
    tmp_path: Path, passes: list[RecordedPass]
) -> None:
    other = replace(passes[0], plan=replace(passes[0].plan, deployments=()))

    answer = CliRunner().invoke(main, ["replay", written(tmp_path, [other])])

    assert (answer.exit_code, "    other deployments" in answer.output.splitlines()) == (1, True), answer.output


def test_should_refuse_a_file_that_is_no_recording(tmp_path: Path) -> None:
    file = tmp_path / "passes.jsonl"
    file.write_text("{}\n")

    answer = CliRunner().invoke(main, ["replay", str(file)])

    assert (answer.exit_code, f"{file}, pass 0: " in answer.output) == (2, True)

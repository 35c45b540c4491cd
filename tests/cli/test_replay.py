from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from builders import a_replica, a_sample, some_inputs
from fleetpack.cli import main
from fleetpack.cluster.control_loop import Observer
from fleetpack.cluster.recorder import PassRecorder
from fleetpack.core.decision import IssuedAction, Outcome
from fleetpack.core.inputs import Inputs
from fleetpack.core.planner import plan
from fleetpack.core.state import State


def a_recording(folder: Path, inputs: Inputs) -> Path:
    file = folder / "passes.jsonl"
    found, _ = plan(inputs, State())
    PassRecorder(file, Observer()).planned(inputs, State(), found, 0.001)
    return file


def in_the_middle_of_a_scale_up() -> Inputs:
    """One ready replica with a queue, one on its way whose outcome is unknown, one source stale."""
    replica, silent = a_replica(0), a_replica(1, "16-23")
    first, _ = plan(some_inputs(replicas=(replica,), samples=(a_sample(replica, waiting=90.0, running=32.0),)), State())
    issued = tuple(IssuedAction(action=action, issued_at=1.0, outcome=Outcome.UNKNOWN) for action in first.actions[:1])
    return some_inputs(
        replicas=(replica, silent), samples=(a_sample(replica, waiting=90.0, running=32.0),), issued=issued
    )


def test_should_plan_a_recorded_pass_again_and_come_to_the_same(tmp_path: Path) -> None:
    file = a_recording(tmp_path, in_the_middle_of_a_scale_up())

    answer = CliRunner().invoke(main, ["plan", str(file)])

    assert (answer.exit_code, answer.output.splitlines()[0]) == (
        0,
        "1 deployments, 1 nodes, 2 replicas, 1 actions on their way, 1 new samples",
    )


def test_should_say_when_this_version_decides_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "passes.jsonl"
    inputs = some_inputs()
    found, _ = plan(inputs, State())
    other = replace(found, actions=(replace(found.actions[0], reason="BacklogDraining"),))  # type: ignore[arg-type]
    PassRecorder(file, Observer()).planned(inputs, State(), other, 0.001)

    answer = CliRunner().invoke(main, ["plan", str(file)])

    assert answer.exit_code == 1
    assert "decides otherwise" in answer.output


def test_should_say_how_many_passes_there_are_when_another_is_asked_for(tmp_path: Path) -> None:
    file = a_recording(tmp_path, some_inputs())

    answer = CliRunner().invoke(main, ["plan", str(file), "--pass", "7"])

    assert (answer.exit_code, answer.output) == (1, f"Error: {file} has 1 recorded passes, there is no pass 7\n")


def test_should_lose_a_recording_rather_than_a_plan_when_the_disk_says_no(tmp_path: Path) -> None:
    inputs = some_inputs()
    found, _ = plan(inputs, State())

    PassRecorder(tmp_path / "absent" / "passes.jsonl", Observer()).planned(inputs, State(), found, 0.001)

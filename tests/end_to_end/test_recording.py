"""What a live operator records is what the simulator plans from: taken in the middle of a scale-up, planned again, the same plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from background import Queue, proxy_running
from fault_proxy import Match, SlowAnswer
from fleetpack.cli import main
from fleetpack.core.decision import CreateReplica, Outcome
from fleetpack.core.recording import RecordedPass, load
from fleetpack_simulator.cli import main as simulator
from fleetpack_simulator.world import operator as simulated
from operator_process import OperatorProcess, operator_running
from small_fleet import SmallFleet, queue_signal

pytestmark = pytest.mark.cluster


@pytest.fixture
def recording(
    operator_kubeconfig: Path, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """Return the recording of a running operator whose Pods take three seconds to be created, of the four that it waits for."""
    file = tmp_path / "passes.jsonl"
    with proxy_running(operator_kubeconfig) as proxy:
        proxy.inject(SlowAnswer(Match(verb="create", path="/pods$"), seconds=3.0))
        operator = OperatorProcess(
            kubeconfig=proxy.write_kubeconfig(tmp_path / "proxy.kubeconfig"),
            log=tmp_path / "operator.log",
            lease_name=f"recording-{namespace}",
            identity="recorded",
            record_file=file,
        )
        with operator_running(operator, request):
            yield file


def read(file: Path) -> list[RecordedPass]:
    """Return the passes recorded so far; the last line may still be being written."""
    text = file.read_text() if file.exists() else ""
    return [load(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def creations(file: Path, fleet: SmallFleet) -> int:
    """Return how many creations of the test's models were planned so far."""
    models = {f"{fleet.namespace}/silent", f"{fleet.namespace}/busy"}
    actions = [action for one in read(file) for action in one.plan.actions if isinstance(action, CreateReplica)]
    return sum(action.deployment in models for action in actions)


def is_in_the_middle(recorded: RecordedPass, silent: str) -> bool:
    """Creations on their way, more replicas wanted at the same time, and no answer from the source of another model."""
    on_their_way = any(
        isinstance(one.action, CreateReplica) and one.outcome is Outcome.PENDING for one in recorded.inputs.issued
    )
    asks_for_more = any(isinstance(action, CreateReplica) for action in recorded.plan.actions)
    reasons = {decision.reason for decision in recorded.plan.decisions if decision.subject == silent}
    return on_their_way and asks_for_more and "NoFreshSignal" in reasons


def test_should_plan_a_live_recording_of_a_scale_up_again_and_come_to_the_same(
    fleet: SmallFleet, queue: Queue, recording: Path
) -> None:
    fleet.static_pool("a", "b")
    with Queue(waiting=4) as silent:
        fleet.deploy("silent", mode="Auto", scaling={"maxReplicas": 4, "signals": queue_signal(silent.url, "1s")})
        fleet.deploy("busy", mode="Auto", scaling={"maxReplicas": 8, "signals": queue_signal(queue.url)})
        fleet.settled("silent", 1)
        fleet.settled("busy", 1)
        silent.waiting = None
        fleet.told("silent", "ScalingActive", status="False", reason="NoFreshSignal")

        # One more each time, as soon as the last one is planned, which is seconds before it is there.
        for wanted in range(2, 8):
            queue.waiting = 4 * wanted
            fleet.until(lambda wanted=wanted: creations(recording, fleet) >= wanted + 1, f"{wanted} planned", "busy")
        fleet.settled("busy", 7)

    passes = read(recording)
    middle = [number for number, one in enumerate(passes) if is_in_the_middle(one, f"{fleet.namespace}/silent")]
    assert middle, f"none of {len(passes)} recorded passes has creations on their way and a silent source"
    # The simulator's own seam to the planner, and the command for people.
    assert [simulated.plan(one.inputs, one.state)[0] for one in passes] == [one.plan for one in passes]
    answer = CliRunner().invoke(main, ["plan", str(recording), "--pass", str(middle[0])])
    assert answer.exit_code == 0, answer.output
    assert "actions on their way" in answer.output
    answer = CliRunner().invoke(simulator, ["replay", str(recording)])
    assert (answer.exit_code, answer.output.splitlines()[-1]) == (
        0,
        f"{len(passes)} of {len(passes)} passes give the operator's own plan",
    )

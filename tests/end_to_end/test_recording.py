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
from fleetpack_simulator.world import operator as simulated
from operator_process import OperatorProcess, operator_running
from small_fleet import SmallFleet, queue_signal

pytestmark = pytest.mark.cluster


@pytest.fixture
def recording(
    operator_kubeconfig: Path, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """Return the recording of a running operator whose Pods take two seconds to be created."""
    file = tmp_path / "passes.jsonl"
    with proxy_running(operator_kubeconfig) as proxy:
        proxy.inject(SlowAnswer(Match(verb="create", path="/pods$"), seconds=2.0))
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
    return [load(line) for line in file.read_text().splitlines()] if file.exists() else []


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

        for waiting in (12, 20, 28):
            queue.waiting = waiting
            wanted = waiting // 4
            fleet.until(
                lambda wanted=wanted: fleet.status("busy").get("desiredReplicas") == wanted, f"{wanted} wanted", "busy"
            )
        fleet.settled("busy", 7)

    passes = read(recording)
    middle = [number for number, one in enumerate(passes) if is_in_the_middle(one, f"{fleet.namespace}/silent")]
    assert middle, f"none of {len(passes)} recorded passes has creations on their way and a silent source"
    # The simulator's own seam to the planner, and the command for people.
    assert [simulated.plan(one.inputs, one.state)[0] for one in passes] == [one.plan for one in passes]
    answer = CliRunner().invoke(main, ["plan", str(recording), "--pass", str(middle[0])])
    assert answer.exit_code == 0, answer.output
    assert "actions on their way" in answer.output

"""`fleetpack-sim run` and `swarm`, as a person calls them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetpack.core.decision import CreateReplica
from fleetpack_simulator.cli import main
from fleetpack_simulator.scenarios import draw_setting, summarize
from fleetpack_simulator.scenarios.changes import read_changes
from fleetpack_simulator.scenarios.summary import changes_of
from fleetpack_simulator.scenarios.swarm import draw_common
from fleetpack_simulator.world import simulate
from fleetpack_simulator.world.operator import Writer
from fleetpack_simulator.world.setting import Delays
from fleetpack_simulator.world.simulation import Point
from scenario_files import MANIFESTS, write
from worlds import model, requests, world

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples" / "scenarios").glob("*.yaml"))
SHORT = "duration: 2m\nloads: {chat: {generator: constant, options: {ratePerSecond: 2}}}\nstartup: {chat: 5s}"


def test_should_print_a_table_and_write_everything_as_json(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = CliRunner().invoke(main, ["run", str(write(tmp_path, SHORT)), "--json", str(out), "--decisions"])
    assert result.exit_code == 0, result.output
    assert "NodeNeeded: launch a inf2.24xlarge" in result.output
    assert "time to first token p50 / p95 / p99" in result.output
    content = json.loads(out.read_text())
    (own,) = content["models"]
    assert own["requests"] == own["completed"] > 100
    assert content["placements"][0]["cores"] == "0-1"
    # One point a tick; what changes in between is planned for at once.
    assert 60 <= len(content["series"]["default/chat"]) <= content["plans"]


_BYTES = """
import hashlib, sys
from pathlib import Path
from click.testing import CliRunner
from fleetpack_simulator.cli import main
scenario, out, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
for arguments in (["run", scenario], ["run", scenario, "--policy", "hpa"], ["swarm", "--seed", "86"]) * times:
    answer = CliRunner().invoke(main, [*arguments, "--json", out])
    assert answer.exit_code == 0, answer.output
    print(hashlib.sha256(Path(out).read_bytes()).hexdigest())
"""
"""Plays a scenario, a peer's policy, and a world of the swarm with faults and edits, and prints what their bytes add up to."""


def test_should_write_the_same_bytes_twice_whatever_the_hash_seed(tmp_path: Path) -> None:
    edits = "{at: 30s, deployment: chat, minReplicas: 2}, {at: 50s, deployment: chat, template: v2}"
    path = write(tmp_path, f"{SHORT}\nchanges: [{edits}]")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _BYTES, str(path), str(tmp_path / f"{seed}.json"), times],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, times in (("0", "2"), ("4711", "1"))
    ]
    both, other = (run.communicate(timeout=300)[0].split() for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert (both[:3], both[3:], len(set(both))) == (other, other, 3)


def test_should_show_the_edits_of_a_world_as_they_would_stand_in_a_scenario(tmp_path: Path) -> None:
    out = tmp_path / "out.json"

    answer = CliRunner().invoke(main, ["swarm", "--seed", "86", "--json", str(out)])

    changes = json.loads(out.read_text())["changes"]
    assert changes
    assert all(f"change: {json.dumps(change, sort_keys=True)}" in answer.output for change in changes)
    deployments = {model.deployment.key: model.deployment for model in draw_setting(86).models}
    assert read_changes(changes, deployments, "here") == tuple(
        sorted(draw_setting(86).changes, key=lambda change: (change.at_seconds, change.deployment))
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--policy", "guess"], "policy 'guess' is not known"), (["--seed", "x"], "not a valid integer")],
)
def test_should_refuse_wrong_usage(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["run", str(write(tmp_path, SHORT)), *arguments])
    assert (result.exit_code, told in result.output) == (2, True)


def test_should_pass_some_seeds_of_the_swarm() -> None:
    result = CliRunner().invoke(main, ["swarm", "--seeds", "8"])
    assert (result.exit_code, "8 of 8 seeds passed" in result.output) == (0, True)


def test_should_say_which_seed_broke_which_rule_and_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "send", lambda self, action: None)

    answer = CliRunner().invoke(main, ["swarm", "--seeds", "2", "--first", "3"])

    text = answer.output
    assert (answer.exit_code, "seed 3: failed: pools" in text, "minimum-restored: " in text) == (1, True, True)
    assert text.splitlines()[-2:] == [
        "0 of 2 seeds passed",
        "replay one with its decisions: fleetpack-sim swarm --seed 3",
    ]


def test_should_draw_every_option_in_some_seed() -> None:
    worlds = [draw_setting(seed) for seed in range(60)]
    deployments = [own.deployment for one in worlds for own in one.models]
    variants = [variant for one in deployments for variant in one.variants]
    drawn = {
        "latency": any(one.latency_target for one in deployments),
        "price": any(one.target_usd_per_million_requests for one in deployments),
        "ceiling": any(one.maximum_usd_per_hour for one in deployments),
        "namespace": {one.namespace for one in deployments} == {"default", "team"},
        "namespaces of a pool": any(own.namespaces for one in worlds for own in one.pools),
        "priorities": len({one.priority for one in deployments}) > 2,
        "devices": any(variant.devices for variant in variants),
        "accelerators": {variant.accelerator for variant in variants}
        == {"inferentia", "inferentia2", "l4", "trainium", "trainium2"},
        "compilation": any(one.delays.compile_seconds for one in worlds),
        "pull": any(one.delays.image_pull_seconds for one in worlds),
    }
    assert drawn == dict.fromkeys(drawn, True)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_should_end_with_one_where_the_operator_makes_no_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    send = Writer.send
    monkeypatch.setattr(
        Writer, "send", lambda self, action: None if isinstance(action, CreateReplica) else send(self, action)
    )
    path = str(
        write(tmp_path, SHORT.replace("duration: 2m", "duration: 10m"), MANIFESTS.replace(', failureRate: "0.25"', ""))
    )
    options = {
        "run": [path],
        "compare": ["--scenario", path, "--policies", "fleetpack", "--seeds", "1", "--jobs", "1"],
    }

    answer = CliRunner().invoke(main, [command, *options[command]])

    assert (answer.exit_code, "minimum-kept: default/chat: 0 of 1 replicas" in answer.output) == (1, True), (
        answer.output
    )


def test_should_replay_a_seed_with_its_decisions() -> None:
    result = CliRunner().invoke(main, ["swarm", "--seed", "3"])
    assert "seed 3: passed" in result.output
    assert "replicas" in result.output


def test_should_remember_writes_while_watches_are_silent() -> None:
    # Forgotten after ten seconds, a Pod that was there gave its cores to another model's replica.
    assert simulate(draw_common(575), until_rest=True).violations == []


def test_should_sum_up_what_users_saw_and_what_was_paid() -> None:
    result = simulate(world(model(requests(1.0, 60.0, start_seconds=20.0)), tail_seconds=0.0))
    (own,) = summarize(result, scenario="s", policy="p").models
    assert (own.requests, own.completed, own.in_objective, own.objective_kept) == (60, 60, 1.0, True)
    assert own.replica_hours == pytest.approx(120.0 / 3600, rel=0.01)
    assert own.usd_per_million_requests == pytest.approx(own.usd / 60 * 1e6)


def test_should_count_a_change_that_is_turned_back_within_five_minutes_as_an_oscillation() -> None:
    wanted = [(0, 1), (10, 3), (20, 3), (100, 2), (500, 4), (510, 5)]
    series = [
        Point(at_seconds=at, desired=desired, live=0, ready=0, waiting=0, running=0, usd_per_hour=0.0)
        for at, desired in wanted
    ]
    assert changes_of(series) == (4, 1)


def test_should_have_five_examples_and_say_in_the_docs_what_each_shows() -> None:
    rows = (ROOT / "docs" / "simulator.md").read_text().split("| scenario |")[1].split("\n\n")[0].splitlines()

    named = sorted(row.split("`")[1] for row in rows if row.startswith("| `"))

    assert named == [path.name for path in EXAMPLES]
    assert len(named) >= 5


def test_should_say_in_the_docs_every_delay_that_a_scenario_may_set() -> None:
    rows = (ROOT / "docs" / "simulator.md").read_text().split("| delay |")[1].split("\n\n")[0].splitlines()

    named = {name for row in rows if row.startswith("| `") for name in row.split("|")[1].replace("`", "").split(",")}

    words = {re.sub("([A-Z])", r"_\1", name.strip()).lower() for name in named}
    assert words == {field.name.removesuffix("_seconds") for field in fields(Delays)}


@pytest.mark.parametrize("scenario", EXAMPLES, ids=lambda path: path.stem)
def test_should_play_every_example_within_a_minute_by_its_rules_and_against_an_objective(
    tmp_path: Path, scenario: Path
) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "fleetpack_simulator.cli", "run", str(scenario), "--json", str(out)]

    # As a new user calls it: with the start of the process, and ended where it takes longer than a minute.
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    content = json.loads(out.read_text())
    assert content["violations"] == []
    assert {one["deployment"]: one["inObjective"] for one in content["models"] if one["inObjective"] is None} == {}


def test_should_keep_the_important_model_served_on_a_full_fleet_and_the_other_one_at_its_minimum(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.json"
    scenario = ROOT / "examples" / "scenarios" / "scarce-fleet.yaml"

    answer = CliRunner().invoke(main, ["run", str(scenario), "--json", str(out)])

    content = json.loads(out.read_text())
    ready = content["seriesFields"].index("ready")
    in_objective = {one["deployment"]: one["inObjective"] for one in content["models"]}
    once_started = [point[ready] for point in content["series"]["default/batch"] if point[0] > 60.0]
    # It was 6 % when priority ordered only those that wait; seeds 1 to 3 give 93 to 95 %.
    assert in_objective["default/support"] >= 0.6, answer.output
    assert (min(once_started), content["violations"]) == (2, [])


def test_should_play_a_scenario_with_a_peers_policy() -> None:
    scenario = ROOT / "examples" / "scenarios" / "scale-to-zero.yaml"

    answer = CliRunner().invoke(main, ["run", str(scenario), "--policy", "static-2"])

    assert (answer.exit_code, "static-2" in answer.output) == (0, True), answer.output


def test_should_name_the_policies_there_are_when_asked_for_another() -> None:
    scenario = ROOT / "examples" / "scenarios" / "scale-to-zero.yaml"

    answer = CliRunner().invoke(main, ["run", str(scenario), "--policy", "kpa"])

    assert answer.exit_code == 2
    assert "policy 'kpa' is not known; there are static-N (any N), hpa, keda, knative" in answer.output

"""Policies beside each other: what the rows say, that nobody is favoured by the order of work, and the command and its page."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner

from fleetpack_simulator.cli import main
from fleetpack_simulator.report import records
from fleetpack_simulator.report.comparison import DEFAULT_POLICIES, METRICS, Spread, Task, compare, rows_of, tasks_for
from fleetpack_simulator.report.downsampling import BUCKETS
from fleetpack_simulator.report.page import page_of
from fleetpack_simulator.report.payload import as_text, payload_of
from fleetpack_simulator.report.records import RunRecord
from fleetpack_simulator.scenarios.loading import TraceFiles
from pages import Page
from scenario_files import MANIFESTS, write

LOAD = "duration: 4m\nstartup: {chat: 5s}\nloads: {chat: {generator: constant, at: 40s, options: {ratePerSecond: 2}}}"
SECOND = MANIFESTS.split("---")[2].replace("{name: chat}", "{name: code}")


def tasks(path: Path, policies: tuple[str, ...] = ("fleetpack", "static-2"), seeds: int = 2) -> list[Task]:
    task = Task(scenario=path, traces=TraceFiles(), policy="", seed=None, detailed=True, bounded=True)
    return tasks_for(task, policies, range(seeds))


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two policies, two seeds, two models."""
    two = f"{LOAD[:-1]}, code: {{generator: constant, at: 40s, options: {{ratePerSecond: 1}}}}}}"
    path = write(tmp_path_factory.mktemp("two"), two, f"{MANIFESTS}---{SECOND}")
    return payload_of(compare(tasks(path), jobs=1))


def test_should_give_the_same_bytes_from_one_process_and_from_two(tmp_path: Path) -> None:
    path = write(tmp_path, LOAD)
    texts = [as_text(payload_of(compare(tasks(path, seeds=1), jobs=jobs))) for jobs in (1, 2)]
    assert texts[0] == texts[1]


def test_should_say_the_median_and_the_extremes_over_seeds(payload: dict[str, Any]) -> None:
    runs = [run for run in payload["runs"] if run["policy"] == "fleetpack"]
    costs = [sum(model["usdPerHour"] for model in run["summary"]["models"]) for run in runs]
    row = next(row for row in payload["rows"] if (row["policy"], row["deployment"]) == ("fleetpack", "total"))
    assert row["values"]["usdPerHour"] == pytest.approx(
        {"median": median(costs), "lowest": min(costs), "highest": max(costs)}
    )


def test_should_have_a_row_in_total_and_one_for_each_of_several_models(payload: dict[str, Any]) -> None:
    names = [(row["policy"], row["deployment"]) for row in payload["rows"]]
    own = ["total", "default/chat", "default/code"]
    assert names == [(policy, name) for policy in ("fleetpack", "static-2") for name in own]
    assert all(set(row["values"]) == set(METRICS) for row in payload["rows"])


def test_should_let_no_policy_cost_less_than_the_bound(payload: dict[str, Any]) -> None:
    ratios = [row["values"]["timesBound"] for row in payload["rows"]]
    assert all(ratio is not None and ratio["lowest"] >= 1.0 for ratio in ratios)


def test_should_add_up_what_it_draws_to_what_it_says(payload: dict[str, Any]) -> None:
    for model in payload["models"]:
        load = payload["load"][model["deployment"]]
        assert sum(load["requestsPerBucket"]) == load["requests"] == model["requests"]
    for policy, detail in payload["details"].items():
        seconds = sum(
            (to if to is not None else detail["endSeconds"]) - since for *_, since, to in detail["placements"]
        )
        run = next(run for run in payload["runs"] if run["policy"] == policy)
        hours = sum(model["replicaHours"] for model in run["summary"]["models"])
        # A replica is paid from its creation, and drawn from its binding a moment later.
        assert seconds / 3600 == pytest.approx(hours, rel=0.05)


def test_should_hold_the_very_numbers_of_the_json_and_need_nothing_from_outside(payload: dict[str, Any]) -> None:
    page = Page(page_of(payload))
    assert (page.outside, page.unclosed) == ([], [])
    assert page.payload == json.loads(as_text(payload))
    assert [row[0] for row in page.rows[1:]] == [
        row["policy"] if row["deployment"] == "total" else row["deployment"] for row in payload["rows"]
    ]


def test_should_not_let_a_name_out_of_its_element(payload: dict[str, Any]) -> None:
    hostile = "</script><img src=x onerror=alert(1)>&'\""
    page = Page(page_of({**payload, "scenario": hostile}))
    assert page.outside == []
    assert page.payload["scenario"] == hostile


def test_should_print_one_table_and_write_json_and_page(tmp_path: Path) -> None:
    path, out, html = write(tmp_path, LOAD), tmp_path / "out.json", tmp_path / "out.html"
    arguments = ["compare", "--scenario", str(path), "--policies", "fleetpack,hpa", "--seeds", "1", "--jobs", "1"]
    answer = CliRunner().invoke(main, [*arguments, "--json", str(out), "--html", str(html)])
    assert answer.exit_code == 0, answer.output
    assert "times" in answer.output
    assert "replica-" in answer.output
    assert Page(html.read_text()).payload == json.loads(out.read_text())
    assert html.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--policies", "fleetpack,guess"], "policy 'guess' is not known"),
        (["--policies", ","], "--policies names none"),
        (["--trace", "chat"], "it must be MODEL=FILE"),
    ],
)
def test_should_refuse_wrong_usage(tmp_path: Path, arguments: list[str], told: str) -> None:
    answer = CliRunner().invoke(main, ["compare", "--scenario", str(write(tmp_path, LOAD)), *arguments])
    assert (answer.exit_code, told in answer.output) == (2, True), answer.output


def test_should_write_a_page_of_one_run(tmp_path: Path) -> None:
    html = tmp_path / "run.html"
    answer = CliRunner().invoke(main, ["run", str(write(tmp_path, LOAD)), "--html", str(html)])
    assert answer.exit_code == 0, answer.output
    assert Page(html.read_text()).payload["policies"] == ["fleetpack"]


def test_should_play_another_trace_than_the_scenario_names(tmp_path: Path) -> None:
    trace = tmp_path / "own.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at},50,5\n" for at in range(7)))
    answer = CliRunner().invoke(main, ["run", str(write(tmp_path, LOAD)), "--trace", f"chat={trace}"])
    assert answer.exit_code == 0, answer.output
    assert "7 / 0 / 0 / 0" in answer.output


def test_should_find_a_trace_in_the_folder_of_traces(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,50,5\n1,50,5\n")
    path = write(tmp_path, "duration: 2m\nstartup: {chat: 5s}\nloads: {chat: {file: a.csv, at: 40s}}")
    answer = CliRunner().invoke(main, ["run", str(path)], env={"FLEETPACK_TRACES": str(folder)})
    assert answer.exit_code == 0, answer.output
    assert "2 / 0 / 0 / 0" in answer.output


def test_should_say_why_there_is_no_bound(tmp_path: Path) -> None:
    without = MANIFESTS.replace("latencyTarget: {ttft: 1500ms, percentile: 90}, ", "")
    path = write(tmp_path, LOAD, without)
    record = compare(tasks(path, ("fleetpack",), 1), jobs=1).records[0]
    assert record.bounds[0].usd is None
    assert "no objective" in record.bounds[0].reason


def test_should_leave_absent_what_no_seed_had(tmp_path: Path) -> None:
    path = write(tmp_path, "duration: 1m\nloads: {}")
    found: tuple[RunRecord, ...] = compare(tasks(path, ("fleetpack",), 1), jobs=1).records
    (row,) = rows_of(found)
    assert row.values["ttftP95Seconds"] is None
    assert row.values["scaleActions"] == Spread(median=0.0, lowest=0.0, highest=0.0)


def test_should_have_fleetpack_and_every_peer_that_needs_no_number() -> None:
    assert DEFAULT_POLICIES[0] == "fleetpack"
    assert set(DEFAULT_POLICIES[1:]) == {
        "hpa",
        "keda",
        "knative",
        "aibrix-apa",
        "wva-v1",
        "wva-v2",
        "kubeai",
        "ray-serve",
        "dynamo-load",
        "dynamo-latency",
    }


def test_should_leave_out_the_shortest_placements_and_count_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_PLACEMENTS", 2)
    monkeypatch.setattr(records, "MOST_DECISIONS", 3)
    monkeypatch.setattr(records, "MOST_MACHINES", 0)
    comparison = compare(tasks(write(tmp_path, LOAD), ("static-5",), 1), jobs=1)
    detail = comparison.records[0].detail
    assert detail is not None
    assert (len(detail["placements"]), detail["placementsLeftOut"]) == (2, 3)
    assert (detail["machines"], detail["machinesLeftOut"] > 0) == ([], True)
    assert len(detail["decisions"]) == 3
    assert detail["decisionsLeftOut"] > 0


def test_should_fit_eleven_runs_of_a_busy_day_into_five_megabytes(payload: dict[str, Any]) -> None:
    (name, detail) = next(iter(payload["details"].items()))
    node = "inferentia2-inf2-48xlarge-12"
    full = {
        "endSeconds": 86_700.0,
        "series": {
            key: {what: [[123.45] * BUCKETS] * 3 for what in series} for key, series in detail["series"].items()
        },
        "machines": [[node, "inf2.48xlarge", 24, 12_345.6, 23_456.7]] * records.MOST_MACHINES,
        "machinesLeftOut": 1234,
        "placements": [["large-inf2-tp24-123", "default/large", node, "0-11", 12_345.6, 23_456.7]]
        * records.MOST_PLACEMENTS,
        "placementsLeftOut": 1234,
        "decisions": [[12_345.6, "default/large", "replicas", 11, 12, "NoFeasiblePlacement", "m" * 170]]
        * records.MOST_DECISIONS,
        "decisionsLeftOut": 1234,
    }
    assert set(full) == set(detail)

    page = page_of({**payload, "details": {f"{name}-{number}": full for number in range(10)}})

    assert len(page.encode()) < 5_000_000

"""The buyer's question: the smallest fleet that keeps an objective, whole machines, and reasons where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetpack.catalog import load_catalog
from fleetpack_simulator.engine import ModelShape, decode_step_seconds
from fleetpack_simulator.engine.performance import pass_seconds
from fleetpack_simulator.report.accelerators import Question, answer, answers_of, best_of, candidates_of, window_for
from fleetpack_simulator.report.accelerators_command import accelerators_command, read_objective
from fleetpack_simulator.report.candidates import (
    CatalogFileError,
    cheapest_machines,
    device_counts,
    replicas_on,
    with_file,
)
from fleetpack_simulator.report.fleets import Fleet, Misfit, Objective, decode_parts, smallest_fleet
from fleetpack_simulator.report.fleets import _try as served
from pages import Page
from worlds import ENGINE, requests

CATALOG = load_catalog()
TYPES = CATALOG.instance_types
SMALL = ModelShape.estimate("small-1B", 1.24)
LOAD = requests(20.0, 30.0)


def question(**changes: object) -> Question:
    values: dict[str, object] = {
        "model": SMALL,
        "load": LOAD,
        "objective": Objective(ttft_seconds=1.0),
        "window_tokens": 1024,
    }
    return Question(**{**values, **changes})  # type: ignore[arg-type]  # a builder


@pytest.mark.parametrize("rate", [2.0, 20.0, 60.0])
def test_should_find_a_fleet_that_keeps_the_objective_while_one_fewer_misses_it(rate: float) -> None:
    load, objective = requests(rate, 20.0), Objective(ttft_seconds=0.5)
    allowed = objective.misses_allowed(len(load))
    found = smallest_fleet(ENGINE, load, objective)
    assert isinstance(found, Fleet)
    assert served(ENGINE, load, objective, (found.replicas, allowed)) is not None
    assert found.replicas == 1 or served(ENGINE, load, objective, (found.replicas - 1, allowed)) is None
    assert found.in_objective >= 0.95


def test_should_say_that_the_first_token_takes_too_long_even_alone() -> None:
    found = smallest_fleet(ENGINE, LOAD, Objective(ttft_seconds=0.001))
    assert isinstance(found, Misfit)
    assert found.limit == "prefill"


def test_should_say_that_a_token_takes_too_long_even_alone() -> None:
    found = smallest_fleet(ENGINE, LOAD, Objective(tpot_seconds=0.0001))
    assert isinstance(found, Misfit)
    assert found.limit == "decode"


def test_should_say_that_prompts_do_not_fit_the_window() -> None:
    found = smallest_fleet(ENGINE, requests(1.0, 20.0, prompt_tokens=2000), Objective(ttft_seconds=5.0))
    assert isinstance(found, Misfit)
    assert found.limit == "window"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["inferentia2", "trainium", "l4", "h100-sxm"]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 9))
def test_should_buy_the_cheapest_machines(accelerator: str, devices: int, replicas: int) -> None:
    types = [one for one in TYPES.values() if one.accelerator == accelerator]
    fitting = [one for one in types if replicas_on(one, devices) and one.price_usd_per_hour is not None]
    found = cheapest_machines(types, devices, replicas)
    if not fitting:
        assert found is None
        return
    every = (
        sum(one.price_usd_per_hour or 0.0 for one in chosen)
        for count in range(1, replicas + 1)
        for chosen in combinations_with_replacement(fitting, count)
        if sum(replicas_on(one, devices) for one in chosen) >= replicas
    )
    assert found is not None
    assert found.usd_per_hour == pytest.approx(min(every))
    paid = sum(TYPES[name].devices * count for name, count in found.counts)
    assert found.idle_devices == paid - devices * replicas


def test_should_try_only_numbers_of_devices_that_a_rule_allows() -> None:
    torus = [one for one in TYPES.values() if one.accelerator == "trainium"]
    ring = [TYPES["inf2.24xlarge"]]
    assert (device_counts(torus), device_counts(ring)) == ((1, 4, 8, 16), (1, 2, 4, 6))


def test_should_say_why_a_variant_cannot_hold_the_model() -> None:
    large = ModelShape.estimate("large-70B", 70.6)
    (one, *_) = candidates_of(CATALOG, only=["l4"])
    found = answer(one, question(model=large))
    assert (found.fleet, found.machines) == (None, None)
    assert found.limit.startswith("memory: 141.2 GB of weights")


def test_should_answer_for_every_accelerator_or_say_why_not() -> None:
    candidates = candidates_of(CATALOG)
    answers = answers_of(candidates, question(load=requests(4.0, 10.0)), jobs=1)
    assert {one.accelerator for one in answers} == set(CATALOG.accelerators)
    assert all(one.limit for one in answers)
    by_name = {(one.accelerator, one.devices): one for one in answers}
    assert not by_name["inferentia2", 1].projected
    for name in ("inferentia", "h100-sxm", "b200-sxm", "l4", "tpu-v5e", "maia-100"):
        assert by_name[name, 1].projected, name
    assert by_name["maia-100", 1].machines is None
    assert by_name["maia-100", 1].fleet is not None
    prices = [one.machines.usd_per_hour for one in answers if one.machines is not None]
    assert prices == sorted(prices)


def test_should_show_the_best_variant_of_each_accelerator() -> None:
    answers = answers_of(candidates_of(CATALOG, only=["inferentia2", "l4"]), question(), jobs=1)
    best = best_of(answers)
    assert sorted(one.accelerator for one in best) == ["inferentia2", "l4"]
    for one in best:
        rivals = [other for other in answers if other.accelerator == one.accelerator]
        assert one == min(rivals, key=lambda other: other.order)


def test_should_take_accelerators_machines_and_prices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "accelerators: {mine: {vendor: aws, physical_cores: 2, memory_gib: 64, memory_bandwidth_gb_per_second: 2000, "
        "tflops_bf16: 400}}\n"
        "instance_types: {mine.x: {accelerator: mine, devices: 2, cores_per_device: 2, price_usd_per_hour: 1.5}}\n"
        "prices: {trn2.48xlarge: 40}\n"
    )
    catalog = with_file(CATALOG, path)
    (one, _) = candidates_of(catalog, own=["mine"], only=["mine"])
    found = answer(one, question())
    assert found.projected
    assert found.machines is not None
    assert found.machines.counts[0][0] == "mine.x"
    assert catalog.instance_types["trn2.48xlarge"].price_usd_per_hour == 40.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accelerators: {mine: {memory_gib: 64}}", "memory_bandwidth_gb_per_second is None"),
        ("accelerators: {mine: {memory: 64}}", "memory is not known"),
        ("instance_types: {mine.x: {accelerator: nothing, devices: 1}}", "'nothing' is not in the catalog"),
        ("instance_types: {mine.x: {accelerator: l4}}", "devices must be given"),
        ("machines: {}", "machines is not known"),
        ("prices: {trn9: 4}", "trn9"),
    ],
)
def test_should_refuse_a_file_that_it_does_not_understand(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(CatalogFileError, match=told.replace("'", ".")):
        with_file(CATALOG, path)


def test_should_take_the_smallest_window_that_holds_every_request() -> None:
    assert window_for(requests(1.0, 5.0, prompt_tokens=1500, output_tokens=600), 131_072) == 4096
    assert window_for(requests(1.0, 5.0, prompt_tokens=9000), 8192) == 8192


def test_should_read_an_objective() -> None:
    found = read_objective("ttft=2s,percentile=99, tpot=50ms")
    assert found == Objective(percentile=99.0, ttft_seconds=2.0, tpot_seconds=0.05)
    with pytest.raises(ValueError, match="at least one"):
        read_objective("percentile=95")
    with pytest.raises(ValueError, match="must be NAME=VALUE"):
        read_objective("p95=2s")


def test_should_print_a_table_and_write_json_and_page(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at / 4},300,30\n" for at in range(80)))
    out, html = tmp_path / "o.json", tmp_path / "o.html"
    arguments = [
        "--model",
        "Llama-3.2-1B",
        "--trace",
        str(trace),
        "--jobs",
        "1",
        "--only",
        "inferentia2",
        "--only",
        "maia-100",
    ]
    found = CliRunner().invoke(accelerators_command, [*arguments, "--json", str(out), "--html", str(html)])
    assert found.exit_code == 0, found.output
    assert "maia-100 (projected)" in found.output
    assert "price unknown" in found.output
    page, content = Page(html.read_text()), json.loads(out.read_text())
    assert (page.outside, page.unclosed, page.payload) == ([], [], content)
    assert len(page.rows) == len(content["answers"]) + 1


def test_should_not_depend_on_how_many_processes_look() -> None:
    candidates = candidates_of(CATALOG, only=["inferentia2"])
    small = question(load=requests(4.0, 10.0))
    assert answers_of(candidates, small, jobs=2) == answers_of(candidates, small, jobs=1)


def test_should_count_failed_tries_by_the_share_that_may_miss() -> None:
    assert [replace(Objective(), percentile=p).misses_allowed(200) for p in (95.0, 99.9, 100.0)] == [10, 0, 0]


def test_should_count_collectives_among_the_cores_of_one_device() -> None:
    # A tiny model on both cores of one device: its weights take less than the collectives of its many layers.
    model = replace(ModelShape.estimate("small-1B", 0.1), layers=40)
    profile = replace(ENGINE, model=model, maximum_batch=1)
    alone = replace(profile, coefficients=replace(profile.coefficients, collective_seconds=0.0))
    assert profile.devices == 1
    assert pass_seconds(profile) > pass_seconds(alone)
    parts, without = decode_parts(profile, 10), decode_parts(alone, 10)
    changed = {name for name, seconds in parts.items() if seconds != pytest.approx(without[name])}
    assert changed == {"latency of layers and collectives"}
    whole = decode_step_seconds(profile, 1, 10, 10)
    assert sum(parts.values()) == pytest.approx(whole, rel=0.02)

"""Scenario files, as read."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fleetpack.core.deployments import Mode
from fleetpack_simulator.calibration.prediction import decoder_profile
from fleetpack_simulator.calibration.rows import DecoderWork, Load
from fleetpack_simulator.cli import main
from fleetpack_simulator.engine import ModelShape, coefficients_for
from fleetpack_simulator.engine.published import find_decoder, published_decoders
from fleetpack_simulator.scenarios import ScenarioError, draw_setting, load_scenario
from fleetpack_simulator.scenarios.faults import fault_entry
from fleetpack_simulator.scenarios.loading import scaled
from fleetpack_simulator.settings import hardware_of
from fleetpack_simulator.workload import GENERATOR_OPTIONS, GENERATORS, GeneratorOptions, Request, generate
from fleetpack_simulator.world import Fault, FaultKind, SpecChange
from fleetpack_simulator.world.faults import OF_MODELS, OPTIONS, FaultOption
from scenario_files import MANIFESTS, write

ROOT = Path(__file__).resolve().parents[3]
SCENARIOS = ROOT / "examples" / "scenarios"
EXAMPLES = sorted((*SCENARIOS.glob("*.yaml"), *SCENARIOS.glob("generated/*.yaml")))


def test_should_take_engine_objective_and_start_from_the_manifest(tmp_path: Path) -> None:
    setting = load_scenario(write(tmp_path, "duration: 1m")).setting
    (own,) = setting.models
    engine = own.engines["tp2"]
    assert (engine.maximum_batch, engine.window_tokens, engine.cores) == (8, 2048, 2)
    assert (own.objective_ttft_seconds, own.objective_percentile, own.startup_seconds) == (1.5, 90, {"tp2": 90.0})
    assert (setting.boots["ring"].delay_seconds, setting.boots["ring"].failure_rate) == (7.0, 0.25)


def test_should_let_the_environment_of_the_container_win_over_the_model(tmp_path: Path) -> None:
    env = 'image: "example.com/x:1", env: [{name: FLEETPACK_ENGINE_MAX_BATCH, value: "3"}]'
    manifests = MANIFESTS.replace('image: "example.com/x:1"', env)
    (own,) = load_scenario(write(tmp_path, "duration: 1m", manifests)).setting.models
    assert own.engines["tp2"].maximum_batch == 3


def test_should_take_the_published_shape_of_the_name_and_what_is_set_over_it(tmp_path: Path) -> None:
    known = "name: Qwen/Qwen2.5-7B-Instruct, layers: 20, keyValueHeads: 2, headDimension: 64, keyValueBits: 8"
    manifests = MANIFESTS.replace("cores: 2", "cores: 4").replace("name: a-model, parametersBillions: 1.24", known)
    (own,) = load_scenario(write(tmp_path, "duration: 1m", manifests)).setting.models
    published = find_decoder("Qwen/Qwen2.5-7B-Instruct").shape
    assert own.engines["tp2"].model == replace(published, layers=20, kv_heads=2, head_size=64, kv_bits=8)


def test_should_estimate_the_shape_of_a_name_that_nobody_published_and_say_so(tmp_path: Path) -> None:
    (own,) = load_scenario(write(tmp_path, "duration: 1m")).setting.models
    answer = CliRunner().invoke(main, ["run", str(write(tmp_path, "duration: 1s\ntail: 1s"))])
    assert own.engines["tp2"].model == ModelShape.estimate("a-model", 1.24)
    assert "default/chat: tp2: the model's shape is estimated from its size" in answer.output


@pytest.mark.parametrize("name", published_decoders())
def test_should_play_each_published_model_on_the_engine_that_is_calibrated(tmp_path: Path, name: str) -> None:
    pool, chat = yaml.safe_load_all(MANIFESTS.replace("a-model, parametersBillions: 1.24", name))
    chat["spec"]["model"]["weightBits"] = 8
    chat["spec"]["variants"][0] |= {"accelerator": "trainium2", "cores": 64}
    text = "---\n" + yaml.safe_dump_all([pool, chat])
    (own,) = load_scenario(write(tmp_path, "duration: 1m\n", text)).setting.models
    work = DecoderWork(
        cores=64,
        replicas=1,
        batch=8,
        window_tokens=2048,
        prompt_tokens=1024,
        output_tokens=128,
        weight_bits=8,
        load=Load.BATCH,
    )
    hardware = hardware_of("trainium2")
    assert own.engines["tp2"] == decoder_profile(name, work, hardware, coefficients_for(hardware))


def test_should_read_a_trace_with_its_start_speed_and_length(tmp_path: Path) -> None:
    rows = "".join(f"{second},10,5\n" for second in range(100))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows, encoding="utf-8")
    text = "loads: {chat: {file: trace.csv, start: 20s, speed: 2, duration: 10s, at: 5s}}\nduration: 1m"
    (own,) = load_scenario(write(tmp_path, text)).setting.models
    arrivals = [request.arrival_seconds for request in own.load]
    assert (len(arrivals), arrivals[0], arrivals[1], arrivals[-1]) == (20, 5.0, 5.5, 14.5)


def test_should_add_up_the_loads_of_a_list(tmp_path: Path) -> None:
    one = "{generator: constant, options: {ratePerSecond: 2}, duration: 10s, at: %s}"
    text = f"loads: {{chat: [{one % '0s'}, {one % '30s'}]}}\nduration: 1m"
    (own,) = load_scenario(write(tmp_path, text)).setting.models
    arrivals = [request.arrival_seconds for request in own.load]
    assert (
        arrivals == sorted(arrivals),
        sum(at < 10 for at in arrivals) > 10,
        sum(at > 30 for at in arrivals) > 10,
    ) == (
        True,
        True,
        True,
    )


def test_should_draw_another_load_from_another_seed(tmp_path: Path) -> None:
    path = write(tmp_path, "loads: {chat: {generator: constant}}\nduration: 1m\nseed: 1")
    first, again, other = (load_scenario(path, seed=seed).setting.models[0].load for seed in (None, 1, 2))
    assert (first == again, first == other) == (True, False)


@pytest.mark.parametrize(("scale", "least", "most"), [(0.25, 200, 300), (2.5, 2400, 2600)])
def test_should_scale_a_load_by_its_number_of_requests(scale: float, least: int, most: int) -> None:
    load = tuple(Request(arrival_seconds=float(index), prompt_tokens=1, output_tokens=1) for index in range(1000))
    found = scaled(load, scale, random.Random(3))
    assert least <= len(found) <= most
    assert [one.arrival_seconds for one in found] == sorted(one.arrival_seconds for one in found)


def test_should_read_faults_with_go_durations(tmp_path: Path) -> None:
    text = "duration: 1m\nfaults: [{kind: slow-api, at: 1m30s, duration: 2m, delay: 500ms, share: 0.5}]"
    assert load_scenario(write(tmp_path, text)).setting.faults == (
        Fault(kind=FaultKind.SLOW_API, at_seconds=90.0, duration_seconds=120.0, seconds=0.5, share=0.5),
    )


def test_should_take_the_short_name_of_a_model_for_the_target_of_a_fault(tmp_path: Path) -> None:
    text = "duration: 1m\nfaults: [{kind: metrics-missing, at: 1s, duration: 9s, target: chat}]"
    (fault,) = load_scenario(write(tmp_path, text)).setting.faults
    assert fault.target == "default/chat"


def test_should_take_a_machine_that_is_there_and_one_that_may_be_launched_for_targets(tmp_path: Path) -> None:
    names = ("ring-inf2-24xlarge-initial-0", "ring-inf2-24xlarge-3")
    faults = ", ".join(f"{{kind: node-failure, at: 1s, target: {name}}}" for name in names)
    text = f"duration: 1m\nnodes: [{{pool: ring, instanceType: inf2.24xlarge}}]\nfaults: [{faults}]"
    assert tuple(fault.target for fault in load_scenario(write(tmp_path, text)).setting.faults) == names


FAULTS = {
    FaultOption.DURATION: {"duration": 9.0},
    FaultOption.TARGET: {},
    FaultOption.SHARE: {"share": 0.5},
    FaultOption.DELAY: {"delay": 3.0},
    FaultOption.FACTOR: {"factor": 2.0},
    FaultOption.CORES: {"cores": 4},
}


@pytest.mark.parametrize("kind", list(FaultKind))
def test_should_read_a_fault_as_it_is_written_and_take_what_it_uses_only(tmp_path: Path, kind: FaultKind) -> None:
    target = {"target": "default/chat"} if kind in OF_MODELS else {}
    options = {name: value for option in OPTIONS[kind] for name, value in FAULTS[option].items()}
    entry = {"kind": kind.value, "at": 1.0, **options, **target}
    (fault,) = load_scenario(write(tmp_path, f"duration: 1m\nfaults: [{json.dumps(entry)}]")).setting.faults
    assert fault_entry(fault) == entry
    for option in sorted(set(FaultOption) - OPTIONS[kind]):
        more = {**entry, "target": "anything"} if option is FaultOption.TARGET else {**entry, **FAULTS[option]}
        with pytest.raises(ScenarioError, match=rf"faults\[0\]: {kind}: {option}: .* does nothing here; {kind} takes"):
            load_scenario(write(tmp_path, f"duration: 1m\nfaults: [{json.dumps(more)}]"))


@pytest.mark.parametrize("seed", range(12))
def test_should_read_the_faults_of_a_world_of_the_swarm_as_it_writes_them(tmp_path: Path, seed: int) -> None:
    drawn = [replace(fault, target="") for fault in draw_setting(seed).faults]
    written = [fault_entry(fault) for fault in drawn]
    found = load_scenario(write(tmp_path, f"duration: 5m\nfaults: {json.dumps(written)}")).setting.faults
    assert [fault_entry(fault) for fault in found] == written


def _options_of(generator: str) -> dict[str, float]:
    values = {
        "rate_per_second": 2,
        "peak_rate_per_second": 5,
        "at_seconds": 20,
        "width_seconds": 10,
        "period_seconds": 30,
    }
    tokens = {"prompt_tokens": 50, "output_tokens": 7}
    return {name: value for name, value in {**values, **tokens}.items() if name in GENERATOR_OPTIONS[generator]}


@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_should_take_the_options_of_a_generator_that_change_what_it_draws_only(tmp_path: Path, generator: str) -> None:
    own = _options_of(generator)
    drawn = generate(generator, GeneratorOptions(duration_seconds=60, **own))  # type: ignore[arg-type]  # by name
    for name, value in own.items():
        other = GeneratorOptions(duration_seconds=60, **{**own, name: 2 * value})  # type: ignore[arg-type]  # by name
        assert generate(generator, other) != drawn, name
    for name in sorted(set(GeneratorOptions.__slots__) - GENERATOR_OPTIONS[generator]):
        other = GeneratorOptions(duration_seconds=60, **own, **{name: 1})  # type: ignore[arg-type]  # by name
        assert generate(generator, other) == drawn, name
        first, *words = name.split("_")
        option = first + "".join(word.capitalize() for word in words)
        text = f"duration: 1m\nloads: {{chat: {{generator: {generator}, options: {{{option}: 1}}}}}}"
        with pytest.raises(
            ScenarioError, match=rf"default/chat: options.{option}: 1 does nothing here; {generator} takes"
        ):
            load_scenario(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("faults: [{kind: never-bound, at: 1s, duration: 9s, target: other}]", "target other: no InferenceDeployment"),
        ("loads: {chat: {file: x.csv, options: {ratePerSecond: 3}}}", "options are for a generator"),
        ("loads: {chat: {generator: constant, start: 3s}}", "start is where to begin in a file"),
        ("durations: 1m", "durations is not known"),
        ("loads: {other: {generator: constant}}", "default/other: no InferenceDeployment of that name"),
        ("loads: {chat: {generator: sawtooth}}", "'sawtooth' is not known"),
        ("loads: {chat: {generator: constant, options: {rate: 3}}}", "options.rate is not known"),
        ("loads: {chat: {file: none.csv}}", "none.csv: cannot be read"),
        ("loads: {chat: {speed: 2}}", "exactly one of file and generator"),
        ("duration: soon", "a duration such as"),
        ("faults: [{kind: earthquake}]", "'earthquake' is not a valid FaultKind"),
        ("faults: [{kind: metrics-late, at: 1s, delay: 2s}]", "it needs a duration"),
        ("faults: [{kind: metrics-late, at: 1s, duration: 9s}]", "delay is 0, it must be above that"),
        ("faults: [{kind: cache-lag, at: 1s, duration: 9s, delay: 0s}]", "delay is 0, it must be above that"),
        ("faults: [{kind: metrics-wrong, at: 1s, duration: 9s}]", "factor is 1, which is the truth"),
        ("faults: [{kind: metrics-missing, at: 1s, duration: 9s, share: 0}]", "share is 0.0, it must be above 0"),
        ("faults: [{kind: node-failure, at: 1s, coffee: 2}]", "node-failure: coffee is not known; node-failure takes"),
        ("faults: [{kind: node-failure, at: 1s, target: a}]", "target a: no machine of that name; there are ring-inf2"),
        ("faults: [{kind: node-failure, at: 1s, target: ring-inf2-24xlarge-initial-0}]", "no machine of that name"),
        ("faults: [{kind: replica-crash, at: 1s, target: other}]", "no InferenceDeployment of that name"),
        (
            "faults: [{kind: insufficient-capacity, at: 1s, duration: 9s, target: inf9.huge}]",
            "target inf9.huge: no instance type of a pool of that name; there are inf2.24xlarge",
        ),
        ("tail: 1m\nduration: 1m\nfaults: [{kind: node-failure, at: 2m}]", "at: '2m' never comes"),
        ("loads: {chat: {generator: constant, options: {ratePerSecond: fast}}}", "ratePerSecond: 'fast' is no float"),
        ("nodes: [{pool: other, instanceType: inf2.24xlarge}]", "pool 'other' has no manifest; there are ring"),
        ("nodes: [{pool: ring, instanceType: inf9.huge}]", "'inf9.huge' is in neither the catalog nor pool ring"),
        ("delays: {coffee: 3s}", "delays.coffee is not known"),
    ],
)
def test_should_refuse_what_cannot_be_played_and_say_why(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load_scenario(write(tmp_path, text))
    assert told in str(error.value)


def test_should_say_which_model_is_not_described_well_enough(tmp_path: Path) -> None:
    manifests = MANIFESTS.replace("parametersBillions: 1.24, ", "")
    with pytest.raises(ScenarioError, match=r"default/chat, variant tp2: .*PARAMETERS_BILLIONS is not set"):
        load_scenario(write(tmp_path, "duration: 1m", manifests))


def test_should_name_the_field_of_a_bad_manifest(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="InferenceDeployment chat"):
        load_scenario(write(tmp_path, "duration: 1m", MANIFESTS.replace("cores: 2", "cores: 0")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_should_read_every_example(path: Path) -> None:
    setting = load_scenario(path).setting
    assert any(model.load for model in setting.models)


def test_should_read_edits_of_specs_in_the_order_of_time(tmp_path: Path) -> None:
    text = """duration: 1m
changes:
- {at: 40s, deployment: chat}
- {at: 10s, deployment: default/chat, minReplicas: 2, maxReplicas: 5, mode: Manual, replicas: 3}
- {at: 20s, deployment: chat, template: v2}
- {at: 30s, deployment: chat, deleted: true}"""
    edits = (("minimum_replicas", 2), ("maximum_replicas", 5), ("mode", Mode.MANUAL), ("replicas", 3))
    assert load_scenario(write(tmp_path, text)).setting.changes == (
        SpecChange(at_seconds=10.0, deployment="default/chat", fields=edits),
        SpecChange(at_seconds=20.0, deployment="default/chat", template_hash="v2"),
        SpecChange(at_seconds=30.0, deployment="default/chat", deleted=True),
        SpecChange(at_seconds=40.0, deployment="default/chat"),
    )


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{at: 1s}", "deployment must be given"),
        ("{at: 1s, deployment: other}", "default/other: no InferenceDeployment of that name"),
        ("{at: 1s, deployment: chat, cores: 4}", "cores is not known; known are at, deleted"),
        ("{at: 1s, deployment: chat, minReplicas: 99}", "minReplicas 99 and maxReplicas"),
        ("{at: 1s, deployment: chat, mode: Fast}", "mode: 'Fast' is not a valid Mode"),
        ("{at: 1s, deployment: chat, deleted: true, replicas: 1}", "what is deleted has no replicas"),
        ("{at: soon, deployment: chat}", "changes: at:"),
    ],
)
def test_should_refuse_an_edit_that_makes_no_sense(tmp_path: Path, entry: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(told)):
        load_scenario(write(tmp_path, f"duration: 1m\nchanges: [{entry}]"))

"""Whole small worlds: what the operator's own decisions bring about."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fleetpack.core.deployments import LatencyTarget, SignalSpecification
from fleetpack.core.fleet import ReplicaPhase
from fleetpack.core.planner import plan
from fleetpack_simulator.engine.batch_server import BatchProfile, batch_seconds
from fleetpack_simulator.engine.serving import places_of
from fleetpack_simulator.scenarios import summarize
from fleetpack_simulator.settings import PREFIX, replica_settings
from fleetpack_simulator.world import (
    BootBehaviour,
    Delays,
    Fault,
    FaultKind,
    PolicyView,
    RunResult,
    SpecChange,
    simulate,
)
from fleetpack_simulator.world.traffic import RequestState
from worlds import POOL, model, pool, requests, world

ROOT = Path(__file__).resolve().parents[3]
GATEWAY = SignalSpecification(name="gateway", in_pods=False, measures="waiting")
ENGINE = SignalSpecification(name="engine", in_pods=True)


def ready_at(result: RunResult, at_seconds: float) -> int:
    return next(point.ready for point in reversed(result.series["default/chat"]) if point.at_seconds <= at_seconds)


def phases(result: RunResult) -> list[ReplicaPhase]:
    return sorted(pod.seen.phase for pod in result.cluster.pods.values())


def test_should_start_the_minimum_when_nobody_comes() -> None:
    result = simulate(world(model(minimum_replicas=2)))
    assert (ready_at(result, 10.0), ready_at(result, 14.0), result.violations) == (0, 2, [])


def test_should_grow_with_the_load_and_end_every_request() -> None:
    # One replica serves about 3.6 of these a second.
    result = simulate(world(model(requests(8.0, 100.0, start_seconds=20.0))))
    assert result.violations == []
    assert set(result.log.state) == {RequestState.COMPLETED}
    assert ready_at(result, 118.0) >= 3


def test_should_shrink_again_once_the_load_is_gone() -> None:
    setting = world(model(requests(8.0, 60.0, start_seconds=20.0)), duration_seconds=400.0)
    result = simulate(setting)
    assert (ready_at(result, 390.0), result.violations) == (1, [])


def test_should_launch_a_node_for_a_replica_that_has_no_room_and_wait_for_its_boot() -> None:
    result = simulate(world(model(), nodes=0, duration_seconds=60.0))
    assert list(result.cluster.nodes) == [f"{POOL}-inf2-24xlarge-0"]
    assert (ready_at(result, 30.0), ready_at(result, 36.0)) == (0, 1)


def test_should_back_off_while_the_cloud_has_no_machine() -> None:
    dry = Fault(kind=FaultKind.INSUFFICIENT_CAPACITY, at_seconds=0.0, duration_seconds=50.0)
    result = simulate(world(model(), nodes=0, faults=(dry,), duration_seconds=200.0))
    first = next(point.at_seconds for point in result.series["default/chat"] if point.ready)
    assert 80.0 <= first <= 180.0


def test_should_scale_to_zero_and_wake_for_a_request_at_the_gateway() -> None:
    asleep = model(
        requests(1.0, 3.0, start_seconds=100.0),
        minimum_replicas=0,
        replicas=0,
        signals=(ENGINE, GATEWAY),
        scale_to_zero_after_seconds=30.0,
    )
    result = simulate(world(asleep, duration_seconds=300.0))
    assert (ready_at(result, 98.0), ready_at(result, 140.0), ready_at(result, 290.0)) == (0, 1, 0)
    assert set(result.log.state) == {RequestState.COMPLETED}


def test_should_replace_replicas_of_a_machine_that_died() -> None:
    fault = Fault(kind=FaultKind.NODE_FAILURE, at_seconds=60.0, target="node-0")
    setting = world(model(minimum_replicas=2), nodes=2, faults=(fault,), duration_seconds=400.0)
    result = simulate(setting, until_rest=True)
    assert ("node-0" in result.cluster.nodes, phases(result)) == (False, [ReplicaPhase.READY] * 2)
    assert result.violations == []


def test_should_have_left_a_spot_machine_two_minutes_after_the_notice() -> None:
    fault = Fault(kind=FaultKind.SPOT_INTERRUPTION, at_seconds=60.0, target="node-0")
    result = simulate(world(model(), nodes=2, faults=(fault,), duration_seconds=400.0), until_rest=True)
    on_spot = [one for one in result.cluster.placements if one["node"] == "node-0"]
    assert on_spot
    assert all(one["toSeconds"] <= 180.0 for one in on_spot)
    assert "node-0" not in result.cluster.nodes
    assert (phases(result), result.violations) == ([ReplicaPhase.READY], [])


def test_should_place_nothing_on_a_broken_chip() -> None:
    faults = tuple(Fault(kind=FaultKind.DEVICE_FAILURE, at_seconds=40.0 + index, target="node-0") for index in range(3))
    setting = world(model(minimum_replicas=3), faults=faults, pools=(pool(maximum_nodes=1),), duration_seconds=300.0)
    result = simulate(setting, until_rest=True)
    node = result.cluster.nodes["node-0"]
    broken = sum(0b11 << (2 * device) for device in node.unhealthy_devices)
    assert node.unhealthy_devices
    assert all(not pod.seen.cores & broken for pod in result.cluster.pods.values())
    assert (phases(result), result.violations) == ([ReplicaPhase.READY] * 3, [])


def test_should_plan_when_something_changes_and_not_only_on_its_tick() -> None:
    # Between two ticks: seen after 0.05 s, quiet for 0.1 s, written in 0.03 s, bound in 0.1 s.
    change = SpecChange(at_seconds=40.5, deployment="default/chat", fields=(("minimum_replicas", 2),))
    result = simulate(world(model(), changes=(change,)))
    assert [round(one["fromSeconds"], 2) for one in result.cluster.placements] == [0.13, 40.78]


def test_should_take_replicas_of_a_silent_machine_out_of_service_and_back() -> None:
    fault = Fault(kind=FaultKind.NODE_NOT_READY, at_seconds=60.0, duration_seconds=20.0, target="node-0")
    setting = world(model(requests(2.0, 100.0)), pools=(pool(maximum_nodes=1),), faults=(fault,))
    result = simulate(setting, until_rest=True)
    assert (ready_at(result, 58.0) > 0, ready_at(result, 70.0), ready_at(result, 84.0) > 0) == (True, 0, True)
    assert set(result.log.state) == {RequestState.COMPLETED}
    assert result.violations == []


def test_should_place_around_other_peoples_pods() -> None:
    fault = Fault(kind=FaultKind.FOREIGN_POD, at_seconds=20.0, duration_seconds=80.0, target="node-0", cores=8)
    setting = world(model(minimum_replicas=2), faults=(fault,), pools=(pool(maximum_nodes=1),))
    grown = SpecChange(at_seconds=30.0, deployment="default/chat", fields=(("minimum_replicas", 4),))
    result = simulate(replace(setting, changes=(grown,)), until_rest=True)
    # 12 cores: two replicas have four, somebody else eight until second 100, and only then is there room for two more.
    assert (ready_at(result, 98.0), ready_at(result, 118.0), result.violations) == (2, 4, [])


def test_should_take_the_kubelets_word_for_which_cores_a_replica_has() -> None:
    fault = Fault(kind=FaultKind.KUBELET_SWAP, at_seconds=0.0, duration_seconds=60.0)
    setting = world(model(minimum_replicas=2), faults=(fault,), duration_seconds=60.0)
    result = simulate(setting, record=True, until_rest=True)
    seen = [pod.seen for _, pod in sorted(result.cluster.pods.items())]
    assert [one.cores for one in seen] == [seen[1].planned_cores, seen[0].planned_cores]
    assert seen[0].cores != seen[0].planned_cores
    assert result.violations == []


def test_should_roll_out_another_template_and_keep_serving() -> None:
    change = SpecChange(at_seconds=60.0, deployment="default/chat", template_hash="hash-2")
    load = requests(2.0, 100.0, start_seconds=20.0)
    result = simulate(world(model(load, minimum_replicas=2), changes=(change,)), until_rest=True)
    hashes = {pod.seen.template_hash for pod in result.cluster.pods.values()}
    assert (hashes, set(result.log.state), result.violations) == ({"hash-2"}, {RequestState.COMPLETED}, [])


def test_should_end_everything_of_a_deleted_deployment_and_serve_it_when_it_is_made_anew() -> None:
    changes = (
        SpecChange(at_seconds=40.0, deployment="default/chat", deleted=True),
        SpecChange(at_seconds=60.0, deployment="default/chat"),
    )
    result = simulate(world(model(requests(1.0, 100.0)), changes=changes), until_rest=True)
    assert (ready_at(result, 58.0), ready_at(result, 80.0), result.violations) == (0, 1, [])


def test_should_show_the_time_to_first_token_as_an_engines_page_does() -> None:
    target = LatencyTarget(ttft_seconds=2.0, percentile=95)
    result = simulate(world(model(requests(2.0, 60.0, start_seconds=20.0), latency_target=target)), record=True)
    shown: dict[str, tuple[tuple[float, float], ...]] = {}
    for inputs, _ in result.recorded:
        shown.update({sample.pod_uid: sample.ttft_buckets for sample in inputs.samples if sample.ttft_buckets})
    assert sum(buckets[-1][1] for buckets in shown.values()) == len(result.log) == 120
    bounds = [bound for bound, _ in next(iter(shown.values()))]
    within = [sum(dict(buckets)[bound] for buckets in shown.values()) for bound in bounds]
    assert within == sorted(within)
    assert bounds[-1] == math.inf


def test_should_scale_and_serve_an_encoder() -> None:
    environment = {
        f"{PREFIX}KIND": "encoder",
        f"{PREFIX}PARAMETERS_BILLIONS": "0.34",
        f"{PREFIX}ACCELERATOR": "inferentia2",
        f"{PREFIX}MAX_BATCH": "4",
    }
    profile = replica_settings(environment, cores=2).profile
    assert isinstance(profile, BatchProfile)
    rate = 1.5 * places_of(profile) / batch_seconds(profile)
    own = replace(model(requests(rate, 60.0, start_seconds=20.0)), engines={"tp2": profile})
    result = simulate(world(own))
    assert (set(result.log.state), result.violations) == ({RequestState.COMPLETED}, [])
    assert ready_at(result, 90.0) >= 2
    assert result.log.first_token_seconds == result.log.finished_seconds


def test_should_hold_replicas_while_all_metrics_are_missing() -> None:
    silent = Fault(kind=FaultKind.METRICS_MISSING, at_seconds=60.0, duration_seconds=200.0)
    load = requests(8.0, 40.0, start_seconds=20.0)
    result = simulate(world(model(load), faults=(silent,), duration_seconds=270.0))
    assert ready_at(result, 255.0) == max(point.live for point in result.series["default/chat"])


def test_should_end_well_under_lost_writes_and_a_restart_of_the_operator() -> None:
    faults = (
        Fault(kind=FaultKind.LOST_WRITES, at_seconds=0.0, duration_seconds=100.0, share=0.5),
        Fault(kind=FaultKind.SLOW_API, at_seconds=0.0, duration_seconds=100.0, seconds=3.0),
        Fault(kind=FaultKind.OPERATOR_RESTART, at_seconds=50.0),
    )
    setting = world(model(requests(8.0, 100.0)), faults=faults, tail_seconds=900.0)
    result = simulate(setting, until_rest=True)
    assert (result.violations, set(result.log.state)) == ([], {RequestState.COMPLETED})


def test_should_pay_for_replicas_by_their_share_of_the_node() -> None:
    result = simulate(world(model(), duration_seconds=100.0, tail_seconds=0.0))
    price = 6.49063
    placed_seconds = 100.0 - 0.03
    assert result.cluster.replica_costs.spent_usd("default/chat") == pytest.approx(price / 6 * placed_seconds / 3600)
    assert result.cluster.node_costs.spent_usd(POOL) == pytest.approx(price * 100.0 / 3600)


def test_should_pull_and_compile_for_the_first_replica_only() -> None:
    delays = Delays(startup_jitter_fraction=0.0, image_pull_seconds=20.0, compile_seconds=30.0)
    first = simulate(world(model(), delays=delays))
    assert (ready_at(first, 58.0), ready_at(first, 62.0)) == (0, 1)


def test_should_let_all_replicas_of_a_node_wait_for_the_same_pull() -> None:
    delays = Delays(startup_jitter_fraction=0.0, image_pull_seconds=60.0)
    four = simulate(world(model(minimum_replicas=4), delays=delays))
    assert (ready_at(four, 60.0), ready_at(four, 75.0)) == (0, 4)


def test_should_pull_and_compile_a_new_template() -> None:
    delays = Delays(startup_jitter_fraction=0.0, image_pull_seconds=30.0, compile_seconds=30.0)
    change = SpecChange(at_seconds=100.0, deployment="default/chat", template_hash="hash-2")
    result = simulate(replace(world(model(), delays=delays), changes=(change,), duration_seconds=220.0))
    pods = [pod.seen for pod in result.cluster.pods.values() if pod.seen.template_hash == "hash-2"]
    assert [pod.ready_at is not None and pod.ready_at - pod.created_at >= 70.0 for pod in pods] == [True]


def test_should_leave_the_numbers_to_a_policy_and_place_what_it_wants() -> None:
    @dataclass
    class Three:
        name: str = "three"
        interval_seconds: float = 10.0
        seen: tuple[PolicyView, ...] = ()

        def decide(self, view: PolicyView) -> Mapping[str, int]:
            self.seen = (*self.seen, view)
            return {"default/chat": 3}

    policy = Three()
    result = simulate(world(model(requests(2.0, 100.0, start_seconds=20.0))), policy=policy)
    last = policy.seen[-1].models[0]
    assert (phases(result), len(last.pods), last.desired_replicas) == ([ReplicaPhase.READY] * 3, 3, 3)
    assert sum(pod.finished_total for pod in last.pods) > 100


def test_should_plan_the_same_from_a_recording() -> None:
    faults = (Fault(kind=FaultKind.METRICS_MISSING, at_seconds=40.0, duration_seconds=30.0, share=0.5),)
    result = simulate(world(model(requests(8.0, 60.0)), faults=faults), record=True)
    again = [plan(inputs, state)[1] for inputs, state in result.recorded]
    assert again[:-1] == [state for _, state in result.recorded[1:]]


def fingerprint() -> str:
    faults = tuple(
        Fault(kind=kind, at_seconds=20.0 + 5 * index, duration_seconds=30.0, share=0.3, seconds=1.0, factor=2.0)
        for index, kind in enumerate(FaultKind)
    )
    setting = world(
        model(requests(6.0, 100.0)),
        model(requests(3.0, 100.0), name="code", uid="uid-code"),
        nodes=2,
        boots={POOL: BootBehaviour(delay_seconds=10.0, jitter_seconds=10.0, failure_rate=0.2)},
        delays=Delays(),
        faults=faults,
        changes=(
            SpecChange(at_seconds=50.0, deployment="default/chat", template_hash="hash-2"),
            SpecChange(at_seconds=70.0, deployment="default/code", deleted=True),
            SpecChange(at_seconds=80.0, deployment="default/code"),
        ),
    )
    result = simulate(setting)
    content = summarize(result, scenario="same", policy="fleetpack").as_json()
    times = hashlib.sha256(result.log.finished_seconds.tobytes()).hexdigest()
    decisions = [repr(entry) for entry in result.decisions]
    return hashlib.sha256(json.dumps([content, times, decisions], sort_keys=True).encode()).hexdigest()


def test_should_give_the_same_bytes_whatever_the_hash_seed() -> None:
    program = "from test_simulation import fingerprint; print(fingerprint())"
    paths = [ROOT / "operator", ROOT / "simulator", ROOT / "tests/support", Path(__file__).parent]
    prints = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert prints[0] == prints[1]


def test_should_draw_other_fates_from_another_seed() -> None:
    setting = world(model(minimum_replicas=2), delays=Delays(startup_jitter_fraction=0.5))
    first, second = simulate(setting), simulate(replace(setting, seed=8))
    ends = [sorted(pod.seen.ready_at or 0.0 for pod in result.cluster.pods.values()) for result in (first, second)]
    assert ends[0] != ends[1]

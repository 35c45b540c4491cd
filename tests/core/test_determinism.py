"""The same inputs give the same plan: whatever the hash seed, whatever the order, and from a recording too."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builders import a_replica, a_sample, some_inputs
from fleetpack.core.inputs import Inputs
from fleetpack.core.planner import plan
from fleetpack.core.recording import RecordedPass, dump, load
from fleetpack.core.state import State
from small_world import TICK_SECONDS, Operator, SmallWorld

SUPPORT = Path(__file__).parents[1] / "support"
SEEDS = range(4)


def passes(seed: int, ticks: int = 20) -> list[RecordedPass]:
    """Every pass of a while in a small world where things go wrong."""
    world = SmallWorld(seed)
    operator = Operator(world)
    recorded = []
    for _ in range(ticks):
        world.disturb()
        inputs, state = operator.inputs(0.0), operator.state
        found = operator.think(inputs)
        operator.act(found.actions)
        recorded.append(RecordedPass(inputs=inputs, state=state, plan=found))
        world.advance(TICK_SECONDS)
    return recorded


def shuffled(inputs: Inputs, seed: int) -> Inputs:
    """The same inputs with every tuple that has no meaning in its order in another order."""
    drawn = random.Random(seed)
    snapshot = inputs.snapshot
    return replace(
        inputs,
        deployments=tuple(drawn.sample(inputs.deployments, len(inputs.deployments))),
        samples=tuple(drawn.sample(inputs.samples, len(inputs.samples))),
        snapshot=replace(
            snapshot,
            nodes=tuple(drawn.sample(snapshot.nodes, len(snapshot.nodes))),
            replicas=tuple(drawn.sample(snapshot.replicas, len(snapshot.replicas))),
            foreign_pods=tuple(drawn.sample(snapshot.foreign_pods, len(snapshot.foreign_pods))),
            pools=tuple(drawn.sample(snapshot.pools, len(snapshot.pools))),
        ),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_should_plan_the_same_whatever_the_order_of_the_inputs(seed: int) -> None:
    for recorded in passes(seed):
        assert plan(shuffled(recorded.inputs, seed), recorded.state) == plan(recorded.inputs, recorded.state)


@pytest.mark.parametrize("seed", SEEDS)
def test_should_give_the_same_plan_again_from_a_recording(seed: int) -> None:
    for recorded in passes(seed):
        read = load(dump(recorded))

        assert read == recorded
        assert plan(read.inputs, read.state)[0] == recorded.plan


def test_should_record_infinite_bounds_of_histograms() -> None:
    inputs = some_inputs(samples=(a_sample(a_replica(), ttft_buckets=((0.5, 1.0), (float("inf"), 2.0))),))
    recorded = RecordedPass(inputs=inputs, state=State(), plan=plan(inputs, State())[0])

    assert load(dump(recorded)) == recorded


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"form": 1, "inputs": {}}'])
def test_should_refuse_what_is_no_recording(text: str) -> None:
    with pytest.raises(ValueError):
        load(text)


def test_should_refuse_a_recording_of_another_form() -> None:
    recorded = replace(passes(0, ticks=1)[0], form=99)

    with pytest.raises(ValueError, match="form is 99"):
        load(dump(recorded))


def test_should_plan_the_same_under_two_hash_seeds() -> None:
    paths = [str(SUPPORT), str(Path(__file__).parent)]
    program = f"import sys; sys.path[:0] = {paths!r}; import test_determinism; print(test_determinism.digest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(digests) == 1


def digest() -> str:
    """A fingerprint of all plans of two small worlds, texts included."""
    return hashlib.sha256("".join(dump(recorded) for seed in (1, 4) for recorded in passes(seed)).encode()).hexdigest()

"""The engine that jumps from batch change to batch change against the one that takes every step."""

from __future__ import annotations

import random

import pytest

from fleetpack_simulator.engine import (
    Completion,
    EngineProfile,
    EngineReplica,
    EngineRequest,
    ModelShape,
    ProfileError,
    coefficients_for,
)
from fleetpack_simulator.settings import hardware_of
from reference_engine import Instants, ReferenceEngine

WORKLOADS = 1_000
TOLERANCE_SECONDS = 1e-6
Arrivals = list[tuple[float, EngineRequest]]


def draw_profile(draw: random.Random) -> EngineProfile:
    while True:
        accelerator, cores = draw.choice(
            (("inferentia2", 2), ("inferentia2", 8), ("trainium2", 4), ("h100-sxm", 1), ("l4", 1))
        )
        hardware = hardware_of(accelerator)
        try:
            return EngineProfile(
                model=ModelShape.estimate(
                    "drawn", draw.choice((0.5, 1.24, 3.2, 8.0, 9.9)), weight_bits=draw.choice((8, 16))
                ),
                hardware=hardware,
                cores=cores,
                maximum_batch=draw.choice((1, 2, 5, 16)),
                window_tokens=draw.choice((256, 2048, 8192)),
                coefficients=coefficients_for(hardware),
                samples_on_host=draw.random() < 0.2,
            )
        except ProfileError:
            continue


def draw_arrivals(draw: random.Random, window_tokens: int) -> Arrivals:
    """Requests alone, in a trickle and in bursts, with outputs that the window cuts."""
    at_seconds, arrivals = 0.0, []
    mean_gap_seconds = draw.choice((0.001, 0.1, 1.0, 5.0))
    for index in range(draw.randint(1, 30)):
        at_seconds += draw.expovariate(1 / mean_gap_seconds)
        prompt, output = draw.randint(1, window_tokens - 1), draw.randint(1, 200)
        arrivals.append((at_seconds, EngineRequest(request_id=index, prompt_tokens=prompt, output_tokens=output)))
    return arrivals


def jump(profile: EngineProfile, arrivals: Arrivals) -> dict[int, Instants]:
    engine = EngineReplica(profile)
    events = []
    for at_seconds, request in arrivals:
        engine.submit(request, at_seconds)
    while (next_seconds := engine.next_event_seconds) is not None:
        events += engine.advance(next_seconds)
    return {
        end.request_id: Instants(
            admitted_seconds=end.admitted_seconds,
            first_token_seconds=end.first_token_seconds,
            finished_seconds=end.finished_seconds,
        )
        for end in events
        if isinstance(end, Completion) and end.admitted_seconds is not None and end.first_token_seconds is not None
    }


@pytest.mark.parametrize("hundred", range(WORKLOADS // 100))
def test_should_reach_first_token_and_finish_when_the_step_by_step_engine_does(hundred: int) -> None:
    for seed in range(hundred * 100, hundred * 100 + 100):
        draw = random.Random(seed)
        profile = draw_profile(draw)
        arrivals = draw_arrivals(draw, profile.window_tokens)
        walked, jumped = ReferenceEngine(profile).serve(arrivals), jump(profile, arrivals)
        assert jumped.keys() == walked.keys() == {request.request_id for _, request in arrivals}, f"seed {seed}"
        for request_id, instants in walked.items():
            found = jumped[request_id]
            apart_seconds = max(
                abs(found.admitted_seconds - instants.admitted_seconds),
                abs(found.first_token_seconds - instants.first_token_seconds),
                abs(found.finished_seconds - instants.finished_seconds),
            )
            assert apart_seconds <= TOLERANCE_SECONDS, f"seed {seed}, request {request_id}: {found} and {instants}"

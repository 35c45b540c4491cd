"""The engine of one replica: what it does with its queue, its batch and its cache, and that the jumps are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetpack_simulator.engine import (
    Completion,
    EngineCounters,
    EngineProfile,
    EngineReplica,
    EngineRequest,
    FinishReason,
    FirstToken,
    Hardware,
    ModelShape,
    ProfileError,
    RequestError,
    coefficients_for,
    prefill_seconds,
    step_costs,
)
from fleetpack_simulator.engine.performance import FEMTOSECONDS, StepCosts, context_bucket

GPU = Hardware(name="gpu", memory_gib=24, memory_bandwidth_gb_per_second=800, tflops_bf16=120)


def profile(
    *, static: bool = False, maximum_batch: int = 4, window_tokens: int = 512, memory_gib: float = 24
) -> EngineProfile:
    hardware = replace(GPU, static_shapes=static, memory_gib=memory_gib)
    return EngineProfile(
        model=ModelShape.estimate("tiny", 1.0),
        hardware=hardware,
        cores=1,
        maximum_batch=maximum_batch,
        window_tokens=window_tokens,
        coefficients=coefficients_for(hardware),
    )


def request(request_id: int, *, prompt: int = 100, output: int = 10) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt_tokens=prompt, output_tokens=output)


@dataclass(frozen=True)
class Arrival:
    at_seconds: float
    request: EngineRequest


def run(engine: EngineReplica, arrivals: list[Arrival]) -> list[FirstToken | Completion]:
    events: list[FirstToken | Completion] = []
    for arrival in arrivals:
        engine.submit(arrival.request, arrival.at_seconds)
    while (next_seconds := engine.next_event_seconds) is not None:
        events += engine.advance(next_seconds)
    return events


def completions(events: list[FirstToken | Completion]) -> dict[int, Completion]:
    return {event.request_id: event for event in events if isinstance(event, Completion)}


def walk_every_step(profile: EngineProfile, arrivals: list[Arrival]) -> dict[int, tuple[int, int, int]]:
    """The reference: the same server, written as one loop over steps; (admitted, first token, finish) in femtoseconds."""
    costs_of: dict[int | None, StepCosts] = {None: step_costs(profile)}
    pending = [(round(one.at_seconds * FEMTOSECONDS), one.request) for one in arrivals]
    clock = 0
    waiting: list[EngineRequest] = []
    batch: list[list[int]] = []  # id, context, tokens left, reserved
    times: dict[int, list[int]] = {}
    while pending or waiting or batch:
        if not waiting and not batch:
            clock = max(clock, pending[0][0])
        while pending and pending[0][0] <= clock:
            waiting.append(pending.pop(0)[1])
        if waiting and len(batch) < profile.maximum_batch:
            head = waiting[0]
            output = min(head.output_tokens, profile.window_tokens - head.prompt_tokens)
            needed = profile.window_tokens if profile.hardware.static_shapes else head.prompt_tokens + output
            if sum(one[3] for one in batch) + needed <= profile.kv_capacity_tokens:
                waiting.pop(0)
                times[head.request_id] = [clock]
                clock += round(prefill_seconds(profile, head.prompt_tokens) * FEMTOSECONDS)
                times[head.request_id].append(clock)
                if output == 1:
                    times[head.request_id].append(clock)
                else:
                    batch.append([head.request_id, head.prompt_tokens + 1, output - 1, needed])
                continue
        if batch:
            context = sum(one[1] for one in batch)
            bucket = context_bucket(profile, max(one[1] for one in batch)) if profile.hardware.static_shapes else None
            if bucket not in costs_of:
                costs_of[bucket] = step_costs(profile, bucket)
            costs = costs_of[bucket]
            clock += (
                costs.fixed_femtoseconds
                + len(batch) * costs.sequence_femtoseconds
                + context * costs.context_token_femtoseconds
            )
            for one in batch:
                one[1] += 1
                one[2] -= 1
                if one[2] == 0:
                    times[one[0]].append(clock)
            batch = [one for one in batch if one[2] > 0]
    return {request_id: (one[0], one[1], one[2]) for request_id, one in times.items()}


@st.composite
def workloads(draw: st.DrawFn) -> list[Arrival]:
    gaps = draw(st.lists(st.integers(0, 400), min_size=1, max_size=25))
    arrivals, at_milliseconds = [], 0
    for index, gap in enumerate(gaps):
        at_milliseconds += gap
        arrivals.append(
            Arrival(
                at_milliseconds / 1000,
                request(index, prompt=draw(st.integers(1, 500)), output=draw(st.integers(1, 80))),
            )
        )
    return arrivals


profiles = st.one_of(
    st.builds(profile, static=st.booleans(), maximum_batch=st.integers(1, 6)),
    # 2.11 GiB hold the weights and some 1,200 tokens: the cache is the limit, not the batch.
    st.builds(profile, maximum_batch=st.integers(1, 6), memory_gib=st.just(2.11)),
)


@settings(max_examples=100, deadline=None)
@given(profile=profiles, arrivals=workloads())
def test_should_jump_to_the_same_instants_that_a_walk_over_every_step_reaches(
    profile: EngineProfile, arrivals: list[Arrival]
) -> None:
    ends = completions(run(EngineReplica(profile), arrivals))

    walked = {
        request_id: tuple(instant / FEMTOSECONDS for instant in instants)
        for request_id, instants in walk_every_step(profile, arrivals).items()
    }
    jumped = {
        request_id: (end.admitted_seconds, end.first_token_seconds, end.finished_seconds)
        for request_id, end in ends.items()
    }
    assert jumped == walked


@settings(max_examples=100, deadline=None)
@given(
    profile=profiles,
    arrivals=workloads(),
    cancelled=st.sets(st.integers(0, 24)),
    cut_milliseconds=st.integers(1, 3_000),
)
def test_should_end_each_request_once_and_lose_none(
    profile: EngineProfile, arrivals: list[Arrival], cancelled: set[int], cut_milliseconds: int
) -> None:
    engine = EngineReplica(profile)
    events: list[FirstToken | Completion] = []
    for arrival in arrivals:
        engine.submit(arrival.request, arrival.at_seconds)
        counters = engine.counters()
        assert counters.running <= profile.maximum_batch
        assert counters.submitted == counters.waiting + counters.running + counters.finished + counters.aborted
        assert 0 <= counters.kv_cache_usage <= 1
        if counters.waiting and counters.running < profile.maximum_batch:
            assert counters.running > 0, "a request waits while the engine is idle"
    now = arrivals[-1].at_seconds + cut_milliseconds / 1000
    events += engine.advance(now)
    for request_id in sorted(cancelled):
        engine.cancel(request_id, now)
    while (next_seconds := engine.next_event_seconds) is not None:
        events += engine.advance(next_seconds)

    ends = [event for event in events if isinstance(event, Completion)]
    assert sorted(end.request_id for end in ends) == [arrival.request.request_id for arrival in arrivals]
    for end in ends:
        admitted = end.submitted_seconds if end.admitted_seconds is None else end.admitted_seconds
        first = admitted if end.first_token_seconds is None else end.first_token_seconds
        assert end.submitted_seconds <= admitted <= first <= end.finished_seconds
    counters = engine.counters()
    assert (counters.waiting, counters.running, counters.kv_cache_usage) == (0, 0, 0)
    assert counters.generated_tokens == sum(end.output_tokens for end in ends)
    admissions = [
        end.admitted_seconds for end in sorted(ends, key=lambda one: one.request_id) if end.admitted_seconds is not None
    ]
    assert admissions == sorted(admissions), "admission is first come, first served"


@settings(max_examples=100, deadline=None)
@given(arrivals=workloads(), looks=st.lists(st.integers(0, 12_000), max_size=20))
def test_should_not_change_its_course_when_it_is_looked_at(arrivals: list[Arrival], looks: list[int]) -> None:
    undisturbed = completions(run(EngineReplica(profile()), arrivals))

    engine = EngineReplica(profile())
    events: list[FirstToken | Completion] = []
    moments: list[tuple[float, EngineRequest | None]] = [(one.at_seconds, one.request) for one in arrivals]
    moments += [(look / 1000, None) for look in looks]
    for at_seconds, arriving in sorted(moments, key=lambda one: one[0]):
        if arriving is None:
            events += engine.advance(at_seconds)
            engine.counters()
        else:
            engine.submit(arriving, at_seconds)
    while (next_seconds := engine.next_event_seconds) is not None:
        events += engine.advance(next_seconds)

    assert completions(events) == undisturbed


def test_should_prefill_one_after_the_other_and_then_decode_together() -> None:
    engine = EngineReplica(profile(static=True))
    prefill = prefill_seconds(engine.profile, 100)
    step = step_costs(engine.profile, 128).fixed_femtoseconds / FEMTOSECONDS

    events = run(engine, [Arrival(0, request(1, output=3)), Arrival(0, request(2, output=2))])

    assert [(event.request_id, type(event)) for event in events] == [
        (1, FirstToken),
        (2, FirstToken),
        (2, Completion),
        (1, Completion),
    ]
    ends = completions(events)
    assert ends[1].first_token_seconds == pytest.approx(prefill)
    assert ends[2].first_token_seconds == pytest.approx(2 * prefill)
    assert ends[2].finished_seconds == pytest.approx(2 * prefill + step)
    assert ends[1].finished_seconds == pytest.approx(2 * prefill + 2 * step)


def test_should_admit_a_newcomer_at_the_next_step_boundary() -> None:
    engine = EngineReplica(profile(static=True))
    prefill = prefill_seconds(engine.profile, 100)
    step = step_costs(engine.profile, 128).fixed_femtoseconds / FEMTOSECONDS

    ends = completions(run(engine, [Arrival(0, request(1, output=50)), Arrival(prefill + 2.5 * step, request(2))]))

    assert ends[2].admitted_seconds == pytest.approx(prefill + 3 * step)


def test_should_keep_later_requests_behind_a_head_that_does_not_fit_the_cache() -> None:
    small = profile(memory_gib=2.2, window_tokens=3000)
    assert 3000 < small.kv_capacity_tokens < 6000
    arrivals = [
        Arrival(0, request(1, prompt=2900)),
        Arrival(0, request(2, prompt=2900)),
        Arrival(0, request(3, prompt=10)),
    ]

    ends = completions(run(EngineReplica(small), [*arrivals]))

    assert ends[2].admitted_seconds is not None
    assert ends[3].admitted_seconds is not None
    assert ends[2].admitted_seconds == ends[1].finished_seconds
    assert ends[3].admitted_seconds > ends[2].admitted_seconds


def test_should_count_tokens_in_the_middle_of_a_stretch() -> None:
    engine = EngineReplica(profile(static=True))
    engine.submit(request(1, output=50), 0)
    engine.submit(request(2, output=50), 0)
    step = step_costs(engine.profile, 128).fixed_femtoseconds / FEMTOSECONDS

    engine.advance(2 * prefill_seconds(engine.profile, 100) + 10.5 * step)

    assert engine.generated_tokens(1) == 11
    assert engine.counters() == EngineCounters(
        waiting=0,
        running=2,
        submitted=2,
        finished=0,
        aborted=0,
        prompt_tokens=200,
        generated_tokens=22,
        kv_cache_usage=1024 / engine.profile.kv_capacity_tokens,
    )


def test_should_cut_the_output_at_the_window() -> None:
    ends = completions(
        run(EngineReplica(profile(window_tokens=128)), [Arrival(0, request(1, prompt=100, output=1000))])
    )

    assert (ends[1].output_tokens, ends[1].reason) == (28, FinishReason.LENGTH)


def test_should_abort_a_running_request_at_the_next_boundary_with_the_tokens_it_has() -> None:
    engine = EngineReplica(profile(static=True))
    engine.submit(request(1, output=50), 0)
    step = step_costs(engine.profile, 128).fixed_femtoseconds / FEMTOSECONDS

    taken = engine.cancel(1, prefill_seconds(engine.profile, 100) + 4.5 * step)
    end = completions(run(engine, []))[1]

    assert taken
    assert (end.output_tokens, end.reason) == (6, FinishReason.ABORT)
    assert not engine.cancel(1, 10.0)


def test_should_refuse_a_prompt_that_no_window_can_hold() -> None:
    with pytest.raises(RequestError, match=r"prompt_tokens is 600, the window holds 512.*larger window"):
        EngineReplica(profile()).submit(request(1, prompt=600), 0)


def test_should_refuse_an_id_that_is_alive() -> None:
    engine = EngineReplica(profile())
    engine.submit(request(1), 0)

    with pytest.raises(RequestError, match="already in use"):
        engine.submit(request(1), 0)


def test_should_refuse_time_that_goes_back() -> None:
    engine = EngineReplica(profile())
    engine.advance(2.0)

    with pytest.raises(ValueError, match="time went back"):
        engine.advance(1.0)


def test_should_refuse_a_model_that_does_not_fit() -> None:
    with pytest.raises(ProfileError, match=r"do not fit 1 cores of gpu.*more cores"):
        profile(memory_gib=2)

"""What a row should have measured, from its model, hardware and load alone: by the engine's formulas, and by running the engine.

Where one batch or one request at a time was measured, the formulas answer. Where users or a request rate met a server, the very engine
of the simulator is run against the same load for the same two minutes, and what completes in them is averaged, as guidellm does.
A row's figures are never looked at.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping

from fleetpack_simulator.calibration.rows import DecoderWork, Figure, FixedShapeWork, Load, Row, decoder_shape
from fleetpack_simulator.engine import (
    Coefficients,
    Completion,
    EngineProfile,
    EngineReplica,
    EngineRequest,
    FinishReason,
    ProfileError,
    decode_step_seconds,
    prefill_seconds,
)
from fleetpack_simulator.engine.batch_server import BatchProfile, batch_seconds
from fleetpack_simulator.engine.performance import context_bucket
from fleetpack_simulator.engine.published import find_fixed_shape
from fleetpack_simulator.engine.shapes import Hardware
from fleetpack_simulator.settings import hardware_of

# guidellm 0.1: each mode runs for two minutes (its default --max-seconds), and what has not ended by then is not counted.
_RUN_SECONDS = 120.0
# optimum-neuron's performance.sh: GUIDELLM__REQUEST_TIMEOUT=60.
_TIMEOUT_SECONDS = 60.0
# While as many requests are under way as it allows, its scheduler sleeps for 0.1 s before it looks again.
_POLL_SECONDS = 0.1
# Its generator makes prompts in the process that also sends them and reads the answers, by tokenising a growing text after each
# sentence and in a binary search for its end; 50 are in stock (`async_queue_size`). 1,500 tokens take it a seventh of a second: four
# replicas on trn1.32xlarge complete some 805 requests in two minutes with 83 under way, 50 and 7 per second.
_PROMPTS_IN_STOCK = 50
_PROMPT_SECONDS = 0.14
# While it waits for prompts the event loop turns once per prompt, and a request needs several turns (connection, headers, body)
# between the start of its clock and its departure. Chosen: those runs see the first token 2 s late, and the whole takes as long as
# at the same rate; 10 and 16 give the same percentiles.
_TURNS_TO_SEND = 13
# Emulated prompts ask for 250 tokens, and some answers end on their own before that: the runs' tokens per request are 206 to 251
# with a mean of 232. Taken as a seventh of the answers ending evenly spread over their length.
_EARLY_ENDS = 1 / 7


def predict(row: Row, coefficients: Coefficients) -> dict[Figure, float]:
    """Return every figure that the row's kind of measurement has."""
    hardware = hardware_of(row.accelerator)
    if isinstance(row.work, FixedShapeWork):
        return _predict_fixed_shape(row.model, row.work, hardware, coefficients)
    profile = decoder_profile(row.model, row.work, hardware, coefficients)
    match row.work.load:
        case Load.BATCH | Load.SERIAL_BATCH:
            return _predict_batch(profile, row.work)
        case Load.SINGLE:
            return _predict_single(profile, row.work)
        case Load.CLOSED | Load.OPEN:
            return _run(profile, row.work)


def decoder_profile(model: str, work: DecoderWork, hardware: Hardware, coefficients: Coefficients) -> EngineProfile:
    """Return the engine of a row; a model over the memory gets the largest batch that fits, as it was measured after all."""
    shape = decoder_shape(model, work)
    batch = work.batch
    while True:
        try:
            return EngineProfile(
                model=shape,
                hardware=hardware,
                cores=work.cores,
                maximum_batch=batch,
                window_tokens=work.window_tokens,
                coefficients=coefficients,
                samples_on_host=work.samples_on_host,
            )
        except ProfileError:
            if batch == 1:
                raise
            batch -= 1


def _predict_fixed_shape(
    model: str, work: FixedShapeWork, hardware: Hardware, coefficients: Coefficients
) -> dict[Figure, float]:
    found = find_fixed_shape(model, tokens=work.tokens, passes=work.passes)
    assert found is not None, "the reader made the row of a model that it found"
    # The publishers load a copy of the model onto each core of one device.
    profile = BatchProfile(
        model=found.model,
        hardware=hardware,
        cores=hardware.cores_per_device,
        batch=work.batch,
        coefficients=coefficients,
        cores_per_worker=min(found.cores_per_worker, hardware.cores_per_device),
    )
    latency_seconds = batch_seconds(profile)
    return {
        Figure.LATENCY: latency_seconds,
        Figure.INFERENCES: profile.workers * work.batch / latency_seconds,
    }


def _predict_batch(profile: EngineProfile, work: DecoderWork) -> dict[Figure, float]:
    """One batch in step: time per output token is the median one, tokens per second those of the whole run."""
    if work.load is Load.SERIAL_BATCH:
        first_seconds = work.batch * prefill_seconds(profile, work.prompt_tokens)
    else:
        first_seconds = prefill_seconds(profile, work.prompt_tokens, work.batch)
    middle = work.prompt_tokens + work.output_tokens // 2
    total_seconds = first_seconds + sum(
        steps * decode_step_seconds(profile, work.batch, work.batch * context, context)
        for steps, context in _stretches(profile, work.prompt_tokens, work.output_tokens)
    )
    return {
        Figure.TTFT: first_seconds,
        Figure.TPOT: decode_step_seconds(profile, work.batch, work.batch * middle, middle),
        Figure.LATENCY: total_seconds,
        Figure.OUTPUT_TOKENS: work.batch * work.output_tokens / total_seconds,
    }


def _predict_single(profile: EngineProfile, work: DecoderWork) -> dict[Figure, float]:
    """One request at a time, on an engine compiled for more."""
    tokens = round(work.output_tokens * (1 - _EARLY_ENDS / 2))
    first_seconds = prefill_seconds(profile, work.prompt_tokens)
    decode_seconds = sum(
        steps * decode_step_seconds(profile, 1, context, context)
        for steps, context in _stretches(profile, work.prompt_tokens, tokens)
    )
    total_seconds = first_seconds + decode_seconds
    return {
        Figure.TTFT: first_seconds,
        Figure.TPOT: decode_seconds / (tokens - 1),
        Figure.LATENCY: total_seconds,
        Figure.OUTPUT_TOKENS: tokens / total_seconds,
        Figure.REQUESTS: 1 / total_seconds,
    }


def _stretches(profile: EngineProfile, prompt_tokens: int, output_tokens: int) -> Iterator[tuple[int, int]]:
    """Split the steps after the first token into those of one context bucket; each with a context in its middle."""
    context, left = prompt_tokens + 1, output_tokens - 1
    while left > 0:
        bucket = context_bucket(profile, context) if profile.hardware.static_shapes else context + left
        steps = min(left, bucket - context + 1) if bucket >= context else left
        yield steps, context + steps // 2
        context += steps
        left -= steps


def _run(profile: EngineProfile, work: DecoderWork) -> dict[Figure, float]:
    """Run one of the replicas against its share of the load, and scale what is counted by the replicas."""
    engine = EngineReplica(profile)
    done, late_seconds = _run_load(engine, work)
    return _averages(done, late_seconds, work.replicas) if done else {}


def _run_load(engine: EngineReplica, work: DecoderWork) -> tuple[list[Completion], dict[int, float]]:
    """Submit as guidellm 0.1 does, at a rate or as fast as it goes; return what completes in time, and first tokens that it saw late.

    Its scheduler goes on only while fewer than users - 1 requests are under way or wait for their instant, looks again every 0.1 s,
    and gives a request up at its time limit, which then does not count. It sends no prompt before it is made.
    """
    limit = max(1, round((work.users - 1) / work.replicas))
    gap_seconds = work.replicas / work.rate_per_second if work.load is Load.OPEN else 0.0
    done: list[Completion] = []
    deadlines: deque[tuple[float, int]] = deque()
    # Instants from which on a request may be under way: at first all at once, later one for each that ended.
    free = deque([0.0] * limit)
    # This replica's share of the prompts that wait to be sent, by the instant at which they are made.
    prompts = deque([0.0] * max(1, round(_PROMPTS_IN_STOCK / work.replicas)))
    late_seconds: dict[int, float] = {}
    number = 0
    while True:
        start_seconds = max(free[0], number * gap_seconds, prompts[0]) if free else math.inf
        event_seconds = engine.next_event_seconds
        limit_seconds = deadlines[0][0] if deadlines else math.inf
        now_seconds = min(start_seconds, math.inf if event_seconds is None else event_seconds, limit_seconds)
        if now_seconds > _RUN_SECONDS:
            return done, late_seconds
        ended = _completions(engine, now_seconds)
        done += ended
        released = len(ended)
        while deadlines and deadlines[0][0] <= now_seconds:
            released += engine.cancel(deadlines.popleft()[1], now_seconds)
        free.extend([now_seconds + _POLL_SECONDS / 2] * released)
        if start_seconds <= now_seconds:
            made_seconds = prompts.popleft()
            if made_seconds > max(free.popleft(), number * gap_seconds):
                late_seconds[number] = _TURNS_TO_SEND * _PROMPT_SECONDS
            last_made_seconds = max(prompts[-1] if prompts else made_seconds, now_seconds)
            prompts.append(last_made_seconds + work.replicas * _PROMPT_SECONDS)
            engine.submit(_request(number, work), now_seconds)
            deadlines.append((now_seconds + _TIMEOUT_SECONDS, number))
            number += 1


def _completions(engine: EngineReplica, now_seconds: float) -> list[Completion]:
    events = engine.advance(now_seconds)
    return [event for event in events if isinstance(event, Completion) and event.reason is FinishReason.LENGTH]


def _request(number: int, work: DecoderWork) -> EngineRequest:
    # Evenly spread without chance: the fractional parts of multiples of the golden ratio.
    place = (number * 0.6180339887498949) % 1.0
    length = work.output_tokens if place >= _EARLY_ENDS else round(work.output_tokens * place / _EARLY_ENDS)
    return EngineRequest(request_id=number, prompt_tokens=work.prompt_tokens, output_tokens=max(2, length))


def _averages(done: list[Completion], late_seconds: Mapping[int, float], replicas: int) -> dict[Figure, float]:
    def first(end: Completion) -> float:
        return min((end.first_token_seconds or 0.0) + late_seconds.get(end.request_id, 0.0), end.finished_seconds)

    last_seconds = max(end.finished_seconds for end in done)
    first_seconds = sum(first(end) - end.submitted_seconds for end in done)
    decode_seconds = sum(end.finished_seconds - first(end) for end in done)
    tokens = sum(end.output_tokens for end in done)
    return {
        Figure.TTFT: first_seconds / len(done),
        Figure.TPOT: decode_seconds / (tokens - len(done)),
        Figure.LATENCY: (first_seconds + decode_seconds) / len(done),
        Figure.OUTPUT_TOKENS: replicas * tokens / last_seconds,
        Figure.REQUESTS: replicas * len(done) / last_seconds,
    }

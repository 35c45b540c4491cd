"""One replica as a continuous-batching server: a state machine in virtual time that jumps from batch change to batch change.

It does one thing at a time: nothing, a prefill, or decode steps. At each step boundary the oldest waiting request is admitted if a
slot and its KV cache are free; its prefill blocks decoding (static-shape engines do not overlap the two) and yields the first
token; then the whole batch goes on. Admission is first come, first served: a head that does not fit yet holds up those behind
it. The cache for prompt and output is reserved at admission, so nothing is preempted. Between two changes of the batch (or, on
static shapes, of the bucket that its longest context needs) every step's time is known, so a stretch of any length is one event.

Time comes from the caller and never goes back. A request that could never be served is refused with `RequestError` at submission.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from fleetpack_simulator.engine.performance import (
    FEMTOSECONDS,
    StepCosts,
    context_bucket,
    prefill_seconds,
    step_costs,
)
from fleetpack_simulator.engine.profile import EngineProfile

# Instants go in and out as float seconds; near 1e5 s a float resolves 15 ps, so a caller may be that much too early by rounding alone.
_CLOCK_TOLERANCE_FEMTOSECONDS = 1_000_000


class RequestError(ValueError):
    """A request that this engine can never serve."""


class FinishReason(StrEnum):
    """Why a request ended; vLLM's own words."""

    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A request: so many tokens in, so many out. Ids are unique among the requests that are alive."""

    request_id: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """A request's prefill is done."""

    request_id: int
    at_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A request ended. `admitted_seconds` and `first_token_seconds` are None when it was aborted before."""

    request_id: int
    submitted_seconds: float
    admitted_seconds: float | None
    first_token_seconds: float | None
    finished_seconds: float
    prompt_tokens: int
    output_tokens: int
    reason: FinishReason


EngineEvent = FirstToken | Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """What the engine tells about itself: gauges and running totals."""

    waiting: int
    running: int
    submitted: int
    finished: int
    aborted: int
    prompt_tokens: int
    generated_tokens: int
    kv_cache_usage: float


@dataclass(slots=True)
class _Sequence:
    """A live request; times in femtoseconds."""

    request: EngineRequest
    output_tokens: int
    kv_tokens: int
    submitted: int
    admitted: int | None = None
    first_token: int | None = None
    finish_step: int = 0
    aborted: bool = False
    has_left: bool = False


class EngineReplica:
    """The engine of one replica. Submit requests, advance time, collect events; `next_event_seconds` says when to come back."""

    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self._costs = step_costs(profile)
        self._bucket_costs: dict[int, StepCosts] = {}
        self._static = profile.hardware.static_shapes
        self._kv_capacity_tokens = profile.kv_capacity_tokens
        self._prefill_femtoseconds: dict[int, int] = {}
        self._clock = 0
        self._live: dict[int, _Sequence] = {}
        self._waiting: deque[_Sequence] = deque()
        self._prefilling: _Sequence | None = None
        # Sequences by the step at which they end; the request id only makes the order total.
        self._batch: list[tuple[int, int, _Sequence]] = []
        # The same sequences by context, longest first; those that have left are dropped when they come to the top.
        self._longest: list[tuple[int, int, _Sequence]] = []
        self._events: list[EngineEvent] = []
        # The current stretch: a prefill, or `_stretch_steps` decode steps; `_stretch_end` is None while the engine is idle.
        self._stretch_start = 0
        self._stretch_end: int | None = None
        self._stretch_steps = 0
        self._step = 0
        self._context_tokens = 0
        self._kv_reserved_tokens = 0
        self._submitted = 0
        self._finished = 0
        self._aborted = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0

    @property
    def next_event_seconds(self) -> float | None:
        """When the batch changes next if nothing is submitted until then; None: the engine is idle."""
        if self._events:
            return self._clock / FEMTOSECONDS
        if self._stretch_end is None:
            return None
        seconds = self._stretch_end / FEMTOSECONDS
        # Rounding must not make the caller come back just before the event, for ever.
        while round(seconds * FEMTOSECONDS) < self._stretch_end:
            seconds = math.nextafter(seconds, math.inf)
        return seconds

    def submit(self, request: EngineRequest, now_seconds: float) -> None:
        """Take a request at `now_seconds`; it is admitted at once, at the next step boundary, or when its turn comes."""
        sequence = self._accept(request, self._move_clock(now_seconds))
        self._live[request.request_id] = sequence
        self._submitted += 1
        self._waiting.append(sequence)
        if self._stretch_end is None:
            self._begin_stretch(self._clock)
        elif len(self._waiting) == 1 and self._fits(sequence):
            self._stop_at_next_boundary()

    def cancel(self, request_id: int, now_seconds: float) -> bool:
        """Abort a live request at the next step boundary (at once while it waits); False: it is not alive."""
        self._move_clock(now_seconds)
        sequence = self._live.get(request_id)
        if sequence is None or sequence.aborted:
            return False
        sequence.aborted = True
        if sequence.admitted is None:
            self._waiting.remove(sequence)
            self._end(sequence, self._clock, 0)
            if self._waiting and self._fits(self._waiting[0]):
                self._stop_at_next_boundary()
        else:
            self._stop_at_next_boundary()
        return True

    def advance(self, now_seconds: float) -> list[EngineEvent]:
        """Move to `now_seconds` and return what happened since the last call, in order of time."""
        self._move_clock(now_seconds)
        events, self._events = self._events, []
        return events

    def generated_tokens(self, request_id: int) -> int | None:
        """Return the tokens that a request has so far (as of the last call that moved time); None: it is not alive."""
        sequence = self._live.get(request_id)
        if sequence is None:
            return None
        if sequence.first_token is None:
            return 0
        return sequence.output_tokens - (sequence.finish_step - self._step - self._steps_in_stretch())

    def counters(self) -> EngineCounters:
        """Return gauges and totals as of the last call that moved time."""
        return EngineCounters(
            waiting=len(self._waiting),
            running=len(self._live) - len(self._waiting),
            submitted=self._submitted,
            finished=self._finished,
            aborted=self._aborted,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens + self._steps_in_stretch() * len(self._batch),
            kv_cache_usage=self._kv_reserved_tokens / self._kv_capacity_tokens,
        )

    def _accept(self, request: EngineRequest, now: int) -> _Sequence:
        if request.request_id in self._live:
            raise RequestError(
                f"request {request.request_id}: its id is already in use by a live request; ids are unique"
            )
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise RequestError(f"request {request.request_id}: prompt_tokens and output_tokens must be at least 1")
        window = self.profile.window_tokens
        room = window - request.prompt_tokens
        if room < 1:
            raise RequestError(
                f"request {request.request_id}: prompt_tokens is {request.prompt_tokens}, the window holds {window} with the output; "
                "shorten the prompt or serve the model with a larger window"
            )
        output_tokens = min(request.output_tokens, room)
        kv_tokens = window if self._static else request.prompt_tokens + output_tokens
        return _Sequence(request, output_tokens, kv_tokens, now)

    def _move_clock(self, now_seconds: float) -> int:
        now = round(now_seconds * FEMTOSECONDS)
        if now < self._clock:
            if self._clock - now > _CLOCK_TOLERANCE_FEMTOSECONDS:
                raise ValueError(f"time went back from {self._clock / FEMTOSECONDS} s to {now_seconds} s")
            now = self._clock
        while self._stretch_end is not None and self._stretch_end <= now:
            self._finish_stretch(self._stretch_end)
        self._clock = now
        return now

    def _fits(self, sequence: _Sequence) -> bool:
        has_slot = len(self._live) - len(self._waiting) < self.profile.maximum_batch
        return has_slot and self._kv_reserved_tokens + sequence.kv_tokens <= self._kv_capacity_tokens

    def _begin_stretch(self, now: int) -> None:
        """Decide what the engine does from `now` on: a prefill if one can start, else decoding, else nothing."""
        self._stretch_start = now
        self._stretch_steps = 0
        if self._waiting and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            sequence.admitted = now
            self._kv_reserved_tokens += sequence.kv_tokens
            self._prefilling = sequence
            self._stretch_end = now + self._prefill_time(sequence.request.prompt_tokens)
        elif self._batch:
            self._stretch_steps = self._batch[0][0] - self._step
            if self._static:
                self._stretch_steps = min(self._stretch_steps, self._choose_bucket())
            self._stretch_end = now + self._decode_time(self._stretch_steps)
        else:
            self._stretch_end = None

    def _choose_bucket(self) -> int:
        """Take the costs of the bucket that the longest context needs; return the steps until it outgrows it."""
        while self._longest[0][2].has_left:
            heapq.heappop(self._longest)
        context_tokens = self._step - self._longest[0][0]
        bucket = context_bucket(self.profile, context_tokens)
        costs = self._bucket_costs.get(bucket)
        if costs is None:
            costs = self._bucket_costs[bucket] = step_costs(self.profile, bucket)
        self._costs = costs
        # The window bounds every context, so its bucket is never outgrown.
        return max(bucket - context_tokens + 1, 1)

    def _finish_stretch(self, now: int) -> None:
        self._clock = now
        if self._prefilling is not None:
            self._finish_prefill(self._prefilling, now)
        else:
            self._finish_steps(now)
        self._begin_stretch(now)

    def _finish_prefill(self, sequence: _Sequence, now: int) -> None:
        self._prefilling = None
        sequence.first_token = now
        request = sequence.request
        self._prompt_tokens += request.prompt_tokens
        self._generated_tokens += 1
        self._events.append(FirstToken(request_id=request.request_id, at_seconds=now / FEMTOSECONDS))
        if sequence.output_tokens == 1 or sequence.aborted:
            self._end(sequence, now, 1)
            return
        sequence.finish_step = self._step + sequence.output_tokens - 1
        self._context_tokens += request.prompt_tokens + 1
        heapq.heappush(self._batch, (sequence.finish_step, request.request_id, sequence))
        if self._static:
            # A context grows by one each step, so step minus context never changes, and the least has the longest context.
            context_start = self._step - request.prompt_tokens - 1
            heapq.heappush(self._longest, (context_start, request.request_id, sequence))

    def _finish_steps(self, now: int) -> None:
        steps = self._stretch_steps
        self._step += steps
        self._context_tokens += steps * len(self._batch)
        self._generated_tokens += steps * len(self._batch)
        while self._batch and self._batch[0][0] <= self._step:
            self._leave_batch(heapq.heappop(self._batch)[2], now)
        aborted = [entry[2] for entry in self._batch if entry[2].aborted]
        if aborted:
            self._batch = [entry for entry in self._batch if not entry[2].aborted]
            heapq.heapify(self._batch)
            for sequence in sorted(aborted, key=lambda one: one.request.request_id):
                self._leave_batch(sequence, now)

    def _leave_batch(self, sequence: _Sequence, now: int) -> None:
        output_tokens = sequence.output_tokens - (sequence.finish_step - self._step)
        sequence.has_left = True
        self._context_tokens -= sequence.request.prompt_tokens + output_tokens
        self._end(sequence, now, output_tokens)

    def _end(self, sequence: _Sequence, now: int, output_tokens: int) -> None:
        request = sequence.request
        del self._live[request.request_id]
        if sequence.admitted is not None:
            self._kv_reserved_tokens -= sequence.kv_tokens
        # Aborted in its very last step, it has all its tokens: then it is finished, not aborted.
        is_aborted = sequence.aborted and output_tokens < sequence.output_tokens
        self._aborted += is_aborted
        self._finished += not is_aborted
        self._events.append(
            Completion(
                request_id=request.request_id,
                submitted_seconds=sequence.submitted / FEMTOSECONDS,
                admitted_seconds=None if sequence.admitted is None else sequence.admitted / FEMTOSECONDS,
                first_token_seconds=None if sequence.first_token is None else sequence.first_token / FEMTOSECONDS,
                finished_seconds=now / FEMTOSECONDS,
                prompt_tokens=request.prompt_tokens,
                output_tokens=output_tokens,
                reason=FinishReason.ABORT if is_aborted else FinishReason.LENGTH,
            )
        )

    def _stop_at_next_boundary(self) -> None:
        """End the current decode stretch at the first step boundary that is not before now."""
        if self._prefilling is not None or self._stretch_end is None:
            return
        elapsed = self._clock - self._stretch_start
        steps = self._costs.whole_steps(elapsed, len(self._batch), self._context_tokens)
        steps += self._decode_time(steps) < elapsed
        if steps < self._stretch_steps:
            self._stretch_steps = steps
            self._stretch_end = self._stretch_start + self._decode_time(steps)
        if self._stretch_end <= self._clock:
            self._finish_stretch(self._clock)

    def _steps_in_stretch(self) -> int:
        if self._stretch_end is None or self._prefilling is not None:
            return 0
        return self._costs.whole_steps(self._clock - self._stretch_start, len(self._batch), self._context_tokens)

    def _decode_time(self, steps: int) -> int:
        return self._costs.elapsed_femtoseconds(steps, len(self._batch), self._context_tokens)

    def _prefill_time(self, prompt_tokens: int) -> int:
        femtoseconds = self._prefill_femtoseconds.get(prompt_tokens)
        if femtoseconds is None:
            femtoseconds = round(prefill_seconds(self.profile, prompt_tokens) * FEMTOSECONDS)
            self._prefill_femtoseconds[prompt_tokens] = femtoseconds
        return femtoseconds

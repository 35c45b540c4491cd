"""The step-by-step reference engine: one replica as one plain loop over single steps, for tests of the engine that jumps.

Concept: what the engine's docstring says, written down again in the simplest way: at each step boundary the oldest waiting request
is admitted if it fits, else the whole batch takes one step. Times are float seconds from `prefill_seconds` and `decode_step_seconds`,
added up one by one; no stretches, no femtoseconds, no heaps. Boundary: knows the formulas of a step, nothing of `EngineReplica`.
Failure: it is slow, and it serves only requests that fit the window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fleetpack_simulator.engine import EngineProfile, EngineRequest, decode_step_seconds, prefill_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Instants:
    """When one request was admitted, had its first token, and its last."""

    admitted_seconds: float
    first_token_seconds: float
    finished_seconds: float


@dataclass(slots=True, kw_only=True)
class _Running:
    """A sequence in the batch."""

    request_id: int
    admitted_seconds: float
    first_token_seconds: float
    context_tokens: int
    tokens_left: int
    reserved_tokens: int


class ReferenceEngine:
    """Serves a whole workload and says when."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._now_seconds = 0.0
        self._batch: list[_Running] = []
        self._ends: dict[int, Instants] = {}

    def serve(self, arrivals: list[tuple[float, EngineRequest]]) -> dict[int, Instants]:
        """Return the instants of each request; arrivals are sorted."""
        pending, waiting = deque(arrivals), deque[EngineRequest]()
        while pending or waiting or self._batch:
            if not waiting and not self._batch:
                self._now_seconds = max(self._now_seconds, pending[0][0])
            while pending and pending[0][0] <= self._now_seconds:
                waiting.append(pending.popleft()[1])
            if waiting and self._fits(waiting[0]):
                self._prefill(waiting.popleft())
            else:
                self._step()
        return self._ends

    def _output_tokens(self, request: EngineRequest) -> int:
        return min(request.output_tokens, self._profile.window_tokens - request.prompt_tokens)

    def _needed_tokens(self, request: EngineRequest) -> int:
        if self._profile.hardware.static_shapes:
            return self._profile.window_tokens
        return request.prompt_tokens + self._output_tokens(request)

    def _fits(self, request: EngineRequest) -> bool:
        reserved = sum(one.reserved_tokens for one in self._batch)
        has_cache = reserved + self._needed_tokens(request) <= self._profile.kv_capacity_tokens
        return has_cache and len(self._batch) < self._profile.maximum_batch

    def _prefill(self, request: EngineRequest) -> None:
        admitted_seconds = self._now_seconds
        self._now_seconds += prefill_seconds(self._profile, request.prompt_tokens)
        one = _Running(
            request_id=request.request_id,
            admitted_seconds=admitted_seconds,
            first_token_seconds=self._now_seconds,
            context_tokens=request.prompt_tokens + 1,
            tokens_left=self._output_tokens(request) - 1,
            reserved_tokens=self._needed_tokens(request),
        )
        self._batch.append(one)
        self._leave()

    def _step(self) -> None:
        contexts = [one.context_tokens for one in self._batch]
        self._now_seconds += decode_step_seconds(self._profile, len(contexts), sum(contexts), max(contexts))
        for one in self._batch:
            one.context_tokens += 1
            one.tokens_left -= 1
        self._leave()

    def _leave(self) -> None:
        for one in self._batch:
            if one.tokens_left == 0:
                self._ends[one.request_id] = Instants(
                    admitted_seconds=one.admitted_seconds,
                    first_token_seconds=one.first_token_seconds,
                    finished_seconds=self._now_seconds,
                )
        self._batch = [one for one in self._batch if one.tokens_left > 0]

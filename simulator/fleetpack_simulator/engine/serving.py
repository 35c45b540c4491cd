"""Either kind of engine behind one face: the continuous-batching server, or the server of fixed-shape batches.

`engine_of` makes the engine that a profile describes. `BatchEngine` gives `BatchReplica` the requests, events and counters of an
`EngineReplica`, so that world and real-time server need not know which of the two they drive. A fixed-shape result comes all at
once: its first token is its last, and it counts as one token. An item whose caller has left is computed with its batch anyway.
A request that could never be served is refused with `RequestError` at submission.
"""

from __future__ import annotations

from fleetpack_simulator.engine.batch_server import BatchProfile, BatchReplica
from fleetpack_simulator.engine.profile import EngineProfile
from fleetpack_simulator.engine.replica import (
    Completion,
    EngineCounters,
    EngineEvent,
    EngineReplica,
    EngineRequest,
    FinishReason,
    FirstToken,
    RequestError,
)

ServingProfile = EngineProfile | BatchProfile


class BatchEngine:
    """The workers of one replica of an encoder or diffusion model, with the face of an `EngineReplica`."""

    def __init__(self, profile: BatchProfile) -> None:
        self.profile = profile
        self._replica = BatchReplica(profile)
        self._prompt_tokens: dict[int, int] = {}
        """Of each live request."""
        self._left: set[int] = set()
        self._finished = 0
        self._aborted = 0
        self._done_prompt_tokens = 0

    @property
    def next_event_seconds(self) -> float | None:
        """When the next batch ends; None: nothing runs."""
        return self._replica.next_event_seconds

    def submit(self, request: EngineRequest, now_seconds: float) -> None:
        """Take an item; it starts at once if a worker is free."""
        if request.request_id in self._prompt_tokens:
            raise RequestError(
                f"request {request.request_id}: its id is already in use by a live request; ids are unique"
            )
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise RequestError(f"request {request.request_id}: prompt_tokens and output_tokens must be at least 1")
        longest = self.profile.model.tokens
        if longest is not None and request.prompt_tokens > longest:
            raise RequestError(
                f"request {request.request_id}: {request.prompt_tokens} tokens are more than the {longest} it is compiled for"
            )
        self._prompt_tokens[request.request_id] = request.prompt_tokens
        self._replica.submit(request.request_id, now_seconds)

    def cancel(self, request_id: int, now_seconds: float) -> bool:
        """Have an item end as aborted when its batch is done; False: it is not alive."""
        if request_id not in self._prompt_tokens or request_id in self._left:
            return False
        self._left.add(request_id)
        return True

    def advance(self, now_seconds: float) -> list[EngineEvent]:
        """Move to `now_seconds` and return what happened since the last call, in order of time."""
        events: list[EngineEvent] = []
        for done in self._replica.advance(now_seconds):
            prompt_tokens = self._prompt_tokens.pop(done.request_id)
            is_aborted = done.request_id in self._left
            self._left.discard(done.request_id)
            self._aborted += is_aborted
            self._finished += not is_aborted
            self._done_prompt_tokens += prompt_tokens
            events.append(FirstToken(request_id=done.request_id, at_seconds=done.finished_seconds))
            events.append(
                Completion(
                    request_id=done.request_id,
                    submitted_seconds=done.submitted_seconds,
                    admitted_seconds=done.started_seconds,
                    first_token_seconds=done.finished_seconds,
                    finished_seconds=done.finished_seconds,
                    prompt_tokens=prompt_tokens,
                    output_tokens=1,
                    reason=FinishReason.ABORT if is_aborted else FinishReason.LENGTH,
                )
            )
        return events

    def generated_tokens(self, request_id: int) -> int | None:
        """Return 0 for an item that is alive; None: it is not."""
        return 0 if request_id in self._prompt_tokens else None

    def counters(self) -> EngineCounters:
        """Return gauges and totals as of the last call that moved time; there is no KV cache."""
        ended = self._finished + self._aborted
        return EngineCounters(
            waiting=self._replica.waiting,
            running=self._replica.running,
            submitted=ended + len(self._prompt_tokens),
            finished=self._finished,
            aborted=self._aborted,
            prompt_tokens=self._done_prompt_tokens,
            generated_tokens=ended,
            kv_cache_usage=0.0,
        )


Engine = EngineReplica | BatchEngine


def engine_of(profile: ServingProfile) -> Engine:
    """Return a new engine of a profile."""
    return BatchEngine(profile) if isinstance(profile, BatchProfile) else EngineReplica(profile)


def places_of(profile: ServingProfile) -> int:
    """Return how many requests a replica works on at the same time at most."""
    return profile.batch * profile.workers if isinstance(profile, BatchProfile) else profile.maximum_batch

"""Requests on their way: a gateway per model in front of its replicas, and the engines that serve them.

A request goes to the serving replica with the fewest outstanding requests (the first by name among equals); while there is none, the
gateway holds it. When a replica dies, requests without a first token go back to the gateway, as a retrying client would send them;
those that had begun to stream have failed. Every request ends exactly once: completed, failed, or refused because no window of the
model holds it. Times are kept for each request, in arrays, because there may be millions.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from enum import IntEnum

from fleetpack_simulator.engine import EngineRequest, FirstToken, RequestError
from fleetpack_simulator.engine.serving import Engine, ServingProfile, engine_of
from fleetpack_simulator.serving_metrics import TTFT_BUCKETS_SECONDS
from fleetpack_simulator.workload import Request

_NEVER = float("inf")


class RequestState(IntEnum):
    """What has become of a request."""

    DUE = 0
    """Not come yet, or at the gateway, or in an engine."""
    COMPLETED = 1
    FAILED = 2
    """Cut off while it streamed."""
    REFUSED = 3
    """Longer than the model's window."""


class RequestLog:
    """All requests of a simulation, in the order in which they come."""

    def __init__(self, loads: Sequence[tuple[float, Sequence[Request]]]) -> None:
        order = sorted(
            (start + request.arrival_seconds, model, index)
            for model, (start, load) in enumerate(loads)
            for index, request in enumerate(load)
        )
        self.arrival_seconds = array("d", (entry[0] for entry in order))
        self.model = array("H", (entry[1] for entry in order))
        self.prompt_tokens = array("I", (loads[model][1][index].prompt_tokens for _, model, index in order))
        self.output_tokens = array("I", (loads[model][1][index].output_tokens for _, model, index in order))
        count = len(order)
        self.first_token_seconds = array("d", [-1.0]) * count
        self.finished_seconds = array("d", [-1.0]) * count
        self.state = bytearray(count)

    def __len__(self) -> int:
        return len(self.state)


class ServingReplica:
    """One replica as the gateway and its engine see it."""

    __slots__ = ("engine", "inside", "model", "name", "next_at", "number", "slot", "ttft_counts")

    def __init__(self, name: str, model: int, number: int, engine: Engine) -> None:
        self.name = name
        self.model = model
        self.number = number
        self.engine = engine
        self.inside: dict[int, float] = {}
        """Requests in it and when each came to it, in that order."""
        self.ttft_counts = [0] * (len(TTFT_BUCKETS_SECONDS) + 1)
        """First tokens by time since the request came to this engine, as its metrics page shows them."""
        self.slot = -1
        """Place in its gateway's list; -1: gets no new requests."""
        self.next_at = _NEVER


class Gateway:
    """The router of one model."""

    __slots__ = ("arrived", "counts", "held", "last_ended_seconds", "outstanding", "replicas")

    def __init__(self) -> None:
        self.replicas: list[ServingReplica] = []
        self.counts: list[int] = []
        """Outstanding requests of each replica; apart, so that finding the least is one call."""
        self.held: deque[int] = deque()
        self.arrived = 0
        self.outstanding = 0
        self.last_ended_seconds = 0.0

    def reindex(self) -> None:
        """Renew slots and counts after the list has changed."""
        for slot, replica in enumerate(self.replicas):
            replica.slot = slot
        self.counts = [len(replica.inside) for replica in self.replicas]


class Traffic:
    """All gateways and engines, driven from one event to the next."""

    def __init__(self, log: RequestLog, models: int) -> None:
        self.log = log
        self.gateways = [Gateway() for _ in range(models)]
        self.retries = 0
        self.engine_events = 0
        self.ended_twice: list[int] = []
        self._replicas: list[ServingReplica] = []
        self._heap: list[tuple[float, int]] = []
        self._position = 0

    @property
    def all_ended(self) -> bool:
        """Whether every request has come and ended."""
        return self._position == len(self.log) and not any(gateway.outstanding for gateway in self.gateways)

    @property
    def arrived(self) -> int:
        """How many requests have come."""
        return self._position

    def misplaced(self) -> list[str]:
        """Return what contradicts that each request is in one place: to come, at a gateway, in one engine, or ended."""
        log, where = self.log, [index for gateway in self.gateways for index in gateway.held]
        where += [index for replica in self._replicas for index in replica.inside]
        found = []
        if len(set(where)) < len(where):
            found.append(f"{len(where) - len(set(where))} requests are in two places")
        if strangers := sum(index >= self._position or log.state[index] != RequestState.DUE for index in set(where)):
            found.append(f"{strangers} requests are inside that have ended or have not come")
        to_come, unfinished = len(log) - self._position, log.state.count(RequestState.DUE)
        if unfinished != to_come + len(where):
            found.append(f"{unfinished} requests have no end, {to_come} are to come and {len(where)} are inside")
        if (outstanding := sum(gateway.outstanding for gateway in self.gateways)) != len(where):
            found.append(f"the gateways count {outstanding} requests, {len(where)} are inside")
        return found

    def start(self, name: str, model: int, profile: ServingProfile) -> ServingReplica:
        """Make the engine of a replica; it gets requests once it is opened."""
        replica = ServingReplica(name, model, len(self._replicas), engine_of(profile))
        self._replicas.append(replica)
        return replica

    def open(self, replica: ServingReplica, now_seconds: float) -> None:
        """Let a replica serve, and give out what the gateway holds."""
        gateway = self.gateways[replica.model]
        insort(gateway.replicas, replica, key=lambda one: one.name)
        gateway.reindex()
        held, gateway.held = gateway.held, deque()
        for index in held:
            self._dispatch(index, now_seconds)

    def close(self, replica: ServingReplica) -> None:
        """Give a replica no more requests; it finishes what it has."""
        if replica.slot < 0:
            return
        gateway = self.gateways[replica.model]
        gateway.replicas.remove(replica)
        replica.slot = -1
        gateway.reindex()

    def kill(self, replica: ServingReplica, now_seconds: float) -> None:
        """Let a replica die with what is in it."""
        self.close(replica)
        self._collect(replica, now_seconds)
        replica.next_at = _NEVER
        inside, replica.inside = list(replica.inside), {}
        for index in inside:
            if self.log.first_token_seconds[index] < 0:
                self.retries += 1
                self._dispatch(index, now_seconds)
            else:
                self._end(index, RequestState.FAILED, now_seconds)

    def serve_until(self, limit_seconds: float, *, inclusive: bool) -> None:
        """Let everything happen that comes before an instant, and at it if `inclusive`; engines go before arrivals."""
        heap, arrivals, models = self._heap, self.log.arrival_seconds, self.log.model
        replicas, gateways = self._replicas, self.gateways
        position, count = self._position, len(arrivals)
        arrival_at = arrivals[position] if position < count else _NEVER
        while True:
            engine_at = heap[0][0] if heap else _NEVER
            if engine_at <= arrival_at:
                if engine_at > limit_seconds or (engine_at == limit_seconds and not inclusive) or engine_at == _NEVER:
                    break
                replica = replicas[heapq.heappop(heap)[1]]
                if replica.next_at == engine_at:
                    self._collect(replica, engine_at)
            else:
                if arrival_at > limit_seconds or (arrival_at == limit_seconds and not inclusive):
                    break
                gateway = gateways[models[position]]
                gateway.arrived += 1
                gateway.outstanding += 1
                self._dispatch(position, arrival_at)
                position += 1
                self._position = position
                arrival_at = arrivals[position] if position < count else _NEVER

    def _dispatch(self, index: int, now_seconds: float) -> None:
        """Send a request to the least busy replica, or hold it."""
        log = self.log
        gateway = self.gateways[log.model[index]]
        counts = gateway.counts
        if not counts:
            gateway.held.append(index)
            return
        slot = counts.index(min(counts))
        replica = gateway.replicas[slot]
        engine = replica.engine
        try:
            engine.submit(
                EngineRequest(
                    request_id=index, prompt_tokens=log.prompt_tokens[index], output_tokens=log.output_tokens[index]
                ),
                now_seconds,
            )
        except RequestError:
            self._end(index, RequestState.REFUSED, now_seconds)
            return
        counts[slot] += 1
        replica.inside[index] = now_seconds
        next_at = engine.next_event_seconds
        if next_at is not None and next_at < replica.next_at:
            replica.next_at = next_at
            heapq.heappush(self._heap, (next_at, replica.number))

    def _collect(self, replica: ServingReplica, now_seconds: float) -> None:
        """Take what an engine has done until now, and note when to come back."""
        engine = replica.engine
        self.engine_events += 1
        for event in engine.advance(now_seconds):
            if type(event) is FirstToken:
                self.log.first_token_seconds[event.request_id] = event.at_seconds
                waited_seconds = event.at_seconds - replica.inside[event.request_id]
                replica.ttft_counts[bisect_left(TTFT_BUCKETS_SECONDS, waited_seconds)] += 1
            else:
                index = event.request_id
                del replica.inside[index]
                if replica.slot >= 0:
                    self.gateways[replica.model].counts[replica.slot] -= 1
                self._end(index, RequestState.COMPLETED, event.finished_seconds)  # type: ignore[union-attr]  # the only other event
        next_at = engine.next_event_seconds
        if next_at is None:
            replica.next_at = _NEVER
        else:
            replica.next_at = next_at
            heapq.heappush(self._heap, (next_at, replica.number))

    def _end(self, index: int, state: RequestState, now_seconds: float) -> None:
        log = self.log
        if log.state[index]:
            self.ended_twice.append(index)
            return
        log.state[index] = state
        log.finished_seconds[index] = now_seconds
        gateway = self.gateways[log.model[index]]
        gateway.outstanding -= 1
        gateway.last_ended_seconds = now_seconds

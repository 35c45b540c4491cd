"""Replays a load against live replicas and records what each request met.

Arrivals are open loop: a request is due at its time whether or not earlier ones are answered, so a slow fleet cannot slow the load
down (coordinated omission). The replayer is also the router, because no Service may select Pods on loopback addresses: it sends to
the Ready replica with the fewest requests outstanding, and holds requests while there is none. A replica that goes away or says
503 costs a retry elsewhere, which is counted; other errors end the request as failed. The replayer's own lag, from the instant
a request was due to the instant it was taken up, is part of the result: above the limit, the run says nothing.

aiohttp is the client because it is cheap: 2.9 ms of CPU per streamed request of some 20 chunks, where httpx takes 16.5 ms.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import aiohttp
from yarl import URL

from fleetpack_simulator.pods import PodView, PodWatcher
from fleetpack_simulator.workload import Request

LAG_LIMIT_SECONDS = 0.05
_DONE = b"data: [DONE]\n\n"
# A replica that refused is left alone this long: its Pod is starting or going, and the watch will say so soon.
_SUSPENSION_SECONDS = 0.5


class Endpoints(Protocol):
    """Knows which replicas may be sent to now."""

    def ready(self) -> Sequence[str]:
        """Return `host:port` of each replica that is Ready."""
        ...

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever `ready()` may have changed."""
        ...


class StaticEndpoints:
    """Endpoints that a program sets."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = tuple(addresses)
        self._listeners: list[Callable[[], None]] = []

    def ready(self) -> Sequence[str]:
        """Return what was set last."""
        return self._addresses

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called by `set`."""
        self._listeners.append(changed)

    def set(self, addresses: Iterable[str]) -> None:
        """Replace the endpoints."""
        self._addresses = tuple(addresses)
        for changed in self._listeners:
            changed()


class PodEndpoints:
    """The Running and Ready Pods that a watcher follows, without those that are being deleted."""

    def __init__(self, watcher: PodWatcher, *, port: int) -> None:
        self._port = port
        self._addresses: dict[str, str] = {}
        self._ready: tuple[str, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        watcher.listen(self._changed)

    def ready(self) -> Sequence[str]:
        """Return the addresses of the Pods that are ready."""
        return self._ready

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when a Pod becomes or ceases to be ready."""
        self._listeners.append(changed)

    def _changed(self, before: PodView | None, after: PodView | None) -> None:
        if before is not None:
            self._addresses.pop(before.uid, None)
        if after is not None and after.ip and after.ready and after.phase == "Running" and not after.terminating:
            self._addresses[after.uid] = f"{after.ip}:{self._port}"
        self._ready = tuple(sorted(self._addresses.values()))
        for changed in self._listeners:
            changed()


class Status(StrEnum):
    """How a request ended for its client."""

    COMPLETED = "completed"
    REFUSED = "refused"
    """The replica answered with an error that another replica would give too."""
    GAVE_UP = "gave-up"
    """No attempt succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """What one request met. Instants count from the start of the replay; None: it did not get that far."""

    scheduled_seconds: float
    taken_up_seconds: float
    sent_seconds: float | None
    """When the attempt that counted was sent."""
    first_token_seconds: float | None
    finished_seconds: float
    status: Status
    replica: str | None
    held_seconds: float
    """How long it waited here for any replica to be Ready."""
    engine_queue_seconds: float | None
    """How long it waited in the engine, as the replica says."""
    retries: int
    prompt_tokens: int
    output_tokens: int
    error: str | None

    @property
    def lag_seconds(self) -> float:
        """How late the replayer was."""
        return self.taken_up_seconds - self.scheduled_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """The middle and the tail of some durations."""

    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    maximum_seconds: float


def quantiles(values: Iterable[float]) -> Quantiles | None:
    """Return nearest-rank quantiles; None when there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.50, 0.95, 0.99))
    return Quantiles(p50_seconds=p50, p95_seconds=p95, p99_seconds=p99, maximum_seconds=ordered[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSummary:
    """A whole replay in numbers; durations are over completed requests, from the instant a request was due."""

    requests: int
    completed: int
    refused: int
    gave_up: int
    retries: int
    duration_seconds: float
    completed_per_second: float
    prompt_tokens: int
    output_tokens: int
    time_to_first_token: Quantiles | None
    latency: Quantiles | None
    queue_wait: Quantiles | None
    """Held by the replayer plus queued in the engine."""
    lag: Quantiles | None
    lag_limit_seconds: float
    is_valid: bool
    """False: the replayer itself was too late (99th percentile of the lag), and the other figures say nothing."""

    def to_json(self) -> str:
        """Return the summary as JSON."""
        return json.dumps(asdict(self), indent=2)


def summarize(records: Sequence[RequestRecord]) -> LoadSummary:
    """Return the summary of a replay."""
    completed = [record for record in records if record.status is Status.COMPLETED]
    duration_seconds = max((record.finished_seconds for record in records), default=0.0)
    lag = quantiles(record.lag_seconds for record in records)
    return LoadSummary(
        requests=len(records),
        completed=len(completed),
        refused=sum(record.status is Status.REFUSED for record in records),
        gave_up=sum(record.status is Status.GAVE_UP for record in records),
        retries=sum(record.retries for record in records),
        duration_seconds=duration_seconds,
        completed_per_second=len(completed) / duration_seconds if duration_seconds else 0.0,
        prompt_tokens=sum(record.prompt_tokens for record in completed),
        output_tokens=sum(record.output_tokens for record in completed),
        time_to_first_token=quantiles(
            record.first_token_seconds - record.scheduled_seconds
            for record in completed
            if record.first_token_seconds is not None
        ),
        latency=quantiles(record.finished_seconds - record.scheduled_seconds for record in completed),
        queue_wait=quantiles(record.held_seconds + (record.engine_queue_seconds or 0.0) for record in completed),
        lag=lag,
        lag_limit_seconds=LAG_LIMIT_SECONDS,
        is_valid=lag is None or lag.p99_seconds <= LAG_LIMIT_SECONDS,
    )


@dataclass(slots=True, kw_only=True)
class LiveCounts:
    """What a replay is doing right now; a view for terminals and for queue signals, updated in place."""

    due: int = 0
    held: int = 0
    outstanding: int = 0
    completed: int = 0
    failed: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How requests are sent. `model` None leaves the field out: a simulated replica serves one model anyway."""

    model: str | None = None
    maximum_attempts: int = 20
    give_up_seconds: float = 900.0
    """A request that is older than this is not tried again."""


class Replayer:
    """Sends a load to the replicas that `endpoints` names. One replayer may run several loads, one after the other."""

    def __init__(self, endpoints: Endpoints, options: ReplayOptions | None = None) -> None:
        self.live = LiveCounts()
        self.records: list[RequestRecord] = []
        self._options = options or ReplayOptions()
        self._router = _Router(endpoints, self.live)
        self._origin = 0.0

    async def run(self, requests: Iterable[Request]) -> LoadSummary:
        """Send every request at its time and wait for all; on cancellation what is open is cut and not recorded."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            self._origin = loop.time()
            for request in requests:
                wait_seconds = self._origin + request.arrival_seconds - loop.time()
                if wait_seconds > 0:
                    await asyncio.sleep(wait_seconds)
                self.live.due += 1
                tasks.create_task(self._serve(session, request))
        return summarize(self.records)

    async def _serve(self, session: aiohttp.ClientSession, request: Request) -> None:
        attempt = _Attempt(request=request, taken_up_seconds=self._now())
        body = _body(self._options.model, request)
        deadline_seconds = attempt.taken_up_seconds + self._options.give_up_seconds
        while attempt.status is None:
            waiting_since = self._now()
            address = await self._router.take()
            attempt.held_seconds += self._now() - waiting_since
            try:
                await self._send(session, address, body, attempt)
            except (aiohttp.ClientError, OSError, TimeoutError, _ReplicaAwayError) as error:
                attempt.error = str(error) or type(error).__name__
                attempt.retries += 1
                self.live.retries += 1
                self._router.suspend(address)
                if attempt.retries >= self._options.maximum_attempts or self._now() > deadline_seconds:
                    attempt.status = Status.GAVE_UP
            finally:
                self._router.give_back(address)
        if attempt.status is Status.COMPLETED:
            self.live.completed += 1
        else:
            self.live.failed += 1
        self.records.append(attempt.record(self._now()))

    async def _send(self, session: aiohttp.ClientSession, address: str, body: bytes, attempt: _Attempt) -> None:
        attempt.sent_seconds = self._now()
        attempt.replica = address
        attempt.first_token_seconds = None
        headers = {"Content-Type": "application/json"}
        async with session.post(self._router.url(address), data=body, headers=headers) as response:
            if response.status == 503:
                raise _ReplicaAwayError(await response.text())
            if response.status != 200:
                attempt.error = f"{response.status}: {(await response.text())[:500]}"
                attempt.status = Status.REFUSED
                return
            end = b""
            async for chunk in response.content.iter_any():
                if attempt.first_token_seconds is None:
                    attempt.first_token_seconds = self._now()
                end = (end + chunk)[-8192:]
        if not end.endswith(_DONE):
            raise _ReplicaAwayError("the stream ended before its last token")
        attempt.finish(end)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._origin


async def replay(
    requests: Iterable[Request], endpoints: Endpoints, options: ReplayOptions | None = None
) -> LoadSummary:
    """Replay one load; use `Replayer` to look at it while it runs or at its records afterwards."""
    return await Replayer(endpoints, options).run(requests)


class _ReplicaAwayError(Exception):
    """The replica is not there; another one may be."""


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """A request while it is being served."""

    request: Request
    taken_up_seconds: float
    sent_seconds: float | None = None
    first_token_seconds: float | None = None
    status: Status | None = None
    replica: str | None = None
    held_seconds: float = 0.0
    engine_queue_seconds: float | None = None
    retries: int = 0
    output_tokens: int = 0
    error: str | None = None

    def finish(self, end: bytes) -> None:
        """Take the figures out of the last object of the stream."""
        last = json.loads(end[: -len(_DONE)].rpartition(b"data: ")[2])
        self.output_tokens = (last.get("usage") or {}).get("completion_tokens", 0)
        self.engine_queue_seconds = (last.get("fleetpack") or {}).get("queue_seconds")
        self.status = Status.COMPLETED
        self.error = None

    def record(self, finished_seconds: float) -> RequestRecord:
        assert self.status is not None
        return RequestRecord(
            scheduled_seconds=self.request.arrival_seconds,
            taken_up_seconds=self.taken_up_seconds,
            sent_seconds=self.sent_seconds,
            first_token_seconds=self.first_token_seconds,
            finished_seconds=finished_seconds,
            status=self.status,
            replica=self.replica,
            held_seconds=self.held_seconds,
            engine_queue_seconds=self.engine_queue_seconds,
            retries=self.retries,
            prompt_tokens=self.request.prompt_tokens,
            output_tokens=self.output_tokens,
            error=self.error,
        )


@dataclass(slots=True)
class _Target:
    """One replica as the router sees it."""

    url: URL
    outstanding: int = 0
    last_used: int = 0
    suspended_until: float = 0.0


@dataclass(slots=True)
class _Router:
    """Least outstanding requests, then the one least recently used; first come, first served while there is none."""

    endpoints: Endpoints
    live: LiveCounts
    targets: dict[str, _Target] = field(default_factory=dict)
    held: deque[asyncio.Future[None]] = field(default_factory=deque)
    uses: int = 0

    def __post_init__(self) -> None:
        self.endpoints.listen(self._wake)

    async def take(self) -> str:
        """Return the replica to send to, waiting until there is one."""
        loop = asyncio.get_running_loop()
        address = None if self.held else self._best(loop.time())
        if address is None:
            self.live.held += 1
            try:
                while address is None:
                    turn = loop.create_future()
                    self.held.append(turn)
                    await turn
                    address = self._best(loop.time())
            finally:
                self.live.held -= 1
        target = self.targets[address]
        self.uses += 1
        target.last_used = self.uses
        target.outstanding += 1
        self.live.outstanding += 1
        return address

    def give_back(self, address: str) -> None:
        self.targets[address].outstanding -= 1
        self.live.outstanding -= 1

    def suspend(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        self.targets[address].suspended_until = loop.time() + _SUSPENSION_SECONDS
        loop.call_later(_SUSPENSION_SECONDS, self._wake)

    def url(self, address: str) -> URL:
        return self.targets[address].url

    def _best(self, now: float) -> str | None:
        best: str | None = None
        best_key = (0, 0)
        for address in self.endpoints.ready():
            target = self.targets.get(address)
            if target is None:
                target = self.targets[address] = _Target(URL(f"http://{address}/v1/completions"))
            key = (target.outstanding, target.last_used)
            if target.suspended_until <= now and (best is None or key < best_key):
                best, best_key = address, key
        return best

    def _wake(self) -> None:
        """Let everyone who is held look again; those for whom there is still nothing queue up again, in the same order."""
        turns, self.held = self.held, deque()
        for turn in turns:
            if not turn.done():
                turn.set_result(None)


def _body(model: str | None, request: Request) -> bytes:
    content: dict[str, Any] = {
        "prompt_tokens": request.prompt_tokens,
        "max_tokens": request.output_tokens,
        "stream": True,
    }
    if model is not None:
        content["model"] = model
    return json.dumps(content).encode()

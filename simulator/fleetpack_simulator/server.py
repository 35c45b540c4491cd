"""The engine in real time behind an OpenAI-style API: one process answers for every simulated replica.

It listens on all addresses, of IPv4 and of IPv6, and tells replicas apart by the address that was called: kwok gives Pods addresses of
127/8, all of which end at this machine. Each replica has its own engine, made when it is first called, and moved by timers at the
instants that the engine names. Streamed tokens are coalesced, so that thousands of streams cost little; the first token goes out at
once. When a replica goes away its connections are reset, as those of a killed process are; where there is none, the answer is
503 with the reason. Late timers (a busy machine) delay what is sent, never what the engine computes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from dataclasses import dataclass
from typing import Any, TypeGuard

from aiohttp import web

from fleetpack.listening import listening_socket, plain_address
from fleetpack_simulator.engine import Completion, EngineRequest, FirstToken, RequestError
from fleetpack_simulator.engine.serving import engine_of
from fleetpack_simulator.registry import NoReplica, Registry, ReplicaAt
from fleetpack_simulator.serving_metrics import ServingMetrics
from fleetpack_simulator.settings import ReplicaSettings

# Streams get at most four chunks a second.
COALESCE_SECONDS = 0.25
_LARGEST_BODY_BYTES = 16 * 2**20
_DEFAULT_OUTPUT_TOKENS = 16  # OpenAI's default of max_tokens for completions
_CHARACTERS_PER_TOKEN = 4  # the usual rule of thumb for English text
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class RunningServer:
    """A server that listens."""

    port: int
    runner: web.AppRunner

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        await self.runner.cleanup()


async def start_server(
    registry: Registry, *, port: int, loopback_only: bool = True, drain_seconds: float = 0.0
) -> RunningServer:
    """Listen on `port` (0: any free one) for every replica that the registry knows.

    With `loopback_only` callers from outside this machine are refused, although every address is listened on: nobody can bind
    the whole of 127/8 alone. `drain_seconds` is how long closing waits for open streams to end by themselves.
    """
    app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    server = _Server(registry, loopback_only=loopback_only)
    app.add_routes(
        [
            web.post("/v1/completions", server.complete),
            web.get("/v1/models", server.models),
            web.get("/metrics", server.metrics),
            web.get("/health", server.health),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=drain_seconds)
    await runner.setup()
    site = web.SockSite(runner, listening_socket(port), backlog=1024)
    await site.start()
    return RunningServer(port=runner.addresses[0][1], runner=runner)


class _Stream:
    """One request on its way: what its handler waits for."""

    __slots__ = ("_loop", "_waiter", "completion", "first_token", "request_id", "submitted_seconds", "transport")

    def __init__(self, request_id: int, transport: asyncio.Transport | None) -> None:
        self.request_id = request_id
        self.transport = transport
        self.submitted_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self.first_token: asyncio.Future[None] = self._loop.create_future()
        self.completion: Completion | None = None
        self._waiter: asyncio.Future[None] | None = None

    def start(self) -> None:
        if not self.first_token.done():
            self.first_token.set_result(None)

    def finish(self, completion: Completion) -> None:
        self.completion = completion
        self.start()
        self._wake()

    async def progress(self, at_most_seconds: float | None) -> None:
        """Wait until the request has ended, `at_most_seconds` long."""
        if self.completion is not None:
            return
        self._waiter = self._loop.create_future()
        timer = None if at_most_seconds is None else self._loop.call_later(at_most_seconds, self._wake)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Replica:
    """An engine moved by the event loop's clock."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.settings = settings
        self.metrics = ServingMetrics(settings.model_name)
        self.engine = engine_of(settings.profile)
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0

    def submit(self, prompt_tokens: int, output_tokens: int, transport: asyncio.Transport | None) -> _Stream:
        self._last_id += 1
        stream = _Stream(self._last_id, transport)
        stream.submitted_seconds = self._now()
        request = EngineRequest(request_id=self._last_id, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        self.engine.submit(request, self._now())
        self._streams[self._last_id] = stream
        self.move()
        return stream

    def cancel(self, stream: _Stream) -> None:
        """Give up a request that nobody waits for; nothing happens when it has ended."""
        if self._streams.pop(stream.request_id, None) is not None:
            self.engine.cancel(stream.request_id, self._now())
            self.move()

    def move(self) -> None:
        """Bring the engine to the present, tell the streams, and set the timer for its next event."""
        for event in self.engine.advance(self._now()):
            stream = self._streams.get(event.request_id)
            match event:
                case FirstToken():
                    if stream is not None:
                        self.metrics.time_to_first_token.observe(event.at_seconds - stream.submitted_seconds)
                        stream.start()
                case Completion():
                    self._completed(event)
        next_seconds = self.engine.next_event_seconds
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if next_seconds is None else self._loop.call_at(self._origin + next_seconds, self.move)

    def vanish(self) -> None:
        """Reset every connection with an open request, as when the process is killed."""
        if self._timer is not None:
            self._timer.cancel()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream.transport is not None:
                stream.transport.abort()

    def _completed(self, completion: Completion) -> None:
        self.metrics.observe(completion)
        stream = self._streams.pop(completion.request_id, None)
        if stream is not None:
            stream.finish(completion)

    def _now(self) -> float:
        return self._loop.time() - self._origin


class _Server:
    """The handlers; `_replicas` holds the engines by the identity of their replica."""

    def __init__(self, registry: Registry, *, loopback_only: bool) -> None:
        self._registry = registry
        self._loopback_only = loopback_only
        self._replicas: dict[str, _Replica] = {}
        registry.listen(self._gone)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        replica = self._replica(request)
        try:
            body = await request.json()
            prompt_tokens, output_tokens, is_streamed = _completion_parameters(body)
            stream = replica.submit(prompt_tokens, output_tokens, request.transport)
        except (RequestError, json.JSONDecodeError) as error:
            return _error(400, "invalid_request_error", str(error))
        try:
            if is_streamed:
                return await _send_stream(request, replica, stream)
            await stream.progress(None)
            assert stream.completion is not None
            return web.json_response(_final(replica, stream.completion, stream.completion.output_tokens))
        except ConnectionResetError:
            # The caller has left: an ordinary end of a request, not an error of the server.
            return web.Response(status=499)
        finally:
            replica.cancel(stream)

    async def models(self, request: web.Request) -> web.Response:
        name = self._replica(request).settings.model_name
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "fleetpack"}]})

    async def metrics(self, request: web.Request) -> web.Response:
        replica = self._replica(request)
        replica.move()
        text = replica.metrics.text(replica.engine.counters())
        return web.Response(body=text.encode(), headers={"Content-Type": _METRICS_TYPE})

    async def health(self, request: web.Request) -> web.Response:
        self._replica(request)
        return web.Response()

    def _replica(self, request: web.Request) -> _Replica:
        """Return the replica that was called, or raise the answer that there is none."""
        address = _called_address(request)
        if self._loopback_only and not ipaddress.ip_address(address).is_loopback:
            raise web.HTTPForbidden(text="simulated replicas answer on loopback addresses only")
        found = self._registry.locate(address)
        match found:
            case NoReplica(reason=reason):
                text = json.dumps(_error_content(503, "service_unavailable", reason))
                raise web.HTTPServiceUnavailable(text=text, content_type="application/json")
            case ReplicaAt(identity=identity, settings=settings):
                replica = self._replicas.get(identity)
                if replica is None:
                    replica = self._replicas[identity] = _Replica(settings)
                return replica

    def _gone(self, identity: str) -> None:
        replica = self._replicas.pop(identity, None)
        if replica is not None:
            replica.vanish()


def _called_address(request: web.Request) -> str:
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    if name is None:
        raise web.HTTPServiceUnavailable(text="the connection is gone")
    return plain_address(name[0])


async def _send_stream(request: web.Request, replica: _Replica, stream: _Stream) -> web.StreamResponse:
    await stream.first_token
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    before, after = _chunk_parts(replica, stream.request_id)
    sent_tokens = 0
    while stream.completion is None:
        tokens = replica.engine.generated_tokens(stream.request_id) or 0
        if tokens > sent_tokens:
            await response.write(b"%s%s%s" % (before, b" tok" * (tokens - sent_tokens), after))
            sent_tokens = tokens
        await stream.progress(COALESCE_SECONDS)
        replica.move()
    final = json.dumps(_final(replica, stream.completion, stream.completion.output_tokens - sent_tokens))
    await response.write(b"data: %s\n\ndata: [DONE]\n\n" % final.encode())
    await response.write_eof()
    return response


def _chunk_parts(replica: _Replica, request_id: int) -> tuple[bytes, bytes]:
    """Return what stands before and after the text of each chunk, so that a chunk costs no JSON encoding."""
    head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": int(time.time())}
    content = {
        **head,
        "model": replica.settings.model_name,
        "choices": [{"index": 0, "text": "\0", "finish_reason": None}],
    }
    before, after = json.dumps(content).split(json.dumps("\0")[1:-1])
    return f"data: {before}".encode(), f"{after}\n\n".encode()


def _final(replica: _Replica, completion: Completion, text_tokens: int) -> dict[str, Any]:
    """Return the closing object: OpenAI's fields, and how long the request queued and prefilled."""
    admitted = completion.admitted_seconds
    first = completion.first_token_seconds
    return {
        "id": f"cmpl-{completion.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": replica.settings.model_name,
        "choices": [{"index": 0, "text": " tok" * text_tokens, "finish_reason": completion.reason}],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.output_tokens,
            "total_tokens": completion.prompt_tokens + completion.output_tokens,
        },
        "fleetpack": {
            "queue_seconds": None if admitted is None else admitted - completion.submitted_seconds,
            "prefill_seconds": None if admitted is None or first is None else first - admitted,
        },
    }


def _completion_parameters(body: object) -> tuple[int, int, bool]:
    """Read (prompt tokens, output tokens, streamed). `prompt_tokens` is our extension: a prompt of that length, not sent."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    prompt_tokens, prompt = body.get("prompt_tokens"), body.get("prompt")
    if prompt_tokens is None and isinstance(prompt, str):
        prompt_tokens = max(1, len(prompt) // _CHARACTERS_PER_TOKEN)
    elif prompt_tokens is None and isinstance(prompt, list):
        prompt_tokens = max(1, len(prompt))
    output_tokens = body.get("max_tokens", _DEFAULT_OUTPUT_TOKENS)
    if not _is_count(prompt_tokens):
        raise RequestError(
            "prompt is missing or of the wrong type; give prompt (text or token ids) or prompt_tokens, a count"
        )
    if not _is_count(output_tokens):
        raise RequestError("max_tokens is of the wrong type; it is how many tokens come out, a whole number")
    return prompt_tokens, output_tokens, bool(body.get("stream", False))


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response(_error_content(status, kind, message), status=status)


def _error_content(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": status}}

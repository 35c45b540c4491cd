"""A proxy before a real API server that fails on demand.

It listens on plain HTTP on the loopback and forwards with the credentials of the kubeconfig that it was given, so one proxy is
one user; the client behind it needs none. Without faults it is transparent, watches included (byte for byte, as they come). Faults
are rules: the first one that matches a request and is not used up decides. Everything that passes is recorded.

    async with FaultProxy(kubeconfig) as proxy:
        proxy.inject(RefuseRequest(Match(verb="patch"), status=429, retry_after_seconds=3), times=2)
        proxy.inject(DropEvents(Match(verb="watch", path="/api/v1/pods"), types=("DELETED",)))
        proxy.on_write(7, Moment.AFTER_DELIVERY, kill_the_operator)
        client = KubernetesClient.from_url(proxy.url)

A write whose hook has run is never answered: the connection is cut, as it is when a process dies at that instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio import config as official_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from control_plane.ports import free_ports
from fleetpack.cluster.api_client import let_transports_close

kubernetes_config: Any = official_config

WRITE_VERBS = frozenset({"create", "update", "patch", "delete"})
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length", "authorization"}
)


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request that came by; `status` is None until it is answered, and for good when it never was."""

    verb: str
    path: str
    query: Mapping[str, str]
    user_agent: str
    body: bytes
    content_type: str = ""
    status: int | None = None

    @property
    def is_write(self) -> bool:
        """True for what changes something (a dry run does not)."""
        return self.verb in WRITE_VERBS and "dryRun" not in self.query


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a rule is for; `path` is a regular expression for any part of the path."""

    verb: str | None = None
    path: str = ""

    def __call__(self, record: RequestRecord) -> bool:
        """Say whether the rule is for this request."""
        return (self.verb is None or self.verb == record.verb) and re.search(self.path, record.path) is not None


@dataclass(frozen=True, slots=True)
class RefuseRequest:
    """Answer in the server's place with a Status; nothing is forwarded. 410, 429, 500, ..."""

    match: Match
    status: int
    reason: str = ""
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class SlowAnswer:
    """Forward at once (or only after the wait), answer late."""

    match: Match
    seconds: float
    deliver_first: bool = True


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """Cut the connection instead of answering, after or before the server has seen the request."""

    match: Match
    deliver_first: bool = True


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """Put an ERROR into a watch after so many events, in the form in which the server reports a compaction (410)."""

    match: Match
    code: int = 410
    reason: str = "Expired"
    after_events: int = 0


@dataclass(frozen=True, slots=True)
class CutStream:
    """Cut a watch after so many events, in the middle of a line if asked."""

    match: Match
    after_events: int = 0
    in_the_middle: bool = False


@dataclass(frozen=True, slots=True)
class DropEvents:
    """Lose events of these types (`lost deletes`); the stream looks healthy."""

    match: Match
    types: tuple[str, ...] = ("DELETED",)


@dataclass(frozen=True, slots=True)
class DelayEvents:
    """Hold each line of a watch for so long; very long is a stream that hangs."""

    match: Match
    seconds: float


Fault = RefuseRequest | SlowAnswer | CutAnswer | ErrorEvent | CutStream | DropEvents | DelayEvents


@dataclass(slots=True)
class _Rule:
    fault: Fault
    times: int | None
    used: int = 0


class Moment(StrEnum):
    """Where in a write's life a hook is called."""

    BEFORE_DELIVERY = "before delivery"
    AFTER_DELIVERY = "after delivery"


Hook = Callable[[RequestRecord], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class _WriteHook:
    number: int
    moment: Moment
    hook: Hook


def not_a_lease(record: RequestRecord) -> bool:
    """Leave out leases, whose renewals come by the clock and would make the n-th write another one in each run."""
    return "/apis/coordination.k8s.io/" not in record.path


@dataclass(slots=True)
class FaultProxy:
    """A proxy for one kubeconfig; use as an async context manager."""

    kubeconfig: Path
    counts_as_write: Callable[[RequestRecord], bool] = not_a_lease
    requests: list[RequestRecord] = field(default_factory=list)
    writes_counted: int = 0
    port: int = 0
    """0: a free one is chosen at the first start, and a restart keeps it."""
    _rules: list[_Rule] = field(default_factory=list)
    _write_hooks: list[_WriteHook] = field(default_factory=list)
    _connection: Any = None
    _session: aiohttp.ClientSession | None = None
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> FaultProxy:
        """Start listening."""
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop listening and cut what is open."""
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on the loopback."""
        configuration = Configuration()
        await kubernetes_config.load_kube_config(
            config_file=str(self.kubeconfig), client_configuration=configuration, persist_config=False
        )
        self._connection = ApiClient(configuration)
        connector = aiohttp.TCPConnector(ssl=self._connection.rest_client.ssl_context, limit=0)
        # auto_decompress off: the bytes of the answer go on as they are, with their Content-Encoding.
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            # A line of a watch is as long as its object.
            read_bufsize=2**23,
        )
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # Cancellation: when a client goes away, its watch upstream must go too.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        # Below the ports that the kernel gives to outgoing connections: nobody takes ours while we are stopped.
        candidates = [self.port] if self.port else free_ports([f"candidate {number}" for number in range(8)]).values()
        for port in candidates:
            try:
                await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()
            except OSError:
                continue
            self.port = port
            return
        await self.stop()
        raise RuntimeError(f"the proxy cannot listen on any of the ports {list(candidates)}")

    async def stop(self) -> None:
        """Stop listening; connections end, new ones are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        if self._connection is not None:
            await self._connection.close()
        # aiohttp does not wait for TLS connections that it gave up earlier.
        await let_transports_close()
        self._runner = self._session = self._connection = None

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here, for a program that wants a file."""
        cluster, context = {"server": self.url}, {"cluster": "proxy", "user": "proxy"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": cluster}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": context}],
            "current-context": "proxy",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def inject(self, fault: Fault, *, times: int | None = None) -> None:
        """Add a fault for so many requests; without a number, until `heal`."""
        self._rules.append(_Rule(fault, times))

    def heal(self) -> None:
        """Forget all faults; streams under way keep theirs."""
        self._rules.clear()

    def on_write(self, number: int, moment: Moment, hook: Hook) -> None:
        """Call a hook at the n-th write from now on (1 is the next), then cut the connection without an answer."""
        self._write_hooks.append(_WriteHook(self.writes_counted + number, moment, hook))

    def writes(self) -> list[RequestRecord]:
        """Return the recorded writes that count."""
        return [record for record in self.requests if record.is_write and self.counts_as_write(record)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        record = RequestRecord(
            verb=_verb(request),
            path=request.path,
            query=dict(request.query),
            user_agent=request.headers.get("User-Agent", ""),
            body=await request.read(),
            content_type=request.headers.get("Content-Type", ""),
        )
        self.requests.append(record)
        hook = self._next_hook(record)
        if hook is not None and hook.moment is Moment.BEFORE_DELIVERY:
            await _call(hook.hook, record)
            return _cut(request)
        fault = self._next_fault(record)
        if isinstance(fault, RefuseRequest):
            record.status = fault.status
            return _refusal(fault)
        if isinstance(fault, CutAnswer) and not fault.deliver_first:
            return _cut(request)
        if isinstance(fault, SlowAnswer) and not fault.deliver_first:
            await asyncio.sleep(fault.seconds)
        async with self._forward(request, record.body) as upstream:
            record.status = upstream.status
            if record.verb == "watch" and upstream.status == 200:
                return await _stream(request, upstream, fault)
            body = await upstream.read()
            if hook is not None:
                await _call(hook.hook, record)
                return _cut(request)
            if isinstance(fault, CutAnswer):
                return _cut(request)
            if isinstance(fault, SlowAnswer) and fault.deliver_first:
                await asyncio.sleep(fault.seconds)
            return web.Response(status=upstream.status, headers=_headers(upstream.headers), body=body)

    @contextlib.asynccontextmanager
    async def _forward(self, request: web.Request, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        configuration = self._connection.configuration
        for setting in (await configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = configuration.host + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None) as upstream:
            try:
                yield upstream
            finally:
                # A watch that ends early must be gone upstream as well, at once and with its socket.
                if upstream.connection is not None and upstream.connection.transport is not None:
                    upstream.connection.transport.abort()

    def _next_hook(self, record: RequestRecord) -> _WriteHook | None:
        if not (record.is_write and self.counts_as_write(record)):
            return None
        self.writes_counted += 1
        return next((hook for hook in self._write_hooks if hook.number == self.writes_counted), None)

    def _next_fault(self, record: RequestRecord) -> Fault | None:
        for rule in self._rules:
            if rule.fault.match(record) and (rule.times is None or rule.used < rule.times):
                rule.used += 1
                return rule.fault
        return None


async def _call(hook: Hook, record: RequestRecord) -> None:
    result = hook(record)
    if inspect.isawaitable(result):
        await result


def _verb(request: web.Request) -> str:
    """Name the request as the API server's audit log would, but for `deletecollection`, which nobody here uses."""
    if request.method != "GET":
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
            request.method, request.method.lower()
        )
    if request.query.get("watch") in ("true", "1"):
        return "watch"
    # /api/v1/pods, /apis/g/v1/namespaces/a/things are collections; one part more is an object.
    parts = request.path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    return "list" if len(rest) == 1 else "get"


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the client's connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"injected by the fault proxy: {code} {reason}",
        "reason": reason,
        "code": code,
    }


def _refusal(fault: RefuseRequest) -> web.Response:
    headers = {"Retry-After": str(fault.retry_after_seconds)} if fault.retry_after_seconds is not None else {}
    return web.json_response(_status(fault.status, fault.reason), status=fault.status, headers=headers)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


async def _stream(request: web.Request, upstream: aiohttp.ClientResponse, fault: Fault | None) -> web.StreamResponse:
    """Pass a watch on, line by line, with its fault."""
    response = web.StreamResponse(status=200, headers=_headers(upstream.headers))
    await response.prepare(request)
    passed = 0
    lines = aiter(upstream.content)
    while True:
        if isinstance(fault, ErrorEvent) and passed >= fault.after_events:
            event = {"type": "ERROR", "object": _status(fault.code, fault.reason)}
            await response.write(json.dumps(event).encode() + b"\n")
            break
        if isinstance(fault, CutStream) and passed >= fault.after_events and not fault.in_the_middle:
            return _cut(request)
        line = await anext(lines, None)
        if line is None:
            break
        if isinstance(fault, DropEvents) and json.loads(line)["type"] in fault.types:
            continue
        if isinstance(fault, CutStream) and passed >= fault.after_events:
            await response.write(line[: len(line) // 2])
            return _cut(request)
        if isinstance(fault, DelayEvents):
            await asyncio.sleep(fault.seconds)
        await response.write(line)
        passed += 1
    await response.write_eof()
    return response

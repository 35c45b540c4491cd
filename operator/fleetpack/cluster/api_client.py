"""A thin client for the Kubernetes API: raw JSON in, raw JSON out, one gate for every write.

The official client (`kubernetes.aio`) does credentials, TLS and pooling; its typed models are left aside, because they cost ten
times the CPU of plain JSON on a list of Pods. What this module adds is the discipline of writing. Every write passes the
same gate in the same order: the token bucket (so the wait comes first), then the fence (may a write start *now*?), then the
observer, then the wire with a time-out of 4 s, which the server is told as well. A write is never sent again by us.

Failure: each request ends in one leaf of `errors.KubernetesError`. The difference that callers build on is between what was
surely not delivered (`ConnectionLost`) and what may have been (`DeliveryUnknown`). Retry-After is reported, never slept on. aiohttp
itself repeats a PUT or a DELETE once when a kept-alive connection turns out to be closed; both carry preconditions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config as official_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from fleetpack.cluster.errors import (
    Answer,
    ConfigurationError,
    ConnectionLost,
    DeliveryUnknown,
    KubernetesError,
    WriteFenced,
    error_from_answer,
)
from fleetpack.cluster.rate_limit import RateLimit, TokenBucket

FIELD_MANAGER = "fleetpack"
"""Our name in `metadata.managedFields`."""
USER_AGENT = "fleetpack/v1alpha1"
WRITE_TIMEOUT_SECONDS = 4.0
"""No write of ours lasts longer; the Lease's fence closes this long before the renew deadline."""
READ_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5.0
WATCH_TIMEOUT_SECONDS = 20
"""The server ends a watch after this long. An orderly end proves life as a bookmark does, and bookmarks alone come
only about once a minute (cacher.go, bookmarkFrequency), too rarely for caches that count as stale after 30 s."""
WATCH_INACTIVITY_SECONDS = 27.0
"""A watch that is silent for longer than its own end is dead."""
LIST_PAGE_LIMIT = 500
TLS_GOODBYE_SECONDS = 0.05
"""aiohttp closes its pool without waiting for TLS connections that it gave up earlier (docs.aiohttp.org, graceful shutdown)."""
TLS_GOODBYE_TURNS = 10
"""An aborted connection needs some turns of the event loop to close its socket, and a busy machine may have taken one only by then."""
TOKEN_REFRESH_SECONDS = 300
"""Tokens of exec plugins live for 15 minutes on EKS."""

_logger = logging.getLogger(__name__)

# The official client is annotated only in part.
kubernetes_config: Any = official_config

Json = dict[str, Any]

WriteFence = Callable[[float], bool]
"""Asked with the monotonic time, right before a write is sent: may it start? `LeaseElector.may_write` is one."""


class PatchType(StrEnum):
    """Content types of a PATCH."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    APPLY = "application/apply-patch+yaml"
    STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which objects of a collection, decided by the server."""

    labels: str = ""
    fields: str = ""


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write on its way, as observers see it."""

    number: int
    """Counts from 1, over all clients that share the gate."""
    verb: str
    path: str


class WriteObserver(Protocol):
    """Sees every write: metrics in production, a kill at the n-th write in tests."""

    def before_write(self, write: Write) -> None:
        """Called when the write is about to be sent."""

    def after_write(self, write: Write, error: BaseException | None) -> None:
        """Called when the answer is there, or the failure."""


class SilentObserver:
    """Looks away."""

    def before_write(self, write: Write) -> None:
        """Do nothing."""

    def after_write(self, write: Write, error: BaseException | None) -> None:
        """Do nothing."""


def unfenced(now_seconds: float) -> bool:
    """Let every write start: for the Lease itself, for tools and for tests."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteGate:
    """What every write passes: bucket, fence, observer, and the time it may take."""

    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(RateLimit()))
    fence: WriteFence = unfenced
    observer: WriteObserver = field(default_factory=SilentObserver)
    timeout_seconds: float = WRITE_TIMEOUT_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


def resource_path(
    group_version: str,
    plural: str,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """Return the path of a collection, an object or a subresource: `resource_path("v1", "pods", "default", "a", "status")`."""
    parts = ["api" if "/" not in group_version else "apis", group_version]
    if namespace is not None:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(plural)
    if name is not None:
        parts.append(quote(name, safe=""))
    if subresource is not None:
        if name is None:
            raise ValueError(f"resource_path: subresource {subresource!r} of {plural} needs a name")
        parts.append(subresource)
    return "/" + "/".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One HTTP request, ready to be sent."""

    verb: str
    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"


async def let_transports_close() -> None:
    """Give connections that were closed or aborted the time and the turns of the event loop that they need to be gone."""
    await asyncio.sleep(TLS_GOODBYE_SECONDS)
    for _ in range(TLS_GOODBYE_TURNS):
        await asyncio.sleep(0)


class KubernetesClient:
    """Reads and writes of one user at one API server; make it in a running event loop, close it once."""

    def __init__(self, connection: ApiClient, *, gate: WriteGate | None = None) -> None:
        self._connection: Any = connection
        self.configuration: Configuration = connection.configuration
        """The official client's configuration: host, credentials, TLS files."""
        self._gate = gate if gate is not None else WriteGate()
        self._refresher: asyncio.Task[None] | None = None

    @classmethod
    async def from_kubeconfig(cls, path: str | Path | None = None) -> KubernetesClient:
        """Connect with a kubeconfig; without a path: in-cluster credentials where there are some, else KUBECONFIG."""
        configuration = Configuration()
        in_cluster = path is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        try:
            if in_cluster:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
                return cls(_connect(configuration))
            file = str(path or os.environ.get("KUBECONFIG") or kubernetes_config.KUBE_CONFIG_DEFAULT_LOCATION)
            loader = await kubernetes_config.load_kube_config(
                config_file=file, client_configuration=configuration, persist_config=False
            )
        except kubernetes_config.ConfigException as error:
            source = "the Pod's service account" if in_cluster else f"kubeconfig {file!r}"
            raise ConfigurationError(
                f"cannot use {source}: {error}; pass --kubeconfig, or set KUBECONFIG to a readable file"
            ) from error
        client = cls(_connect(configuration))
        client._refresher = asyncio.create_task(_refresh_token(loader, configuration), name="kubeconfig-token-refresh")
        return client

    @classmethod
    def from_url(cls, url: str, *, gate: WriteGate | None = None) -> KubernetesClient:
        """Connect without credentials, to a server or proxy that asks for none."""
        return cls(_connect(Configuration(host=url)), gate=gate)

    def with_writes(
        self,
        *,
        fence: WriteFence | None = None,
        limit: RateLimit | None = None,
        observer: WriteObserver | None = None,
    ) -> KubernetesClient:
        """Return a client over the same connections with another gate; what is not given stays as it is here.

        A new limit brings a bucket of its own. Only the client first made is to be closed.
        """
        gate = self._gate
        if fence is not None:
            gate = replace(gate, fence=fence)
        if limit is not None:
            gate = replace(gate, bucket=TokenBucket(limit, monotonic=gate.monotonic))
        if observer is not None:
            gate = replace(gate, observer=observer)
        return KubernetesClient(self._connection, gate=gate)

    async def close(self) -> None:
        """Close the connections of this client and of all made from it."""
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        await self._connection.close()
        await let_transports_close()

    async def __aenter__(self) -> KubernetesClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def get(self, path: str, *, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> Json:
        """Read one object."""
        return await self._send(_Call(verb="get", method="GET", path=path), timeout_seconds)

    async def list(
        self,
        path: str,
        *,
        selector: Selector | None = None,
        limit: int = LIST_PAGE_LIMIT,
        resource_version: str | None = None,
        continue_token: str | None = None,
    ) -> Json:
        """Read one page of a collection; without a resourceVersion it is the most recent state (a consistent read)."""
        query: Json = {"limit": limit, **_selector_query(selector)}
        if continue_token is not None:
            # The token carries the resourceVersion; the server refuses both together.
            query["continue"] = continue_token
        elif resource_version is not None:
            query["resourceVersion"] = resource_version
        return await self._send(_Call(verb="list", method="GET", path=path, query=query), READ_TIMEOUT_SECONDS)

    async def list_all(self, path: str, *, selector: Selector | None = None) -> Json:
        """Read all pages of a collection into one list object."""
        whole = page = await self.list(path, selector=selector)
        items = list_items(page)
        while token := page["metadata"].get("continue"):
            page = await self.list(path, selector=selector, continue_token=token)
            items += list_items(page)
        return {**whole, "items": items}

    @contextlib.asynccontextmanager
    async def watch(
        self,
        path: str,
        resource_version: str,
        *,
        selector: Selector | None = None,
        timeout_seconds: int = WATCH_TIMEOUT_SECONDS,
        inactivity_seconds: float = WATCH_INACTIVITY_SECONDS,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow a collection: `async with client.watch(...) as events: async for type, object in events`.

        Entering means that the server accepted the watch. The iterator ends when the server ends the watch in order,
        and raises on an ERROR event (410: `Expired`), on silence and on a broken stream (`ConnectionLost`).
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            # The server refuses anything but an integer here.
            "timeoutSeconds": int(timeout_seconds),
            **_selector_query(selector),
        }
        call = _Call(verb="watch", method="GET", path=path, query=query)
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=2 * CONNECT_TIMEOUT_SECONDS,
            sock_connect=CONNECT_TIMEOUT_SECONDS,
            sock_read=inactivity_seconds,
        )
        response = await self._open(call, timeout)
        try:
            if response.status != 200:
                raise await _answer_error(call, response)
            events = _watch_events(call, response)
            try:
                yield events
            finally:
                await events.aclose()
        finally:
            # The stream may be anywhere: the connection is not fit for another request, and needs no goodbye.
            transport = response.connection.transport if response.connection is not None else None
            response.close()
            if transport is not None:
                transport.abort()

    async def create(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """Create an object in a collection, or a subresource such as `pods/NAME/binding`."""
        query: Json = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        return await self._write(_Call(verb="create", method="POST", path=path, query=query, body=body))

    async def replace(self, path: str, body: Json) -> Json:
        """Replace an object; `metadata.resourceVersion` in the body makes it conditional, which is the point."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write(_Call(verb="update", method="PUT", path=path, query=query, body=body))

    async def patch(
        self,
        path: str,
        body: Any,
        *,
        content_type: PatchType = PatchType.MERGE,
        field_manager: str = FIELD_MANAGER,
        force: bool = False,
    ) -> Json:
        """Change some fields; `metadata.resourceVersion` in the body makes it conditional (`Conflict` when it is another).

        It tells a recreated object from the old one too. A wrong `metadata.uid` and a failed JSON patch test are `Invalid`.
        """
        query: Json = {"fieldManager": field_manager, **({"force": "true"} if force else {})}
        call = _Call(verb="patch", method="PATCH", path=path, query=query, body=body, content_type=content_type.value)
        return await self._write(call)

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_seconds: int | None = None,
        propagation_policy: str | None = None,
    ) -> Json:
        """Delete an object, on condition that it still is the one with this UID and this resourceVersion (else `Conflict`)."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {key: value for key, value in preconditions.items() if value is not None} or None,
            "gracePeriodSeconds": grace_period_seconds,
            "propagationPolicy": propagation_policy,
        }
        body = {key: value for key, value in options.items() if value is not None}
        return await self._write(_Call(verb="delete", method="DELETE", path=path, body=body))

    async def _write(self, call: _Call) -> Json:
        """Pass the gate, then send: the only way to a changing request."""
        gate = self._gate
        await gate.bucket.acquire()
        if not gate.fence(gate.monotonic()):
            raise WriteFenced(
                call.verb, call.path, "not started: this process may not be the Lease holder when it ends"
            )
        write = Write(number=next(gate.numbers), verb=call.verb, path=call.path)
        gate.observer.before_write(write)
        # The server gives up at the same time as we do, so that no write of ours is stored later than the fence allows.
        bounded = replace(call, query={**call.query, "timeout": f"{gate.timeout_seconds:g}s"})
        try:
            answer = await self._send(bounded, gate.timeout_seconds)
        except BaseException as error:
            gate.observer.after_write(write, error)
            raise
        gate.observer.after_write(write, None)
        return answer

    async def _send(self, call: _Call, timeout_seconds: float) -> Json:
        """Send one request and return the decoded body of a success."""
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        )
        response = await self._open(call, timeout)
        async with response:
            if response.status >= 300:
                raise await _answer_error(call, response)
            try:
                answer = json.loads(await response.read())
                if not isinstance(answer, dict):
                    raise TypeError(f"the answer is no JSON object but {type(answer).__name__}")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError) as error:
                raise _transport_error(call, error) from error
        return answer

    async def _open(self, call: _Call, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send a request and return the response with its body unread."""
        headers = {"Accept": "application/json", "Content-Type": call.content_type, "User-Agent": USER_AGENT}
        credentials: Any = await self.configuration.auth_settings()
        for setting in credentials.values():
            headers[setting["key"]] = setting["value"]
        url = self.configuration.host + call.path + ("?" + urlencode(call.query) if call.query else "")
        try:
            answer = await self._connection.rest_client.request(
                call.method, url, headers=headers, body=call.body, _request_timeout=limits
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _transport_error(call, error) from error
        response: aiohttp.ClientResponse = answer.response
        return response


def list_items(page: Json) -> list[Json]:
    """Return the items of a list object; an empty collection may come as null."""
    return list(page.get("items") or ())


def _connect(configuration: Configuration) -> ApiClient:
    if re.match(r"https?://(127\.|localhost\b|\[::1\])", configuration.host):
        # Go programs never ask HTTP_PROXY for a way to the loopback; aiohttp would.
        configuration.client_session_kwargs = {"trust_env": False}
    return ApiClient(configuration)


def _selector_query(selector: Selector | None) -> Json:
    if selector is None:
        return {}
    query = {"labelSelector": selector.labels, "fieldSelector": selector.fields}
    return {key: value for key, value in query.items() if value}


async def _watch_events(call: _Call, response: aiohttp.ClientResponse) -> AsyncGenerator[WatchEvent, None]:
    try:
        async for line in _lines(response.content):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise error_from_answer(
                    call.verb, call.path, Answer(status=int(status.get("code") or 500), body=status)
                )
            yield WatchEvent(event["type"], event["object"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        raise _transport_error(call, error) from error


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Split a stream into lines of any length: an object of 1.5 MB in etcd's protobuf is larger as JSON."""
    pending: list[bytes] = []
    async for chunk in content.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((*pending, end))
            pending.clear()
        if rest:
            pending.append(rest)
    if pending:
        yield b"".join(pending)


async def _answer_error(call: _Call, response: aiohttp.ClientResponse) -> KubernetesError:
    try:
        raw = await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        # The status line alone says what kind of failure it is.
        raw = b""
    try:
        body = json.loads(raw)
    except ValueError:
        body = {}
    retry_after = response.headers.get("Retry-After", "")
    answer = Answer(
        status=response.status,
        body=body if isinstance(body, dict) else {},
        text=raw.decode(errors="replace").strip(),
        # The other form of the header, a date, is not used by Kubernetes.
        retry_after_seconds=float(retry_after) if retry_after.isdigit() else None,
    )
    return error_from_answer(call.verb, call.path, answer)


def _transport_error(call: _Call, error: Exception) -> KubernetesError:
    """Return what a failure below HTTP means: surely not delivered, or unknown."""
    never_connected = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if call.method == "GET":
        return ConnectionLost(call.verb, call.path, message)
    if never_connected:
        return ConnectionLost(call.verb, call.path, f"not delivered: {message}")
    return DeliveryUnknown(call.verb, call.path, f"sent, and no answer: {message}")


async def _refresh_token(loader: Any, configuration: Configuration) -> None:
    """Run exec plugins again before their tokens expire; ends at once for credentials that do not."""
    while True:
        try:
            await kubernetes_config.refresh_token(loader, configuration, interval=TOKEN_REFRESH_SECONDS)
            return
        except Exception as error:
            # The old token may still be good for a while; requests will say so when it is not.
            _logger.warning("cannot refresh the kubeconfig's token, trying again: %s", error)
            await asyncio.sleep(TOKEN_REFRESH_SECONDS / 10)

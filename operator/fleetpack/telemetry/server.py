"""The port for machines: `/metrics`, `/livez`, `/readyz`.

A probe is a function that says whether one thing is well, and a sentence about it; it must answer at once from what is known.
The answer names every check, so `kubectl get --raw` or a look at the kubelet's event shows which one failed and why: 200 when
all are well, 503 otherwise. No checks is well: a process that answers lives.

Boundary: no authentication, nothing secret is served. Without a host it listens on every address, of IPv4 and of IPv6; a host that is
named is taken as named. A probe that raises is a failed one. A port that is taken raises `OSError` at the start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from fleetpack.listening import EVERY_ADDRESS, listening_socket

Probe: TypeAlias = Callable[[], tuple[bool, str]]
"""Whether it is well, and a sentence for people."""

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHUTDOWN_SECONDS = 1.0
"""A scrape under way may finish; the process must not hang on a client that does not read."""


@asynccontextmanager
async def serve_telemetry(
    registry: CollectorRegistry,
    *,
    live: Mapping[str, Probe],
    ready: Mapping[str, Probe],
    host: str = EVERY_ADDRESS,
    port: int = 8080,
) -> AsyncIterator[int]:
    """Serve while the context is open; gives the port, which is a free one where 0 was asked for."""
    application = web.Application()
    application.router.add_get("/metrics", _metrics_handler(registry))
    application.router.add_get("/livez", _probe_handler(live))
    application.router.add_get("/readyz", _probe_handler(ready))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False)
    await runner.setup()
    try:
        await _site(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, host: str, port: int) -> web.BaseSite:
    return web.TCPSite(runner, host, port) if host else web.SockSite(runner, listening_socket(port))


def _metrics_handler(registry: CollectorRegistry) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return handle


def _probe_handler(probes: Mapping[str, Probe]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        del request
        results = [(name, *_ask(probe)) for name, probe in sorted(probes.items())]
        well = all(ok for _, ok, _ in results)
        checks = [{"name": name, "ok": ok, "message": message} for name, ok, message in results]
        return web.json_response({"ok": well, "checks": checks}, status=200 if well else 503)

    return handle


def _ask(probe: Probe) -> tuple[bool, str]:
    try:
        return probe()
    except Exception as error:  # a probe that cannot tell has failed, and the others still count
        return False, f"the check itself failed: {type(error).__name__}: {error}"

"""Runs beside the device plugin in its Pod: a way to the API server on which watches are late and lists are slow.

Concept: every request goes on with the Pod's own token. Each line of a watch of Pods is passed on WATCH_DELAY_SECONDS after it came,
whatever comes before or behind it, as a slow network would; a list of Pods is answered after LIST_DELAY_SECONDS, so that the
kubelet's question to the plugin takes as long.
Boundary: plain HTTP on the Pod's loopback. Failure: what the API server refuses is passed on; a connection that breaks is cut.
"""

import asyncio
import os
import ssl
import time
from pathlib import Path

import aiohttp
from aiohttp import web

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
WATCH_DELAY_SECONDS = float(os.environ["WATCH_DELAY_SECONDS"])
LIST_DELAY_SECONDS = float(os.environ["LIST_DELAY_SECONDS"])
PODS = "/api/v1/pods"


async def handle(request):
    session = request.app["session"]
    headers = {
        "Authorization": f"Bearer {(FOLDER / 'token').read_text().strip()}",
        **{name: request.headers[name] for name in ("Content-Type", "Accept", "User-Agent") if name in request.headers},
    }
    watch, pods = "watch" in request.query, request.path == PODS
    async with session.request(
        request.method, SERVER + request.path_qs, data=await request.read(), headers=headers
    ) as answer:
        kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
        if not watch or answer.status != 200:
            body = await answer.read()
            if pods:
                await asyncio.sleep(LIST_DELAY_SECONDS)
            return web.Response(status=answer.status, headers=kind, body=body)
        response = web.StreamResponse(status=200, headers=kind)
        await response.prepare(request)
        await pass_on(answer, response, WATCH_DELAY_SECONDS if pods else 0.0)
        return response


async def pass_on(answer, response, delay_seconds):
    lines = asyncio.Queue()

    async def receive():
        try:
            async for line in answer.content:
                lines.put_nowait((time.monotonic() + delay_seconds, line))
        finally:
            lines.put_nowait((time.monotonic() + delay_seconds, None))

    receiving = asyncio.create_task(receive())
    try:
        while True:
            due, line = await lines.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if line is None:
                break
            await response.write(line)
    finally:
        receiving.cancel()
    await response.write_eof()


async def connect(application):
    context = ssl.create_default_context(cafile=str(FOLDER / "ca.crt"))
    application["session"] = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=2**23,
    )
    yield
    await application["session"].close()


application = web.Application()
application.cleanup_ctx.append(connect)
application.router.add_route("*", "/{path:.*}", handle)
web.run_app(application, host="127.0.0.1", port=8098, handler_cancellation=True, access_log=None, print=None)

"""Servers of a test that run in threads of their own: a number that is asked for over HTTP, and the fault proxy.

Concept: end-to-end tests are plain sequences of steps; what must answer while they wait lives here. Boundary: start, stop, and
values that a test sets from outside. Failure: what does not start raises at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_proxy import FaultProxy


class Queue:
    """A queue somewhere else, as an operator sees it: `{"waiting": n}` at `url`; None: it does not answer."""

    def __init__(self, waiting: int | None = 0) -> None:
        self.waiting = waiting
        self.asked = 0
        queue = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                queue.asked += 1
                waiting = queue.waiting
                body = json.dumps({"waiting": waiting}).encode() if waiting is not None else b"out of order"
                self.send_response(503 if waiting is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                # Who asks may have gone: an operator that is ended in the middle of its question.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where the number is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/queue"

    def __enter__(self) -> Queue:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


@dataclass(slots=True)
class ThreadedProxy(FaultProxy):
    """A fault proxy in a thread; `inject`, `heal` and `on_write` may be called from another."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Cut every connection and refuse new ones while the block runs."""
        self.wait_for(self.stop())
        try:
            yield
        finally:
            self.wait_for(self.start())

    def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a piece of work in the proxy's thread and wait for its end."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=120.0)


@contextlib.contextmanager
def proxy_running(kubeconfig: Path) -> Iterator[ThreadedProxy]:
    """Run a fault proxy in a thread of its own."""
    proxy = ThreadedProxy(kubeconfig)
    thread = threading.Thread(target=proxy.loop.run_forever, daemon=True)
    thread.start()
    try:
        proxy.wait_for(proxy.start())
        yield proxy
    finally:
        proxy.wait_for(proxy.stop())
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
        thread.join(timeout=120.0)
        proxy.loop.close()

"""The metrics page of a Pod, read over HTTP.

One session serves all Pods and keeps one connection to each. It is aiohttp's: with 500 kept connections a shared httpx pool
took 88 ms of CPU per read (it asks every idle socket whether it is still open, on each request), httpx with a new connection per
read 1.1 ms, aiohttp 0.2 ms (loopback, a page of 7.5 KB; tests/signals/benchmark_pod_metrics.py measures whole reads).

Boundary: exactly one GET to the address given, no proxy, no redirect (a Pod must not send the operator elsewhere), no cookie, a
bounded body. What goes wrong becomes the sample's `error`; the time limit is the reader's.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from fleetpack.core.samples import Sample
from fleetpack.signals.answers import ReadError, describe, failed, page_read
from fleetpack.signals.exposition import PageError, read_page
from fleetpack.signals.targets import PodTarget

MAXIMUM_PAGE_BYTES = 4 * 1024 * 1024
"""Engines answer some tens of kilobytes; what is far above is no metrics page, and must not fill our memory."""

KEPT_CONNECTION_SECONDS = 30.0
"""Longer than any interval in use, so that a connection serves the next read."""

_HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity", "User-Agent": "fleetpack"}


def new_session() -> aiohttp.ClientSession:
    """Return a session as this source wants it; to be called within the running loop, closed by the caller."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=2, keepalive_timeout=KEPT_CONNECTION_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
    )


class PodMetricsSource:
    """Reads `PodTarget`s."""

    def __init__(self, session: aiohttp.ClientSession, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock

    async def read(self, target: PodTarget) -> Sample:
        """Read one page once."""
        host = f"[{target.address}]" if ":" in target.address else target.address
        url = f"http://{host}:{target.port}{target.path}"
        try:
            page = await self._fetch(url)
            observed_at = self._clock()
            return page_read(target, observed_at, read_page(page, target.names))
        except (aiohttp.ClientError, OSError, ValueError, PageError, ReadError) as error:
            return failed(target, self._clock(), f"{url}: {describe(error)}")

    async def _fetch(self, url: str) -> str:
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ReadError(f"answered {response.status} {response.reason or ''}".rstrip())
            page = bytearray()
            async for chunk in response.content.iter_any():
                page += chunk
                if len(page) > MAXIMUM_PAGE_BYTES:
                    response.close()
                    raise ReadError(
                        f"answered more than {MAXIMUM_PAGE_BYTES // 1024 // 1024} MiB, which is no metrics page"
                    )
            return page.decode("utf-8", errors="replace")

"""One JSON document over HTTP, for the sources outside the Pods.

Boundary: one GET, no redirect (credentials must not follow one), a bounded body, JSON. `ReadError` says what came instead.
httpx does it, with a new connection each time: its pool asks all idle sockets on each request, and these sources are few.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

from fleetpack.signals.answers import ReadError
from fleetpack.signals.targets import BasicCredentials, BearerToken, Credentials

MAXIMUM_DOCUMENT_BYTES = 1024 * 1024
"""One number is wanted; a document above this is the wrong one."""


def new_client() -> httpx.AsyncClient:
    """Return a client as these sources want it; closed by the caller. Time limits are the reader's."""
    return httpx.AsyncClient(
        timeout=None,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"Accept": "application/json", "User-Agent": "fleetpack"},
        trust_env=False,
        follow_redirects=False,
    )


async def fetch_document(client: httpx.AsyncClient, url: httpx.URL, credentials: Credentials | None) -> tuple[int, Any]:
    """Return status code and document; a body that is no JSON is None where the status already tells of a failure."""
    headers, authentication = _authorization(credentials)
    async with client.stream("GET", url, headers=headers, auth=authentication) as response:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAXIMUM_DOCUMENT_BYTES:
                raise ReadError(f"answered more than {MAXIMUM_DOCUMENT_BYTES // 1024} KiB, where one number is wanted")
    try:
        return response.status_code, json.loads(body)
    except (ValueError, RecursionError):
        if response.status_code != 200:
            return response.status_code, None
        raise ReadError(f"answered no JSON but {bytes(body[:60])!r}") from None


def _authorization(credentials: Credentials | None) -> tuple[dict[str, str], httpx.BasicAuth | None]:
    match credentials:
        case None:
            return {}, None
        case BearerToken(token=token):
            return {"Authorization": f"Bearer {token}"}, None
        case BasicCredentials(username=username, password=password):
            return {}, httpx.BasicAuth(username, password)

"""What kopf does with our settings."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from unittest.mock import Mock

import aiohttp
import kopf
import pytest
from kopf._cogs.clients import api

from fleetpack.cluster.handlers import configure
from virtual_time import in_virtual_time

OUTAGE_SECONDS = 3600.0


class Server:
    """Refuses connections for an hour, then answers."""

    closed = False

    def __init__(self) -> None:
        self.up_at = asyncio.get_running_loop().time() + OUTAGE_SECONDS
        self.asked = 0

    async def request(self, **request: Any) -> Any:
        self.asked += 1
        if asyncio.get_running_loop().time() < self.up_at:
            raise aiohttp.ClientConnectionError("refused")
        return Mock(status=200)


@in_virtual_time
async def test_should_wait_for_an_api_server_that_is_away_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    server, settings = Server(), kopf.OperatorSettings()
    configure(settings)
    context: Any = Mock(server="https://192.0.2.1", session=server)
    path, logger = "/apis/fleetpack.dev/v1alpha1", logging.getLogger("test")

    await api.request("get", path, settings=settings, context=context, logger=logger)
    await api.request("get", path, settings=settings, context=context, logger=logger)

    # Every quarter of a minute once the first tries are over.
    assert 240 <= server.asked <= 250

"""Waiting in asynchronous tests: until something is true, or a limit with a message."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

WAIT_LIMIT_SECONDS = 120.0
"""A limit tells a failure from a wait for ever, not quick from slow: on a busy machine what takes half a second may take twenty."""


async def eventually(
    condition: Callable[[], Any], *, within_seconds: float = WAIT_LIMIT_SECONDS, what: str = "the condition"
) -> None:
    """Wait until the condition is truthy; fail after the limit."""
    deadline_seconds = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline_seconds:
            raise AssertionError(f"{what} did not come about within {within_seconds:g} s")
        await asyncio.sleep(0.01)

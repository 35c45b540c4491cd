"""How soon a step in an engine's queue becomes a new Pod, on the real control plane.

Each step has a deployment of its own with one ready replica. At a random phase of the operator's tick a burst of real requests goes to
that replica, more than its batch holds; the clock runs from just before the burst until the watch delivers the new Pod as ADDED.
"""

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.fleet import Fleet, model_manifest
from benchmarks.results import Figure, median, percentile

STEPS = 30
BURST_REQUESTS = 60
STEP_LIMIT_SECONDS = 15.0
SEED = 20261124


async def measure(folder: Path) -> list[Figure]:
    """Return the figures of this machine."""
    drawn = random.Random(SEED)
    models = [f"step-{index:02d}" for index in range(STEPS)]
    async with Fleet.running(folder, "bench", nodes=8) as fleet:
        for name in models:
            await fleet.apply(model_manifest(name, maximum_replicas=2, startup_seconds=1))
        await fleet.until(lambda: all(fleet.ready_pods(name) for name in models), "every model has its first replica")
        # The operator has read every replica at least once: what follows is a step, not a first look.
        await asyncio.sleep(6.0)
        seconds = []
        for name in models:
            await asyncio.sleep(drawn.uniform(0.0, 2.0))
            seconds.append(await _step(fleet, name))
    detail = f"{STEPS} steps, seed {SEED}: " + " ".join(f"{one:.2f}" for one in seconds)
    return [
        Figure(name="reaction_p50_seconds", value=median(seconds), detail=detail),
        Figure(name="reaction_p95_seconds", value=percentile(seconds, 0.95), detail=f"largest {max(seconds):.2f}"),
    ]


async def _step(fleet: Fleet, name: str) -> float:
    """Send one burst and return the seconds until the second Pod was seen."""
    (pod,) = fleet.ready_pods(name)
    added = fleet.next_added(name)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.monotonic()
        requests = [asyncio.create_task(_hold(session, pod)) for _ in range(BURST_REQUESTS)]
        try:
            seen_at = await asyncio.wait_for(added, STEP_LIMIT_SECONDS)
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
    return seen_at - started


async def _hold(session: aiohttp.ClientSession, pod: dict[str, Any]) -> None:
    """Send one long request and read its stream until cancelled."""
    url = f"http://{pod['status']['podIP']}:8000/v1/completions"
    body = {"model": "m", "prompt_tokens": 500, "max_tokens": 400, "stream": True}
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(url, json=body) as response:
            async for _ in response.content.iter_any():
                pass

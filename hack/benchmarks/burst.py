"""Two hundred replicas at once, and a scale-down in the middle: the riskiest seam of creating Pods oneself.

First 200 replicas of one core are asked for on an empty fleet, and the clock runs until the watch has delivered the 200th Pod. Then, on
another model, 200 are asked for and 50 when half of them have been seen: the fleet must come to rest at exactly 50, with no core
given twice at any moment (the independent checker looks at all of it).
"""

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet import Fleet, model_manifest
from benchmarks.results import Figure

REPLICAS = 200
FEWER = 50


async def measure(folder: Path) -> list[Figure]:
    """Return the figures of this machine."""
    async with Fleet.running(folder, "bench", nodes=20) as fleet:
        await fleet.apply(_model("up", 1))
        await fleet.until(lambda: bool(fleet.ready_pods("up")), "the first replica is ready")
        # Nodes boot at once here, but they must be there: their launch is not what is measured.
        await fleet.apply(_model("warm", REPLICAS))
        await fleet.until(lambda: len(fleet.pods("warm")) == REPLICAS, f"{REPLICAS} Pods of warm")
        await fleet.apply(_model("warm", 1))
        await fleet.until(lambda: len(fleet.pods("warm")) == 1, "one Pod of warm", limit_seconds=120.0)
        started = time.monotonic()
        await fleet.apply(_model("up", REPLICAS))
        await fleet.until(lambda: len(fleet.pods("up")) == REPLICAS, f"{REPLICAS} Pods of up")
        took = time.monotonic() - started
        await fleet.apply(_model("up", 1))
        await fleet.until(lambda: len(fleet.pods("up")) == 1, "one Pod of up", limit_seconds=120.0)
        await fleet.apply(_model("turn", REPLICAS))
        await fleet.until(lambda: len(fleet.pods("turn")) >= REPLICAS // 2, "half of the Pods of turn")
        turned = time.monotonic()
        await fleet.apply(_model("turn", FEWER))
        await fleet.until(lambda: len(fleet.pods("turn")) == FEWER, f"{FEWER} Pods of turn", limit_seconds=120.0)
        rested = time.monotonic() - turned
        await asyncio.sleep(5.0)
        report = fleet.world.recorder.report(time.time())
        left = len(fleet.pods("turn"))
    wrong = len(report.violations) + abs(left - FEWER)
    detail = f"{report.placements_checked} placements checked, {left} Pods left; " + "; ".join(
        str(violation) for violation in report.violations[:3]
    )
    return [
        Figure(name="create_200_replicas_seconds", value=took),
        Figure(name="turn_round_200_to_50_seconds", value=rested, detail="from the new number until 50 Pods are left"),
        Figure(name="burst_violations", value=wrong, detail=detail),
    ]


def _model(name: str, replicas: int) -> dict[str, Any]:
    manifest = model_manifest(name, maximum_replicas=REPLICAS, startup_seconds=1)
    manifest["spec"] |= {"mode": "Manual", "replicas": replicas, "disruption": {"drain": "1s"}}
    manifest["spec"]["variants"][0]["cores"] = 1
    return manifest

"""How much the operator writes when nothing happens: at rest, and under a constant load.

The count is the API server's own: `apiserver_request_total` by verb and resource, of the resources that only the operator writes; the
audit log names the user and says which writes they were. The Lease is left out, and so are status writes that move coarse numbers
only, of which one per object in thirty seconds is allowed.
"""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.fleet import OPERATOR_USER, Fleet, model_manifest
from benchmarks.results import Figure
from control_plane.api_client import ApiClient
from control_plane.folders import cluster_folder
from demonstration.processes import DemoProcess

WRITES = ("POST", "PUT", "PATCH", "DELETE")
OURS = ("inferencedeployments", "acceleratorpools", "services", "poddisruptionbudgets", "events")
COARSE_SECONDS = 30.0


async def measure(folder: Path, seconds: float, warm_up_seconds: float) -> list[Figure]:
    """Return the number of writes in each of the two situations."""
    async with Fleet.running(folder, "bench", nodes=4) as fleet:
        models = ("steady-a", "steady-b")
        for name in models:
            await fleet.apply(model_manifest(name, maximum_replicas=8, startup_seconds=3))
        await fleet.until(lambda: all(fleet.ready_pods(name) for name in models), "both models have a replica")
        await asyncio.sleep(45.0)
        idle = await _count(fleet, seconds)
        loads = [
            await _load(folder, fleet, name, rate, warm_up_seconds + seconds + 30)
            for name, rate in zip(models, (3, 5), strict=True)
        ]
        await asyncio.sleep(warm_up_seconds)
        loaded = await _count(fleet, seconds)
        for load in loads:
            await load.end()
    return [
        Figure(name="writes_idle", value=idle[0], detail=idle[1]),
        Figure(name="writes_constant_load", value=loaded[0], detail=loaded[1]),
    ]


async def _load(folder: Path, fleet: Fleet, name: str, rate: float, seconds: float) -> DemoProcess:
    return await DemoProcess.start(
        f"load-{name}",
        folder,
        "fleetpack-sim",
        "load",
        "--generator=constant",
        f"--option=rate_per_second={rate}",
        f"--option=duration_seconds={seconds}",
        f"--deployment=default/{name}",
        f"--kubeconfig={fleet.admin}",
    )


async def _count(fleet: Fleet, seconds: float) -> tuple[int, str]:
    """Return the writes that should not have been, and what all of them were."""
    audit_log = cluster_folder("bench") / "audit.log"
    before, position = _requests(fleet.admin), audit_log.stat().st_size
    await asyncio.sleep(seconds)
    after = _requests(fleet.admin)
    by_metrics = {key: int(after[key] - before.get(key, 0)) for key in after if after[key] > before.get(key, 0)}
    with audit_log.open("rb") as file:
        file.seek(position)
        events = [json.loads(line) for line in file.read().splitlines() if line.endswith(b"}")]
    writes = [_what(event) for event in events if _is_write(event)]
    coarse = [write for write in writes if write[0].endswith("/status")]
    allowed_each = int(seconds / COARSE_SECONDS) + 1
    excess = sum(max(0, count - allowed_each) for count in Counter(write[1] for write in coarse).values())
    others = [write for write in writes if write not in coarse]
    detail = (
        f"{seconds:.0f} s; by the API server's metrics: {by_metrics or 'none'}; by the audit log: {len(coarse)} coarse status "
        f"writes, {len(others)} others {Counter(write[0] for write in others) or ''}"
    )
    return len(others) + excess, detail


def _requests(kubeconfig: Path) -> dict[str, float]:
    """Return writes per verb and resource from the API server's metrics."""
    with ApiClient(kubeconfig) as client:
        page = client.request_text("GET", "/metrics")
    counts: dict[str, float] = {}
    for line in page.splitlines():
        match = re.match(r"apiserver_request_total\{([^}]*)\} (\S+)", line)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            ours = labels.get("resource") in OURS or (
                labels.get("resource") in ("pods", "nodes")
                and not labels.get("subresource")
                and labels.get("verb") != "PATCH"
            )
            if labels.get("verb") in WRITES and ours:
                key = "/".join(filter(None, (labels["verb"], labels["resource"], labels.get("subresource"))))
                counts[key] = counts.get(key, 0.0) + float(match[2])
    return counts


def _is_write(event: dict[str, Any]) -> bool:
    return (
        event.get("user", {}).get("username") == OPERATOR_USER
        and event.get("stage") == "ResponseComplete"
        and event.get("verb") in ("create", "update", "patch", "delete")
        and event.get("objectRef", {}).get("resource") != "leases"
    )


def _what(event: dict[str, Any]) -> tuple[str, str]:
    reference = event["objectRef"]
    kind = "/".join(filter(None, (event["verb"], reference["resource"], reference.get("subresource"))))
    return kind, f"{reference.get('namespace', '')}/{reference.get('name', '')}"

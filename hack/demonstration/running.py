"""The demo from the first process to the summary, in stages that each say what they are doing.

Concept: cluster with operator, manifests, load, quiet end, check; where that runs is the site's business (`site.py`). Boundary:
everything that is decided is decided by the operator; here things are only started, followed and counted. Failure: a process of ours
that ends early, a fleet that does not come up in time, or a cluster that does not answer ends the demo with exit code 2 and the
reason; a broken invariant or a load that was replayed too late ends it with 1.
"""

import asyncio
import contextlib
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live

from control_plane.api_client import ApiClient
from control_plane.folders import cluster_folder
from demonstration.picture import COLOURS, Frame, ModelLine, draw, save_picture
from demonstration.site import Load, Site
from demonstration.summary import DemoSummary, summarize
from demonstration.world import PATHS, World
from fleetpack.cluster.api_client import KubernetesClient
from installation import apply_file

READY_LIMIT_SECONDS = 90.0
QUIET_SECONDS = 52.0
"""After the load: long enough for the surplus to be given up and for empty nodes to go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the demo runs."""

    trace: Path | None = None
    keep: bool = False
    plain: bool = False
    picture_path: Path | None = None


@dataclass(slots=True)
class Demo:
    """One run of the demo."""

    site: Site
    options: Options
    console: Console
    folder: Path
    world: World = field(default_factory=World)
    history: dict[str, deque[int]] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    started_at: float = field(default_factory=time.monotonic)
    stage: str = ""
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _loads: dict[str, Load] = field(default_factory=dict)

    async def run(self) -> DemoSummary:
        """Run the demo; returns what happened."""
        self._say(self.site.about_start)
        try:
            await self.site.bring_up(self._say)
            async with self._stack, await KubernetesClient.from_kubeconfig(self.site.admin) as client:
                for resource in PATHS:
                    await self._background(self.world.follow(client, resource))
                await self._background(self._follow_metrics())
                async with self._picture():
                    return await self._act()
        finally:
            if not self.options.keep:
                await self.site.take_down(self._say)

    async def _act(self) -> DemoSummary:
        self._say(
            f"apply {', '.join(file.name for file in self.site.manifests)} of {self.site.manifests[0].parent.name}"
        )
        with ApiClient(self.site.admin) as client:
            for file in self.site.manifests:
                await asyncio.to_thread(apply_file, client, file)
        await self._until_ready()
        for plan in self.site.load_plans:
            self._loads[plan.deployment] = load = await self.site.start_load(plan)
            self._stack.push_async_callback(load.end)
        what = (
            self.options.trace.name
            if self.options.trace
            else "a generated load in the shape of a production chat trace"
        )
        self._say(f"replay {what}; {self.site.about_load}")
        for load in self._loads.values():
            await load.wait()
        self._say("the load has ended: surplus replicas are drained, empty nodes are given back")
        await asyncio.sleep(QUIET_SECONDS)
        self.site.require_running()
        return summarize(
            self.world.recorder.report(time.time()),
            {name: await load.result() for name, load in self._loads.items()},
            {name: tuple(numbers) for name, numbers in self.history.items()},
            time.monotonic() - self.started_at,
        )

    async def _until_ready(self) -> None:
        self._say("wait until each model has its first replica: nodes boot, replicas load")
        deadline = time.monotonic() + READY_LIMIT_SECONDS
        while time.monotonic() < deadline:
            models = self.world.all("inferencedeployments")
            if models and all(model.get("status", {}).get("readyReplicas", 0) >= 1 for model in models):
                return
            self.site.require_running()
            await asyncio.sleep(0.2)
        raise RuntimeError(f"no ready replica after {READY_LIMIT_SECONDS:.0f} s; logs: {self.folder}")

    async def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(stop)

    async def _follow_metrics(self) -> None:
        """Read the operator's metrics each second: queue and rate move faster than status, which is coarse on purpose."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                self.metrics = _samples(await self.site.operator_metrics())
            await asyncio.sleep(1.0)

    @contextlib.asynccontextmanager
    async def _picture(self) -> AsyncIterator[None]:
        """Draw each second; without a terminal print the picture every 15 s."""
        if self.options.plain or not self.console.is_terminal:
            task = asyncio.create_task(self._draw_every(15.0, self.console.print))
            try:
                yield
            finally:
                task.cancel()
        else:
            with Live(console=self.console, auto_refresh=False) as live:
                task = asyncio.create_task(self._draw_every(1.0, lambda frame: live.update(frame, refresh=True)))
                try:
                    yield
                finally:
                    task.cancel()

    async def _draw_every(self, interval_seconds: float, show: Any) -> None:
        drawn_at = 0.0
        busiest = 0
        while True:
            frame = self.frame()
            replicas = sum(model.ready for model in frame.models)
            if self.options.picture_path is not None and replicas > busiest:
                busiest = replicas
                save_picture(frame, self.options.picture_path)
            if time.monotonic() - drawn_at >= interval_seconds:
                show(draw(frame))
                drawn_at = time.monotonic()
            await asyncio.sleep(1.0)

    def frame(self) -> Frame:
        """Return the picture of this moment, and remember the number of replicas."""
        models = []
        for index, own in enumerate(self.world.all("inferencedeployments")):
            name, status = own["metadata"]["name"], own.get("status", {})
            label = f'deployment="default/{name}"'
            models.append(
                ModelLine(
                    name=name,
                    letter="ABCDEFGH"[index],
                    colour=COLOURS[index],
                    mode=own["spec"]["mode"],
                    desired=status.get("desiredReplicas", 0),
                    ready=status.get("readyReplicas", 0),
                    replicas=status.get("replicas", 0),
                    waiting=self.metrics.get(f"fleetpack_queue_depth_requests{{{label}}}"),
                    arrival_rate=self.metrics.get(f"fleetpack_arrival_rate_requests_per_second{{{label}}}"),
                    usd_per_hour=float(status.get("usdPerHour", "0")),
                )
            )
            self.history.setdefault(name, deque()).append(status.get("readyReplicas", 0))
            self._note_decision(own)
        pools = self.world.all("acceleratorpools")
        return Frame(
            seconds=time.monotonic() - self.started_at,
            title=f"fleetpack demo, {time.monotonic() - self.started_at:.0f} s: {self.stage}",
            models=models,
            nodes=[
                node for node in self.world.all("nodes") if "fleetpack.dev/pool" in node["metadata"].get("labels", {})
            ],
            pods=[
                pod for pod in self.world.all("pods") if "fleetpack.dev/deployment" in pod["metadata"].get("labels", {})
            ],
            decisions=self.decisions,
            loads=[f"{name}: {'running' if load.running else 'done'}" for name, load in self._loads.items()],
            node_usd_per_hour=sum(float(pool.get("status", {}).get("usdPerHour", "0")) for pool in pools),
            history=self.history,
        )

    def _note_decision(self, own: dict[str, Any]) -> None:
        decision = own.get("status", {}).get("lastDecision")
        if decision:
            line = f"{decision['time'][11:19]} {own['metadata']['name']}: {decision['reason']}: {decision['message']}"
            if line not in self.decisions:
                self.decisions.append(line)

    def _say(self, stage: str) -> None:
        self.stage = stage
        self.console.print(f"demo: {time.monotonic() - self.started_at:5.1f} s  {stage}", highlight=False)


def _samples(page: str) -> dict[str, float]:
    """Read `name{labels} value` lines of the operator's own page."""
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("fleetpack_"))
    return {name: float(value) for name, value in pairs}


def fresh_folder(name: str) -> Path:
    """Return an empty folder for logs and results, beside the cluster's."""
    folder = cluster_folder(name).parent.parent / "demonstrations" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

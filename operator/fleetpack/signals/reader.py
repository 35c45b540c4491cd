"""Many reads at once, none of which waits for another.

`SignalReader.read` starts what is due, waits no longer than the tick's budget, and returns what is in. What is not in goes on and
comes with a later call, with the time at which it really was read. So one slow Pod costs its own number and nothing else.

A target whose last read took longer than the budget is slow until it answers in time again: no call waits for it (else one dead
Pod would add the whole budget to every tick), and it uses a narrow lane of its own (else 64 unreachable Pods, one lost node, would
hold every slot for a second on each pass).

Boundary: this object remembers when each target was read and which reads are under way, and no number. Targets that are no longer
given are forgotten, and their reads cancelled. Failures of every kind are samples; only cancellation passes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, assert_never

from fleetpack.core.samples import Sample
from fleetpack.signals import documents, pod_metrics
from fleetpack.signals.answers import describe, failed
from fleetpack.signals.http_queue import HttpQueueSource
from fleetpack.signals.pod_metrics import PodMetricsSource
from fleetpack.signals.prometheus import PrometheusSource
from fleetpack.signals.targets import HttpTarget, PodTarget, PrometheusTarget, Target

TargetType = TypeVar("TargetType", contravariant=True)

CONCURRENT_READS = 64
"""Reads under way at once: enough for 500 Pods at a few milliseconds each, few enough to leave sockets and fairness."""

SLOW_READS = 16
"""Of slow targets, on top of the above."""

EARLY_FRACTION = 0.1
"""A target is due this part of its interval early: ticks jitter, and one that came 5 ms too soon must not cost a whole interval."""


class Source(Protocol[TargetType]):
    """One kind of source. Never raises for what the other side does."""

    async def read(self, target: TargetType, /) -> Sample:
        """Read once; the caller limits the time."""
        ...


@dataclass(slots=True, kw_only=True)
class _Series:
    """What is remembered of one target between calls."""

    target: Target
    started_at: float
    task: asyncio.Task[Sample] | None = None
    slow: bool = False


@dataclass(slots=True, kw_only=True)
class SignalReader:
    """Reads all targets, each at its own interval."""

    pods: Source[PodTarget]
    prometheus: Source[PrometheusTarget]
    http: Source[HttpTarget]
    clock: Callable[[], float]
    """Seconds since the epoch."""
    budget_seconds: float = 0.5
    """How long one call waits for answers: a part of the tick, which also has to plan and act."""
    _series: dict[tuple[str, str, str], _Series] = field(default_factory=dict, init=False, repr=False)
    _lane: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(CONCURRENT_READS), init=False, repr=False
    )
    _slow_lane: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SLOW_READS), init=False, repr=False)

    async def read(self, targets: Iterable[Target], now: float) -> tuple[Sample, ...]:
        """Start what is due at `now`, and return all answers that are in, those of earlier calls included."""
        wanted = {target.key: target for target in targets}
        for key in [key for key in self._series if key not in wanted]:
            self._cancel(self._series.pop(key))
        # First: a read that ended since the last call is no longer under way, and its target may be due again.
        samples = self._collect()
        for key, target in wanted.items():
            self._start_if_due(key, target, now)
        expected = {series.task for series in self._series.values() if series.task is not None and not series.slow}
        if expected:
            await asyncio.wait(expected, timeout=self.budget_seconds)
        return tuple(sorted([*samples, *self._collect()], key=_order))

    async def close(self) -> None:
        """Give up every read that is under way."""
        tasks = [series.task for series in self._series.values() if series.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._series.clear()

    def _start_if_due(self, key: tuple[str, str, str], target: Target, now: float) -> None:
        series = self._series.get(key)
        if series is not None and series.target != target:
            # Another address, query or limit: what is under way would answer a question that nobody asks any more.
            self._cancel(series)
            series = None
        if series is not None:
            # A clock that was set back must not stop the reading.
            recently = 0 <= now - series.started_at < target.interval_seconds * (1 - EARLY_FRACTION)
            if series.task is not None or recently:
                return
        slow = series.slow if series is not None else False
        task = asyncio.create_task(self._read_in_time(target, slow), name=f"read {'/'.join(key)}")
        self._series[key] = _Series(target=target, started_at=now, task=task, slow=slow)

    def _collect(self) -> list[Sample]:
        samples = []
        for series in self._series.values():
            if series.task is not None and series.task.done():
                samples.append(series.task.result())
                series.task = None
        return samples

    async def _read_in_time(self, target: Target, slow: bool) -> Sample:
        async with self._slow_lane if slow else self._lane:
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(target.timeout_seconds):
                    sample = await self._read_once(target)
            except TimeoutError:
                sample = failed(target, self.clock(), f"no complete answer within {target.timeout_seconds:g} s")
            except Exception as error:  # a defect of ours must cost this number only, and be seen
                sample = failed(target, self.clock(), f"unexpected {type(error).__name__}: {describe(error)}")
            took_seconds = asyncio.get_running_loop().time() - started
        series = self._series.get(target.key)
        if series is not None and series.target is target:
            series.slow = took_seconds > self.budget_seconds
        return sample

    async def _read_once(self, target: Target) -> Sample:
        match target:
            case PodTarget():
                return await self.pods.read(target)
            case PrometheusTarget():
                return await self.prometheus.read(target)
            case HttpTarget():
                return await self.http.read(target)
            case _:
                assert_never(target)

    @staticmethod
    def _cancel(series: _Series) -> None:
        if series.task is not None:
            series.task.cancel()


def _order(sample: Sample) -> tuple[str, str, str, float]:
    return (sample.deployment, sample.signal, sample.pod_uid, sample.observed_at)


@asynccontextmanager
async def open_signal_reader(clock: Callable[[], float], budget_seconds: float = 0.5) -> AsyncIterator[SignalReader]:
    """Open a reader with real clients, and close both after use."""
    async with pod_metrics.new_session() as session, documents.new_client() as client:
        reader = SignalReader(
            pods=PodMetricsSource(session, clock),
            prometheus=PrometheusSource(client, clock),
            http=HttpQueueSource(client, clock),
            clock=clock,
            budget_seconds=budget_seconds,
        )
        try:
            yield reader
        finally:
            await reader.close()

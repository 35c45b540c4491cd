"""What neuron-monitor measures of single cores, with the labels of the Pod that holds them.

neuron-monitor knows cores and no Pods; the kubelet's list knows Pods and no measurements. Where a neuron-monitor serves its
Prometheus page on the node, its series with a `neuroncore` label are shown again here under their own names, with `namespace`,
`pod` and `container` of the holder added; a free core's series get none. Nothing is invented: without a page, or with one older than
15 s, there are no such series.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from fleetpack.core.cores import core_ids
from fleetpack.device_plugin.accounts import Holding

_logger = logging.getLogger(__name__)

PERIOD_SECONDS = 5.0
"""neuron-monitor's own default period."""
STALE_SECONDS = 15.0
FETCH_SECONDS = 3.0
CORE_LABEL = "neuroncore"


class NeuronMonitor(Collector):
    """The latest page, joined with the holders whenever it is asked for."""

    def __init__(
        self, holdings: Callable[[], tuple[Holding, ...]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._holdings = holdings
        self._clock = clock
        self._families: tuple[Metric, ...] = ()
        self._taken_at = -STALE_SECONDS
        self._is_complaining = False

    def take_over(self, page: str) -> None:
        """Keep a page's series of single cores; raises `ValueError` where it is no Prometheus text."""
        families = text_string_to_metric_families(page)
        self._families = tuple(
            family for family in families if any(CORE_LABEL in sample.labels for sample in family.samples)
        )
        self._taken_at = self._clock()

    async def run(self, url: str) -> None:
        """Read the page again and again, until cancelled."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                await self.fetch(session, url)
                await asyncio.sleep(PERIOD_SECONDS)

    async def fetch(self, session: aiohttp.ClientSession, url: str) -> None:
        """Read the page; what goes wrong is logged once."""
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)) as response:
                response.raise_for_status()
                self.take_over(await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if not self._is_complaining:
                reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
                _logger.warning("cannot read neuron-monitor at %s: %s; trying again", url, reason)
            self._is_complaining = True
        else:
            self._is_complaining = False

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: the page says what there is."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the series with their holders."""
        if self._clock() - self._taken_at >= STALE_SECONDS:
            return
        holders = _holders(self._holdings())
        for family in self._families:
            # The metric's full name stands in each sample; its type may be missing on the page.
            joined = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                if CORE_LABEL in sample.labels:
                    labels = {**sample.labels, **holders.get(sample.labels[CORE_LABEL], {})}
                    joined.add_sample(sample.name, labels, sample.value)
            yield joined


def _holders(holdings: tuple[Holding, ...]) -> dict[str, dict[str, str]]:
    labels: dict[str, dict[str, str]] = {}
    for holding in holdings:
        namespace, _, pod = holding.pod.partition("/")
        for core in core_ids(holding.cores):
            labels[str(core)] = {"namespace": namespace, "pod": pod, "container": holding.container}
    return labels

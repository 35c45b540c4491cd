"""Writes the truth back: the allocated cores on each Pod, with an event where they are not the planned ones; what is out on the node.

A patch carries the Pod's UID, so it never lands on a namesake, and is sent only where the annotation differs. The watch may show our
own write late; what was written within the last seconds is not written again. A failed write is tried again with the next
reading of the kubelet's list. While the API server is slow a pass writes for some seconds only, and the next one begins with those Pods
whose turn was longest ago: readings of the kubelet's list must not wait for the API server.

Boundary: writes one annotation on Pods of its own node, one on the node itself, and events, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.errors import Invalid, KubernetesError, NotFound
from fleetpack.core.cores import format_cores
from fleetpack.device_plugin.accounts import Reading
from fleetpack.device_plugin.comparison import (
    AnnotationWrite,
    Disagreement,
    PlannedPod,
    annotations_to_write,
    disagreements,
)
from fleetpack.device_plugin.metrics import PluginMetrics

_logger = logging.getLogger(__name__)

SETTLE_SECONDS = 30.0
"""How long our own write counts although the watch does not show it."""
PASS_SECONDS = 5.0
"""After this no write begins in the same pass: one write may take 4 s, so a pass ends within 9 s, however many Pods there are."""
REPORTER = "fleetpack.dev/device-plugin"


class TruthWriter:
    """Keeps the Pods of one node annotated with what the kubelet gave them."""

    def __init__(
        self,
        client: KubernetesClient,
        node: str,
        metrics: PluginMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._node = node
        self._metrics = metrics
        self._clock = clock
        self._written: dict[str, tuple[str, float]] = {}
        self._complaints: set[tuple[str, str]] = set()
        self._tried_at: dict[str, float] = {}
        self._told: set[tuple[str, int]] = set()
        self._health_written = ("", float("-inf"))

    async def write(self, pods: tuple[PlannedPod, ...], reading: Reading) -> None:
        """Bring the annotations in line with a reading, and tell once of each Pod that got other cores than planned."""
        now, loop = self._clock(), asyncio.get_running_loop()
        no_later_than = loop.time() + PASS_SECONDS
        for one in self._due(annotations_to_write(pods, reading), now):
            if loop.time() > no_later_than:
                break
            self._tried_at[one.uid] = loop.time()
            await self._annotate(one, now)
        for found in disagreements(pods, reading):
            if loop.time() > no_later_than:
                break
            if (found.uid, found.allocated) not in self._told:
                self._told.add((found.uid, found.allocated))
                await self._tell(found, now)
        uids = {pod.uid for pod in pods}
        self._written = {uid: written for uid, written in self._written.items() if uid in uids}
        self._tried_at = {uid: at for uid, at in self._tried_at.items() if uid in uids}
        self._complaints = {told for told in self._complaints if told[0] in uids}
        self._told = {told for told in self._told if told[0] in uids}

    def _due(self, writes: tuple[AnnotationWrite, ...], now: float) -> list[AnnotationWrite]:
        """Return what has to be written now, first of all what was not tried for the longest time."""
        due = []
        for one in writes:
            cores, at = self._written.get(one.uid, ("", 0.0))
            if cores != one.cores or now - at > SETTLE_SECONDS:
                due.append(one)
        return sorted(due, key=lambda one: (self._tried_at.get(one.uid, float("-inf")), one.namespace, one.name))

    async def write_health(self, written: str, unhealthy: int) -> None:
        """Write on the node which cores are out; `written` is the annotation as the watch has it."""
        wanted, now = format_cores(unhealthy), self._clock()
        last, at = self._health_written
        if wanted == written or (wanted == last and now - at <= SETTLE_SECONDS):
            return
        body = {"metadata": {"annotations": {names.UNHEALTHY_CORES_ANNOTATION: wanted or None}}}
        try:
            await self._client.patch(f"{names.NODES}/{self._node}", body)
        except KubernetesError as error:
            self._metrics.count_write("failed")
            _logger.warning("cannot write on node %s which cores are out: %s", self._node, error)
        else:
            self._health_written = (wanted, now)
            self._metrics.count_write("ok")

    async def _annotate(self, one: AnnotationWrite, now: float) -> None:
        body = {"metadata": {"uid": one.uid, "annotations": {names.ALLOCATED_CORES_ANNOTATION: one.cores}}}
        try:
            await self._client.patch(names.pod_path(one.namespace, one.name), body)
        except NotFound:
            self._metrics.count_write("gone")
        except KubernetesError as error:
            if _is_another_pod(error):
                self._metrics.count_write("gone")
                _logger.info("not written: %s", error)
                return
            self._metrics.count_write("failed")
            self._complain(one, str(error))
        else:
            self._complaints = {told for told in self._complaints if told[0] != one.uid}
            self._written[one.uid] = (one.cores, now)
            self._metrics.count_write("ok")
            _logger.info("Pod %s/%s holds cores %s", one.namespace, one.name, one.cores)

    def _complain(self, one: AnnotationWrite, text: str) -> None:
        """Warn once of each Pod and text: it is tried again with every reading."""
        if (one.uid, text) not in self._complaints:
            self._complaints.add((one.uid, text))
            _logger.warning("cannot write the cores of Pod %s/%s: %s; trying again", one.namespace, one.name, text)

    async def _tell(self, found: Disagreement, now: float) -> None:
        self._metrics.count_disagreement(found.kind)
        _logger.warning("Pod %s/%s: %s", found.namespace, found.name, found.message)
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{found.name}.{found.uid[:8]}.{found.allocated:x}", "namespace": found.namespace},
            "eventTime": datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": REPORTER,
            "reportingInstance": self._node,
            "action": "Allocate",
            "reason": found.kind.value,
            "type": "Warning",
            "note": found.message,
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": found.namespace,
                "name": found.name,
                "uid": found.uid,
            },
        }
        try:
            await self._client.create(f"/apis/events.k8s.io/v1/namespaces/{found.namespace}/events", event)
        except KubernetesError as error:
            # After a restart of ours it is there already; the metric and the log line told it anyway.
            _logger.info("no event for Pod %s/%s: %s", found.namespace, found.name, error)


def _is_another_pod(error: KubernetesError) -> bool:
    """Whether a Pod of this name has another UID now: the watch will bring it.

    The server says so as an immutable field (`ValidateObjectMetaUpdate` in apimachinery). Everything else that it calls invalid is a
    policy that denies the write, or a mistake of ours, and will not pass by itself.
    """
    return isinstance(error, Invalid) and error.reason == "Invalid" and ": metadata.uid: Invalid value" in error.message

"""Writes what the plan tells: status of our resources, and events for what a person should notice.

Nothing here decides; a write that fails is tried again with the next plan, because the stored status still differs. An event is
posted when a decision moves a number or a new obstacle appears; an obstacle that stays is told once. A number moves in one plan alone:
its event is kept until it is posted, though the API server be slow or refuse it, for a minute at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fleetpack.api.accelerator_pool import AcceleratorPool, AcceleratorPoolStatus
from fleetpack.api.conditions import QUIET_REASONS
from fleetpack.api.inference_deployment import InferenceDeployment, InferenceDeploymentStatus
from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient, PatchType
from fleetpack.cluster.errors import AlreadyExists, Invalid, KubernetesError, NotFound
from fleetpack.cluster.rendering import Manifest, covers, render_disruption_budget, render_service
from fleetpack.cluster.status import deployment_status, pool_status, worth_writing
from fleetpack.core.decision import Decision
from fleetpack.core.inputs import Plan
from fleetpack.core.reports import DeploymentReport

_logger = logging.getLogger(__name__)

UNPOSTED_SECONDS = 60.0
"""How long an event is worth posting: then it is no news any more, and whoever refuses it will go on."""

REPEAT_SECONDS = 30.0
"""An obstacle that comes and goes is told this often at most; one that stays is told once, and its condition stays with it."""

LOOK_AGAIN_SECONDS = 300.0
"""A Service or budget that somebody has deleted or changed is made good after about this long; one that is well costs one read."""

LOOK_TIMEOUT_SECONDS = 4.0
"""As for a write (`api_client.WRITE_TIMEOUT_SECONDS`): the next plan's status waits for whoever is slow."""

LOOKS_AT_ONCE = 16
"""A process that takes over looks at everything: not all of it at once, and so that actions get their turn between the writes."""

_COLLECTIONS = {
    "Service": "/api/v1/namespaces/{namespace}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
}


def _companions(resource: InferenceDeployment, report: DeploymentReport) -> list[Manifest]:
    """Return the objects beside the Pods that a deployment should have now."""
    wanted = report.desired_replicas
    minimum_available = max(0, wanted - resource.spec.disruption.max_unavailable.resolve(wanted))
    service = render_service(resource)
    return [render_disruption_budget(resource, minimum_available), *([service] if service else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Companion:
    """An object beside the Pods as it was when we looked at it last, or brought it into this form."""

    manifest: Manifest
    looked_at: float


def _seconds_between_looks(key: tuple[str, str]) -> float:
    """Spread the looks: what was seen at once when a process took over is not seen at once for ever."""
    return LOOK_AGAIN_SECONDS * (0.8 + 0.4 * (zlib.crc32("/".join(key).encode()) % 1000) / 1000)


class Teller:
    """Keeps status, events, Services and disruption budgets of our resources as the latest plan says."""

    def __init__(self, client: KubernetesClient, clock: Callable[[], float], reporter: str) -> None:
        self._client = client
        self._clock = clock
        self._reporter = reporter
        self._written: dict[str, tuple[float, InferenceDeploymentStatus | AcceleratorPoolStatus]] = {}
        self._last: dict[str, tuple[str, int]] = {}
        self._told_at: dict[tuple[str, str], float] = {}
        self._unposted: dict[str, tuple[float, Manifest]] = {}
        """Events that the API server has not taken yet, by name, with the time of their decision."""
        self._events = 0
        self._companions: dict[tuple[str, str], _Companion] = {}
        """What accompanies a deployment, by its UID and the kind."""
        self._few_at_once = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._failing: set[str] = set()
        """Resources of which nothing could be told last time: keys of deployments, names of pools."""

    def note(self, decisions: Iterable[Decision], deployments: Mapping[str, InferenceDeployment]) -> None:
        """Take in what a plan has decided; `tell` posts what of it is news, now or with a later plan."""
        now = self._clock()
        for decision in decisions:
            resource = deployments.get(decision.subject)
            if resource is not None and self._is_news(decision, now):
                event = self._event(resource, decision, now)
                self._unposted[f"{resource.metadata.namespace}/{event['metadata']['name']}"] = (now, event)

    def forget(self) -> None:
        """Begin anew, as with a new Lease: somebody else may have written since."""
        self._written.clear()
        self._last.clear()
        self._companions.clear()

    async def tell(
        self,
        plan: Plan,
        deployments: Mapping[str, InferenceDeployment],
        pools: Mapping[str, AcceleratorPool],
    ) -> None:
        """Write what has changed; errors are logged and tried again next time."""
        now = self._clock()
        writes: list[Coroutine[Any, Any, None]] = []
        for report in plan.deployments:
            resource = deployments.get(report.deployment)
            if resource is not None and resource.metadata.deletion_timestamp is None:
                with self._apart(report.deployment):
                    wanted = deployment_status(resource, report, now)
                    companions = _companions(resource, report)
                    path = names.deployment_path(report.deployment, "status")
                    writes.append(self._write_status(path, resource.metadata.uid, resource.status, wanted, now))
                    writes.extend(self._ensure(resource, manifest, now) for manifest in companions)
        for pool_report in plan.pools:
            pool = pools.get(pool_report.pool)
            if pool is not None:
                with self._apart(pool_report.pool):
                    path = f"{names.ACCELERATOR_POOLS}/{pool_report.pool}/status"
                    wanted_pool = pool_status(pool, pool_report, now)
                    writes.append(self._write_status(path, pool.metadata.uid, pool.status, wanted_pool, now))
        writes.extend(self._post(key, now) for key in tuple(self._unposted))
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, KubernetesError):
                _logger.warning("telling failed, tried again with the next plan: %s", result)
            elif isinstance(result, BaseException):
                raise result
        self._forget(deployments, pools)

    @contextlib.contextmanager
    def _apart(self, subject: str) -> Iterator[None]:
        """Keep a bug of ours with the one object that shows it; told once for as long as it lasts."""
        try:
            yield
        except Exception:
            if subject not in self._failing:
                _logger.exception("%s: its status cannot be made, and is left as it is; a bug of ours", subject)
            self._failing.add(subject)
        else:
            self._failing.discard(subject)

    async def _write_status(
        self,
        path: str,
        uid: str,
        stored: InferenceDeploymentStatus | AcceleratorPoolStatus,
        wanted: InferenceDeploymentStatus | AcceleratorPoolStatus,
        now: float,
    ) -> None:
        """Write a status if it is worth it; our own last write counts where the cache does not show it yet."""
        written_at, last = self._written.get(uid, (0.0, stored))
        if not worth_writing(last if now - written_at < 10.0 else stored, wanted, now - written_at):
            return
        manifest = wanted.to_manifest()
        # A merge patch keeps what it does not name; a number that is no longer known must go.
        cleared = {key: None for key in stored.to_manifest() if key not in manifest}
        self._written[uid] = (now, wanted)
        try:
            await self._client.patch(path, {"metadata": {"uid": uid}, "status": {**manifest, **cleared}})
        except KubernetesError:
            self._written.pop(uid, None)
            raise

    async def _ensure(self, resource: InferenceDeployment, manifest: Manifest, now: float) -> None:
        """Give an object that accompanies a deployment its form, and look at it again every few minutes: people change things."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        key = (resource.metadata.uid, kind)
        known = self._companions.get(key)
        if (
            known is not None
            and known.manifest == manifest
            and 0 <= now - known.looked_at < _seconds_between_looks(key)
        ):
            return
        path = f"{_COLLECTIONS[kind].format(namespace=metadata['namespace'])}/{metadata['name']}"
        async with self._few_at_once:
            try:
                stored = await self._client.get(path, timeout_seconds=LOOK_TIMEOUT_SECONDS)
            except NotFound:
                stored = {}
            if not covers(stored, manifest):
                await self._client.patch(path, manifest, content_type=PatchType.APPLY, force=True)
        self._companions[key] = _Companion(manifest=manifest, looked_at=now)

    def _is_news(self, decision: Decision, now: float) -> bool:
        """Whether people should be told: a number moved, or another obstacle holds it than the one that was told last."""
        subject, moved = decision.subject, decision.before != decision.after
        if decision.reason in QUIET_REASONS and not moved:
            # The obstacle is gone; should it come back, it is news again.
            self._last.pop(subject, None)
            return False
        if self._last.get(subject) == (decision.reason, decision.after):
            return False
        if not moved and now - self._told_at.get((subject, decision.reason), -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._last[subject] = (decision.reason, decision.after)
        self._told_at[subject, decision.reason] = now
        return True

    async def _post(self, key: str, now: float) -> None:
        """Post an event; what may still be taken is kept for the next time. Its name makes sure that it is there once."""
        decided_at, event = self._unposted[key]
        path = f"/apis/events.k8s.io/v1/namespaces/{event['metadata']['namespace']}/events"
        try:
            await self._client.create(path, event)
        except AlreadyExists:
            pass
        except (NotFound, Invalid):
            del self._unposted[key]
            raise
        except KubernetesError:
            if now - decided_at >= UNPOSTED_SECONDS:
                del self._unposted[key]
            raise
        del self._unposted[key]

    def _event(self, resource: InferenceDeployment, decision: Decision, now: float) -> Manifest:
        namespace = resource.metadata.namespace
        self._events += 1
        # Two of one plan have one time.
        stamp = f"{now:.6f}".replace(".", "") + f".{self._events}"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{resource.metadata.name}.{stamp}", "namespace": namespace},
            "eventTime": _micro_time(now),
            "reportingController": "fleetpack.dev/operator",
            "reportingInstance": self._reporter,
            "action": "Scale" if decision.before != decision.after else "Hold",
            "reason": decision.reason,
            "type": "Normal" if decision.before != decision.after else "Warning",
            "regarding": {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "name": resource.metadata.name,
                "namespace": namespace,
                "uid": resource.metadata.uid,
            },
            "note": f"replicas {decision.before} to {decision.after}: {decision.message}"[:1024],
        }

    def _forget(self, deployments: Mapping[str, InferenceDeployment], pools: Mapping[str, AcceleratorPool]) -> None:
        """Drop what is remembered of objects that are gone."""
        alive = {resource.metadata.uid for resource in deployments.values()}
        alive |= {pool.metadata.uid for pool in pools.values()}
        self._written = {uid: entry for uid, entry in self._written.items() if uid in alive}
        self._companions = {key: entry for key, entry in self._companions.items() if key[0] in alive}
        self._last = {subject: told for subject, told in self._last.items() if subject in deployments}
        self._told_at = {key: at for key, at in self._told_at.items() if key[0] in deployments}
        self._failing &= deployments.keys() | pools.keys()


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

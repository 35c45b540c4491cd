"""Writes what the plan tells: status of our resources, and events for what a person should notice.

Nothing here decides; a write that fails is tried again with the next plan, because the stored status still differs. An event is
posted when a decision moves a number or a new obstacle appears; an obstacle that stays is told once. A number moves in one plan alone:
its event is kept until it is posted, though the API server be slow or refuse it, for a minute at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fleetpack.api.accelerator_pool import AcceleratorPool, AcceleratorPoolStatus
from fleetpack.api.conditions import QUIET_REASONS
from fleetpack.api.inference_deployment import InferenceDeployment, InferenceDeploymentStatus
from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.companions import Claims, Companions, claims_of
from fleetpack.cluster.errors import AlreadyExists, Invalid, KubernetesError, NotFound
from fleetpack.cluster.rendering import Manifest, render_disruption_budget, render_service
from fleetpack.cluster.status import deployment_status, pool_status, worth_writing
from fleetpack.core.decision import Decision
from fleetpack.core.inputs import Plan
from fleetpack.core.reports import DeploymentReport, PoolReport

_logger = logging.getLogger(__name__)

UNPOSTED_SECONDS = 60.0
"""How long an event is worth posting: then it is no news any more, and whoever refuses it will go on."""

REPEAT_SECONDS = 30.0
"""An obstacle that comes and goes is told this often at most; one that stays is told once, and its condition stays with it."""


def _companions(resource: InferenceDeployment, report: DeploymentReport) -> list[Manifest]:
    """Return the objects beside the Pods that a deployment should have now."""
    wanted = report.desired_replicas
    minimum_available = max(0, wanted - resource.spec.disruption.max_unavailable.resolve(wanted))
    service = render_service(resource)
    return [render_disruption_budget(resource, minimum_available), *([service] if service else [])]


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
        self._companions = Companions(client)
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
        self._companions.forget()

    async def tell(
        self,
        plan: Plan,
        deployments: Mapping[str, InferenceDeployment],
        pools: Mapping[str, AcceleratorPool],
    ) -> None:
        """Write what has changed; errors are logged and tried again next time."""
        now = self._clock()
        writes: list[Coroutine[Any, Any, None]] = []
        claims = claims_of(deployments.values())
        for report in plan.deployments:
            resource = deployments.get(report.deployment)
            if resource is not None and resource.metadata.deletion_timestamp is None:
                writes.append(self._tell_of_deployment(resource, report, claims, now))
        for pool_report in plan.pools:
            pool = pools.get(pool_report.pool)
            if pool is not None:
                writes.append(self._tell_of_pool(pool, pool_report, now))
        writes.extend(self._post(key, now) for key in tuple(self._unposted))
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, KubernetesError):
                _warn(result)
            elif isinstance(result, BaseException):
                raise result
        self._forget(deployments, pools)

    async def _tell_of_deployment(
        self, resource: InferenceDeployment, report: DeploymentReport, claims: Claims, now: float
    ) -> None:
        """See to what accompanies a deployment, then write its status, which says what came of that."""
        with self._apart(report.deployment):
            companions = _companions(resource, report)
            if resource.spec.service is None:
                self._companions.drop(resource, "Service")
            looks = [self._companions.ensure(resource, manifest, claims, now) for manifest in companions]
            for result in await asyncio.gather(*looks, return_exceptions=True):
                if isinstance(result, KubernetesError):
                    _warn(result)
                elif isinstance(result, BaseException):
                    raise result
            wanted = deployment_status(resource, report, now, self._companions.obstacles(resource))
            path = names.deployment_path(report.deployment, "status")
            await self._write_status(path, resource.metadata.uid, resource.status, wanted, now)

    async def _tell_of_pool(self, pool: AcceleratorPool, report: PoolReport, now: float) -> None:
        with self._apart(report.pool):
            wanted = pool_status(pool, report, now)
            path = f"{names.ACCELERATOR_POOLS}/{report.pool}/status"
            await self._write_status(path, pool.metadata.uid, pool.status, wanted, now)

    @contextlib.contextmanager
    def _apart(self, subject: str) -> Iterator[None]:
        """Keep a bug of ours with the one object that shows it; told once for as long as it lasts."""
        try:
            yield
        except KubernetesError:
            raise
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
        self._companions.keep(frozenset(alive))
        self._last = {subject: told for subject, told in self._last.items() if subject in deployments}
        self._told_at = {key: at for key, at in self._told_at.items() if key[0] in deployments}
        self._failing &= deployments.keys() | pools.keys()


def _warn(error: KubernetesError) -> None:
    _logger.warning("telling failed, tried again with the next plan: %s", error)


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

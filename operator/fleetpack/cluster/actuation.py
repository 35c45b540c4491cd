"""Step 9, act: one write per action, idempotent, with the outcome as the planner wants to know it.

Writes run side by side, bounded; the API client's own gate (rate limit, lease fence, time-out) stands before each. A write whose
answer is lost is reported as unknown, never tried again here: the caches will show what happened, and the next plan goes from
there. Deletions and label changes carry UID and resourceVersion, so a cache that is behind can only fail, never hit another Pod.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.catalog import InstanceType
from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.errors import (
    AlreadyExists,
    Conflict,
    ConnectionLost,
    DeliveryUnknown,
    KubernetesError,
    NotFound,
    ServerError,
    TooManyRequests,
    WriteFenced,
)
from fleetpack.cluster.rendering import render_pod, render_simulated_node
from fleetpack.core.decision import (
    Action,
    CreateReplica,
    DeleteReplica,
    DrainReplica,
    LaunchNode,
    Outcome,
    RemoveNode,
    RestoreReplica,
    SetScale,
)

CONCURRENT_WRITES = 32
"""Enough to keep the rate limiter busy at some ms per write, few enough not to crowd the API server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What became of one action."""

    action: Action
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What writes need beside the action: the resources and types of the moment that the plan was made for."""

    deployments: Mapping[str, InferenceDeployment]
    pools: Mapping[str, AcceleratorPool]
    node_types: Mapping[str, InstanceType]
    """By node name."""
    instance_types: Mapping[str, InstanceType]
    """By type name."""


class Actuator:
    """Sends actions to the API server."""

    def __init__(self, client: KubernetesClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._slots = asyncio.Semaphore(CONCURRENT_WRITES)

    async def apply(self, action: Action, around: Surroundings) -> ActionResult:
        """Send one action and say what became of it; raises nothing but cancellation."""
        async with self._slots:
            try:
                await self._send(action, around)
            except (AlreadyExists, NotFound) as error:
                # The name is taken or the object is gone: the caches will show it, and the next plan goes from there.
                done = isinstance(error, NotFound) and isinstance(action, DeleteReplica | RemoveNode)
                taken = isinstance(error, AlreadyExists) and isinstance(action, CreateReplica)
                outcome = Outcome.DONE if done else Outcome.NAME_TAKEN if taken else Outcome.UNKNOWN
                return ActionResult(action=action, outcome=outcome, detail=str(error))
            except (DeliveryUnknown, ServerError, TooManyRequests) as error:
                # A server in trouble says nothing about what was asked for: no blame, and the wait of an unknown outcome.
                return ActionResult(action=action, outcome=Outcome.UNKNOWN, detail=str(error))
            except (Conflict, WriteFenced, ConnectionLost) as error:
                # A conflict means that the cache was behind: the object has changed, so the plan is made anew.
                return ActionResult(action=action, outcome=Outcome.NOT_SENT, detail=str(error))
            except (KubernetesError, ValueError) as error:
                return ActionResult(action=action, outcome=Outcome.FAILED, detail=str(error))
        return ActionResult(action=action, outcome=Outcome.DONE)

    async def _send(self, action: Action, around: Surroundings) -> None:
        if isinstance(action, CreateReplica):
            resource = around.deployments.get(action.deployment)
            instance_type = around.node_types.get(action.node)
            if resource is None or instance_type is None:
                missing = action.deployment if resource is None else f"node {action.node}"
                raise ValueError(f"{missing} is gone since the plan was made; planned anew")
            await self._client.create(
                names.pod_path(resource.metadata.namespace), render_pod(resource, action, instance_type)
            )
        elif isinstance(action, DrainReplica | RestoreReplica):
            await self._client.patch(_pod_path(action), self._serving_patch(action))
        elif isinstance(action, DeleteReplica):
            await self._client.delete(
                _pod_path(action), uid=action.uid, resource_version=action.resource_version or None
            )
        elif isinstance(action, SetScale):
            await self._client.patch(
                names.deployment_path(action.deployment, "scale"), {"spec": {"replicas": action.replicas}}
            )
        elif isinstance(action, LaunchNode):
            await self._launch(action, around)
        else:
            await self._client.delete(f"{names.NODES}/{action.node}")

    def _serving_patch(self, action: DrainReplica | RestoreReplica) -> dict[str, object]:
        draining = isinstance(action, DrainReplica)
        since = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        return {
            "metadata": {
                "uid": action.uid,
                "resourceVersion": action.resource_version,
                "labels": {names.SERVING_LABEL: "false" if draining else "true"},
                "annotations": {names.DRAINING_SINCE_ANNOTATION: since if draining else None},
            }
        }

    async def _launch(self, action: LaunchNode, around: Surroundings) -> None:
        """Launch a simulated node; what a machine would refuse is refused here too."""
        pool = around.pools.get(action.pool)
        instance_type = around.instance_types.get(action.instance_type)
        if pool is None or instance_type is None:
            raise ValueError(
                f"pool {action.pool} or instance type {action.instance_type} is gone since the plan was made"
            )
        simulation = pool.spec.simulation
        boot_seconds = simulation.boot_delay.seconds if simulation else 0.0
        if simulation is not None:
            if action.instance_type in simulation.insufficient_capacity:
                raise ValueError(
                    f"InsufficientCapacity: no {action.instance_type} can be had (spec.simulation says so)"
                )
            # The name is part of the seed: another node has another fate, the same run the same one.
            drawn = random.Random(f"{simulation.seed}/{action.name}")
            if drawn.random() < float(simulation.failure_rate):
                raise ValueError(f"LaunchFailed: {action.name} did not come up (spec.simulation.failureRate)")
            boot_seconds += drawn.random() * simulation.boot_jitter.seconds
        await self._client.create(
            names.NODES, render_simulated_node(action.name, action.pool, instance_type, boot_seconds)
        )


def _pod_path(action: DrainReplica | RestoreReplica | DeleteReplica) -> str:
    return names.pod_path(action.deployment.partition("/")[0], action.name)

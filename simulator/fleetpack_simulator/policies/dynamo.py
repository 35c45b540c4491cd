"""NVIDIA Dynamo's load loop: one replica at a time, every 5 s, by the fullness of each engine's KV cache.

ai-dynamo/dynamo components/src/dynamo/planner/core/load_scaling.py (`_agg_easy_decision`, target `throughput`, the default): one more
when any engine has more tokens scheduled and queued than its cache holds, one fewer when every engine is below 60 %; nothing while a
change is under way or no engine tells anything; never below one (`min_endpoint`). Tokens in use are the engine's reserved share of the
cache, queued ones are waiting requests at the mean prompt. The predictive loop (180 s) is not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetpack_simulator.policies.controllers import PerModelPolicy
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

INTERVAL_SECONDS = 5.0
UP_UTILIZATION = 1.0
DOWN_UTILIZATION = 0.6
MINIMUM_REPLICAS = 1


def load_decision(utilizations: Sequence[float], replicas: int) -> int:
    """Return the wanted replicas for each engine's utilisation."""
    if any(utilization > UP_UTILIZATION for utilization in utilizations):
        return replicas + 1
    if replicas > 1 and all(utilization < DOWN_UTILIZATION for utilization in utilizations):
        return max(replicas - 1, MINIMUM_REPLICAS)
    return replicas


class DynamoAutoscaler:
    """The load loop of one model whose replicas both prefill and decode."""

    def __init__(self, targets: ReplicaTargets) -> None:
        self._targets = targets

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Compare each engine with its cache; observe only while replicas come or go."""
        if model.desired_replicas < MINIMUM_REPLICAS:
            return MINIMUM_REPLICAS
        known = [pod for pod in model.pods if pod.read_at_seconds is not None]
        if not known or model.starting_replicas or len(known) != model.desired_replicas:
            return None
        queued_share = self._targets.prompt_tokens / self._targets.kv_capacity_tokens
        scale = self._targets.kv_usage_scale
        return load_decision([pod.kv_cache_usage * scale + pod.waiting * queued_share for pod in known], len(known))


def dynamo(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return Dynamo's load loop per model."""
    return PerModelPolicy("dynamo-load", INTERVAL_SECONDS, targets, DynamoAutoscaler)

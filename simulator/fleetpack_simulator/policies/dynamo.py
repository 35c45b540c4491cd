"""NVIDIA Dynamo's load loop: one replica at a time, every 5 s, by the fullness of each engine's KV cache.

ai-dynamo/dynamo components/src/dynamo/planner/core/load_scaling.py (`_agg_easy_decision`) and config/planner_config.py: with the
target `throughput`, the default, one more when any engine has more tokens scheduled and queued than its cache holds, one fewer when
every engine is below 60 %; with the target `latency` 40 % and 10 %. Nothing while a change is under way or no engine tells anything;
never below one (`min_endpoint`). Engines push what they say, and the last word of each counts until it is gone (`FpmEventSubscriber`,
tracking), so a report that does not come changes nothing. Tokens in use are the engine's reserved share of the cache, queued ones are
waiting requests at the mean prompt. Both targets force the predictive loop (180 s) off; the target `sla`, which has it and
regressions, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleetpack_simulator.policies.controllers import PerModelPolicy
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView

INTERVAL_SECONDS = 5.0
MINIMUM_REPLICAS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Of an engine's utilisation."""

    up: float
    """Above it any engine asks for one more."""
    down: float
    """Below it all engines ask for one fewer."""


THROUGHPUT = Thresholds(up=1.0, down=0.6)
LATENCY = Thresholds(up=0.4, down=0.1)


def load_decision(utilizations: Sequence[float], replicas: int, thresholds: Thresholds = THROUGHPUT) -> int:
    """Return the wanted replicas for each engine's utilisation."""
    if any(utilization > thresholds.up for utilization in utilizations):
        return replicas + 1
    if replicas > 1 and all(utilization < thresholds.down for utilization in utilizations):
        return max(replicas - 1, MINIMUM_REPLICAS)
    return replicas


class DynamoAutoscaler:
    """The load loop of one model whose replicas both prefill and decode."""

    def __init__(self, targets: ReplicaTargets, thresholds: Thresholds = THROUGHPUT) -> None:
        self._targets = targets
        self._thresholds = thresholds

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Compare each engine with its cache; observe only while replicas come or go."""
        if model.desired_replicas < MINIMUM_REPLICAS:
            return MINIMUM_REPLICAS
        known = [pod for pod in model.pods if pod.read_at_seconds is not None]
        if not known or model.starting_replicas or len(known) != model.desired_replicas:
            return None
        queued_share = self._targets.prompt_tokens / self._targets.kv_capacity_tokens
        scale = self._targets.kv_usage_scale
        utilizations = [pod.kv_cache_usage * scale + pod.waiting * queued_share for pod in known]
        return load_decision(utilizations, len(known), self._thresholds)


def dynamo(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return Dynamo's load loop per model, for its default target."""
    return PerModelPolicy("dynamo-load", INTERVAL_SECONDS, targets, DynamoAutoscaler)


def dynamo_latency(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return Dynamo's load loop per model, for users who care for latency."""
    return PerModelPolicy("dynamo-latency", INTERVAL_SECONDS, targets, lambda of: DynamoAutoscaler(of, LATENCY))

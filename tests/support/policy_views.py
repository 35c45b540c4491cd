"""What policies see, for tests: one model whose Pods say the same."""

from __future__ import annotations

from typing import Any

from fleetpack_simulator.policies import ReplicaTargets
from fleetpack_simulator.world import ModelView, PodView, PolicyView

MODEL = "default/chat"


def pod_view(index: int = 0, **changes: Any) -> PodView:
    values: dict[str, Any] = {
        "name": f"chat-{index}",
        "variant": "tp2",
        "ready_since_seconds": 0.0,
        "read_at_seconds": 0.0,
    }
    return PodView(**{**values, **changes})


def model_view(ready: int = 1, *, pods: tuple[PodView, ...] | None = None, **changes: Any) -> ModelView:
    """One model with `ready` equal Pods; as many are desired unless said otherwise."""
    shown = tuple(pod_view(index) for index in range(ready)) if pods is None else pods
    values: dict[str, Any] = {
        "deployment": MODEL,
        "minimum_replicas": 0,
        "maximum_replicas": 10_000,
        "target_queue_depth": 1.0,
        "prior_concurrency": None,
        "prior_requests_per_second": None,
        "objective_ttft_seconds": None,
        "desired_replicas": len(shown),
        "starting_replicas": 0,
        "pods": shown,
        "held": 0,
        "outstanding": 0,
        "arrived_total": 0,
    }
    return ModelView(**{**values, **changes})


def view(now_seconds: float, *models: ModelView) -> PolicyView:
    return PolicyView(now_seconds=now_seconds, models=models)


def targets(**changes: Any) -> ReplicaTargets:
    values: dict[str, Any] = {
        "ongoing_requests": 10.0,
        "maximum_ongoing_requests": 16,
        "requests_per_second": 2.0,
        "kv_capacity_tokens": 16_000,
        "tokens_per_request": 2_000.0,
        "kv_usage_scale": 1.0,
        "prompt_tokens": 100.0,
        "output_tokens": 50.0,
    }
    return ReplicaTargets(**{**values, **changes})

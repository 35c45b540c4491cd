"""llm-d's Workload Variant Autoscaler: saturation V1 (spare capacity) and V2 (tokens).

V1: docs/saturation-analyzer.md, internal/saturation/analyzer.go. A replica is saturated at 80 % of its KV cache or 5 waiting requests,
by the highest values of a minute. One more when the others have on average less than 0.10 of cache or 3 of queue to spare; one fewer
when their load on one replica fewer would leave that much; nothing while the replicas that report are not as many as are wanted
(`CalculateSaturationTargets`, "model in transition").

V2: internal/engines/analyzers/saturation_v2/analyzer.go. Demand is tokens in use plus queued prompts; a replica's capacity is the
smaller of 80 % of its cache (k1) and what it can compute (k2): what it had in use when its queue was full, before that has happened
what the engine's own arguments say (`estimateCapacityFromParams`, with vLLM's default of 8,192 tokens a step). More at 85 % of what is
there or coming, fewer at 70 % of what is ready.

Both ask Prometheus for the highest value of each Pod in a minute (`max_over_time(...[1m])`, internal/collector/registration), so a
Pod whose scrapes fail reports for a minute more, and then no more; with no report at all nothing is decided. A scheduler queue
without an answer counts as none. V2 takes the last value here instead of the minute's highest.

Both decide every 15 s (`DefaultOptimizationInterval`), and an HPA with 60 s of stabilisation on the way down acts on the result, as
the project's README advises.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from fleetpack_simulator.policies.controllers import PerModelPolicy, Window, bounded
from fleetpack_simulator.policies.kubernetes import Behavior
from fleetpack_simulator.policies.targets import ReplicaTargets
from fleetpack_simulator.world.policy import ModelView, PodView

INTERVAL_SECONDS = 15.0
DOWN_STABILIZATION_SECONDS = 60.0
PEAK_WINDOW_SECONDS = 60.0
KV_CACHE_THRESHOLD = 0.80
QUEUE_THRESHOLD = 5
KV_SPARE_TRIGGER = 0.10
QUEUE_SPARE_TRIGGER = 3
UP_THRESHOLD = 0.85
DOWN_BOUNDARY = 0.70
BATCHED_TOKENS = 8192.0
"""`EffectiveMaxBatchedTokens` of a vLLM that nobody has told otherwise."""
HISTORY_SAMPLES = 10
"""`RollingAverageWindowSize` of observed capacities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """How full one replica is."""

    kv_cache_usage: float
    waiting: float


def spare_capacity_decision(loads: Sequence[ReplicaLoad], wanted: int) -> int:
    """Return V1's target for the replicas that report, `loads`, when `wanted` have been asked for."""
    replicas = len(loads)
    if replicas != wanted:
        # Cascade prevention: who is on the way has to report first, or to be gone.
        return wanted
    open_loads = [load for load in loads if load.kv_cache_usage < KV_CACHE_THRESHOLD and load.waiting < QUEUE_THRESHOLD]
    count = len(open_loads)
    kv_total = sum(load.kv_cache_usage for load in open_loads)
    queue_total = sum(load.waiting for load in open_loads)
    if not open_loads or _is_short(kv_total / count, queue_total / count):
        return replicas + 1
    if count >= 2 and not _is_short(kv_total / (count - 1), queue_total / (count - 1)):
        return replicas - 1
    return replicas


def _is_short(kv_cache_usage: float, waiting: float) -> bool:
    return KV_CACHE_THRESHOLD - kv_cache_usage < KV_SPARE_TRIGGER or QUEUE_THRESHOLD - waiting < QUEUE_SPARE_TRIGGER


def token_decision(capacities: Sequence[float], demand: float, starting: int) -> int:
    """Return V2's target: `capacities` of the replicas that report, in tokens, `demand` of all, `starting` on their way."""
    each = median(capacities)
    ready = len(capacities)
    required = demand / UP_THRESHOLD - (ready + starting) * each
    if required > 0:
        return ready + starting + math.ceil(required / each)
    spare = ready * each - demand / DOWN_BOUNDARY
    return ready + starting - max(0, math.floor(spare / each))


class SpareCapacityAutoscaler:
    """V1 of one model."""

    def __init__(self, targets: ReplicaTargets) -> None:
        self._targets = targets
        self._behavior = Behavior(down_stabilization_seconds=DOWN_STABILIZATION_SECONDS)
        self._peaks: dict[str, tuple[Window, Window]] = {}

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Take the highest values of a minute, decide, and let the HPA act."""
        names = {pod.name for pod in model.pods}
        self._peaks = {name: peaks for name, peaks in self._peaks.items() if name in names}
        peaks = [self._peak(now_seconds, pod) for pod in model.pods]
        loads = [peak for peak in peaks if peak is not None]
        if not loads:
            return None if model.desired_replicas else max(1, model.minimum_replicas)
        wanted = bounded(max(1, spare_capacity_decision(loads, model.desired_replicas)), model)
        return self._behavior.apply(now_seconds, model.desired_replicas, wanted)

    def _peak(self, now_seconds: float, pod: PodView) -> ReplicaLoad | None:
        """Return the highest values of the last minute; None: nothing was read in it."""
        cache, queue = self._peaks.setdefault(pod.name, (Window(PEAK_WINDOW_SECONDS), Window(PEAK_WINDOW_SECONDS)))
        if _reports(pod):
            cache.add(now_seconds, pod.kv_cache_usage * self._targets.kv_usage_scale)
            queue.add(now_seconds, pod.waiting)
        cache.forget(now_seconds)
        queue.forget(now_seconds)
        if cache.is_empty:
            return None
        return ReplicaLoad(kv_cache_usage=cache.highest, waiting=queue.highest)


class TokenAutoscaler:
    """V2 of one model."""

    def __init__(self, targets: ReplicaTargets) -> None:
        self._targets = targets
        self._behavior = Behavior(down_stabilization_seconds=DOWN_STABILIZATION_SECONDS)
        self._observed: deque[float] = deque(maxlen=HISTORY_SAMPLES)
        self._heard: dict[str, float] = {}
        """By Pod, when its numbers were last new."""

    def decide(self, now_seconds: float, model: ModelView) -> int | None:
        """Add up tokens and compare with capacities, and let the HPA act."""
        known = self._known(now_seconds, model)
        if not known:
            return None if model.desired_replicas else max(1, model.minimum_replicas)
        usages = [pod.kv_cache_usage * self._targets.kv_usage_scale for pod in known]
        capacities = [self.capacity(usage, pod.waiting) for usage, pod in zip(usages, known, strict=True)]
        in_use = sum(usages) * self._targets.kv_capacity_tokens
        held = model.held if model.gateway_answered else 0.0
        queued = (sum(pod.waiting for pod in known) + held) * self._targets.prompt_tokens
        coming = max(model.starting_replicas, model.desired_replicas - len(known))
        wanted = bounded(max(1, token_decision(capacities, in_use + queued, coming)), model)
        return self._behavior.apply(now_seconds, model.desired_replicas, wanted)

    def _known(self, now_seconds: float, model: ModelView) -> list[PodView]:
        """Return the Pods that have reported within a minute."""
        heard = {pod.name: now_seconds if _reports(pod) else self._heard.get(pod.name) for pod in model.pods}
        self._heard = {name: at for name, at in heard.items() if at is not None}
        since = now_seconds - PEAK_WINDOW_SECONDS
        return [pod for pod in model.pods if self._heard.get(pod.name, -math.inf) > since]

    def capacity(self, kv_cache_usage: float, waiting: float) -> float:
        """Return the tokens that a replica holds: by memory, or by what it can compute, if that is less."""
        by_memory = KV_CACHE_THRESHOLD * self._targets.kv_capacity_tokens
        in_use = kv_cache_usage * self._targets.kv_capacity_tokens
        if waiting >= QUEUE_THRESHOLD and in_use > 0:
            self._observed.append(in_use)
            return min(by_memory, in_use)
        if self._observed:
            return min(by_memory, sum(self._observed) / len(self._observed))
        return min(by_memory, steady_tokens(self._targets))


def steady_tokens(targets: ReplicaTargets) -> float:
    """Return what the analyzer derives from an engine's arguments: the tokens of as many requests as its steps can keep going."""
    prompt, output = targets.prompt_tokens, targets.output_tokens
    requests = min(BATCHED_TOKENS * output / (prompt + output), targets.maximum_ongoing_requests)
    return requests * targets.tokens_per_request


def _reports(pod: PodView) -> bool:
    return pod.read_at_seconds is not None and pod.answered


def wva_v1(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return WVA's spare-capacity analyzer per model."""
    return PerModelPolicy("wva-v1", INTERVAL_SECONDS, targets, SpareCapacityAutoscaler)


def wva_v2(targets: Mapping[str, ReplicaTargets]) -> PerModelPolicy:
    """Return WVA's token analyzer per model."""
    return PerModelPolicy("wva-v2", INTERVAL_SECONDS, targets, TokenAutoscaler)

"""One target for all policies: how many ongoing requests a replica should have, from its profile and the tokens of its requests.

A replica at batch b serves `1 / (prefill + output · step(b) / b)` requests per second: prefills are serial, a decode step is shared.
The target is the fewest ongoing requests at which a replica reaches 70 % of what it can do at its largest batch (Knative's own
default, `container-concurrency-target-percentage`). A policy whose original thresholds need no target keeps those. The mean request of
the load is known to the target, as a user would have measured it; who has no load gets 512 tokens in and 128 out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from fleetpack_simulator.engine import EngineProfile, decode_step_seconds, prefill_seconds
from fleetpack_simulator.engine.batch_server import BatchProfile, batch_seconds
from fleetpack_simulator.engine.serving import ServingProfile, places_of
from fleetpack_simulator.workload import Request
from fleetpack_simulator.world.setting import WorldSetting

TARGET_SHARE = 0.7
"""Of a replica's best throughput: knative.dev/docs/serving/autoscaling/concurrency, "target utilization"."""
_UNKNOWN_TOKENS = (512.0, 128.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTargets:
    """What a policy is told about one model, the same for every policy."""

    ongoing_requests: float
    """Wanted per replica, waiting and running together."""
    maximum_ongoing_requests: int
    """Slots of a replica: its largest batch, as far as the KV cache holds it."""
    requests_per_second: float
    """What a replica serves at the target."""
    kv_capacity_tokens: int
    """Tokens that the KV cache can ever hold: on static shapes, what the compiled batch reserves."""
    tokens_per_request: float
    """Of the cache, that one request takes on average: on static shapes, a whole window."""
    kv_usage_scale: float
    """A Pod's share of memory in use, times this, is the share of that capacity."""
    prompt_tokens: float
    """Mean of the load."""
    output_tokens: float


def targets_of(profile: ServingProfile, load: Iterable[Request]) -> ReplicaTargets:
    """Return the targets of replicas of `profile` under a load."""
    requests = tuple(load)
    prompt, output = _UNKNOWN_TOKENS
    if requests:
        prompt = sum(request.prompt_tokens for request in requests) / len(requests)
        output = sum(request.output_tokens for request in requests) / len(requests)
    if isinstance(profile, BatchProfile):
        return _batch_targets(profile, prompt, output)
    prompt = max(1.0, min(prompt, profile.window_tokens - 1.0))
    output = max(1.0, min(output, profile.window_tokens - prompt))
    reserved = profile.window_tokens if profile.hardware.static_shapes else prompt + output
    slots = max(1, min(profile.maximum_batch, int(profile.kv_capacity_tokens / reserved)))
    best = _requests_per_second(profile, slots, prompt, output)
    ongoing = next(
        batch
        for batch in range(1, slots + 1)
        if _requests_per_second(profile, batch, prompt, output) >= TARGET_SHARE * best
    )
    # An engine with static shapes allocates a cache for its compiled batch (vLLM on Neuron: a block per slot), so memory beside it
    # is no capacity, and a full batch is a full cache.
    usable_tokens = slots * profile.window_tokens if profile.hardware.static_shapes else profile.kv_capacity_tokens
    return ReplicaTargets(
        ongoing_requests=float(ongoing),
        maximum_ongoing_requests=slots,
        requests_per_second=_requests_per_second(profile, ongoing, prompt, output),
        kv_capacity_tokens=usable_tokens,
        tokens_per_request=float(profile.window_tokens) if profile.hardware.static_shapes else prompt + output / 2,
        kv_usage_scale=profile.kv_capacity_tokens / usable_tokens,
        prompt_tokens=prompt,
        output_tokens=output,
    )


def _batch_targets(profile: BatchProfile, prompt: float, output: float) -> ReplicaTargets:
    """Return the targets of a server of fixed-shape batches: throughput grows with how full its batches are."""
    slots = places_of(profile)
    ongoing = max(1, ceil(TARGET_SHARE * slots))
    return ReplicaTargets(
        ongoing_requests=float(ongoing),
        maximum_ongoing_requests=slots,
        requests_per_second=ongoing / batch_seconds(profile),
        # There is no cache; what a policy counts in tokens is worth as much as the places are.
        kv_capacity_tokens=max(1, round(slots * prompt)),
        tokens_per_request=prompt,
        kv_usage_scale=1.0,
        prompt_tokens=prompt,
        output_tokens=output,
    )


def targets_by_deployment(setting: WorldSetting) -> dict[str, ReplicaTargets]:
    """Return the targets of all models of a world, each for its first variant."""
    return {
        model.deployment.key: targets_of(model.engines[model.deployment.variants[0].name], model.load)
        for model in setting.models
    }


def _requests_per_second(profile: EngineProfile, batch: int, prompt: float, output: float) -> float:
    context = round(prompt + output / 2)
    step = decode_step_seconds(profile, batch, batch * context, context)
    return 1.0 / (prefill_seconds(profile, round(prompt)) + (output - 1.0) * step / batch)

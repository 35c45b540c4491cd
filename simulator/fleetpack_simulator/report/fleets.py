"""The smallest fleet of equal replicas that keeps an objective: a constant number, up from the start, on the simulator's own engines.

Nothing scales, boots or fails here: this answers what hardware a load needs, not how to run it. Requests go to the replica with the
fewest outstanding ones. A try stops as soon as too many requests have missed the objective. More replicas are taken to never do
worse, so the smallest number is found by growing and halving: the answer was seen to keep the objective, and one fewer to miss it.
What cannot be answered is a `Misfit` with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleetpack_simulator.engine import EngineProfile, prefill_seconds
from fleetpack_simulator.engine.performance import (
    attention_seconds,
    context_bucket,
    context_token_seconds,
    decode_step_seconds,
    live_sequence_seconds,
    pass_seconds,
    sequence_seconds,
)
from fleetpack_simulator.workload import Request
from fleetpack_simulator.world.traffic import RequestLog, RequestState, Traffic

MOST_REPLICAS = 4096
_LOOKS = 64
"""How often a try looks whether it has failed already."""
_BUSY = 0.6
"""Above this share of the busiest minute it is work that limits; below it, that requests come in bursts."""
_MINUTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a share of requests is promised; None: nothing of that kind."""

    percentile: float = 95.0
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    """Time per output token after the first."""
    latency_seconds: float | None = None

    def misses_allowed(self, requests: int) -> int:
        """Return how many requests may miss it."""
        return int(requests * (100.0 - self.percentile) / 100.0 + 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The smallest that keeps the objective."""

    replicas: int
    in_objective: float
    ttft_seconds: tuple[float, float, float]
    """p50, p95 and p99 of completed requests."""
    latency_seconds: tuple[float, float, float]
    prefill_share: float
    """Of the replicas' time, over the whole load."""
    decode_share: float
    limit: str
    """What keeps it from being smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """No fleet of such replicas keeps the objective."""

    limit: str
    """One word: memory, prefill, decode, window, size."""
    reason: str


def smallest_fleet(profile: EngineProfile, load: Sequence[Request], objective: Objective) -> Fleet | Misfit:
    """Return the smallest fleet, or why there is none."""
    allowed = objective.misses_allowed(len(load))
    if (hopeless := _hopeless(profile, load, objective, allowed)) is not None:
        return hopeless
    prefill, decode = _work(profile, load)
    span_seconds = load[-1].arrival_seconds + 1.0
    good: tuple[int, RequestLog] | None = None
    bad = 0
    count = max(1, int((prefill + decode) / (span_seconds + (objective.ttft_seconds or span_seconds)) * 0.7))
    while good is None or good[0] - bad > 1:
        log = _try(profile, load, objective, (count, allowed))
        if log is not None:
            good = (count, log)
        else:
            bad = count
        if good is None:
            count = max(count + 1, int(count * 1.5))
            if count > MOST_REPLICAS:
                return Misfit(limit="size", reason=f"more than {MOST_REPLICAS} replicas")
        else:
            count = (good[0] + bad) // 2 or 1
            if bad == 0 and good[0] == 1:
                break
    replicas, log = good
    return _described(profile, load, objective, (replicas, log, prefill, decode))


def _hopeless(profile: EngineProfile, load: Sequence[Request], objective: Objective, allowed: int) -> Misfit | None:
    """Return why even a replica for each request would miss the objective."""
    too_long = sum(one.prompt_tokens >= profile.window_tokens for one in load)
    if too_long > allowed:
        return Misfit(
            limit="window", reason=f"{too_long} requests are longer than the window of {profile.window_tokens}"
        )
    alone = _Alone(profile)
    if objective.ttft_seconds is not None:
        slow = sorted((alone.prefill(one.prompt_tokens) for one in load), reverse=True)
        if slow[min(allowed, len(slow) - 1)] > objective.ttft_seconds:
            found = slow[min(allowed, len(slow) - 1)]
            return Misfit(
                limit="prefill", reason=f"alone on it, the first token takes {found:.2g} s at this percentile"
            )
    steps = sorted((alone.step(one) for one in load), reverse=True)
    if objective.tpot_seconds is not None and steps[min(allowed, len(steps) - 1)] > objective.tpot_seconds:
        found = steps[min(allowed, len(steps) - 1)]
        return Misfit(limit="decode", reason=f"alone on it, a token takes {found * 1000:.3g} ms at this percentile")
    if objective.latency_seconds is not None:
        whole = sorted(alone.prefill(one.prompt_tokens) + (one.output_tokens - 1) * alone.step(one) for one in load)
        found = whole[len(whole) - 1 - min(allowed, len(whole) - 1)]
        if found > objective.latency_seconds:
            return Misfit(limit="decode", reason=f"alone on it, a request takes {found:.3g} s at this percentile")
    return None


class _Alone:
    """Times of a request that has a replica for itself."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._prefills: dict[int, float] = {}
        self._steps: dict[int, float] = {}

    def prefill(self, prompt_tokens: int) -> float:
        if prompt_tokens not in self._prefills:
            self._prefills[prompt_tokens] = prefill_seconds(self._profile, prompt_tokens)
        return self._prefills[prompt_tokens]

    def step(self, request: Request, batch: int = 1) -> float:
        """Return a decode step in the middle of its output; of steps that hardly differ one is computed."""
        context = -(-(request.prompt_tokens + request.output_tokens // 2) // 32) * 32
        key = context * 4096 + batch
        if key not in self._steps:
            self._steps[key] = decode_step_seconds(self._profile, batch, batch * context, context)
        return self._steps[key]


def _work(profile: EngineProfile, load: Sequence[Request]) -> tuple[float, float]:
    """Return busy seconds of one replica for prefills, and for decode steps at a full batch."""
    alone = _Alone(profile)
    prefill = sum(alone.prefill(one.prompt_tokens) for one in load)
    return prefill, sum(_decode_seconds(profile, alone, one) for one in load)


def _decode_seconds(profile: EngineProfile, alone: _Alone, request: Request) -> float:
    batch = slots_of(profile, request.prompt_tokens + request.output_tokens)
    return (request.output_tokens - 1) * alone.step(request, batch) / batch


def slots_of(profile: EngineProfile, tokens: int) -> int:
    """Return how many requests of so many tokens a replica holds at once."""
    reserved = profile.window_tokens if profile.hardware.static_shapes else max(1, tokens)
    return max(1, min(profile.maximum_batch, profile.kv_capacity_tokens // reserved))


def _try(
    profile: EngineProfile, load: Sequence[Request], objective: Objective, tried: tuple[int, int]
) -> RequestLog | None:
    """Serve the load with so many replicas; None: more missed the objective than may."""
    replicas, allowed = tried
    log = RequestLog([(0.0, load)])
    traffic = Traffic(log, 1)
    for number in range(replicas):
        traffic.open(traffic.start(f"{number:05}", 0, profile), 0.0)
    end_seconds = load[-1].arrival_seconds
    misses = judged = 0
    limit = objective.ttft_seconds
    for look in range(1, _LOOKS + 1):
        now = end_seconds * look / _LOOKS
        traffic.serve_until(now, inclusive=True)
        while limit is not None and judged < len(log) and log.arrival_seconds[judged] < now - limit:
            first = log.first_token_seconds[judged]
            misses += first < 0 or first - log.arrival_seconds[judged] > limit
            judged += 1
        if misses > allowed:
            return None
    # Everything has come; what is inside ends some time. A clock far away lets it.
    traffic.serve_until(end_seconds + 10.0 * 86_400.0, inclusive=True)
    return log if _misses(log, objective) <= allowed else None


def _misses(log: RequestLog, objective: Objective) -> int:
    missed = 0
    for index in range(len(log)):
        arrival, first, end = log.arrival_seconds[index], log.first_token_seconds[index], log.finished_seconds[index]
        if log.state[index] != RequestState.COMPLETED:
            missed += 1
            continue
        steps = log.output_tokens[index] - 1
        missed += (
            (objective.ttft_seconds is not None and first - arrival > objective.ttft_seconds)
            or (objective.latency_seconds is not None and end - arrival > objective.latency_seconds)
            or (objective.tpot_seconds is not None and steps > 0 and (end - first) / steps > objective.tpot_seconds)
        )
    return missed


def _described(
    profile: EngineProfile, load: Sequence[Request], objective: Objective, found: tuple[int, RequestLog, float, float]
) -> Fleet:
    replicas, log, prefill, decode = found
    span = load[-1].arrival_seconds + 1.0
    done = [index for index in range(len(log)) if log.state[index] == RequestState.COMPLETED]
    return Fleet(
        replicas=replicas,
        in_objective=1.0 - _misses(log, objective) / len(log),
        ttft_seconds=_percentiles([log.first_token_seconds[one] - log.arrival_seconds[one] for one in done]),
        latency_seconds=_percentiles([log.finished_seconds[one] - log.arrival_seconds[one] for one in done]),
        prefill_share=prefill / (replicas * span),
        decode_share=decode / (replicas * span),
        limit=_limit(profile, load, replicas),
    )


def _limit(profile: EngineProfile, load: Sequence[Request], replicas: int) -> str:
    """Return in words what the busiest minute is short of."""
    if replicas == 1:
        return "nothing: one replica is the least"
    alone = _Alone(profile)
    minutes: dict[int, list[float]] = {}
    for one in load:
        entry = minutes.setdefault(int(one.arrival_seconds / _MINUTE_SECONDS), [0.0, 0.0])
        entry[0] += alone.prefill(one.prompt_tokens)
        entry[1] += _decode_seconds(profile, alone, one)
    prefill, decode = (seconds / (replicas * _MINUTE_SECONDS) for seconds in max(minutes.values(), key=sum))
    if prefill + decode < _BUSY:
        return f"queue: bursts; its busiest minute fills {prefill + decode:.0%} of it"
    if prefill >= decode:
        return f"prefill: {prefill / (prefill + decode):.0%} of its work"
    tokens = sum(one.prompt_tokens + one.output_tokens // 2 for one in load) // len(load)
    return (
        f"decode: {decode / (prefill + decode):.0%} of its work, most of it {_largest(decode_parts(profile, tokens))}"
    )


def decode_parts(profile: EngineProfile, tokens: int) -> dict[str, float]:
    """Return what a decode step of a full batch consists of, in seconds, at a mean context of so many tokens."""
    batch = profile.maximum_batch if profile.hardware.static_shapes else slots_of(profile, tokens)
    # Without latencies a pass is only the read of its weights; the rest is theirs, among devices or among the cores of one.
    silent = replace(profile.coefficients, layer_seconds=0.0, collective_seconds=0.0)
    weights = pass_seconds(replace(profile, coefficients=silent), batch)
    sampling = live_sequence_seconds(profile)
    return {
        "reading weights (memory bandwidth)": weights,
        "latency of layers and collectives": pass_seconds(profile, batch) - weights,
        "reading the KV cache (memory bandwidth)": batch
        * context_bucket(profile, tokens)
        * context_token_seconds(profile),
        "computing": batch * (sequence_seconds(profile) - sampling)
        + attention_seconds(profile, context_bucket(profile, tokens)),
        "sampling on the host": batch * sampling,
    }


def _largest(parts: dict[str, float]) -> str:
    return max(parts, key=lambda name: (parts[name], name))


def _percentiles(seconds: list[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds) or [0.0]
    low, middle, high = (ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95, 99))
    return low, middle, high

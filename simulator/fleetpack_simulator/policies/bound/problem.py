"""What the bound is computed from: work that arrives, and what a replica costs.

`engine_work` says how long a replica must at least be busy for one request, whatever batch it is in; `problem_of` makes the
problem of one model of a world, with each of its variants: who knows the future also chooses where each request is served.
A model without an objective, or without a price, has no bound: `BoundError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetpack_simulator.engine import prefill_seconds, step_costs
from fleetpack_simulator.engine.batch_server import BatchProfile, batch_seconds
from fleetpack_simulator.engine.performance import FEMTOSECONDS, StepCosts
from fleetpack_simulator.engine.serving import ServingProfile, places_of
from fleetpack_simulator.world.setting import ModelSetting, WorldSetting

Memo = dict[int, tuple[float, StepCosts]]
"""Prefill seconds and step costs by prompt tokens."""


class BoundError(ValueError):
    """There is no bound for what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one request takes of a replica of one variant, at least."""

    first_token_seconds: float
    """From the start of the prefill to the first token."""
    urgent_seconds: float
    """Busy time of a replica until the first token; has to be done within the objective."""
    later_seconds: float
    """Busy time for all that follows; has to be done by the end."""
    residence_seconds: float
    """Least time from the start of the prefill to the last token, all of which the request takes one place in a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One request, as work for replicas."""

    arrival_seconds: float
    efforts: tuple[Effort | None, ...]
    """By variant, in the problem's order; None: that variant cannot serve it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCost:
    """What replicas of one variant cost, in money and time."""

    place_share: float
    """What one place in a batch is of a replica: one over the largest batch."""
    start_seconds: float
    """From when a replica is paid until it serves."""
    replica_usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundProblem:
    """The least that must be paid so that a share of requests is in the objective."""

    work: tuple[Work, ...]
    """Each can be served by one variant at least."""
    unservable: int = 0
    """Requests that count but that nobody can serve."""
    share: float
    """Of all requests, in the objective."""
    objective_seconds: float
    """From arrival to the first token."""
    variants: tuple[VariantCost, ...]
    end_seconds: float
    """Nothing is served or paid after it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise BoundError(f"bound: share is {self.share}, it must be from 0 to 1")
        if self.objective_seconds <= 0 or self.end_seconds <= 0:
            raise BoundError("bound: objective_seconds and end_seconds must be above 0")


def engine_work(
    profile: ServingProfile, prompt_tokens: int, output_tokens: int, memo: Memo | None = None
) -> Effort | None:
    """Return what a request takes of a replica at least; None: the window is too short for it.

    A prefill has the replica for itself. A decode step at batch b costs fixed + b · sequence + contexts · token; the part of
    one request is least at the largest batch, where it bears fixed / batch, its own sequence and its own context, and the step
    is shortest for a request that is alone. On static shapes a step costs the whole compiled batch at the bucket of the longest
    context, which is at least the request's own.
    """
    if isinstance(profile, BatchProfile):
        seconds = batch_seconds(profile)
        return Effort(
            first_token_seconds=seconds,
            urgent_seconds=seconds / places_of(profile),
            later_seconds=0.0,
            residence_seconds=seconds,
        )
    room = profile.window_tokens - prompt_tokens
    if room < 1:
        return None
    memo = {} if memo is None else memo
    if prompt_tokens not in memo:
        memo[prompt_tokens] = (prefill_seconds(profile, prompt_tokens), step_costs(profile, prompt_tokens + 1))
    prefill, costs = memo[prompt_tokens]
    steps = min(output_tokens, room) - 1
    fixed = steps * costs.fixed_femtoseconds / FEMTOSECONDS
    contexts = steps * (prompt_tokens + 1) + steps * (steps - 1) / 2
    own = (steps * costs.sequence_femtoseconds + contexts * costs.context_token_femtoseconds) / FEMTOSECONDS
    return Effort(
        first_token_seconds=prefill,
        urgent_seconds=prefill,
        later_seconds=fixed / profile.maximum_batch + own,
        residence_seconds=prefill + fixed + own,
    )


def problem_of(setting: WorldSetting, deployment: str, *, share: float, end_seconds: float) -> BoundProblem:
    """Return the problem of one model: the share of requests that a run kept in the objective, and when it ended."""
    model = next((one for one in setting.models if one.deployment.key == deployment), None)
    if model is None:
        raise BoundError(f"bound: {deployment}: no model of that name in the scenario")
    if model.objective_ttft_seconds is None:
        raise BoundError(f"bound: {deployment}: it has no objective of time to first token; give it one")
    prices = variant_prices(setting, model)
    memos: dict[str, Memo] = {name: {} for name in prices}
    work, unservable = [], 0
    for request in model.load:
        efforts = tuple(
            engine_work(model.engines[name], request.prompt_tokens, request.output_tokens, memos[name])
            for name in prices
        )
        if any(efforts):
            work.append(Work(arrival_seconds=model.load_start_seconds + request.arrival_seconds, efforts=efforts))
        else:
            unservable += 1
    return BoundProblem(
        work=tuple(work),
        unservable=unservable,
        share=share,
        objective_seconds=model.objective_ttft_seconds,
        variants=tuple(
            VariantCost(
                place_share=1.0 / places_of(model.engines[name]),
                start_seconds=model.startup_seconds[name] * (1.0 - setting.delays.startup_jitter_fraction),
                replica_usd_per_hour=price,
            )
            for name, price in prices.items()
        ),
        end_seconds=end_seconds,
    )


def in_money(problem: BoundProblem) -> BoundProblem:
    """Return a problem of one variant that costs no more than one of several: all is measured in USD.

    A replica of it costs 1 USD per hour, and each request takes of it what it takes of that variant where it is cheapest.
    """
    prices = [variant.replica_usd_per_hour for variant in problem.variants]

    def cheapest(work: Work) -> Effort:
        known = [(effort, price) for effort, price in zip(work.efforts, prices, strict=True) if effort is not None]
        return Effort(
            first_token_seconds=min(effort.first_token_seconds for effort, _ in known),
            urgent_seconds=min(effort.urgent_seconds * price for effort, price in known),
            later_seconds=min(effort.later_seconds * price for effort, price in known),
            residence_seconds=min(effort.residence_seconds for effort, _ in known),
        )

    return replace(
        problem,
        work=tuple(replace(one, efforts=(cheapest(one),)) for one in problem.work),
        variants=(
            VariantCost(
                place_share=min(variant.place_share * variant.replica_usd_per_hour for variant in problem.variants),
                start_seconds=min(variant.start_seconds for variant in problem.variants),
                replica_usd_per_hour=1.0,
            ),
        ),
    )


def variant_prices(setting: WorldSetting, model: ModelSetting) -> Mapping[str, float]:
    """Return the least USD per hour that a replica of each variant can cost: its share of the cheapest machine that has it."""
    types = [(node.instance_type, node.price_usd_per_hour) for node in setting.nodes]
    types += [(one.instance_type, one.price_usd_per_hour) for pool in setting.pools for one in pool.offerings]
    prices: dict[str, float] = {}
    for variant in model.deployment.variants:
        share = [
            (price or 0.0) * model.engines[variant.name].cores / kind.cores
            for kind, price in types
            if kind.accelerator == variant.accelerator
        ]
        if share:
            prices[variant.name] = min(share)
    if not prices:
        raise BoundError(f"bound: {model.deployment.key}: no pool has machines for any of its variants")
    return prices

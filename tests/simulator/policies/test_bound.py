"""The clairvoyant bound against the optimum of instances small enough to enumerate, and against runs of whole worlds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import median

import pytest

from fleetpack_simulator.engine import EngineReplica, EngineRequest
from fleetpack_simulator.policies import build_policy
from fleetpack_simulator.policies.bound import (
    BoundError,
    BoundProblem,
    Effort,
    VariantCost,
    Work,
    clairvoyant_bound,
    engine_work,
    problem_of,
)
from fleetpack_simulator.scenarios import summarize
from fleetpack_simulator.world import simulate
from worlds import ENGINE, model, requests, world

INSTANCES = 500
# Of each further family.
MORE_INSTANCES = 250


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Kind:
    """Replicas of one variant: so many requests at once, each as slow as alone."""

    places: int
    slowness: int
    """What a second of a job takes here."""
    delay: int
    usd_per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Jobs of whole seconds on replicas that serve without a break, all of whose times are whole seconds."""

    jobs: tuple[tuple[int, int, int], ...]
    """Arrival, urgent and later seconds."""
    needed: int
    objective: int
    kinds: tuple[Kind, ...]

    @property
    def problem(self) -> BoundProblem:
        return BoundProblem(
            work=tuple(
                Work(
                    arrival_seconds=float(arrival),
                    efforts=tuple(
                        Effort(
                            first_token_seconds=float(urgent * kind.slowness),
                            urgent_seconds=urgent * kind.slowness / kind.places,
                            later_seconds=later * kind.slowness / kind.places,
                            residence_seconds=float((urgent + later) * kind.slowness),
                        )
                        for kind in self.kinds
                    ),
                )
                for arrival, urgent, later in self.jobs
            ),
            share=self.needed / len(self.jobs),
            objective_seconds=float(self.objective),
            variants=tuple(
                VariantCost(
                    place_share=1.0 / kind.places,
                    start_seconds=float(kind.delay),
                    replica_usd_per_hour=3600.0 * kind.usd_per_second,
                )
                for kind in self.kinds
            ),
            end_seconds=float(
                max(
                    arrival + (urgent + later) * max(kind.slowness for kind in self.kinds)
                    for arrival, urgent, later in self.jobs
                )
                + self.objective
            ),
        )


def draw_instance(seed: int) -> Instance:
    """Draw some jobs for one kind of replica with one place."""
    draw = random.Random(seed)
    delay = draw.choice((1, 2, 3, 4))
    count = draw.randint(2, 5)
    jobs = tuple((delay + draw.randint(0, 8), draw.choice((1, 1, 2)), draw.choice((0, 1, 2, 3))) for _ in range(count))
    return Instance(
        jobs=tuple(sorted(jobs)),
        needed=draw.choice((count, count, count - 1)),
        objective=draw.choice((2, 3)),
        kinds=(Kind(places=1, slowness=1, delay=delay, usd_per_second=1),),
    )


def draw_instance_of_two_places(seed: int) -> Instance:
    """The same jobs, of which a replica serves two at once."""
    one = draw_instance(seed)
    return replace(one, kinds=tuple(replace(kind, places=2) for kind in one.kinds))


def draw_instance_of_two_kinds(seed: int) -> Instance:
    """Draw some jobs for two kinds of replicas with prices, speeds, starts and places of their own."""
    draw = random.Random(seed)
    kinds = (
        Kind(
            places=draw.choice((1, 2)), slowness=1, delay=draw.choice((1, 2, 3)), usd_per_second=draw.choice((2, 3, 4))
        ),
        Kind(places=draw.choice((1, 2)), slowness=2, delay=draw.choice((1, 2, 3)), usd_per_second=draw.choice((1, 2))),
    )
    count = draw.randint(2, 4)
    jobs = tuple((3 + draw.randint(0, 6), 1, draw.choice((0, 1, 2))) for _ in range(count))
    return Instance(
        jobs=tuple(sorted(jobs)),
        needed=draw.choice((count, count, count - 1)),
        objective=draw.choice((2, 3)),
        kinds=kinds,
    )


def enumerated_optimum(instance: Instance) -> int:
    """Return the least USD: over all choices of jobs, of the kind and the start of each, and of who shares a replica."""
    best = 10**9
    for chosen in combinations(instance.jobs, instance.needed):
        for kinds in product(instance.kinds, repeat=len(chosen)):
            starts = [
                range(arrival, arrival + instance.objective - urgent * kind.slowness + 1)
                for (arrival, urgent, _), kind in zip(chosen, kinds, strict=True)
            ]
            for start in product(*starts):
                busy = sorted(
                    (at, at + (job[1] + job[2]) * kind.slowness, kind)
                    for at, job, kind in zip(start, chosen, kinds, strict=True)
                )
                best = min(best, least_paid(busy, best))
    return best


def least_paid(busy: list[tuple[int, int, Kind]], best: int) -> int:
    """Return the least paid for fixed busy stretches, by trying every replica of its kind for each, in order."""

    def place(index: int, replicas: tuple[tuple[Kind, tuple[int, ...]], ...], paid: int) -> None:
        """Each replica has the ends of what is in its places; the last of them is how long it is paid so far."""
        nonlocal best
        if paid >= best:
            return
        if index == len(busy):
            best = paid
            return
        start, end, kind = busy[index]
        for replica in sorted(set(replicas)):
            own, ends = replica
            if own != kind or min(ends) > start:
                continue
            others = list(replicas)
            others.remove(replica)
            later = tuple(sorted((*sorted(ends)[1:], end)))
            longer = max(0, end - max(ends))
            place(index + 1, (*others, (own, later)), paid + longer * kind.usd_per_second)
        fresh = (kind, (*([start] * (kind.places - 1)), end))
        place(index + 1, (*replicas, fresh), paid + (kind.delay + end - start) * kind.usd_per_second)

    place(0, (), 0)
    return best


@pytest.mark.parametrize(
    ("draw", "instances"),
    [
        (draw_instance, INSTANCES),
        (draw_instance_of_two_places, MORE_INSTANCES),
        (draw_instance_of_two_kinds, MORE_INSTANCES),
    ],
)
def test_should_never_be_above_the_optimum_and_mostly_close_to_it(
    draw: Callable[[int], Instance], instances: int
) -> None:
    ratios = []
    for seed in range(instances):
        instance = draw(seed)
        optimum = enumerated_optimum(instance)
        bound = clairvoyant_bound(instance.problem, slot_seconds=1.0).usd
        assert bound <= optimum + 1e-9, f"seed {seed}: bound {bound}, optimum {optimum}"
        ratios.append(bound / optimum)
    print(f"bound over optimum: median {median(ratios):.3f}, least {min(ratios):.3f}")
    assert median(ratios) >= 0.9


def work(arrival_seconds: float) -> Work:
    effort = Effort(first_token_seconds=1.0, urgent_seconds=1.0, later_seconds=1.0, residence_seconds=2.0)
    return Work(arrival_seconds=arrival_seconds, efforts=(effort,))


def problem(*all_work: Work, share: float = 1.0) -> BoundProblem:
    return BoundProblem(
        work=tuple(all_work),
        share=share,
        objective_seconds=1.0,
        variants=(VariantCost(place_share=1.0, start_seconds=10.0, replica_usd_per_hour=3600.0),),
        end_seconds=60.0,
    )


def test_should_pay_for_the_start_and_for_the_work() -> None:
    bound = clairvoyant_bound(problem(work(20.0)), slot_seconds=1.0)
    assert bound.usd == pytest.approx(12.0, rel=1e-3)


def test_should_leave_out_what_costs_most_when_the_share_permits() -> None:
    bound = clairvoyant_bound(problem(work(20.0), work(40.0), share=0.5), slot_seconds=1.0)
    assert bound.usd == pytest.approx(12.0, rel=1e-3)


def test_should_refuse_a_share_that_comes_before_any_replica_can_serve() -> None:
    with pytest.raises(BoundError, match="the first replicas start too late"):
        clairvoyant_bound(problem(work(2.0)), slot_seconds=1.0)


@pytest.mark.parametrize("policy", ["keda", None])
def test_should_never_be_above_what_a_policy_paid_in_a_world(policy: str | None) -> None:
    load = requests(6.0, 200.0, start_seconds=30.0, output_tokens=200)
    setting = world(model(load), nodes=1, duration_seconds=260.0)
    result = simulate(setting, policy=None if policy is None else build_policy(policy, setting))
    found = summarize(result, scenario="small", policy="any").models[0]
    assert found.in_objective is not None
    share = found.in_objective
    asked = problem_of(setting, "default/chat", share=share, end_seconds=result.ended_seconds)
    bound = clairvoyant_bound(asked)
    # Both keep more replicas than needed; the bound does not.
    assert 0.2 * found.usd < bound.usd <= found.usd


def test_should_count_no_more_work_than_a_full_batch_needs() -> None:
    replica = EngineReplica(ENGINE)
    for request in range(ENGINE.maximum_batch):
        replica.submit(EngineRequest(request_id=request, prompt_tokens=100, output_tokens=50), 0.0)
    events = replica.advance(1000.0)
    last_seconds = max(getattr(event, "finished_seconds", 0.0) for event in events)
    parts = engine_work(ENGINE, 100, 50)
    assert parts is not None
    # The second bucket of contexts is left out.
    assert 0.95 * last_seconds < ENGINE.maximum_batch * (parts.urgent_seconds + parts.later_seconds) <= last_seconds
    assert parts.residence_seconds <= last_seconds

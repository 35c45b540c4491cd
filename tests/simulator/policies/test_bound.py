"""The clairvoyant bound against the optimum of instances small enough to enumerate, and against runs of whole worlds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations, product
from statistics import median

import pytest

from fleetpack_simulator.engine import EngineReplica, EngineRequest
from fleetpack_simulator.policies import build_policy
from fleetpack_simulator.policies.bound import (
    BoundError,
    BoundProblem,
    Work,
    clairvoyant_bound,
    engine_work,
    problem_of,
)
from fleetpack_simulator.scenarios import summarize
from fleetpack_simulator.world import simulate
from worlds import ENGINE, model, requests, world

INSTANCES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Jobs of whole seconds on replicas that serve one at a time without a break, all of whose times are whole seconds."""

    jobs: tuple[tuple[int, int, int], ...]
    """Arrival, urgent and later seconds."""
    needed: int
    objective: int
    delay: int

    @property
    def problem(self) -> BoundProblem:
        return BoundProblem(
            work=tuple(
                Work(
                    arrival_seconds=float(arrival),
                    urgent_seconds=float(urgent),
                    later_seconds=float(later),
                    residence_seconds=float(urgent + later),
                )
                for arrival, urgent, later in self.jobs
            ),
            share=self.needed / len(self.jobs),
            objective_seconds=float(self.objective),
            place_share=1.0,
            start_seconds=float(self.delay),
            replica_usd_per_hour=3600.0,
            end_seconds=float(max(sum(job) for job in self.jobs) + self.objective),
        )


def draw_instance(seed: int) -> Instance:
    draw = random.Random(seed)
    delay = draw.choice((1, 2, 3, 4))
    count = draw.randint(2, 5)
    jobs = tuple((delay + draw.randint(0, 8), draw.choice((1, 1, 2)), draw.choice((0, 1, 2, 3))) for _ in range(count))
    return Instance(
        jobs=tuple(sorted(jobs)),
        needed=draw.choice((count, count, count - 1)),
        objective=draw.choice((2, 3)),
        delay=delay,
    )


def enumerated_optimum(instance: Instance) -> int:
    """Return the least replica-seconds: over all choices of jobs, of their starts, and of who follows whom on one replica."""
    best = 10**9
    for chosen in combinations(instance.jobs, instance.needed):
        starts = [range(arrival, arrival + instance.objective - urgent + 1) for arrival, urgent, _ in chosen]
        for start in product(*starts):
            busy = sorted((at, at + job[1] + job[2]) for at, job in zip(start, chosen, strict=True))
            best = min(best, least_paid(busy, instance.delay, best))
    return best


def least_paid(busy: list[tuple[int, int]], delay: int, best: int) -> int:
    """Return the least paid seconds for fixed busy stretches, by trying every replica for each, in order."""

    def place(index: int, ends: tuple[int, ...], paid: int) -> None:
        nonlocal best
        if paid >= best:
            return
        if index == len(busy):
            best = paid
            return
        start, end = busy[index]
        for replica in sorted(set(range(len(ends)))):
            if ends[replica] <= start:
                others = (*ends[:replica], *ends[replica + 1 :])
                place(index + 1, (*others, end), paid + end - ends[replica])
        place(index + 1, (*ends, end), paid + delay + end - start)

    place(0, (), 0)
    return best


def test_should_never_be_above_the_optimum_and_mostly_close_to_it() -> None:
    ratios = []
    for seed in range(INSTANCES):
        instance = draw_instance(seed)
        optimum = enumerated_optimum(instance)
        bound = clairvoyant_bound(instance.problem, slot_seconds=1.0).usd
        assert bound <= optimum + 1e-9, f"seed {seed}: bound {bound}, optimum {optimum}"
        ratios.append(bound / optimum)
    print(f"bound over optimum: median {median(ratios):.3f}, least {min(ratios):.3f}")
    assert median(ratios) >= 0.9


def work(arrival_seconds: float, **changes: float) -> Work:
    return Work(
        **{
            "arrival_seconds": arrival_seconds,
            "urgent_seconds": 1.0,
            "later_seconds": 1.0,
            "residence_seconds": 2.0,
            **changes,
        }
    )


def problem(*all_work: Work, **changes: float) -> BoundProblem:
    values = {
        "share": 1.0,
        "objective_seconds": 1.0,
        "place_share": 1.0,
        "start_seconds": 10.0,
        "replica_usd_per_hour": 3600.0,
        "end_seconds": 60.0,
        **changes,
    }
    return BoundProblem(work=tuple(all_work), **values)  # type: ignore[arg-type]  # every change is a number


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
    urgent, later, residence = parts
    # The second bucket of contexts is left out.
    assert 0.95 * last_seconds < ENGINE.maximum_batch * (urgent + later) <= last_seconds
    assert residence <= last_seconds

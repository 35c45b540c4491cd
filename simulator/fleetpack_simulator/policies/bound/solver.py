"""The least USD at which any policy could keep a share of requests in the objective, knowing the whole future.

Time is cut into slots of Δ seconds. For a schedule of any policy, let

- `paid[t]`: replica-seconds that it pays in slot t, over Δ;
- `live[t]`, `started[t]`, `stopped[t]`: whole replicas that it pays at the end of slot t, and that come and go within it;
- `kept[g]`: requests of group g that are in the objective;
- `urgent[g,t]`, `done[t]`: busy seconds that replicas spend in slot t on first tokens of g, and on other tokens, over Δ;
- `begun[g,j]`: requests of g whose prefill begins at the instant jΔ (one that begins between two instants is counted at both,
  by how near it is to each); `taken[t]`: places in batches that requests take in slot t, on average.

Claim: these numbers satisfy the constraints below at a cost that is no more than the schedule's. So the least cost under the
constraints, found by HiGHS as a linear program (with whole replicas, a mixed-integer one), is at most the cost of any policy.
Proof sketch:

1. `live[t] = live[t-1] + started[t] - stopped[t]` counts; `live[t-1] - stopped[t] <= paid[t] <= live[t-1] + started[t]`: who is
   there at both ends, and does not stop in between, is paid for the whole slot; nobody else than the right-hand side is paid at
   all.
2. `busy[t] <= paid[t-k]` for every k with kΔ at most the start delay D: a replica that works at τ is paid at τ and has been
   paid at each instant from τ-D on. Averaging over the slot gives the row. Before time zero nobody is paid.
3. A request in the objective had its first token within T of its arrival, so its urgent work lies in the slots of that stretch;
   its other work lies after its arrival and before the end. A replica is busy for `engine_work` seconds at least, in any batch.
4. A request takes one of a replica's places from the start of its prefill to its last token, `residence_seconds` at least; the
   first whole slots m of that are counted. The overlap of an interval of mΔ with each slot is linear in its start between two
   instants of the grid, so counting it at both is exact. Taken places times `place_share` are at most what is paid, at each
   delay as in 2.
5. Requests are grouped by the slots of their stretch, and by size. A schedule that keeps k of the n of a group does at least
   `total - (n-k)·largest` and at least `k·smallest` of its work, each for the least m: all linear in k, which is a whole
   number.
6. When HiGHS stops early, its dual bound counts; that is at most the optimum too.

Relaxations, each of which can only lower the result: work may be divided, interrupted, moved between replicas and done in any
order within a slot; every step is as cheap as in the largest batch and as quick as in the smallest; placement, nodes that
are paid but not full, node boots, image pulls, minimum replicas, drains and faults cost nothing; several variants are measured
in money, in which case replicas may be divided too; requests that are out of the objective need not be served at all.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import highspy
import numpy

from fleetpack_simulator.policies.bound.problem import BoundError, BoundProblem, Work

_SIZES = 4
"""Groups of each stretch by size: more make the bound tighter and the program larger."""
_MAXIMUM_SLOTS = 1200
_MAXIMUM_WHOLE_SLOTS = 240
"""Beyond it replicas may be divided: fleets that long are large, and the program would take minutes."""
_MAXIMUM_BRANCHES = 500
_SLOTS_OF_A_START = 4
_TOLERANCE = 1e-6
"""HiGHS's own feasibility tolerance; taken off the result, so that rounding never lifts it over the optimum."""
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The result."""

    usd: float
    slot_seconds: float
    whole_replicas: bool
    """Whether replicas could not be divided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Requests of about one size whose first tokens are due in the same slots."""

    first_slot: int
    last_slot: int
    last_instant: int
    """Of the grid, by which the last prefill has begun."""
    residence_slots: int
    work: tuple[Work, ...]


def clairvoyant_bound(
    problem: BoundProblem,
    *,
    slot_seconds: float | None = None,
    whole_replicas: bool = True,
    time_limit_seconds: float | None = None,
) -> Bound:
    """Return the least USD; `BoundError` when not even all servable requests make the share.

    Without `whole_replicas` replicas may be divided: a little lower, and much quicker to find. A time limit makes the result depend on
    the machine: when it is over, what is proven by then counts, or there is no bound.
    """
    needed = math.ceil(problem.share * (len(problem.work) + problem.unservable) - _TOLERANCE)
    if needed > len(problem.work):
        raise BoundError(
            f"bound: {needed} requests have to be in the objective, only {len(problem.work)} fit any window; ask for a smaller share"
        )
    length = default_slot_seconds(problem) if slot_seconds is None else slot_seconds
    slots = max(1, math.ceil(problem.end_seconds / length - 1e-9))
    whole = whole_replicas and problem.whole_replicas and slots <= _MAXIMUM_WHOLE_SLOTS
    program = _Program()
    paid = program.add_columns(slots, cost=problem.replica_usd_per_hour * length / _SECONDS_PER_HOUR)
    if whole:
        _count_replicas(program, paid)
    groups = _groups(problem, length, slots, all_kept=needed == len(problem.work))
    kept = [
        program.add_columns(
            1,
            lower=float(len(group.work)) if needed == len(problem.work) else 0.0,
            upper=float(len(group.work)),
            integer=whole,
        )[0]
        for group in groups
    ]
    program.add_row([(column, 1.0) for column in kept], lower=float(needed))
    delay = math.floor(problem.start_seconds / length + 1e-9)
    _serve_only_when_paid(program, _busy(program, groups, kept, length, slots), paid, delay)
    taken = _taken(program, groups, kept, slots)
    _serve_only_when_paid(program, [[(column, problem.place_share)] for column in taken], paid, delay)
    usd = program.solve(time_limit_seconds)
    return Bound(usd=max(0.0, usd - _TOLERANCE * (1.0 + usd)), slot_seconds=length, whole_replicas=whole)


def default_slot_seconds(problem: BoundProblem) -> float:
    """Return a slot that divides the start delay, as short as the program's size permits."""
    shortest = problem.end_seconds / _MAXIMUM_SLOTS
    if problem.start_seconds < shortest:
        return shortest
    return problem.start_seconds / min(_SLOTS_OF_A_START, math.floor(problem.start_seconds / shortest))


def _count_replicas(program: _Program, paid: range) -> None:
    """Tie what is paid to whole replicas: rows 1 of the proof."""
    live = program.add_columns(len(paid), integer=True)
    started = program.add_columns(len(paid), integer=True)
    stopped = program.add_columns(len(paid), integer=True)
    for slot, column in enumerate(paid):
        before = ((live[slot - 1], -1.0),) if slot else ()
        program.add_row(((live[slot], 1.0), (started[slot], -1.0), (stopped[slot], 1.0), *before), lower=0.0, upper=0.0)
        program.add_row(((column, 1.0), (started[slot], -1.0), *before), upper=0.0)
        program.add_row(((column, 1.0), (stopped[slot], 1.0), *before), lower=0.0)


def _serve_only_when_paid(program: _Program, use: list[list[tuple[int, float]]], paid: range, delay: int) -> None:
    """Let what is used in a slot be paid in it and in those of the start before it: rows 2 of the proof."""
    for slot, entries in enumerate(use):
        for earlier in range(slot - delay, slot + 1):
            program.add_row(entries if earlier < 0 else [*entries, (paid[earlier], -1.0)], upper=0.0)


def _busy(
    program: _Program, groups: list[_Group], kept: list[int], length: float, slots: int
) -> list[list[tuple[int, float]]]:
    """Add the work of all groups: row 3 of the proof; return the columns of each slot."""
    busy: list[list[tuple[int, float]]] = [[] for _ in range(slots)]
    released: list[list[int]] = [[] for _ in range(slots)]
    for group, column in zip(groups, kept, strict=True):
        urgent = program.add_columns(group.last_slot - group.first_slot + 1)
        for work, slot in zip(urgent, range(group.first_slot, group.last_slot + 1), strict=True):
            busy[slot].append((work, 1.0))
        later = program.add_columns(1)[0]
        released[group.first_slot].append(later)
        _add_sizes(program, list(urgent), column, [one.urgent_seconds / length for one in group.work])
        _add_sizes(program, [later], column, [one.later_seconds / length for one in group.work])
    # From the last slot back: all that is released from a slot on is done from it on.
    done, ahead, due = (program.add_columns(slots) for _ in range(3))
    for slot in range(slots):
        after = range(slot + 1, min(slot + 2, slots))
        program.add_row([(ahead[slot], 1.0), (done[slot], -1.0), *((ahead[one], -1.0) for one in after)], equal=0.0)
        program.add_row(
            [(due[slot], 1.0), *((one, -1.0) for one in released[slot]), *((due[one], -1.0) for one in after)],
            equal=0.0,
        )
        program.add_row([(ahead[slot], 1.0), (due[slot], -1.0)], lower=0.0)
        busy[slot].append((done[slot], 1.0))
    return busy


def _add_sizes(program: _Program, columns: list[int], kept: int, sizes: list[float]) -> None:
    """Let columns hold at least the work of the kept ones of requests of these sizes: row 5 of the proof."""
    total, count = sum(sizes), len(sizes)
    summed = [(column, 1.0) for column in columns]
    program.add_row([*summed, (kept, -max(sizes))], lower=total - count * max(sizes))
    if max(sizes) > min(sizes):
        program.add_row([*summed, (kept, -min(sizes))], lower=0.0)


def _taken(program: _Program, groups: list[_Group], kept: list[int], slots: int) -> range:
    """Add the places that requests take: row 4 of the proof; return the column of each slot."""
    changes: list[list[tuple[int, float]]] = [[] for _ in range(slots)]
    for group, column in zip(groups, kept, strict=True):
        begun = program.add_columns(group.last_instant - group.first_slot + 1)
        program.add_row([*((one, 1.0) for one in begun), (column, -1.0)], equal=0.0)
        for one, slot in zip(begun, range(group.first_slot, group.last_instant + 1), strict=True):
            for at, change in ((slot, -1.0), (slot + group.residence_slots, 1.0)):
                if at < slots and group.residence_slots:
                    changes[at].append((one, change))
    taken = program.add_columns(slots)
    for slot in range(slots):
        before = [(taken[slot - 1], -1.0)] if slot else []
        program.add_row([(taken[slot], 1.0), *before, *changes[slot]], equal=0.0)
    return taken


def _groups(problem: BoundProblem, length: float, slots: int, *, all_kept: bool) -> list[_Group]:
    # Work that is measured in money says nothing about when a prefill has to begin.
    pace = 1.0 if problem.whole_replicas else 0.0

    def stretch(one: Work) -> tuple[int, int, int]:
        first = min(slots - 1, math.floor(one.arrival_seconds / length + 1e-9))
        # An instant that ends a slot belongs to it: work up to then needs nothing of the next one.
        due_seconds = one.arrival_seconds + problem.objective_seconds
        last = math.ceil(due_seconds / length - 1e-9) - 1
        instant = math.ceil((due_seconds - one.urgent_seconds * pace) / length - 1e-9)
        return first, max(first, min(slots - 1, last)), max(first, instant)

    def size(one: Work) -> float:
        return one.urgent_seconds + one.later_seconds

    groups = []
    ordered = sorted(problem.work, key=lambda one: (stretch(one), size(one)))
    for (first, last, instant), members in groupby(ordered, key=stretch):
        alike = list(members)
        step = math.ceil(len(alike) / (1 if all_kept and len(alike) > _SIZES else _SIZES))
        for start in range(0, len(alike), step):
            work = tuple(alike[start : start + step])
            residence = min(one.residence_seconds for one in work)
            groups.append(
                _Group(
                    first_slot=first,
                    last_slot=last,
                    last_instant=instant,
                    residence_slots=math.floor(residence / length + 1e-9),
                    work=work,
                )
            )
    return groups


@dataclass(slots=True)
class _Program:
    """A mixed-integer program under construction; columns are non-negative, the sum of costs is made least."""

    _costs: list[float] = field(default_factory=list)
    _lower: list[float] = field(default_factory=list)
    _upper: list[float] = field(default_factory=list)
    _integer: list[bool] = field(default_factory=list)
    _row_lower: list[float] = field(default_factory=list)
    _row_upper: list[float] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])
    _columns: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)

    def add_columns(
        self, count: int, *, cost: float = 0.0, lower: float = 0.0, upper: float = math.inf, integer: bool = False
    ) -> range:
        """Add equal columns; return their numbers."""
        first = len(self._costs)
        self._costs += [cost] * count
        self._lower += [lower] * count
        self._upper += [upper] * count
        self._integer += [integer] * count
        return range(first, first + count)

    def add_row(
        self,
        entries: Iterable[tuple[int, float]],
        *,
        lower: float = -math.inf,
        upper: float = math.inf,
        equal: float | None = None,
    ) -> None:
        """Add a row: lower <= sum of value times column <= upper, or both `equal`."""
        if equal is not None:
            lower = upper = equal
        for column, value in entries:
            self._columns.append(column)
            self._values.append(value)
        self._starts.append(len(self._columns))
        self._row_lower.append(lower)
        self._row_upper.append(upper)

    def solve(self, time_limit_seconds: float | None = None) -> float:
        """Return a lower bound of the least cost: the optimum, or what has been proven when the solver stops early."""
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(self._costs), len(self._row_lower)
        program.col_cost_ = numpy.array(self._costs)
        program.col_lower_, program.col_upper_ = numpy.array(self._lower), numpy.array(self._upper)
        program.row_lower_, program.row_upper_ = numpy.array(self._row_lower), numpy.array(self._row_upper)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = numpy.array(self._starts, dtype=numpy.int32)
        program.a_matrix_.index_ = numpy.array(self._columns, dtype=numpy.int32)
        program.a_matrix_.value_ = numpy.array(self._values)
        is_mixed = any(self._integer)
        if is_mixed:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            program.integrality_ = [kinds[integer] for integer in self._integer]
        solver = _silent_solver()
        # One thread and a limit in branches, not in seconds: the same problem gives the same bound on every machine.
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_max_nodes", _MAXIMUM_BRANCHES),
        ):
            solver.setOptionValue(option, value)
        if time_limit_seconds is not None:
            solver.setOptionValue("time_limit", time_limit_seconds)
        solver.passModel(program)
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise BoundError("bound: no policy can keep this share: the first replicas start too late for it")
        information = solver.getInfo()
        bound = information.mip_dual_bound if is_mixed else information.objective_function_value
        if (not is_mixed and status != highspy.HighsModelStatus.kOptimal) or not math.isfinite(bound):
            raise BoundError(
                f"bound: the solver stopped with {solver.modelStatusToString(status)} and has proven nothing"
            )
        return float(bound)


def _silent_solver() -> Any:
    """Return a solver; the library greets on standard output when the first one is made, before it can be told not to."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        return highspy.Highs()  # type: ignore[no-untyped-call]  # its constructor has no annotation
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)

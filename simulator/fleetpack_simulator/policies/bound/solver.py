"""The least USD at which any policy could keep a share of requests in the objective, knowing the whole future.

Time is cut into slots of Δ seconds. For a schedule of any policy, and for each variant v, let

- `paid[v,t]`: replica-seconds that it pays in slot t, over Δ;
- `live[v,t]`, `started[v,t]`, `stopped[v,t]`: whole replicas that it pays at the end of slot t, and that come and go within it;
- `kept[v,g]`: requests of group g that are in the objective and are served there;
- `urgent[v,g,t]`, `done[v,t]`: busy seconds that replicas spend in slot t on first tokens of g, and on other tokens, over Δ;
- `begun[v,g,j]`: requests of g whose prefill begins at the instant jΔ (one that begins between two instants is counted at both,
  by how near it is to each); `taken[v,t]`: places in batches that requests take in slot t, on average.

Claim: these numbers satisfy the constraints below at a cost that is no more than the schedule's. So the least cost under the
constraints, found by HiGHS as a linear program (with whole replicas, a mixed-integer one), is at most the cost of any policy.
Proof sketch, for each variant by itself but for 6:

1. `live[t] = live[t-1] + started[t] - stopped[t]` counts; `live[t-1] - stopped[t] <= paid[t] <= live[t-1] + started[t]`: who is
   there at both ends, and does not stop in between, is paid for the whole slot; nobody else than the right-hand side is paid at
   all. Leave out replicas that never serve: that costs less and serves as much. Each other one is paid for longer than its start
   delay D, so whoever started in the last `floor(D/Δ)` slots up to t is still there at its end: `sum of started <= live[t]`.
2. `busy[t] <= paid[t-k]` for every k with kΔ at most the start delay D: a replica that works at τ is paid at τ and has been
   paid at each instant from τ-D on. Averaging over the slot gives the row. Before time zero nobody is paid.
3. A request in the objective had its first token within T of its arrival, so its urgent work lies in the slots of that stretch;
   its other work lies after its arrival and before the end. A replica is busy for `engine_work` seconds at least, in any batch.
4. A request takes one of a replica's places from the start of its prefill to its last token, `residence_seconds` at least; the
   first whole slots m of that are counted. The overlap of an interval of mΔ with each slot is linear in its start between two
   instants of the grid, so counting it at both is exact. Taken places times `place_share` are at most what is paid, at each
   delay as in 2. And while any of the n requests of a group is served, a whole replica is paid, so places that the group takes
   over n are at most what is paid, too: for groups that fill less than a replica this says more.
5. Requests are grouped by the slots of their stretch, by who can serve them, and by size. A schedule that serves k of the n of a
   group with a variant does at least `total - (n-k)·largest` and at least `k·smallest` of its work there, each for the least m:
   all linear in k, which is a whole number. The same holds for all variants together: divide the work on each by a pace of its own,
   whatever it is, and count each request where it is then least.
6. A request is served by one replica, so by one variant: the `kept` of a group add up to at most its n, and all of them to the
   share that is asked for.
7. When HiGHS stops early, its dual bound counts; that is at most the optimum too.

Relaxations, each of which can only lower the result: work may be divided, interrupted, moved between replicas and done in any
order within a slot; every step is as cheap as in the largest batch and as quick as in the smallest; where replicas may be
divided, several variants are one that is measured in money (`in_money`); placement, nodes that are paid but not full, node boots,
image pulls, minimum replicas, drains and faults cost nothing; requests that are out of the objective need not be served at all.
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

from fleetpack_simulator.policies.bound.problem import BoundError, BoundProblem, Effort, Work, in_money

_SIZES = 4
"""Groups of each stretch by size: more make the bound tighter and the program larger."""
_MAXIMUM_SLOTS = 1200
_MAXIMUM_WHOLE_SLOTS = 240
"""Beyond it replicas may be divided: fleets that long are large, and the program would take minutes."""
_MAXIMUM_FEW = 100
"""Groups that fill less than a replica, up to which each has rows of its own: where there are more, places fill up anyway."""
_MAXIMUM_BRANCHES = 500
_MAXIMUM_ITERATIONS = 500_000
"""Of the simplex method, where replicas may be divided: a day of 370,000 requests takes 23,000, in five seconds."""
_SLOTS_OF_A_START = 4
_TOLERANCE = 1e-6
"""HiGHS's own feasibility tolerance; taken off the result, so that rounding never lifts it over the optimum."""
_SECONDS_PER_HOUR = 3600.0
_NOWHERE = -1
"""Instead of the last instant, where a variant cannot serve a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The result."""

    usd: float
    slot_seconds: float
    whole_replicas: bool
    """Whether replicas could not be divided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Requests of about one size whose first tokens are due in the same slots, and that the same variants can serve."""

    first_slot: int
    last_slot: int
    last_instants: tuple[int | None, ...]
    """Of the grid, by which the last prefill has begun, by variant; None: it cannot serve them."""
    work: tuple[Work, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A group as work for one variant."""

    first_slot: int
    last_slot: int
    last_instant: int
    residence_slots: int
    efforts: tuple[Effort, ...]
    kept: int
    """Column of the requests that are in the objective and served here."""
    begun: range
    """Columns of those whose prefill begins at each instant of the stretch."""
    urgent: range
    """Columns of the busy time for first tokens in each slot of the stretch, over the slot's length."""
    later: range
    """Column of the busy time for all that follows, over a slot's length."""


def clairvoyant_bound(
    problem: BoundProblem, *, slot_seconds: float | None = None, whole_replicas: bool = True
) -> Bound:
    """Return the least USD; `BoundError` when not even all servable requests make the share, or nothing was proven in so many steps.

    Without `whole_replicas` replicas may be divided: a little lower, and much quicker to find.
    """
    needed = math.ceil(problem.share * (len(problem.work) + problem.unservable) - _TOLERANCE)
    if needed > len(problem.work):
        raise BoundError(
            f"bound: {needed} requests have to be in the objective, only {len(problem.work)} fit any window; ask for a smaller share"
        )
    length = default_slot_seconds(problem) if slot_seconds is None else slot_seconds
    slots = max(1, math.ceil(problem.end_seconds / length - 1e-9))
    whole = whole_replicas and slots <= _MAXIMUM_WHOLE_SLOTS
    if not whole and len(problem.variants) > 1:
        # Where replicas may be divided anyway, variants by themselves say next to nothing more, and take twenty times as long.
        problem = in_money(problem)
    program = _Program()
    groups = _groups(problem, length, slots, all_kept=needed == len(problem.work))
    parts = _parts(program, problem, groups, needed, length, whole=whole)
    for variant, own in zip(problem.variants, parts, strict=True):
        paid = program.add_columns(slots, cost=variant.replica_usd_per_hour * length / _SECONDS_PER_HOUR)
        delay = math.floor(variant.start_seconds / length + 1e-9)
        if whole:
            _count_replicas(program, paid, delay)
        _serve_only_when_paid(program, _busy(program, own, slots), paid, delay)
        taken = _taken(program, own, slots)
        _serve_only_when_paid(program, [[(column, variant.place_share)] for column in taken], paid, delay)
        few = [part for part in own if len(part.efforts) * variant.place_share < 1.0]
        if whole and len(few) <= _MAXIMUM_FEW:
            _serve_each_by_one(program, few, paid, delay)
    usd = program.solve()
    return Bound(usd=max(0.0, usd - _TOLERANCE * (1.0 + usd)), slot_seconds=length, whole_replicas=whole)


def default_slot_seconds(problem: BoundProblem) -> float:
    """Return a slot that divides the (shortest) start delay, as short as the program's size permits."""
    shortest = problem.end_seconds / _MAXIMUM_SLOTS
    start_seconds = min(variant.start_seconds for variant in problem.variants)
    if start_seconds < shortest:
        return shortest
    return start_seconds / min(_SLOTS_OF_A_START, math.floor(start_seconds / shortest))


def _parts(
    program: _Program, problem: BoundProblem, groups: list[_Group], needed: int, length: float, *, whole: bool
) -> list[list[_Part]]:
    """Add how many of each group are served by each variant: row 6 of the proof; return the parts of each variant."""
    parts: list[list[_Part]] = [[] for _ in problem.variants]
    every: list[int] = []
    for group in groups:
        count = float(len(group.work))
        least = count if needed == len(problem.work) else 0.0
        servers = [index for index, instant in enumerate(group.last_instants) if instant is not None]
        alone = len(servers) == 1
        columns = [
            program.add_columns(1, lower=least if alone else 0.0, upper=count, integer=whole)[0] for _ in servers
        ]
        if not alone:
            program.add_row([(column, 1.0) for column in columns], lower=least, upper=count)
        every += columns
        of_group = [
            _part(program, group, index, column, length) for index, column in zip(servers, columns, strict=True)
        ]
        for index, part in zip(servers, of_group, strict=True):
            parts[index].append(part)
        _add_work(program, of_group, length)
    program.add_row([(column, 1.0) for column in every], lower=float(needed))
    return parts


def _part(program: _Program, group: _Group, variant: int, kept: int, length: float) -> _Part:
    efforts = tuple(effort for one in group.work if (effort := one.efforts[variant]) is not None)
    last_instant = group.last_instants[variant]
    assert len(efforts) == len(group.work)
    assert last_instant is not None
    return _Part(
        first_slot=group.first_slot,
        last_slot=group.last_slot,
        last_instant=last_instant,
        residence_slots=math.floor(min(one.residence_seconds for one in efforts) / length + 1e-9),
        efforts=efforts,
        kept=kept,
        begun=program.add_columns(last_instant - group.first_slot + 1),
        urgent=program.add_columns(group.last_slot - group.first_slot + 1),
        later=program.add_columns(1),
    )


def _count_replicas(program: _Program, paid: range, delay: int) -> None:
    """Tie what is paid to whole replicas: rows 1 of the proof."""
    live = program.add_columns(len(paid), integer=True)
    started = program.add_columns(len(paid), integer=True)
    stopped = program.add_columns(len(paid), integer=True)
    for slot, column in enumerate(paid):
        before = ((live[slot - 1], -1.0),) if slot else ()
        program.add_row(((live[slot], 1.0), (started[slot], -1.0), (stopped[slot], 1.0), *before), lower=0.0, upper=0.0)
        program.add_row(((column, 1.0), (started[slot], -1.0), *before), upper=0.0)
        program.add_row(((column, 1.0), (stopped[slot], 1.0), *before), lower=0.0)
        recent = range(max(0, slot + 1 - delay), slot + 1)
        program.add_row([*((started[one], 1.0) for one in recent), (live[slot], -1.0)], upper=0.0)


def _serve_only_when_paid(program: _Program, use: list[list[tuple[int, float]]], paid: range, delay: int) -> None:
    """Let what is used in a slot be paid in it and in those of the start before it: rows 2 of the proof."""
    for slot, entries in enumerate(use):
        if not entries:
            continue
        for earlier in range(slot - delay, slot + 1):
            program.add_row(entries if earlier < 0 else [*entries, (paid[earlier], -1.0)], upper=0.0)


def _add_work(program: _Program, parts: list[_Part], length: float) -> None:
    """Let the columns of a group hold at least the work of those that are kept: rows 5 of the proof."""
    urgent = [[effort.urgent_seconds / length for effort in part.efforts] for part in parts]
    later = [[effort.later_seconds / length for effort in part.efforts] for part in parts]
    _add_sizes_of_variants(program, parts, [part.urgent for part in parts], urgent)
    _add_sizes_of_variants(program, parts, [part.later for part in parts], later)


def _add_sizes_of_variants(
    program: _Program, parts: list[_Part], columns: list[range], by_variant: list[list[float]]
) -> None:
    for part, own, sizes in zip(parts, columns, by_variant, strict=True):
        _add_sizes(program, [(own, 1.0)], [part.kept], sizes)
    if len(parts) > 1 and all(sum(sizes) > 0.0 for sizes in by_variant):
        paces = [sum(sizes) / sum(by_variant[0]) for sizes in by_variant]
        least = [
            min(size / pace for size, pace in zip(sizes, paces, strict=True)) for sizes in zip(*by_variant, strict=True)
        ]
        paced = [(own, 1.0 / pace) for own, pace in zip(columns, paces, strict=True)]
        _add_sizes(program, paced, [part.kept for part in parts], least)


def _add_sizes(program: _Program, columns: list[tuple[range, float]], kept: list[int], sizes: list[float]) -> None:
    """Let columns, each times its factor, hold at least the work of the kept ones of requests of these sizes."""
    total, count = sum(sizes), len(sizes)
    summed = [(column, factor) for some, factor in columns for column in some]
    program.add_row([*summed, *((one, -max(sizes)) for one in kept)], lower=total - count * max(sizes))
    if max(sizes) > min(sizes):
        program.add_row([*summed, *((one, -min(sizes)) for one in kept)], lower=0.0)


def _busy(program: _Program, parts: list[_Part], slots: int) -> list[list[tuple[int, float]]]:
    """Put the work of all groups into slots: row 3 of the proof; return the columns of each slot."""
    busy: list[list[tuple[int, float]]] = [[] for _ in range(slots)]
    released: list[list[int]] = [[] for _ in range(slots)]
    for part in parts:
        for work, slot in zip(part.urgent, range(part.first_slot, part.last_slot + 1), strict=True):
            busy[slot].append((work, 1.0))
        released[part.first_slot].append(part.later[0])
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


def _serve_each_by_one(program: _Program, parts: list[_Part], paid: range, delay: int) -> None:
    """Let a whole replica be paid for a request even where it fills one place of many: rows 4 of the proof, once more."""
    for part in parts:
        last = min(len(paid), part.last_instant + part.residence_slots)
        use: list[list[tuple[int, float]]] = [[] for _ in range(last)]
        for column, instant in zip(part.begun, range(part.first_slot, part.last_instant + 1), strict=True):
            for slot in range(instant, min(last, instant + part.residence_slots)):
                use[slot].append((column, 1.0 / len(part.efforts)))
        _serve_only_when_paid(program, use, paid, delay)


def _taken(program: _Program, parts: list[_Part], slots: int) -> range:
    """Add the places that requests take: row 4 of the proof; return the column of each slot."""
    changes: list[list[tuple[int, float]]] = [[] for _ in range(slots)]
    for part in parts:
        begun = part.begun
        program.add_row([*((one, 1.0) for one in begun), (part.kept, -1.0)], equal=0.0)
        for one, slot in zip(begun, range(part.first_slot, part.last_instant + 1), strict=True):
            for at, change in ((slot, -1.0), (slot + part.residence_slots, 1.0)):
                if at < slots and part.residence_slots:
                    changes[at].append((one, change))
    taken = program.add_columns(slots)
    for slot in range(slots):
        before = [(taken[slot - 1], -1.0)] if slot else []
        program.add_row([(taken[slot], 1.0), *before, *changes[slot]], equal=0.0)
    return taken


def _groups(problem: BoundProblem, length: float, slots: int, *, all_kept: bool) -> list[_Group]:
    def stretch(one: Work) -> tuple[int, int, tuple[int, ...]]:
        first = min(slots - 1, math.floor(one.arrival_seconds / length + 1e-9))
        # An instant that ends a slot belongs to it: work up to then needs nothing of the next one.
        due_seconds = one.arrival_seconds + problem.objective_seconds
        last = math.ceil(due_seconds / length - 1e-9) - 1
        instants = tuple(
            _NOWHERE
            if effort is None
            else max(first, math.ceil((due_seconds - effort.first_token_seconds) / length - 1e-9))
            for effort in one.efforts
        )
        return first, max(first, min(slots - 1, last)), instants

    def size(one: Work) -> tuple[float, ...]:
        return tuple(effort.urgent_seconds + effort.later_seconds for effort in one.efforts if effort is not None)

    groups = []
    ordered = sorted(problem.work, key=lambda one: (stretch(one), size(one)))
    for (first, last, instants), members in groupby(ordered, key=stretch):
        alike = list(members)
        # Where all are served by the only variant their sum is all that counts.
        is_sum_enough = all_kept and len(problem.variants) == 1 and len(alike) > _SIZES
        step = math.ceil(len(alike) / (1 if is_sum_enough else _SIZES))
        groups += [
            _Group(
                first_slot=first,
                last_slot=last,
                last_instants=tuple(None if instant == _NOWHERE else instant for instant in instants),
                work=tuple(alike[start : start + step]),
            )
            for start in range(0, len(alike), step)
        ]
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

    def solve(self) -> float:
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
        # One thread and limits in branches and steps, not in seconds: a slow machine gives the same bound as a quick one.
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_max_nodes", _MAXIMUM_BRANCHES) if is_mixed else ("simplex_iteration_limit", _MAXIMUM_ITERATIONS),
        ):
            solver.setOptionValue(option, value)
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

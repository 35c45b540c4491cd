"""The fit: eight coefficients per chip from published rows, and what they are worth for rows that were left out.

Residuals are logarithms of predicted over measured, so that a millisecond and a minute count alike, under a Cauchy loss, so
that rows which contradict their neighbours lose their pull the further off they are. The two NeuronCore-v2 chips share all
numbers but the FLOPS share, which a weak tie holds together, and with it the time per position. Trainium2, of which few rows
are published, starts from Trainium's numbers, what a core does by itself scaled with the data sheets, and moves away from them
only as far as its rows pay for it. Only formulas are fitted: rows that ran a server under load, models with experts, and chips
of other vendors are predicted, never fitted on.
Levenberg-Marquardt with numeric derivatives, in plain Python: a dozen unknowns do not need a library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from fleetpack_simulator.calibration.prediction import predict
from fleetpack_simulator.calibration.rows import DecoderWork, Load, Row
from fleetpack_simulator.engine import Coefficients, Hardware
from fleetpack_simulator.settings import hardware_of

Vector = tuple[float, ...]

# Errors up to some 10 % count squared, beyond it ever less: about the spread between repeated runs of the same row.
_WIDTH = 0.1
# A number of Trainium2 that differs from Trainium's by a factor e costs as much as this many squared errors.
_RELATIVE_TIE = 0.5
# A number that differs from its start by a factor e costs as much as this squared: what rows tell little of stays near.
_START_WEIGHT = 0.1
# The same for the time per position, which prompts of two kinds pull apart (docs/fidelity.md), and which physics knows: three passes of
# an engine that takes one element per lane and clock at 0.96 GHz (maximum, exponent and sum, scale).
_POSITION_WEIGHT = 0.5
# The same between Inferentia2 and Trainium 1, which have the same cores.
_SIBLING_TIE = 0.01
# No chip does better than its data sheet; beyond 95 % of it a share is held back.
_LARGEST_SHARE = math.log(0.95)
_SHARE_TIE = 10.0
_MAXIMUM_STEPS = 40
_DERIVATIVE_STEP = 1e-4

# Where a fit starts, in round numbers; what no row tells stays there. Output: a PCIe 4.0 link of four lanes.
_START = Coefficients(
    weight_bandwidth_share=0.5,
    flops_share=0.5,
    layer_seconds=2e-5,
    collective_seconds=1e-4,
    position_seconds=3e-9,
    sequence_seconds=5e-6,
    prefill_sequence_seconds=1.5e-4,
    output_gb_per_second=8.0,
    projected=False,
)
_OWN_NUMBERS = ("flops_share",)
"""What Inferentia2 and Trainium 1 do not share."""

CHIPS = ("inferentia2", "trainium", "trainium2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Numbers to fit: a start in logarithms, the coefficients that a vector stands for, and the ties that hold it."""

    start: Vector
    coefficients: Callable[[Vector], Mapping[str, Coefficients]]
    ties: Callable[[Vector], Vector]
    """Differences that cost; each already weighted."""


def fit(rows: Iterable[Row]) -> dict[str, Coefficients]:
    """Return the coefficients of each chip that the rows give."""
    usable = [row for row in rows if _is_fitted_on(row)]
    siblings = tuple(row for row in usable if row.accelerator in ("inferentia2", "trainium"))
    fitted = dict(_fit_siblings(siblings))
    relatives = tuple(row for row in usable if row.accelerator == "trainium2")
    relative = _scaled(fitted["trainium"], hardware_of("trainium"), hardware_of("trainium2"))
    return fitted | dict(_fit_relative(relatives, relative))


# A fit depends on its rows alone, and rows left out are often none of those that it uses: nothing is fitted twice.
@cache
def _fit_siblings(rows: tuple[Row, ...]) -> Mapping[str, Coefficients]:
    return _solve(rows, _sibling_problem())


@cache
def _fit_relative(rows: tuple[Row, ...], relative: Coefficients) -> Mapping[str, Coefficients]:
    return _solve(rows, _relative_problem("trainium2", relative))


def _scaled(known: Coefficients, from_hardware: Hardware, to_hardware: Hardware) -> Coefficients:
    """Return what the numbers of one chip say of a relative: work on a core goes as fast as its data sheet's FLOPS say."""
    slower = (from_hardware.tflops_bf16 / from_hardware.cores_per_device) / (
        to_hardware.tflops_bf16 / to_hardware.cores_per_device
    )
    return replace(known, position_seconds=known.position_seconds * slower)


def _is_fitted_on(row: Row) -> bool:
    work = row.work
    is_formula = not isinstance(work, DecoderWork) or work.load not in (Load.OPEN, Load.CLOSED)
    return is_formula and row.accelerator in CHIPS and not row.has_experts


def _sibling_problem() -> Problem:
    shared = [name for name in Coefficients.names() if name not in _OWN_NUMBERS]
    common_count, own_count = len(shared), len(_OWN_NUMBERS)

    def coefficients(vector: Vector) -> Mapping[str, Coefficients]:
        values = tuple(map(math.exp, vector))
        common = dict(zip(shared, values, strict=False))
        first = dict(zip(_OWN_NUMBERS, values[common_count:], strict=False))
        second = dict(zip(_OWN_NUMBERS, values[common_count + own_count :], strict=True))
        # All engines of a core have its clock: where products are faster, so is the work per position.
        faster = second["flops_share"] / first["flops_share"]
        other = common | {"position_seconds": common["position_seconds"] / faster}
        return {
            "inferentia2": Coefficients(projected=False, **common, **first),
            "trainium": Coefficients(projected=False, **other, **second),
        }

    def ties(vector: Vector) -> Vector:
        weight = math.sqrt(_SIBLING_TIE)
        firsts, seconds = vector[common_count:][:own_count], vector[common_count + own_count :]
        kept = (
            (_POSITION_WEIGHT if name == "position_seconds" else _START_WEIGHT) * (value - first)
            for name, value, first in zip(names, vector, start, strict=True)
        )
        return (*(weight * (first - second) for first, second in zip(firsts, seconds, strict=True)), *kept)

    names = [*shared, *_OWN_NUMBERS, *_OWN_NUMBERS]
    start = tuple(math.log(getattr(_START, name)) for name in names)
    return Problem(start=start, coefficients=coefficients, ties=ties)


def _relative_problem(chip: str, relative: Coefficients) -> Problem:
    start = tuple(math.log(getattr(relative, name)) for name in Coefficients.names())

    def coefficients(vector: Vector) -> Mapping[str, Coefficients]:
        numbers = dict(zip(Coefficients.names(), map(math.exp, vector), strict=True))
        return {chip: Coefficients(projected=False, **numbers)}

    def ties(vector: Vector) -> Vector:
        weight = math.sqrt(_RELATIVE_TIE)
        kept = tuple(weight * (value - first) for value, first in zip(vector, start, strict=True))
        shares = (value for name, value in zip(Coefficients.names(), vector, strict=True) if name.endswith("_share"))
        return (*kept, *(_SHARE_TIE * max(0.0, value - _LARGEST_SHARE) for value in shares))

    return Problem(start=start, coefficients=coefficients, ties=ties)


def _residuals(rows: Sequence[Row], coefficients: Mapping[str, Coefficients]) -> Vector:
    residuals: list[float] = []
    for row in rows:
        predicted = predict(row, coefficients[row.accelerator])
        residuals += [
            math.log(predicted[figure] / measured)
            for figure, measured in row.figures
            if figure.is_counted and figure in predicted
        ]
    return tuple(residuals)


def _solve(rows: Sequence[Row], problem: Problem) -> Mapping[str, Coefficients]:
    """Minimise the Cauchy loss of the rows plus the squared ties, by damped and reweighted least squares."""

    def losses(vector: Vector) -> tuple[Vector, Vector, float]:
        errors, ties = _residuals(rows, problem.coefficients(vector)), problem.ties(vector)
        loss = sum(_WIDTH**2 * math.log1p((error / _WIDTH) ** 2) for error in errors)
        return errors, ties, loss + sum(tie**2 for tie in ties)

    vector = problem.start
    damping = 1e-2
    errors, ties, loss = losses(vector)
    for _ in range(_MAXIMUM_STEPS):
        weights = [1 / (1 + (error / _WIDTH) ** 2) for error in errors] + [1.0] * len(ties)
        values = (*errors, *ties)
        slopes: list[Vector] = []
        for index in range(len(vector)):
            moved = (*vector[:index], vector[index] + _DERIVATIVE_STEP, *vector[index + 1 :])
            moved_errors, moved_ties, _ = losses(moved)
            slopes.append(
                tuple(
                    (after - before) / _DERIVATIVE_STEP
                    for after, before in zip((*moved_errors, *moved_ties), values, strict=True)
                )
            )
        normal, gradient = _normal_equations(slopes, values, weights)
        gain = 0.0
        for _ in range(8):
            step = _solve_linear(_damped(normal, damping), [-value for value in gradient])
            candidate = tuple(value + max(-0.7, min(0.7, change)) for value, change in zip(vector, step, strict=True))
            outcome = losses(candidate)
            if outcome[2] < loss:
                gain = loss - outcome[2]
                vector, (errors, ties, loss) = candidate, outcome
                damping = max(damping / 5, 1e-6)
                break
            damping *= 5
        if gain < 1e-7:
            break
    return problem.coefficients(vector)


def _normal_equations(
    slopes: Sequence[Vector], values: Vector, weights: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    weighted = [[weight * one for weight, one in zip(weights, slope, strict=True)] for slope in slopes]
    normal = [
        [sum(left * right for left, right in zip(one, other, strict=True)) for other in slopes] for one in weighted
    ]
    gradient = [sum(left * right for left, right in zip(one, values, strict=True)) for one in weighted]
    return normal, gradient


def _damped(matrix: Sequence[Sequence[float]], damping: float) -> list[list[float]]:
    # The constant keeps a number that no row depends on where it is.
    return [
        [value + (damping * value + 1e-6 if row == column else 0.0) for column, value in enumerate(line)]
        for row, line in enumerate(matrix)
    ]


def _solve_linear(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Gaussian elimination with partial pivoting."""
    size = len(right)
    lines = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda index: abs(lines[index][column]))
        lines[column], lines[pivot] = lines[pivot], lines[column]
        for index in range(column + 1, size):
            factor = lines[index][column] / lines[column][column]
            lines[index] = [value - factor * above for value, above in zip(lines[index], lines[column], strict=True)]
    solution = [0.0] * size
    for index in reversed(range(size)):
        known = sum(lines[index][column] * solution[column] for column in range(index + 1, size))
        solution[index] = (lines[index][size] - known) / lines[index][index]
    return solution

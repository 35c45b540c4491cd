"""Predictions beside measurements: per figure, in total, and for rows left out of the fit; as a value, a table and JSON.

Errors are predicted over measured minus one. The median and the 90th percentile are over the absolute errors of all counted figures
(time to first token, time per output token, latency, tokens per second). A left-out prediction comes from coefficients that were
fitted on the packaged rows without those of the same model family, or of the same instance type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from fleetpack_simulator.calibration.fitting import fit
from fleetpack_simulator.calibration.prediction import decoder_profile, predict
from fleetpack_simulator.calibration.rows import DecoderWork, Figure, Row, RowSet, SkippedFigure
from fleetpack_simulator.engine import Coefficients, ProfileError, coefficients_for
from fleetpack_simulator.settings import SettingsError, hardware_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of one row."""

    row: Row
    figure: Figure
    measured: float
    predicted: float
    projected: bool
    """The accelerator was never measured: its coefficients are carried over."""

    @property
    def error(self) -> float:
        """Predicted over measured, minus one."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How far counted figures are off."""

    name: str
    figures: int
    median_abs_error: float
    p90_abs_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What predictions are worth for one way of leaving rows out: in total, and for each set left out."""

    by: str
    total: Summary
    parts: tuple[Summary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """All that `calibrate` says."""

    comparisons: tuple[Comparison, ...]
    total: Summary
    by_kind: tuple[Summary, ...]
    left_out: tuple[LeftOut, ...]
    skipped: tuple[SkippedFigure, ...]

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values; errors are fractions."""
        return {
            "rows": [_comparison_json(one) for one in self.comparisons],
            "median_abs_error": self.total.median_abs_error,
            "p90_abs_error": self.total.p90_abs_error,
            "counted_figures": self.total.figures,
            "by_kind": [_summary_json(one) for one in self.by_kind],
            "left_out": {
                one.by: {**_summary_json(one.total), "parts": [_summary_json(part) for part in one.parts]}
                for one in self.left_out
            },
            "fitted_parameters_per_chip": len(Coefficients.names()),
            "skipped": [
                {"group": one.group, "model": one.model, "instance": one.instance_type, "reason": one.reason}
                for one in self.skipped
            ],
        }


def _tell_nobody(done: int, of: int) -> None:
    pass


def calibrate(rows: RowSet, fitted_on: RowSet, tell: Callable[[int, int], None] = _tell_nobody) -> CalibrationReport:
    """Predict every row with the coefficients of the package, and again with those of fits that have not seen its like.

    `tell` hears after each of those fits how many are done, and of how many.
    """
    rows = _predictable(rows)
    sets = {("family", row.family) for row in rows.rows} | {("type", row.instance_type) for row in rows.rows}
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        tell(done, len(sets))

    comparisons = tuple(_compare(rows.rows, {}))
    kinds = sorted({one.figure for one in comparisons if one.figure.is_counted})
    return CalibrationReport(
        comparisons=comparisons,
        total=summarize("all", comparisons),
        by_kind=tuple(summarize(kind, [one for one in comparisons if one.figure is kind]) for kind in kinds),
        left_out=(
            _leave_out("model family", rows.rows, fitted_on.rows, lambda row: row.family, one_more),
            _leave_out("instance type", rows.rows, fitted_on.rows, lambda row: row.instance_type, one_more),
        ),
        skipped=rows.skipped,
    )


def _predictable(rows: RowSet) -> RowSet:
    """Move the rows that cannot be predicted to those that are skipped, each with the reason."""
    kept: list[Row] = []
    skipped = list(rows.skipped)
    for row in rows.rows:
        try:
            hardware = hardware_of(row.accelerator)
            if isinstance(row.work, DecoderWork):
                decoder_profile(row.model, row.work, hardware, coefficients_for(hardware))
            kept.append(row)
        except (SettingsError, ProfileError) as error:
            skipped.append(
                SkippedFigure(group=row.group, model=row.model, instance_type=row.instance_type, reason=str(error))
            )
    return RowSet(rows=tuple(kept), skipped=tuple(skipped))


def summarize(name: str, comparisons: Iterable[Comparison]) -> Summary:
    """Return median and 90th percentile (nearest rank) of the counted figures' absolute errors; none counted: both are 0."""
    errors = sorted(abs(one.error) for one in comparisons if one.figure.is_counted)
    return Summary(
        name=name,
        figures=len(errors),
        median_abs_error=_percentile(errors, 0.5),
        p90_abs_error=_percentile(errors, 0.9),
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _compare(rows: Iterable[Row], fitted: Mapping[str, Coefficients]) -> Iterable[Comparison]:
    for row in rows:
        packaged = coefficients_for(hardware_of(row.accelerator))
        predicted = predict(row, fitted.get(row.accelerator, packaged))
        for figure, measured in row.figures:
            if figure in predicted:
                yield Comparison(
                    row=row,
                    figure=figure,
                    measured=measured,
                    predicted=predicted[figure],
                    projected=packaged.projected,
                )


def _leave_out(
    by: str, rows: Iterable[Row], fitted_on: Iterable[Row], key: Callable[[Row], str], one_more: Callable[[], None]
) -> LeftOut:
    rows, fitted_on = tuple(rows), tuple(fitted_on)
    every: list[Comparison] = []
    parts: list[Summary] = []
    for name in sorted({key(row) for row in rows}):
        fitted = fit(row for row in fitted_on if key(row) != name)
        comparisons = tuple(_compare((row for row in rows if key(row) == name), fitted))
        every += comparisons
        parts.append(summarize(name, comparisons))
        one_more()
    return LeftOut(by=by, total=summarize("all", every), parts=tuple(parts))


def _comparison_json(one: Comparison) -> dict[str, object]:
    return {
        "row": one.row.number,
        "group": one.row.group,
        "model": one.row.model,
        "family": one.row.family,
        "instance": one.row.instance_type,
        "accelerator": one.row.accelerator,
        "projected": one.projected,
        "figure": one.figure.value,
        "counted": one.figure.is_counted,
        "measured": one.measured,
        "predicted": one.predicted,
        "error": one.error,
        "source": one.row.source,
    }


def _summary_json(one: Summary) -> dict[str, object]:
    return {
        "name": one.name,
        "figures": one.figures,
        "median_abs_error": one.median_abs_error,
        "p90_abs_error": one.p90_abs_error,
    }


def print_report(report: CalibrationReport, console: Console) -> None:
    """Print the tables for people."""
    table = Table(title="Published measurements and predictions (ms, or per second)")
    for heading in ("model", "instance type", "batch", "lengths", "figure"):
        table.add_column(heading, overflow="fold")
    for heading in ("measured", "predicted", "error"):
        table.add_column(heading, justify="right")
    for one in report.comparisons:
        table.add_row(*_cells(one))
    console.print(table)
    for one_kind in report.by_kind:
        console.print(_sentence(one_kind))
    console.print(f"[bold]all rows: {_sentence(report.total)}[/]")
    for left_out in report.left_out:
        console.print(f"[bold]leave one {left_out.by} out: {_sentence(left_out.total)}[/]")
        for part in left_out.parts:
            console.print(f"  {_sentence(part)}")
    console.print(
        f"fitted numbers per chip: {len(Coefficients.names())}; `projected` marks chips that none was fitted on"
    )
    for skipped in report.skipped:
        console.print(f"not predicted: {skipped.model} on {skipped.instance_type or 'no instance'}: {skipped.reason}")


def markdown_tables(report: CalibrationReport) -> str:
    """Return the tables of docs/fidelity.md: what left-out rows say, and each row with its counted figures."""
    lines = [
        "| left out | figures | median | 90th percentile |",
        "|---|--:|--:|--:|",
        _markdown_summary(report.total, "nothing"),
    ]
    for left_out in report.left_out:
        lines.append(_markdown_summary(left_out.total, f"**each {left_out.by}**"))
        lines += [_markdown_summary(part, part.name) for part in left_out.parts]
    kinds = (Figure.TTFT, Figure.TPOT, Figure.LATENCY, Figure.OUTPUT_TOKENS)
    lines += ["", "| model | instance type | batch | load | TTFT ms | TPOT ms | latency ms | tokens/s |"]
    lines.append("|---|---|--:|---|---|---|---|---|")
    rows: dict[int, list[Comparison]] = {}
    for one in report.comparisons:
        rows.setdefault(one.row.number, []).append(one)
    for members in rows.values():
        model, instance_type, batch, load = _cells(members[0])[:4]
        figures = {one.figure: _markdown_figure(one) for one in members}
        shown = " | ".join(figures.get(kind, "") for kind in kinds)
        lines.append(f"| {model} | {instance_type} | {batch} | {load} | {shown} |")
    return "\n".join(lines) + "\n"


def _markdown_summary(one: Summary, name: str) -> str:
    return f"| {name} | {one.figures} | {one.median_abs_error:.1%} | {one.p90_abs_error:.1%} |"


def _markdown_figure(one: Comparison) -> str:
    measured, predicted, error = _cells(one)[-3:]
    return f"{measured} / {predicted} ({error})"


def _cells(one: Comparison) -> tuple[str, ...]:
    work = one.row.work
    prompt_tokens, output_tokens = getattr(work, "prompt_tokens", None), getattr(work, "output_tokens", None)
    lengths = f"{prompt_tokens}+{output_tokens}" if prompt_tokens else ""
    load = getattr(work, "load", None)
    factor = 1.0 if one.figure.value.endswith("per_second") else 1000.0
    return (
        one.row.model.split("/")[-1],
        one.row.instance_type + (" (projected)" if one.projected else ""),
        str(work.batch),
        f"{lengths} {load.value}" if load else lengths,
        one.figure.name.lower().replace("_", " "),
        f"{one.measured * factor:.4g}",
        f"{one.predicted * factor:.4g}",
        f"{one.error:+.0%}",
    )


def _sentence(one: Summary) -> str:
    return (
        f"{one.name}: {one.figures} figures, median {one.median_abs_error:.1%}, 90th percentile {one.p90_abs_error:.1%}"
    )

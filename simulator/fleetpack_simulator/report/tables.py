"""Rows as people read them: one table of text, with units, and a dash where there is no number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleetpack_simulator.report.comparison import TOTAL, Row, Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its heading, the numbers in it, and how one is written."""

    heading: str
    keys: tuple[str, ...]
    write: Callable[[float], str]
    hint: str
    """What it means, in a sentence."""


def seconds(value: float) -> str:
    """Return seconds in three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def money(value: float) -> str:
    """Return an amount in three digits or in whole dollars."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def share(value: float) -> str:
    """Return a share in percent; only what is whole reads 100."""
    return f"{min(value * 100, 99.99 if value < 1 else 100):.2f}".rstrip("0").rstrip(".") + " %"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


COLUMNS = (
    Column(
        heading="in objective",
        keys=("inObjective",),
        write=share,
        hint="Share of all requests whose first token came within the objective.",
    ),
    Column(
        heading="TTFT s\np50 / p95 / p99",
        keys=("ttftP50Seconds", "ttftP95Seconds", "ttftP99Seconds"),
        write=seconds,
        hint="Time to first token of completed requests.",
    ),
    Column(
        heading="latency s\np50 / p95 / p99",
        keys=("latencyP50Seconds", "latencyP95Seconds", "latencyP99Seconds"),
        write=seconds,
        hint="From arrival to the last token of completed requests.",
    ),
    Column(
        heading="USD/h",
        keys=("usdPerHour",),
        write=money,
        hint="The replicas' shares of their machines.",
    ),
    Column(
        heading="machines\nUSD/h",
        keys=("machinesUSDPerHour",),
        write=money,
        hint="Whole machines, idle cores included.",
    ),
    Column(
        heading="USD per 1M\nrequests",
        keys=("usdPerMillionRequests",),
        write=money,
        hint="Replicas' USD over completed requests.",
    ),
    Column(
        heading="USD per 1M\ntokens out",
        keys=("usdPerMillionOutputTokens",),
        write=money,
        hint="Replicas' USD over output tokens of completed requests.",
    ),
    Column(
        heading="times\nbound",
        keys=("timesBound",),
        write=lambda value: f"{value:.2f}",
        hint="Replicas' USD over the least that anyone who knows the future would pay for the same share in the objective.",
    ),
    Column(heading="replica-\nhours", keys=("replicaHours",), write=money, hint="Replicas, from placement until gone."),
    Column(
        heading="scale\nactions",
        keys=("scaleActions",),
        write=_whole,
        hint="Changes of the wanted number.",
    ),
    Column(
        heading="oscil-\nlations",
        keys=("oscillations",),
        write=_whole,
        hint="Changes that turn back one made less than five minutes before.",
    ),
)


def cell(row: Row, column: Column) -> tuple[str, str]:
    """Return the text of a cell, and the range over seeds where they differ."""
    spreads = [row.values[key] for key in column.keys]
    known = [spread for spread in spreads if spread is not None]
    if len(known) < len(spreads):
        return "-", ""
    return " / ".join(column.write(spread.median) for spread in known), _ranges(known, column)


def markdown_table(rows: Iterable[Row]) -> str:
    """Return the table of docs/comparison.md: medians, with the range over seeds of what counts most."""
    headings = ["policy", *(column.heading.replace("-\n", "-").replace("\n", " ") for column in COLUMNS)]
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "--:|" * len(COLUMNS)]
    for row in rows:
        cells = [_markdown_cell(row, column) for column in COLUMNS]
        lines.append("| " + " | ".join([label(row).strip(), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _markdown_cell(row: Row, column: Column) -> str:
    text, spread = cell(row, column)
    if not spread or column.keys[0] not in ("inObjective", "usdPerHour"):
        return text
    return f"{text} ({spread.replace(' %', '')})"


def _ranges(spreads: list[Spread], column: Column) -> str:
    """Return least to most; of percentiles those of the middle one only, or the table would be twice as wide."""
    spread = spreads[len(spreads) // 2]
    low, high = column.write(spread.lowest), column.write(spread.highest)
    if low == high:
        return ""
    low = low.removesuffix(" %")
    return f"{low}–{high}" if len(spreads) == 1 else f"p95 {low}–{high}"


def label(row: Row) -> str:
    """Return how a row is called."""
    return row.policy if row.deployment == TOTAL else f"  {row.deployment}"


def not_served_of(rows: Iterable[Row]) -> str:
    """Return how many requests of each policy did not complete; empty: all did."""
    lost = [(row.policy, row.values["notServed"]) for row in rows if row.deployment == TOTAL]
    texts = [f"{policy} {spread.median:,.0f}" for policy, spread in lost if spread is not None and spread.highest]
    return (
        f"Requests that failed, were refused (longer than the window) or had not ended: {', '.join(texts)}"
        if texts
        else ""
    )

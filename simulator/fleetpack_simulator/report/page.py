"""One HTML file that says everything without a network: no script, font, picture or style from elsewhere.

The table and what was found stand in the page itself, so that it says its most important things without scripts and to screen readers;
what is drawn, is drawn by a small script of our own from the JSON that stands in the page. Texts from scenarios are escaped where they
stand in HTML; in the JSON nothing can end its element, and the script puts texts into the page as texts only.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

from fleetpack_simulator.report.comparison import TOTAL, Row, Spread
from fleetpack_simulator.report.payload import as_text
from fleetpack_simulator.report.tables import COLUMNS, cell, money, not_served_of, share

_NO_SCRIPTS = "<noscript><p>Charts need scripts; the JSON at the end of this file holds every number.</p></noscript>"


def page_of(payload: dict[str, Any]) -> str:
    """Return the page of a comparison."""
    return whole_page(
        payload,
        name=str(payload["scenario"]),
        body=f'<p class="lead">{escape(_finding(payload))}</p>{_table(payload)}',
        script="comparison.js",
    )


def whole_page(payload: dict[str, Any], *, name: str, body: str, script: str) -> str:
    """Return a page around a body of HTML, with the script that draws the rest from the payload."""
    title = escape(name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title} · fleetpack-sim</title>\n<style>\n{_part('page.css')}</style>\n</head>\n<body>\n"
        f'<header><div><p class="kicker">fleetpack-sim {payload["kind"]}</p><h1>{title}</h1></div>'
        '<button id="theme" type="button" aria-label="Change between light and dark">◐</button></header>\n'
        f'<main id="main">{body}{_NO_SCRIPTS}</main>\n<div id="tip" role="status" hidden></div>\n'
        f'<script id="data" type="application/json">{as_text(payload)}</script>\n'
        f"<script>\n{_part('charts.js')}{_part(script)}</script>\n</body>\n</html>\n"
    )


def table_cell(text: str, *, small: str = "", value: float | str | None = None, style: str = "") -> str:
    """Return one cell; `value` is what it is sorted by."""
    sorted_by = "" if value is None else f' data-value="{escape(str(value))}"'
    classes = f' class="{style}"' if style else ""
    return f"<td{sorted_by}{classes}>{escape(text)}{f'<small>{escape(small)}</small>' if small else ''}</td>"


def _part(name: str) -> str:
    return resources.files("fleetpack_simulator.report").joinpath(name).read_text(encoding="utf-8")


def _rows(payload: dict[str, Any]) -> list[Row]:
    return [
        Row(
            policy=row["policy"],
            deployment=row["deployment"],
            objective_kept=row["objectiveKept"],
            values={name: None if one is None else Spread(**one) for name, one in row["values"].items()},
        )
        for row in payload["rows"]
    ]


def _finding(payload: dict[str, Any]) -> str:
    """Return in words who did what at what cost."""
    every = _rows(payload)
    rows = [row for row in every if row.deployment == TOTAL]
    missed = any(row.policy == rows[0].policy and row.objective_kept is False for row in every)
    told = [_told(rows[0], payload["models"], missed=missed)]
    seeds = len(payload["seeds"])
    always = "" if seeds == 1 else " with every seed"
    kept = [row for row in rows if row.objective_kept and row.values["usdPerHour"] is not None]
    if len(rows) > 1 and kept:
        least = min(kept, key=lambda row: _median(row, "usdPerHour"))
        again = "it" if least is rows[0] else f"{least.policy} ({money(_median(least, 'usdPerHour'))} USD per hour)"
        told.append(f"{len(kept)} of {len(rows)} policies kept the objective{always}; of these {again} cost least")
    elif len(rows) > 1 and any(row.objective_kept is not None for row in rows):
        told.append(f"no policy kept the objective{always}")
    told.append(
        f"{_requests(payload):,} requests, {length(payload['durationSeconds'])}, "
        f"{'one seed' if seeds == 1 else f'medians of {seeds} seeds'}"
    )
    return ". ".join(text[0].upper() + text[1:] if text[:9] != "fleetpack" else text for text in told) + "."


def _told(row: Row, models: list[dict[str, Any]], *, missed: bool) -> str:
    cost, kept, bound = (row.values[name] for name in ("usdPerHour", "inObjective", "timesBound"))
    text = f"{row.policy} cost {money(cost.median) if cost else '-'} USD per hour"
    if bound is not None:
        text += f", {bound.median:.2f} times the clairvoyant bound,"
    if kept is None:
        return text
    text += f" and kept {share(kept.median)} of the requests in the objective"
    promised = {model["objectivePercentile"] for model in models if model["objectiveTTFTSeconds"] is not None}
    if missed and len(promised) == 1:
        text += f", where {promised.pop()} % were promised"
    return text


def length(seconds: float) -> str:
    """Return a time in whole minutes, or in hours where it is long."""
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _median(row: Row, name: str) -> float:
    spread = row.values[name]
    return 0.0 if spread is None else spread.median


def _requests(payload: dict[str, Any]) -> int:
    return sum(model["requests"] for model in payload["models"])


def _table(payload: dict[str, Any]) -> str:
    heads = "".join(
        f'<th scope="col" title="{escape(column.hint)}">{escape(column.heading)}</th>' for column in COLUMNS
    )
    lines = "".join(_line(row) for row in _rows(payload))
    objectives = "; ".join(_objective(model) for model in payload["models"])
    projected = sorted({name for model in payload["models"] for name in model["projected"]})
    tag = f" Projected, not calibrated: {', '.join(projected)}." if projected else ""
    estimated = sorted({name for model in payload["models"] for name in model["estimated"]})
    tag += f" Shape of the model estimated from its size: {', '.join(estimated)}." if estimated else ""
    title = "Policies beside each other" if len({row["policy"] for row in payload["rows"]}) > 1 else "In numbers"
    spreads = "Small print: least to most over seeds. " if len(payload["seeds"]) > 1 else ""
    return (
        f'<section id="table"><h2>{title}</h2><p class="note">{escape(objectives)}. {spreads}'
        f'Headings sort and explain.{escape(tag)}</p><div class="scroll"><table><thead><tr><th scope="col">policy</th>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>{_notes(payload)}</section>"
    )


def _line(row: Row) -> str:
    cells = []
    for column in COLUMNS:
        text, spread = cell(row, column)
        first = row.values[column.keys[-1]]
        style = ""
        if column.keys == ("inObjective",) and row.objective_kept is not None:
            style = "kept" if row.objective_kept else "missed"
        cells.append(table_cell(text, small=spread, value=None if first is None else first.median, style=style))
    style = "model" if row.deployment != TOTAL else "own" if row.policy == "fleetpack" else ""
    name = row.policy if row.deployment == TOTAL else row.deployment
    return f"<tr{f' class={style!r}' if style else ''}>{table_cell(name, value=name)}{''.join(cells)}</tr>".replace(
        "'", '"'
    )


def _objective(model: dict[str, Any]) -> str:
    if model["objectiveTTFTSeconds"] is None:
        return f"{model['deployment']}: no objective"
    promised = f"first token within {model['objectiveTTFTSeconds']:g} s for {model['objectivePercentile']} %"
    return f"{model['deployment']}: {promised}"


def _notes(payload: dict[str, Any]) -> str:
    """Return what the table alone does not say: no bound and why, requests that were not served, broken rules."""
    notes: dict[str, None] = {}
    if not_served := not_served_of(_rows(payload)):
        notes[not_served] = None
    for run in payload["runs"]:
        for bound in run["bounds"]:
            if bound["usd"] is None:
                notes[f"{run['policy']}: no bound for {bound['deployment']}: {bound['reason']}."] = None
        for violation in run["summary"]["violations"][:3]:
            notes[f"Broken by {run['policy']}, seed {run['seed']}: {violation}"] = None
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)

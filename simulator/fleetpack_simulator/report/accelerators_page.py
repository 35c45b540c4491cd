"""The table of accelerators, in the terminal and as a page: one row per variant, the best of each accelerator drawn as a bar."""

from __future__ import annotations

from html import escape
from typing import Any

from fleetpack_simulator.report.accelerators import Answer
from fleetpack_simulator.report.fleets import Objective
from fleetpack_simulator.report.page import length, table_cell, whole_page
from fleetpack_simulator.report.tables import money, seconds, share

EXPLANATION = (
    "A constant number of replicas, up from the start, on whole machines at list prices, idle devices included. Projected: no "
    "published serving number of the chip stands behind it; with a star, figures of its data sheet come from a secondary source only."
)
HEADINGS = (
    ("accelerator", False),
    ("devices per\nreplica", True),
    ("largest\nbatch", True),
    ("replicas", True),
    ("machines", False),
    ("USD/h", True),
    ("USD per 1M\ntokens out", True),
    ("USD per 1M\nrequests", True),
    ("in objective", True),
    ("TTFT s\np50 / p95", True),
    ("latency s\np50 / p95", True),
    ("what limits it", False),
)


def cells_of(answer: Answer) -> list[str]:
    """Return the texts of one row."""
    mark = "" if not answer.projected else " (projected*)" if answer.secondary else " (projected)"
    name = f"{answer.accelerator}{mark}"
    fleet, machines = answer.fleet, answer.machines
    if fleet is None:
        return [name, str(answer.devices), *("-" for _ in HEADINGS[3:-1]), "-", answer.limit]
    kinds = "price unknown" if machines is None else ", ".join(f"{count} x {kind}" for kind, count in machines.counts)
    idle = f" ({machines.idle_devices} devices idle)" if machines is not None and machines.idle_devices else ""
    return [
        name,
        str(answer.devices),
        str(answer.batch),
        str(fleet.replicas),
        kinds + idle,
        _money(machines.usd_per_hour if machines is not None else None),
        _money(answer.usd_per_million_tokens),
        _money(answer.usd_per_million_requests),
        share(fleet.in_objective),
        " / ".join(seconds(one) for one in fleet.ttft_seconds[:2]),
        " / ".join(seconds(one) for one in fleet.latency_seconds[:2]),
        answer.limit,
    ]


def objective_text(objective: Objective) -> str:
    """Return an objective in words."""
    limits = (
        ("first token", objective.ttft_seconds),
        ("each further token", objective.tpot_seconds),
        ("last token", objective.latency_seconds),
    )
    told = " and ".join(f"{name} within {limit:g} s" for name, limit in limits if limit is not None)
    return f"{told} for {objective.percentile:g} % of requests"


def accelerators_page(payload: dict[str, Any], answers: list[Answer]) -> str:
    """Return the page."""
    objective = Objective(
        percentile=payload["objective"]["percentile"],
        ttft_seconds=payload["objective"]["ttftSeconds"],
        tpot_seconds=payload["objective"]["tpotSeconds"],
        latency_seconds=payload["objective"]["latencySeconds"],
    )
    heads = "".join(
        f'<th scope="col"{"" if is_number else _LEFT}>{escape(heading)}</th>' for heading, is_number in HEADINGS
    )
    rows = "".join(_row(answer) for answer in answers)
    body = (
        f'<p class="lead">{escape(_finding(payload, answers, objective))}</p>'
        f'<section id="table"><h2>Every variant</h2><p class="note">{escape(EXPLANATION)} {escape(payload["windowNote"])} '
        "Headings sort.</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )
    return whole_page(payload, name=f"{payload['model']} on {payload['trace']}", body=body, script="accelerators.js")


_LEFT = ' class="left"'


def _row(answer: Answer) -> str:
    fleet, machines = answer.fleet, answer.machines
    values: list[float | str | None] = [
        answer.accelerator,
        answer.devices,
        answer.batch,
        fleet.replicas if fleet else None,
        None,
        machines.usd_per_hour if machines else None,
        answer.usd_per_million_tokens,
        answer.usd_per_million_requests,
        fleet.in_objective if fleet else None,
        fleet.ttft_seconds[1] if fleet else None,
        fleet.latency_seconds[1] if fleet else None,
        answer.limit,
    ]
    cells = "".join(
        table_cell(text, value=value, style="" if is_number else "left")
        for text, value, (_, is_number) in zip(cells_of(answer), values, HEADINGS, strict=True)
    )
    return f"<tr>{cells}</tr>"


def _finding(payload: dict[str, Any], answers: list[Answer], objective: Objective) -> str:
    """Return in words which variant needs the least money."""
    asked = f"{payload['requests']:,} requests in {length(3600 * payload['hours'])}, {objective_text(objective)}."
    priced = [answer for answer in answers if answer.machines is not None]
    if not priced:
        return f"{asked} No variant with a known price keeps that."
    best = priced[0]
    measured = next((answer for answer in priced if not answer.projected), None)
    text = f"{asked} Least money: {_named(best)}, {_hourly(best)}."
    if best.projected and measured is not None:
        text += f" Of the chips with published serving numbers: {_named(measured)}, {_hourly(measured)}."
    return text


def _named(answer: Answer) -> str:
    replicas = answer.fleet.replicas if answer.fleet else 0
    each = "" if replicas == 1 else " each"
    chips = f"{answer.devices} {answer.accelerator}{' (projected)' if answer.projected else ''}"
    return f"{replicas} {'replica' if replicas == 1 else 'replicas'} on {chips}{each}"


def _hourly(answer: Answer) -> str:
    return f"{_money(answer.machines.usd_per_hour if answer.machines else None)} USD per hour"


def _money(value: float | None) -> str:
    return "-" if value is None else money(value)

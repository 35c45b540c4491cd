"""A measured figure, its budget, and the history file that keeps both.

One line of JSON per run in bench/history.jsonl: when, on what, the figures. Budgets stand in bench/budgets.yaml with where they come
from. A figure above its budget makes the run fail; nothing is rounded to pass.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BUDGETS = REPOSITORY / "bench" / "budgets.yaml"
HISTORY = REPOSITORY / "bench" / "history.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number; the unit is last in its name."""

    name: str
    value: float
    detail: str = ""


def percentile(numbers: Sequence[float], share: float) -> float:
    """Return the smallest number that at least `share` of all are not above (nearest rank)."""
    ordered = sorted(numbers)
    return ordered[max(0, -(-int(share * 100 * len(ordered)) // 100) - 1)] if ordered else float("nan")


def median(numbers: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(numbers)


def over_budget(figures: Sequence[Figure]) -> list[str]:
    """Return a sentence for each figure above its budget."""
    budgets = yaml.safe_load(BUDGETS.read_text())
    return [
        f"{figure.name} is {figure.value:.4g}, its budget is {budgets[figure.name]['at_most']}"
        for figure in figures
        if figure.name in budgets and not figure.value <= budgets[figure.name]["at_most"]
    ]


def remember(figures: Sequence[Figure]) -> None:
    """Append the run to the history."""
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "figures": [asdict(figure) for figure in figures],
    }
    with HISTORY.open("a") as file:
        file.write(json.dumps(entry) + "\n")

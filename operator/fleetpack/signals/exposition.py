"""Read the few numbers we want from a page of Prometheus or OpenMetrics text.

The page of an engine has some hundred lines and we want five families of it, from hundreds of Pods every other second. So
lines are looked at only as far as their first characters, and only the wanted ones are taken apart: labels with quotes and
escapes, exponents, time stamps, exemplars. All label sets of a family are added up (models, engines, finish reasons).

Boundary: one page, no memory of the one before. `PageError` says which family is wrong and how: a gauge that is missing, and
any number or sum that is NaN, negative or above `MAXIMUM_NUMBER`. Counters and histograms that are absent are None: engines show
them only after their first request. Names in quotes inside the braces (UTF-8 names) are not read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from fleetpack.signals.targets import MetricNames

MAXIMUM_NUMBER = 1e12
"""A thousand requests per second for thirty years; what is above counts no requests, and its sums could overflow."""

# Possessive (`*+`, `?+`): a line that does not match must not be tried again with half a name.
_SAMPLE = re.compile(
    r"""(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)
        [ \t]*+(?:\{(?P<labels>(?:[^"{}]|"(?:[^"\\]|\\.)*+")*+)\})?+
        [ \t]*+(?P<value>[^\s_{]++)(?=\s|$)""",
    re.VERBOSE,
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')


class PageError(ValueError):
    """The page does not say what it should; the text is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageNumbers:
    """What one page says."""

    waiting: float | None
    running: float | None
    finished_total: float | None
    ttft_buckets: tuple[tuple[float, float], ...]


def read_page(text: str, names: MetricNames) -> PageNumbers:
    """Return the wanted numbers; raises `PageError`."""
    families = _families(names)
    totals: dict[str, float] = {}
    buckets: dict[float, float] = {}
    bucket_name = f"{names.ttft}_bucket"
    lines = text.split("\n")
    for line in lines:
        if not line.startswith(families):
            continue
        sample = _SAMPLE.match(line)
        if not sample:
            raise PageError(f"the line {line[:80]!r} is no sample")
        name = sample["name"]
        if name == bucket_name:
            bound = _upper_bound(sample["labels"] or "", name)
            buckets[bound] = _sum(name, buckets.get(bound, 0.0), _number(name, sample["value"]))
        elif name in families:
            totals[name] = _sum(name, totals.get(name, 0.0), _number(name, sample["value"]))
    # The format ends each line with a line feed; without it the last number may have lost digits on the way.
    if lines[-1].startswith(families):
        raise PageError(f"the page is cut off in {lines[-1][:80]!r}")
    return PageNumbers(
        waiting=_gauge(totals, names.waiting),
        running=_gauge(totals, names.running),
        finished_total=_counters(totals, names.finished),
        ttft_buckets=_histogram(buckets, bucket_name, names.ttft_unit_seconds),
    )


@lru_cache(maxsize=256)
def _families(names: MetricNames) -> tuple[str, ...]:
    """Every name that a wanted line can start with."""
    gauges = [name for name in (names.waiting, names.running) if name]
    counters = [spelling for name in names.finished for spelling in _spellings(name)]
    histograms = [f"{names.ttft}_bucket"] if names.ttft else []
    return tuple(dict.fromkeys(gauges + counters + histograms))


def _spellings(counter: str) -> tuple[str, str]:
    """A counter's name as given, and the other way that exporters write it."""
    return counter, counter.removesuffix("_total") if counter.endswith("_total") else f"{counter}_total"


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise PageError(f"{name} is {text[:40]!r}, which is no number") from None
    if not 0 <= value <= MAXIMUM_NUMBER:  # nor is NaN
        raise PageError(f"{name} is {text[:40]}; it must be a number from 0 to {MAXIMUM_NUMBER:g}")
    return value


def _sum(name: str, total: float, number: float) -> float:
    total += number
    if total > MAXIMUM_NUMBER:
        raise PageError(f"{name} adds up to more than {MAXIMUM_NUMBER:g}")
    return total


def _upper_bound(labels: str, name: str) -> float:
    found = next((value for label, value in _LABEL.findall(labels) if label == "le"), "")
    try:
        bound = float(found)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise PageError(f"{name} has a bucket without a readable le label: {labels[:80]!r}")
    return bound


def _gauge(totals: dict[str, float], name: str | None) -> float | None:
    if name is None:
        return None
    if name not in totals:
        raise PageError(f"the page has no {name}")
    return totals[name]


def _counters(totals: dict[str, float], names: tuple[str, ...]) -> float | None:
    """Add up the counters that are there; of the two spellings of one, the given one wins."""
    found = [next((totals[spelling] for spelling in _spellings(name) if spelling in totals), None) for name in names]
    present = [value for value in found if value is not None]
    return math.fsum(present) if present else None


def _histogram(buckets: dict[float, float], name: str, unit_seconds: float) -> tuple[tuple[float, float], ...]:
    ordered = sorted(buckets.items())
    for (_, lower), (bound, upper) in pairwise(ordered):
        if upper < lower:
            raise PageError(f"{name} falls at le={bound:g}: from {lower:g} to {upper:g}, yet buckets are cumulative")
    return tuple((bound * unit_seconds, count) for bound, count in ordered)

"""From an answer to a sample: the few ways in which a source can have read something, or nothing.

A sample holds either numbers or an error, never both; that is decided here and nowhere else. Error texts are short, end up
in conditions, and never hold credentials: of a URL only scheme, host, port and path are shown.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from fleetpack.core.samples import Sample
from fleetpack.signals.exposition import MAXIMUM_NUMBER, PageNumbers
from fleetpack.signals.targets import HttpTarget, Measure, PodTarget, PrometheusTarget, Target

MAXIMUM_ERROR_LENGTH = 300
"""Enough for one sentence with a name in it; the text is stored in status and shown in one line."""


class ReadError(Exception):
    """A read that gave no number; the text says why."""


def failed(target: Target, observed_at: float, error: str) -> Sample:
    """Return the sample of a read that gave no number."""
    return Sample(
        deployment=target.deployment,
        signal=target.signal,
        pod_uid=_pod_uid(target),
        observed_at=observed_at,
        waiting=None,
        running=None,
        finished_total=None,
        arrival_rate_per_second=None,
        ttft_seconds=None,
        error=_shortened(error) or "failed without a message",
    )


def page_read(target: PodTarget, observed_at: float, numbers: PageNumbers) -> Sample:
    """Return the sample of a page."""
    return Sample(
        deployment=target.deployment,
        signal=target.signal,
        pod_uid=target.pod_uid,
        observed_at=observed_at,
        waiting=numbers.waiting,
        running=numbers.running,
        finished_total=numbers.finished_total,
        arrival_rate_per_second=None,
        ttft_seconds=None,
        ttft_buckets=numbers.ttft_buckets,
    )


def number_read(target: PrometheusTarget | HttpTarget, observed_at: float, value: float) -> Sample:
    """Return the sample of a source that answers one number; raises `ReadError` when it cannot be one."""
    if not 0 <= value <= MAXIMUM_NUMBER:  # nor is NaN
        raise ReadError(f"the answer is {value:g}; {target.measures} must be a number from 0 to {MAXIMUM_NUMBER:g}")
    return Sample(
        deployment=target.deployment,
        signal=target.signal,
        pod_uid="",
        observed_at=observed_at,
        waiting=value if target.measures is Measure.WAITING else None,
        running=value if target.measures is Measure.RUNNING else None,
        finished_total=None,
        arrival_rate_per_second=value if target.measures is Measure.ARRIVAL_RATE else None,
        ttft_seconds=value if target.measures is Measure.TTFT else None,
    )


def shown_url(url: str) -> str:
    """Return the URL without user, password, query and fragment, for messages."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "the URL"


def describe(error: BaseException) -> str:
    """Return what went wrong, for exceptions of clients too, many of which have no text of their own."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "timed out"
    return str(error) or type(error).__name__


def _pod_uid(target: Target) -> str:
    return target.pod_uid if isinstance(target, PodTarget) else ""


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAXIMUM_ERROR_LENGTH else line[: MAXIMUM_ERROR_LENGTH - 1] + "…"

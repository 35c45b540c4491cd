"""What sources say: raw readings, as they came, before anyone has judged them.

A sample is one answer of one source at one time. Nothing here knows what is stale, what a rate is, or how readings of several
Pods add up: that is `observation`. A read that failed is a sample too, with the reason in `error` and no number in it, so a
recording of the inputs shows what the planner could not know.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of one source for one deployment (or one of its Pods) at one time."""

    deployment: str
    """`namespace/name`."""
    signal: str
    """Name of the signal in the spec."""
    pod_uid: str
    """Empty for a source outside the Pods."""
    observed_at: float
    """Seconds since the epoch, when the answer was complete."""
    waiting: float | None
    """Gauge: requests that wait."""
    running: float | None
    """Gauge: requests that are being served."""
    finished_total: float | None
    """Counter: requests that ended, for any reason."""
    arrival_rate_per_second: float | None
    """Only from sources that measure it directly."""
    ttft_seconds: float | None
    """Time to first token at the percentile that the spec asks for, if the source measures it directly."""
    ttft_buckets: tuple[tuple[float, float], ...] = ()
    """Cumulative histogram (upper bound in seconds, count), from which percentiles over a window are computed."""
    error: str = ""
    """Non-empty: the read failed, and this says why; all numbers are then None."""

"""Times at which a voluntary change may disturb a model, on the clock of a place.

A window is a start on certain days and a length; it may run past midnight. No window at all means at any time. Time zones come from
the system's own database by IANA name; an unknown name is found when the spec is interpreted, and counts as UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One weekly window; `weekdays` counts from Monday = 0."""

    weekdays: tuple[int, ...]
    start_minute: int
    """Minutes after midnight."""
    duration_seconds: float
    timezone: str = "UTC"


def open_now(windows: Iterable[Window], now: float) -> bool:
    """Whether one of the windows is open at `now`, or there is none at all."""
    windows = tuple(windows)
    return not windows or any(_is_open(window, now) for window in windows)


def _is_open(window: Window, now: float) -> bool:
    here = datetime.fromtimestamp(now, zone(window.timezone) or UTC)
    # A window of at most a day that is open now began today or yesterday.
    for days_ago in (0, 1):
        day = here - timedelta(days=days_ago)
        start = day.replace(hour=window.start_minute // 60, minute=window.start_minute % 60, second=0, microsecond=0)
        if start.weekday() in window.weekdays and 0 <= now - start.timestamp() < window.duration_seconds:
            return True
    return False


def zone(name: str) -> tzinfo | None:
    """Return the time zone of that name; None if the system knows none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None

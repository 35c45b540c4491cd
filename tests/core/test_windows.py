from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fleetpack.core.windows import Window, open_now

NIGHTS = Window(weekdays=(4,), start_minute=22 * 60, duration_seconds=4 * 3600, timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-27T20:59:59", False),  # Friday 21:59:59 in Berlin
        ("2026-11-27T21:00:00", True),
        ("2026-11-28T00:59:59", True),  # Saturday 01:59:59: the window that began on Friday
        ("2026-11-28T01:00:00", False),
        ("2026-11-28T21:30:00", False),  # Saturday is not named
    ],
)
def test_should_be_open_from_its_start_for_its_duration_past_midnight(moment: str, expected: bool) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()

    assert open_now((NIGHTS,), now) is expected


def test_should_be_open_at_any_time_without_a_window() -> None:
    assert open_now((), 0.0)

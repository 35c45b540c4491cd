"""Two runs beside each other: what is printed in which order, and which exit code counts."""

from __future__ import annotations

import sys

import pytest

from run_tests import run_beside


def a_run(text: str, code: int, seconds: float = 0.0) -> list[str]:
    return [sys.executable, "-c", f"import sys, time; time.sleep({seconds}); print({text!r}); sys.exit({code})"]


@pytest.mark.parametrize(("quiet", "shown", "expected"), [(0, 0, 0), (3, 0, 3), (0, 1, 1), (3, 1, 1)])
def test_should_end_with_the_first_exit_code_that_is_not_0(quiet: int, shown: int, expected: int) -> None:
    assert run_beside(a_run("kind", quiet), a_run("others", shown)) == expected


def test_should_print_the_quiet_run_below_the_other_and_wait_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    run_beside(a_run("kind", 0, seconds=0.7), a_run("others", 0))

    assert capfd.readouterr().out.splitlines() == [
        "test: the kind suite runs beside the others; what it says comes at the end",
        "others",
        "",
        "test: the kind suite",
        "kind",
    ]

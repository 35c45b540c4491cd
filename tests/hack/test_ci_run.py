""".ci/run where no Docker engine can be started: it fails, unless told that the kind suite is optional; what it calls is played."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose `make` and Python only write down what they are asked, on a machine without root."""
    put(tmp_path / "bin" / "make", f'echo "make $* required=$FLEETPACK_KIND_REQUIRED" >> {tmp_path}/calls')
    put(tmp_path / "bin" / "id", "echo 1000")
    put(tmp_path / ".venv" / "bin" / "python", f'echo "python $*" >> {tmp_path}/calls; test -e {tmp_path}/engine')
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    return tmp_path


def put(program: Path, line: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)


def ci(clone: Path, **environment: str) -> tuple[int, list[str], str]:
    """Run it; the exit code, what was called, and what was said."""
    environment = {"PATH": f"{clone}/bin:/usr/bin:/bin", **environment}
    answer = subprocess.run([clone / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)
    return answer.returncode, (clone / "calls").read_text().splitlines(), answer.stderr


def test_should_fail_where_no_engine_can_be_started(clone: Path) -> None:
    code, calls, said = ci(clone)
    assert code == 1
    assert calls == ["make setup required=", "python hack/kind engine status"]
    assert "FLEETPACK_KIND_OPTIONAL=1 runs everything but the kind suite" in said


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_should_take_nothing_but_a_one_for_consent(clone: Path, value: str) -> None:
    assert ci(clone, FLEETPACK_KIND_OPTIONAL=value)[0] == 1


def test_should_run_the_rest_when_told_that_kind_is_optional(clone: Path) -> None:
    code, calls, said = ci(clone, FLEETPACK_KIND_OPTIONAL="1")
    assert code == 0
    assert calls[2:] == ["make check required=", "make test required="]
    assert "the kind suite will be SKIPPED, as FLEETPACK_KIND_OPTIONAL=1 says" in said


def test_should_require_the_kind_suite_where_an_engine_answers(clone: Path) -> None:
    (clone / "engine").touch()
    code, calls, _ = ci(clone, FLEETPACK_KIND_OPTIONAL="1")
    assert code == 0
    assert calls[2:] == ["make check required=", "make test required=1"]

"""Processes by record: only the very process that was recorded counts as alive, and only that one is ever killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.errors import ControlPlaneError
from control_plane.processes import (
    ProcessRecord,
    end_processes,
    is_alive,
    log_end,
    parse_proc_stat,
    start_process,
    start_time,
)

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ProcessRecord]:
    record = start_process("sleeper", SLEEPER, log=tmp_path / "sleeper.log")
    yield record
    end_processes([record])


def test_should_know_a_started_process_by_its_record(sleeper: ProcessRecord) -> None:
    assert is_alive(sleeper)


def test_should_take_a_process_with_the_same_id_but_another_start_for_dead(sleeper: ProcessRecord) -> None:
    assert not is_alive(replace(sleeper, started="1 of boot another"))


def test_should_not_kill_a_process_that_was_given_a_recorded_id_later(sleeper: ProcessRecord) -> None:
    end_processes([replace(sleeper, started="1 of boot another")])

    assert is_alive(sleeper)


def test_should_end_what_it_started(sleeper: ProcessRecord) -> None:
    end_processes([sleeper])

    assert not is_alive(sleeper)


def test_should_end_nothing_when_the_process_is_gone_already(sleeper: ProcessRecord) -> None:
    end_processes([sleeper])

    end_processes([sleeper])


def test_should_take_a_zombie_for_dead() -> None:
    # Popen does not reap until asked: between its end and that, the child is a zombie of ours.
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        deadline_seconds = time.monotonic() + 60
        while start_time(process.pid) is not None and time.monotonic() < deadline_seconds:
            time.sleep(0.01)

        assert start_time(process.pid) is None


def test_should_keep_the_output_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "talker.log"

    record = start_process(
        "talker", (sys.executable, "-c", "print('hello', flush=True); import time; time.sleep(60)"), log=log
    )

    deadline_seconds = time.monotonic() + 60
    while not log.read_text() and time.monotonic() < deadline_seconds:
        time.sleep(0.01)
    end_processes([record])
    assert log_end(log) == "hello"


def test_should_say_which_program_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises((ControlPlaneError, FileNotFoundError)):
        start_process("nothing", (str(tmp_path / "no-such-program"),), log=tmp_path / "nothing.log")


@pytest.mark.parametrize(
    "name",
    ["etcd", "a b", "a) S 1 (b", "((", "x) Z 0"],
)
def test_should_read_state_and_start_time_whatever_the_command_is_called(name: str) -> None:
    fields = " ".join(str(number) for number in range(4, 22))

    assert parse_proc_stat(f"42 ({name}) S {fields} 123456 0 0") == ("S", "123456")


def test_should_find_no_process_where_there_is_none() -> None:
    assert start_time(0) is None

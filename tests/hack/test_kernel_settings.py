"""Several own engines on one machine: the kernel's settings come back when the last of them ends, and not before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.errors import ControlPlaneError
from control_plane.processes import ProcessRecord, start_time
from kind_cluster import kernel_settings

BEFORE = dict.fromkeys(kernel_settings.NAMES, "0")
FIRST, SECOND = Path("/first/engine"), Path("/second/engine")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with settings of its own."""
    folder = tmp_path / "sys"
    monkeypatch.setattr(kernel_settings, "SETTINGS", folder)
    monkeypatch.setattr(kernel_settings, "REGISTER", tmp_path / "engines.json")
    set_all(folder, "0")
    return folder


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def set_all(folder: Path, value: str) -> None:
    """Change every setting, as a kubelet that starts does."""
    for name in kernel_settings.NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value)


def read(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in kernel_settings.NAMES}


def recorded(process: subprocess.Popen[bytes]) -> ProcessRecord:
    started = start_time(process.pid)
    assert started is not None
    return ProcessRecord(name="dockerd", process_id=process.pid, started=started)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_should_put_back_what_was_there_when_the_one_engine_ends(
    machine: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    kernel_settings.keep(FIRST, recorded(running[0]))
    set_all(machine, "1")

    end(running[0])
    kernel_settings.give_back(FIRST)

    assert read(machine) == BEFORE
    assert not kernel_settings.REGISTER.exists()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the first first", "the second first"])
def test_should_change_nothing_while_another_engine_runs(
    machine: Path, running: list[subprocess.Popen[bytes]], order: tuple[int, int]
) -> None:
    engines = (FIRST, SECOND)
    kernel_settings.keep(FIRST, recorded(running[0]))
    set_all(machine, "1")
    kernel_settings.keep(SECOND, recorded(running[1]))

    end(running[order[0]])
    kernel_settings.give_back(engines[order[0]])
    between = read(machine)
    end(running[order[1]])
    kernel_settings.give_back(engines[order[1]])

    assert between == dict.fromkeys(kernel_settings.NAMES, "1")
    assert read(machine) == BEFORE


def test_should_not_wait_for_an_engine_that_was_killed(machine: Path, running: list[subprocess.Popen[bytes]]) -> None:
    kernel_settings.keep(FIRST, recorded(running[0]))
    set_all(machine, "1")
    kernel_settings.keep(SECOND, recorded(running[1]))

    end(running[0])
    end(running[1])
    kernel_settings.give_back(SECOND)

    assert read(machine) == BEFORE


def test_should_remember_what_was_there_before_an_engine_that_was_killed(
    machine: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    kernel_settings.keep(FIRST, recorded(running[0]))
    set_all(machine, "1")
    end(running[0])

    kernel_settings.keep(SECOND, recorded(running[1]))
    end(running[1])
    kernel_settings.give_back(SECOND)

    assert read(machine) == BEFORE


def test_should_leave_settings_alone_of_which_nothing_is_known(machine: Path) -> None:
    set_all(machine, "1")

    kernel_settings.give_back(FIRST)

    assert read(machine) == dict.fromkeys(kernel_settings.NAMES, "1")


def test_should_say_what_to_do_with_a_register_that_cannot_be_read() -> None:
    kernel_settings.REGISTER.write_text("[")

    with pytest.raises(ControlPlaneError, match=r"engines\.json cannot be read .* remove it when no own engine runs"):
        kernel_settings.give_back(FIRST)

"""Being told to end in the first second, which a program spends with loading its modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {"fleetpack": "fleetpack.start:main", "fleetpack-sim": "fleetpack_simulator.start:main"}


def test_should_start_where_signals_are_heeded_from_the_first_instant() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_should_end_when_told_to_while_it_loads(command: str, tmp_path: Path) -> None:
    # The first of the foreign modules that both need takes a minute to load.
    (tmp_path / "click.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    module, _, function = COMMANDS[command].partition(":")
    program = f"from {module} import {function}; {function}()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, "--help"], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)

        ended = process.wait(30)

    # By a handler of its own: -15 would be the default, which the first process of a container does not have.
    assert ended == 128 + signal.SIGTERM

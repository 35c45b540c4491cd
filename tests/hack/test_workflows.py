"""The workflows of the forge, held against its own rules: they run there only, so that here is the one place to find mistakes early."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from control_plane.binaries import ensure
from control_plane.programs import ACTIONLINT

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = tuple(sorted((ROOT / ".github" / "workflows").glob("*.y*ml")))

# Building the program takes a minute the first time, as those of the control plane do.
pytestmark = pytest.mark.cluster


def lint(*files: Path) -> subprocess.CompletedProcess[str]:
    # -shellcheck= and -pyflakes=: what happens to be on PATH must not change the answer.
    command = [str(ensure((ACTIONLINT,))["actionlint"]), "-shellcheck=", "-pyflakes=", "-no-color", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_should_find_nothing_wrong_with_the_workflows() -> None:
    answer = lint(*WORKFLOWS)

    assert WORKFLOWS
    assert answer.returncode == 0, answer.stdout


def test_should_find_a_mistake_in_a_workflow(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text((ROOT / ".github" / "workflows" / "ci.yml").read_text().replace("github.ref", "github.reff"))

    assert 'property "reff" is not defined' in lint(broken).stdout

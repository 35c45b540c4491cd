"""Other programs, run so that their failure says what was run and what it said.

Boundary: waits for the end; long-running processes are `control_plane/processes.py`. Failure: a `ControlPlaneError` with the
command and the end of its output.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from control_plane.errors import ControlPlaneError

SHOWN_LINES = 12


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    input_text: str | None = None,
    what: str | None = None,
) -> str:
    """Run a command to its end and return its standard output."""
    words = [str(word) for word in command]
    try:
        answer = subprocess.run(
            words, env=environment, input=input_text, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ControlPlaneError(f"{what or words[0]}: cannot run {words[0]}: {error.strerror}") from error
    if answer.returncode != 0:
        told = (answer.stderr.strip() or answer.stdout.strip()).splitlines()[-SHOWN_LINES:]
        raise ControlPlaneError(
            f"{what or ' '.join(words[:3])} failed with exit code {answer.returncode}:\n" + "\n".join(told)
        )
    return answer.stdout


def without_proxies(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without proxies, which kind and Docker would hand on to nodes that cannot reach them."""
    source = os.environ if environment is None else environment
    return {key: value for key, value in source.items() if not key.lower().endswith("_proxy")}

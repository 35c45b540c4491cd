"""Files out of a locked Go module of which nothing is built: definitions that belong to somebody else's program.

Concept: `go/<folder>/go.mod` names one module and its version, `go.sum` its content; `go mod download` keeps it in Go's own cache.
Boundary: fetches and returns a folder that nobody may write. Failure: Go's own message, or that the content is not the locked one.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.golang import find_go
from control_plane.programs import MODULES_FOLDER

PROMETHEUS_OPERATOR = "prometheus_operator"

_REQUIRED = re.compile(r"^require (\S+) (v\S+)$", re.MULTILINE)


def module_source(name: str, modules_folder: Path = MODULES_FOLDER) -> Path:
    """Return the folder of the module that `go/<name>` locks, fetched on first use."""
    folder = modules_folder / name
    match = _REQUIRED.search((folder / "go.mod").read_text())
    assert match is not None, f"{folder}/go.mod requires no module on a line of its own"
    module, version = match.groups()
    with tempfile.TemporaryDirectory() as elsewhere:
        # Away from any go.mod: only this module is fetched, and none of what it would need to be built.
        answer = subprocess.run(
            [find_go().path, "mod", "download", "-json", f"{module}@{version}"],
            cwd=elsewhere,
            env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"},
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode != 0:
        raise ControlPlaneError(f"{module} {version} could not be fetched: {(answer.stdout + answer.stderr).strip()}")
    found = json.loads(answer.stdout)
    if f"{module} {version} {found['Sum']}\n" not in (folder / "go.sum").read_text():
        raise ControlPlaneError(f"{module} {version} is not what {folder}/go.sum locks: it is {found['Sum']}")
    return Path(found["Dir"])

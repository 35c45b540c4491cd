"""What is written down of a running cluster: `cluster.json` in its state folder.

Concept: one file, replaced whole, so that every command finds ports, binaries and processes as they are.
Boundary: reading and writing; what to do with it is `cluster.py`. Failure: an unreadable file reads as an error that
names the file, never as an empty cluster whose processes would then be forgotten.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from control_plane.command_lines import Layout
from control_plane.errors import ControlPlaneError
from control_plane.processes import ProcessRecord

STATE_FILE = "cluster.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """A cluster as recorded: layout, processes in the order of their start, and whose it is."""

    name: str
    layout: Layout
    processes: tuple[ProcessRecord, ...]
    # The process on whose behalf the cluster runs; None: until somebody takes it down.
    owner: ProcessRecord | None

    def process(self, name: str) -> ProcessRecord | None:
        """Return the record of a program by its name, if it was started."""
        return next((record for record in self.processes if record.name == name), None)


def read_state(folder: Path) -> ClusterState | None:
    """Return the recorded cluster of a state folder, or None when there is none."""
    file = folder / STATE_FILE
    try:
        content = json.loads(file.read_text())
        return ClusterState(
            name=content["name"],
            layout=Layout(
                folder=folder,
                ports=content["ports"],
                binaries={name: Path(path) for name, path in content["binaries"].items()},
                pod_cidr=content["pod_cidr"],
            ),
            processes=tuple(_record(entry) for entry in content["processes"]),
            owner=_record(content["owner"]) if content["owner"] else None,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ControlPlaneError(
            f"{file} cannot be read ({error!r}): end its processes by hand and remove it"
        ) from error


def write_state(state: ClusterState) -> None:
    """Replace the record of the cluster."""
    content = {
        "name": state.name,
        "ports": state.layout.ports,
        "binaries": {name: str(path) for name, path in state.layout.binaries.items()},
        "pod_cidr": state.layout.pod_cidr,
        "processes": [_entry(record) for record in state.processes],
        "owner": _entry(state.owner) if state.owner else None,
    }
    temporary = state.layout.folder / f".{STATE_FILE}.new"
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, state.layout.folder / STATE_FILE)


def _record(entry: dict[str, str | int]) -> ProcessRecord:
    return ProcessRecord(name=str(entry["name"]), process_id=int(entry["process_id"]), started=str(entry["started"]))


def _entry(record: ProcessRecord) -> dict[str, str | int]:
    return {"name": record.name, "process_id": record.process_id, "started": record.started}

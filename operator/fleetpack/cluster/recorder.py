"""Records planning passes to a file, one line of JSON each: what was known, what was remembered, what was decided.

Only passes that led to actions or failed are kept, and the latest one of all, so that a quiet day fills no disk: the file is
begun anew above 64 MiB. A disk that is full loses the recording, never the plan.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fleetpack.cluster.actuation import ActionResult
from fleetpack.cluster.control_loop import Observer
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.recording import RecordedPass, dump
from fleetpack.core.state import State

_logger = logging.getLogger(__name__)

MAXIMUM_BYTES = 64 * 2**20


class PassRecorder(Observer):
    """Appends every pass with actions; sits before another observer, which it passes everything on to."""

    def __init__(self, file: Path, then: Observer) -> None:
        self._file = file
        self._then = then

    def ticked(self, late_seconds: float) -> None:
        """Pass it on."""
        self._then.ticked(late_seconds)

    def planned(self, inputs: Inputs, state: State, found: Plan, seconds: float) -> None:
        """Record a pass that leads to something."""
        if found.actions:
            self._append(RecordedPass(inputs=inputs, state=state, plan=found))
        self._then.planned(inputs, state, found, seconds)

    def acted(self, result: ActionResult) -> None:
        """Pass it on."""
        self._then.acted(result)

    def failed(self, error: Exception) -> None:
        """Pass it on."""
        self._then.failed(error)

    def _append(self, recorded: RecordedPass) -> None:
        try:
            full = self._file.exists() and self._file.stat().st_size > MAXIMUM_BYTES
            with self._file.open("w" if full else "a") as file:
                file.write(dump(recorded) + "\n")
        except OSError as error:
            _logger.warning("cannot record to %s: %s", self._file, error)

"""One planning pass as text: what the planner knew, what it remembered, what it decided.

A recording is JSON, whole in itself: it names no cluster and needs none, so `replay` gives the same plan anywhere, and a pass that went
wrong in production is a test case as it stands. Numbers and absent values come back exactly as they were; masks of cores are
integers of any size.
Failure: text that is no recording, or one of another form, is refused with `ValueError` that says where it differs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.state import State

FORM = 1
"""Raised when a recording of an older form can no longer be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPass:
    """One pass of the planner: `plan(inputs, state)` gave `plan`."""

    form: int = FORM
    inputs: Inputs
    state: State
    """What the planner remembered before the pass."""
    plan: Plan


@cache
def _adapter() -> TypeAdapter[RecordedPass]:
    # Made when it is first needed: building it takes longer than a pass.
    return TypeAdapter(RecordedPass)


def dump(recorded: RecordedPass) -> str:
    """Write a pass as one line of JSON."""
    # Python's own writer keeps infinite bounds of histograms, which pydantic's writes as null.
    return json.dumps(_adapter().dump_python(recorded, mode="json"), separators=(",", ":"))


def load(text: str | bytes) -> RecordedPass:
    """Read a pass back, equal to what was written.

    Raises `ValueError` (pydantic's, which names the place) for anything else.
    """
    recorded = _adapter().validate_json(text)
    if recorded.form != FORM:
        raise ValueError(f"recording: form is {recorded.form}, this version reads form {FORM}")
    return recorded

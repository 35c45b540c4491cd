"""`fleetpack-sim replay`: every pass that a live operator recorded, planned again by what the simulator's operator calls.

Each pass is planned from what the operator knew and remembered then, so one that comes out otherwise does not mislead those after it.
Nothing is played on from there: a recording holds what was measured, not the requests to come. Exit codes: 0 all plans are the same,
1 some are not (each is shown with what it was then, `-`, and what it is now, `+`), 2 the file is no recording.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import ndiff
from pathlib import Path

import click

from fleetpack.core.decision import Action
from fleetpack.core.inputs import Plan
from fleetpack.core.planner import plan
from fleetpack.core.recording import RecordedPass, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A recorded pass and what is planned from it now."""

    number: int
    recorded: RecordedPass
    again: Plan

    @property
    def is_same(self) -> bool:
        """Whether the plan is the operator's, to the last field."""
        return self.again == self.recorded.plan

    @property
    def differences(self) -> tuple[str, ...]:
        """What was decided then (`- `) and is decided now (`+ `); the parts that differ where neither decisions nor actions do."""
        lines = ndiff(_lines(self.recorded.plan), _lines(self.again))
        changed = tuple(line for line in lines if line[0] in "-+")
        if changed or self.is_same:
            return changed
        parts = (
            one.name for one in fields(Plan) if getattr(self.again, one.name) != getattr(self.recorded.plan, one.name)
        )
        return (f"other {', '.join(parts)}",)


def replay(recording: Path) -> Iterator[Replayed]:
    """Plan each pass of a recording again; a line that is none raises `ValueError` that says which."""
    with recording.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                recorded = load(line)
            except ValueError as error:
                raise ValueError(f"{recording}, pass {number}: {error}") from error
            again, _ = plan(recorded.inputs, recorded.state)
            yield Replayed(number=number, recorded=recorded, again=again)


@click.command("replay")
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of lines.")
def replay_command(recording: Path, as_json: bool) -> None:
    """Plan all passes of a live operator's recording again and compare.

    RECORDING is a file of `fleetpack operator run --record FILE`. `fleetpack plan FILE --pass N` shows one of them with all
    its reasons.
    """
    found = []
    try:
        for one in replay(recording):
            found.append(one)
            if not as_json:
                _tell(one)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    same = sum(one.is_same for one in found)
    if as_json:
        passes = [{"pass": one.number, "same": one.is_same, "differences": list(one.differences)} for one in found]
        click.echo(json.dumps({"passes": passes, "same": same}, indent=2))
    else:
        click.echo(f"{same} of {len(found)} passes give the operator's own plan")
    if same < len(found):
        raise SystemExit(1)


def _tell(one: Replayed) -> None:
    inputs = one.recorded.inputs
    outcomes = Counter(issued.outcome.value for issued in inputs.issued)
    on_their_way = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "none"
    click.echo(
        f"pass {one.number}: {'same' if one.is_same else 'OTHERWISE'}: {len(one.again.actions)} actions, "
        f"{len(inputs.snapshot.replicas)} replicas, on their way: {on_their_way}"
    )
    for line in one.differences:
        click.echo(f"    {line}")


def _lines(found: Plan) -> list[str]:
    decisions = [
        f"{one.subject}: {one.kind} {one.before} to {one.after}: {one.reason}: {one.message}" for one in found.decisions
    ]
    return [*decisions, *(_name(action) for action in found.actions)]


def _name(action: Action) -> str:
    subject = getattr(action, "name", "") or getattr(action, "node", "") or getattr(action, "deployment", "")
    return f"{type(action).__name__} {subject} ({action.reason})"

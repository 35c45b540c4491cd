"""`fleetpack plan`: a recorded pass, planned again on this machine, and whether it comes out the same."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fleetpack.core.decision import Action
from fleetpack.core.inputs import Plan
from fleetpack.core.planner import plan
from fleetpack.core.recording import RecordedPass, dump, load


@click.command("plan")
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--pass", "number", type=int, default=-1, help="Which recorded pass, from 0; -1 is the last.", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan_command(recording: Path, number: int, as_json: bool) -> None:
    """Plan a recorded pass again and say what is decided, and why.

    RECORDING is a file of `fleetpack operator run --record FILE`. The exit code is 1 when this version decides otherwise than
    the operator did then.
    """
    recorded = _read(recording, number)
    again, _ = plan(recorded.inputs, recorded.state)
    if as_json:
        text = dump(RecordedPass(inputs=recorded.inputs, state=recorded.state, plan=again))
        click.echo(json.dumps(json.loads(text)["plan"], indent=2))
    else:
        _tell(recorded, again)
    if again != recorded.plan:
        click.echo("this version decides otherwise than the operator did then", err=True)
        raise SystemExit(1)


def _read(recording: Path, number: int) -> RecordedPass:
    lines = recording.read_text().splitlines()
    try:
        return load(lines[number])
    except IndexError as error:
        raise click.ClickException(
            f"{recording} has {len(lines)} recorded passes, there is no pass {number}"
        ) from error
    except ValueError as error:
        raise click.ClickException(f"{recording}, pass {number}: {error}") from error


def _tell(recorded: RecordedPass, found: Plan) -> None:
    snapshot = recorded.inputs.snapshot
    click.echo(
        f"{len(recorded.inputs.deployments)} deployments, {len(snapshot.nodes)} nodes, {len(snapshot.replicas)} replicas, "
        f"{len(recorded.inputs.issued)} actions on their way, {len(recorded.inputs.samples)} new samples"
    )
    for decision in found.decisions:
        click.echo(f"{decision.subject}: {decision.before} to {decision.after}: {decision.reason}: {decision.message}")
        if decision.factors:
            click.echo("    " + ", ".join(f"{factor.name} {factor.value:.4g}" for factor in decision.factors))
    for action in found.actions:
        click.echo(f"  {_name(action)}")
    if not found.actions:
        click.echo("  no action")


def _name(action: Action) -> str:
    subject = getattr(action, "name", "") or getattr(action, "node", "") or getattr(action, "deployment", "")
    return f"{type(action).__name__} {subject} ({action.reason})"

"""Commands whose modules are loaded when they are called: a replica in a container needs neither the solver nor the scenarios.

Concept: a click group that knows names and where their commands are. Boundary: loading only. Failure: a package that is not installed
does not hide the other commands; the command itself then says which one it lacks, and ends with exit code 2.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click


class LazyGroup(click.Group):
    """A group with commands of its own and `lazy` ones, each as `module:attribute`."""

    lazy: Mapping[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, its module loaded."""
        place = self.lazy.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            return _lacking(cmd_name, str(error.name))
        assert isinstance(command, click.Command), f"{place} is no command"
        return command


def _lacking(name: str, package: str) -> click.Command:
    """Return a command that says why it is none."""

    @click.command(
        name,
        help=f"Not here: the Python package {package} is not installed.",
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def lacking(arguments: tuple[str, ...]) -> None:
        raise click.UsageError(
            f"the Python package {package} is not installed: install fleetpack[simulator], or run it from a clone"
        )

    return lacking

"""The first thing that runs of `fleetpack-sim`: a replica that is told to end while it loads ends (see `fleetpack.start`).

Boundary: nothing slow is imported here. Failure: none of its own.
"""

from __future__ import annotations

from fleetpack.start import end_when_told


def main() -> None:
    """Run the command."""
    end_when_told()
    from fleetpack_simulator.cli import main as command

    command()

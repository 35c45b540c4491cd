"""The first thing that runs of `fleetpack`: a process that is told to end ends, also while it is still loading what it is made of.

The first process of a container has no default for signals: a SIGTERM that nobody handles is ignored, and the kubelet waits for the
whole grace period. Loading takes a second or two, and longer on a busy node. So a handler that ends the process is there before
anything is loaded; who has begun to serve replaces it by one that ends in order. Boundary: nothing slow is imported here.
Failure: none of its own.
"""

from __future__ import annotations

import os
import signal


def end_when_told() -> None:
    """End this process at once on SIGTERM, with the exit code of a shell, until there is something to be ended in order."""
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def main() -> None:
    """Run the command."""
    end_when_told()
    from fleetpack.cli import main as command

    command()

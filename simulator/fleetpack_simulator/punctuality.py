"""Makes a program that lives by the clock punctual on a busy machine, as far as the machine lets it."""

from __future__ import annotations

import contextlib
import gc
import os

# Both programs sleep most of the time, so nobody else feels this.
_NICENESS = -10


def prefer_punctuality() -> None:
    """Ask for a higher priority, which an ordinary user does not get, and keep garbage collections short."""
    # On two cores that other programs kept busy (load 5) the 99th percentile of the replayer's lag was 87 ms at the usual priority
    # and 9 to 25 ms at this one, at 50 requests per second and 600 to 800 open streams.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    # What exists now stays; without it in the way, collections are short.
    gc.collect()
    gc.freeze()

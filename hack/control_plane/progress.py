"""What a person sees while a step runs: short lines on standard error; standard output stays for answers.

Concept: `say` writes one line; `Ticker` repeats the state of a long step every few seconds, in place on a terminal and
as new lines elsewhere. Boundary: words only, no control of the step. Failure: a closed standard error is ignored.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

_speaker = "cluster"


def speak_as(name: str) -> None:
    """Begin every later line of this process with this name."""
    global _speaker
    _speaker = name


def say(message: str) -> None:
    """Write one line for the person who waits."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{_speaker}: {message}", file=sys.stderr, flush=True)


class Ticker:
    """Repeats `describe(seconds so far)` while the `with` block runs."""

    def __init__(self, describe: Callable[[float], str], *, interval_seconds: float | None = None) -> None:
        self._describe = describe
        self._in_place = sys.stderr.isatty()
        # On a terminal the line is rewritten, so it may move often; in a log file each repeat is a line of its own.
        self._interval_seconds = interval_seconds or (1.0 if self._in_place else 10.0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._started_at_seconds = time.monotonic()

    def __enter__(self) -> "Ticker":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._in_place:
            with contextlib.suppress(OSError, ValueError):
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    @property
    def elapsed_seconds(self) -> float:
        """Return how long the step has been running."""
        return time.monotonic() - self._started_at_seconds

    def _repeat(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            line = self._describe(self.elapsed_seconds)
            if not self._in_place:
                say(line)
                continue
            with contextlib.suppress(OSError, ValueError):
                print(f"\r\x1b[K{_speaker}: {line}", end="", file=sys.stderr, flush=True)

"""Time that passes only when nobody has anything to do: tests of waits and limits that are exact, on a busy machine too.

Concept: an event loop whose clock stands while anything can run, and jumps to the next timer when nothing can. `in_virtual_time` runs
an asynchronous test on one; `asyncio.sleep`, `asyncio.timeout` and the loop's own `time()` follow it. Boundary: coroutines and timers
only. Real sockets, processes and threads answer in real time, and a test that waits for one has no timer to jump to. Failure: a test
that waits for ever raises at once.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that never waits."""

    def __init__(self) -> None:
        self._virtual_seconds = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the virtual time."""
        return self._virtual_seconds

    def jump(self, seconds: float | None) -> None:
        """Go on to the next timer."""
        if seconds is None:
            raise RuntimeError("the test waits for something that no timer brings about")
        self._virtual_seconds += seconds


class _Selector(selectors.SelectSelector):
    """Looks at the loop's own sockets without waiting, and lets time pass where the loop would have waited."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._loop.jump(timeout)
        return ready


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an asynchronous test run on a loop of its own with virtual time; its fixtures must not be asynchronous."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*arguments, **named))

    return run

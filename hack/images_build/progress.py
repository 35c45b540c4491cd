"""What a person sees while images are made: lines on standard error; standard output stays for answers.

Concept: `say` writes one line; `run` runs a program and, while it takes long, says every ten seconds for how long.
Boundary: no decision. Failure: a program that fails is an `ImagesError` with the end of its output.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_INTERVAL_SECONDS = 10.0
_SHOWN_LINES = 25


class ImagesError(Exception):
    """Something outside our code is in the way; the message names it and the way out."""


def say(message: str) -> None:
    """Write one line for the person who waits."""
    with contextlib.suppress(OSError, ValueError):
        print(f"images: {message}", file=sys.stderr, flush=True)


def run(
    what: str,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program to its end and return its standard output; `what` is told to the person who waits."""
    arguments = [str(argument) for argument in command]
    with _telling(what):
        answer = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    if answer.returncode != 0:
        raise ImagesError(f"{what}: {arguments[0]} failed with exit code {answer.returncode}\n{end_of(answer)}")
    return answer.stdout


def end_of(answer: subprocess.CompletedProcess[str]) -> str:
    """Return the last lines of what a program wrote."""
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    ended = threading.Event()
    start = time.monotonic()

    def tell() -> None:
        while not ended.wait(_INTERVAL_SECONDS):
            say(f"{what}: {time.monotonic() - start:.0f} s")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

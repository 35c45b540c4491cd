"""One number out of a JSON document of any HTTP service: a broker's queue length, an inbox.

The path knows names and indices and nothing else, so that it means exactly one place: `$.queues[0].messages`,
`["name with.dot"].depth`. A number must stand there as a number; a string, a boolean or null is an error and not a guess.
What goes wrong becomes the sample's `error`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import httpx

from fleetpack.core.samples import Sample
from fleetpack.signals.answers import ReadError, describe, failed, number_read, shown_url
from fleetpack.signals.documents import fetch_document
from fleetpack.signals.targets import HttpTarget

_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]'"\s]+)|\[(?P<index>[0-9]+)\]|\[(?P<quote>["'])(?P<quoted>(?s:.+?))(?P=quote)\]"""
)


class HttpQueueSource:
    """Reads `HttpTarget`s."""

    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock

    async def read(self, target: HttpTarget) -> Sample:
        """Read one document once."""
        try:
            steps = parse_json_path(target.json_path)
            status, document = await fetch_document(self._client, httpx.URL(target.url), target.credentials)
            observed_at = self._clock()
            if status != 200:
                raise ReadError(f"answered {status}")
            return number_read(target, observed_at, _number_at(document, steps, target.json_path))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ReadError) as error:
            return failed(target, self._clock(), f"{shown_url(target.url)}: {describe(error)}")


@lru_cache(maxsize=1024)
def parse_json_path(path: str) -> tuple[str | int, ...]:
    """Return the names and indices of a path; raises `ValueError`, which says what is allowed."""
    text = path.strip().removeprefix("$")
    if text and text[0] not in ".[":
        text = "." + text
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if not step:
            raise ValueError(
                f"jsonPath {path!r} cannot be read at {text[position:]!r}; only names and indices, as in $.queues[0].messages"
            )
        steps.append(int(step["index"]) if step["index"] else step["name"] or step["quoted"])
        position = step.end()
    return tuple(steps)


def _number_at(document: Any, steps: tuple[str | int, ...], path: str) -> float:
    value = document
    for step in steps:
        in_object = isinstance(step, str) and isinstance(value, dict) and step in value
        in_list = isinstance(step, int) and isinstance(value, list) and step < len(value)
        if in_object or in_list:
            value = value[step]
        else:
            raise ReadError(f"jsonPath {path!r} finds no {step!r} in {_kind(value)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReadError(f"jsonPath {path!r} finds {_kind(value)} where a number is wanted")
    try:
        return float(value)
    except OverflowError:
        raise ReadError(f"jsonPath {path!r} finds a number that is too large") from None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with {', '.join(sorted(value)[:8]) or 'nothing'}"
        case _:
            return "a number"

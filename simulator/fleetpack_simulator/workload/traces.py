"""Reads request traces: the plain CSV of this project, the Azure CSV and the Mooncake JSONL as they are published, gzip or not.

    arrival_s,prompt_tokens,output_tokens          seconds from the start
    TIMESTAMP,ContextTokens,GeneratedTokens        a date and time (AzurePublicDataset, AzureLLMInferenceTrace_*.csv)
    {"timestamp": ms, "input_length": n, "output_length": n, ...}     one JSON object a line (kvcache-ai/Mooncake)

Which it is, is read from the first line. Arrivals come out sorted and counted from the first of them; a request with no prompt or
no output counts as having one token, because engines serve nothing smaller. Anything else is a `TraceError`.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from fleetpack_simulator.workload.requests import Request

_PLAIN = ("arrival_s", "prompt_tokens", "output_tokens")
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE = ("timestamp", "input_length", "output_length")


class TraceError(ValueError):
    """A file that cannot be read as a trace."""


def read_trace(path: Path) -> tuple[Request, ...]:
    """Return the requests of a trace file, sorted by arrival, the first at 0."""
    try:
        with _open(path) as lines:
            requests = sorted(_requests(path, lines), key=lambda request: request.arrival_seconds)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"trace {path}: cannot be read: {error}") from error
    if not requests:
        raise TraceError(f"trace {path}: holds no requests")
    first_seconds = requests[0].arrival_seconds
    # Microseconds are what the sources resolve; the difference of two dates has noise below that.
    return tuple(replace(one, arrival_seconds=round(one.arrival_seconds - first_seconds, 6)) for one in requests)


def _open(path: Path) -> TextIO:
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8", newline="") if is_gzip else path.open(encoding="utf-8", newline="")


def _requests(path: Path, lines: TextIO) -> Iterator[Request]:
    first_line = lines.readline()
    if first_line.lstrip().startswith("{"):
        yield from _mooncake_requests(path, first_line, lines)
        return
    header = tuple(next(csv.reader([first_line]), ()))
    if header[:3] not in (_PLAIN, _AZURE):
        raise TraceError(
            f"trace {path}, line 1: {first_line.strip()[:80]!r} is no known header; it must be {','.join(_PLAIN)} or "
            f"{','.join(_AZURE)}, or the file JSON lines with {', '.join(_MOONCAKE)}"
        )
    for number, row in enumerate(csv.reader(lines), start=2):
        if not row:
            continue
        if len(row) < 3:
            raise TraceError(f"trace {path}, line {number}: has {len(row)} fields, it must have {', '.join(header)}")
        arrival = (
            _date_seconds(path, number, row[0]) if header[0] == _AZURE[0] else _number(path, number, header[0], row[0])
        )
        yield _request(arrival, _number(path, number, header[1], row[1]), _number(path, number, header[2], row[2]))


def _mooncake_requests(path: Path, first_line: str, lines: Iterable[str]) -> Iterator[Request]:
    numbered = [(1, first_line)]
    for number, line in (*numbered, *enumerate(lines, start=2)):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(f"trace {path}, line {number}: is no JSON: {error}") from error
        timestamp, prompt, output = (_number(path, number, field, entry.get(field)) for field in _MOONCAKE)
        yield _request(timestamp / 1000, prompt, output)


def _request(arrival_seconds: float, prompt_tokens: float, output_tokens: float) -> Request:
    return Request(
        arrival_seconds=arrival_seconds,
        prompt_tokens=max(1, int(prompt_tokens)),
        output_tokens=max(1, int(output_tokens)),
    )


def _number(path: Path, line: int, field: str, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise TraceError(f"trace {path}, line {line}: {field} is {text!r}, it must be a number, zero or above")
    return value


def _date_seconds(path: Path, line: int, text: str) -> float:
    # Azure prints seven digits of a second, datetime takes six; the 2024 traces add an offset.
    main, dot, rest = text.strip().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(main + dot + digits[:6].ljust(6, "0") * bool(dot) + rest[len(digits) :])
    except ValueError as error:
        raise TraceError(f"trace {path}, line {line}: TIMESTAMP is {text!r}, it must be a date and time") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

"""Traces in the three formats, and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fleetpack_simulator.workload import Request, TraceError, compress, read_trace, within

EXPECTED = (
    Request(arrival_seconds=0.0, prompt_tokens=374, output_tokens=44),
    Request(arrival_seconds=4.315, prompt_tokens=396, output_tokens=109),
)
PLAIN = "arrival_s,prompt_tokens,output_tokens\n0.000,374,44\n4.315,396,109\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9955900,396,109\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-12 00:00:00.004000+00:00,374,44\n2024-05-12 00:00:04.319000+00:00,396,109\n"
)
MOONCAKE = (
    '{"timestamp": 3052, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n'
    '{"timestamp": 7367, "input_length": 396, "output_length": 109, "hash_ids": [2]}\n'
)


@pytest.mark.parametrize("text", [PLAIN, AZURE, AZURE_2024, MOONCAKE])
def test_should_read_each_published_format(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)

    assert read_trace(path) == EXPECTED


def test_should_read_gzip_whatever_the_name_says(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress(PLAIN.encode()))

    assert read_trace(path) == EXPECTED


def test_should_sort_by_arrival_and_give_empty_requests_one_token(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,0\n3,0,7\n")

    assert read_trace(path) == (
        Request(arrival_seconds=0.0, prompt_tokens=1, output_tokens=7),
        Request(arrival_seconds=2.0, prompt_tokens=10, output_tokens=1),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n", r"line 1: 'a,b,c' is no known header; it must be arrival_s,prompt_tokens,output_tokens"),
        (b"", r"line 1: '' is no known header"),
        (b"arrival_s,prompt_tokens,output_tokens\n", "holds no requests"),
        (b"arrival_s,prompt_tokens,output_tokens\n1,2\n", r"line 2: has 2 fields"),
        (b"arrival_s,prompt_tokens,output_tokens\n1,many,3\n", r"line 2: prompt_tokens is 'many', it must be a number"),
        (b"arrival_s,prompt_tokens,output_tokens\nnan,2,3\n", r"line 2: arrival_s is 'nan'"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,2,3\n", r"line 2: TIMESTAMP is 'noon'"),
        (b'{"timestamp": 1, "input_length": 2}\n', r"line 1: output_length is None"),
        (b'{"timestamp": 1,\n', r"line 1: is no JSON"),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_should_refuse_what_is_no_trace_and_say_where(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)

    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_should_compress_arrivals_only() -> None:
    assert compress(EXPECTED, 4)[1] == Request(arrival_seconds=1.07875, prompt_tokens=396, output_tokens=109)


def test_should_cut_out_a_stretch_and_count_from_its_start() -> None:
    assert within(EXPECTED, 4.25, 1) == (Request(arrival_seconds=4.315 - 4.25, prompt_tokens=396, output_tokens=109),)

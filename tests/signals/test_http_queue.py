"""A number out of a JSON document."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack.core.samples import Sample
from fleetpack.signals import HttpTarget
from fleetpack.signals.http_queue import HttpQueueSource, parse_json_path
from signal_targets import NOW, http_target, sample

DOCUMENT = {
    "queues": [{"name": "chat", "messages": 17, "deep.name": {"a b": 2.5}}],
    "ok": True,
    "text": "12",
    "nothing": None,
}


async def read(target: HttpTarget, answer: httpx.Response) -> Sample:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answer)) as client:
        return await HttpQueueSource(client, lambda: NOW).read(target)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("$", ()),
        ("", ()),
        ("$.a", ("a",)),
        (".a", ("a",)),
        ("a", ("a",)),
        ("a.b-c.d_e", ("a", "b-c", "d_e")),
        ("$[0]", (0,)),
        ("a[0][12].b", ("a", 0, 12, "b")),
        ("$['a.b'][\"c d\"]", ("a.b", "c d")),
        ("$.0", ("0",)),
    ],
)
def test_should_read_names_and_indices(path: str, steps: tuple[str | int, ...]):
    assert parse_json_path(path) == steps


@pytest.mark.parametrize("path", ["$..a", "$.a[*]", "$.a[-1]", "$.a[?(@.b)]", "a.", "a b", "$.a[0", "$['a]", "{.a}.b["])
def test_should_refuse_a_path_that_could_mean_several_places(path: str):
    with pytest.raises(ValueError) as raised:
        parse_json_path(path)

    assert "only names and indices, as in $.queues[0].messages" in str(raised.value)


@given(
    st.lists(st.integers(0, 50) | st.text(st.characters(exclude_characters="\"'"), min_size=1, max_size=8), max_size=5)
)
def test_should_read_back_any_quoted_path(steps: list[str | int]):
    path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f'["{step}"]' for step in steps)

    assert parse_json_path(path) == tuple(steps)


async def test_should_read_the_number_at_the_path():
    assert await read(http_target(), httpx.Response(200, json=DOCUMENT)) == sample(signal="inbox", waiting=17.0)


async def test_should_read_a_document_that_is_a_number():
    found = await read(http_target(json_path="$"), httpx.Response(200, text="4"))

    assert found == sample(signal="inbox", waiting=4.0)


@pytest.mark.parametrize(
    ("path", "answer", "error"),
    [
        ("$.text", DOCUMENT, "jsonPath '$.text' finds a string where a number is wanted"),
        ("$.ok", DOCUMENT, "jsonPath '$.ok' finds a boolean where a number is wanted"),
        ("$.nothing", DOCUMENT, "jsonPath '$.nothing' finds null where a number is wanted"),
        ("$.queues", DOCUMENT, "jsonPath '$.queues' finds a list of 1 where a number is wanted"),
        ("$.queues[1]", DOCUMENT, "jsonPath '$.queues[1]' finds no 1 in a list of 1"),
        ("$.queues.x", DOCUMENT, "jsonPath '$.queues.x' finds no 'x' in a list of 1"),
        ("$.inbox", DOCUMENT, "jsonPath '$.inbox' finds no 'inbox' in an object with nothing, ok, queues, text"),
        ("$.a", {"a": -1}, "the answer is -1; waiting must be a number from 0 to 1e+12"),
        ("$.a", {"a": 10**400}, "jsonPath '$.a' finds a number that is too large"),
    ],
)
async def test_should_give_the_reason_when_there_is_no_number(path: str, answer: Any, error: str):
    found = await read(http_target(json_path=path), httpx.Response(200, json=answer))

    assert found == sample(signal="inbox", error=f"http://broker.test/api/queues: {error}")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404, json=DOCUMENT), "answered 404"),
        (httpx.Response(500, text="oops"), "answered 500"),
        (httpx.Response(200, text=""), "answered no JSON but b''"),
        (
            httpx.Response(200, text='{"queues": [{"messages": NaN}]}'),
            "the answer is nan; waiting must be a number from 0 to 1e+12",
        ),
        (httpx.Response(200, text="[" * 200_000), "answered no JSON but b'" + "[" * 60 + "'"),
    ],
)
async def test_should_give_the_reason_when_the_answer_is_wrong(answer: httpx.Response, error: str):
    assert await read(http_target(), answer) == sample(signal="inbox", error=f"http://broker.test/api/queues: {error}")

"""What the plugin makes of a neuron-monitor's page: over real HTTP, and whatever comes instead of a page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest

import fleetpack.device_plugin.monitor as module
from eventually import eventually
from fleetpack.core.cores import parse_cores
from fleetpack.device_plugin.accounts import Holding
from fleetpack.device_plugin.monitor import NeuronMonitor
from fleetpack.device_plugin.silicon import NeuronResource
from scripted_server import Conversation, always, http_answer, never, scripted_server

PAGE = """\
# HELP neuroncore_utilization_ratio Utilization.
# TYPE neuroncore_utilization_ratio gauge
neuroncore_utilization_ratio{neuroncore="4",runtime_tag="7"} 0.5
neuroncore_utilization_ratio{neuroncore="9",runtime_tag="8"} 0.25
# TYPE execution_status_total counter
execution_status_total{neuroncore="4",status_type="completed"} 40
# TYPE system_vcpu_count gauge
system_vcpu_count 96
"""
GOOD = always(http_answer(PAGE))
OF_A = {"namespace": "n", "pod": "a", "container": "server"}
SHOWN = [
    ("neuroncore_utilization_ratio", {"neuroncore": "4", "runtime_tag": "7", **OF_A}, 0.5),
    ("neuroncore_utilization_ratio", {"neuroncore": "9", "runtime_tag": "8"}, 0.25),
    ("execution_status_total", {"neuroncore": "4", "status_type": "completed", **OF_A}, 40.0),
]

Series = list[tuple[str, dict[str, str], float]]


@dataclass(slots=True)
class Reader:
    """A monitor whose clock and holders a test sets."""

    holders: dict[str, str] = field(default_factory=lambda: {"a": "4-7"})
    now_seconds: float = 1000.0
    monitor: NeuronMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = NeuronMonitor(self._holdings, lambda: self.now_seconds)

    async def fetch(self, conversation: Conversation) -> Series:
        """Ask once of a server that behaves like this; return what is shown then."""
        async with scripted_server(conversation) as port, aiohttp.ClientSession() as session:
            await self.monitor.fetch(session, f"http://127.0.0.1:{port}/metrics")
        return self.shown()

    def shown(self) -> Series:
        return [
            (sample.name, sample.labels, sample.value) for family in self.monitor.collect() for sample in family.samples
        ]

    def _holdings(self) -> tuple[Holding, ...]:
        return tuple(
            Holding(pod=f"n/{name}", container="server", resource=NeuronResource.CORE, cores=parse_cores(cores))
            for name, cores in self.holders.items()
        )


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.readuntil(b"\r\n\r\n")


def half_a_page() -> Conversation:
    return always(http_answer(PAGE[:80], length=len(PAGE)), then_hang_up=True)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


@pytest.fixture
def reader() -> Reader:
    return Reader()


async def test_should_show_nothing_before_the_first_page(reader: Reader) -> None:
    assert reader.shown() == []


async def test_should_label_the_series_of_a_core_with_its_holder(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    assert await reader.fetch(GOOD) == SHOWN
    assert complaints(caplog) == []


async def test_should_name_the_holder_of_the_moment_without_another_page(reader: Reader) -> None:
    await reader.fetch(GOOD)

    reader.holders = {"b": "8-9"}

    own = {"namespace": "n", "pod": "b", "container": "server"}
    assert [labels for _, labels, _ in reader.shown()] == [
        {"neuroncore": "4", "runtime_tag": "7"},
        {"neuroncore": "9", "runtime_tag": "8", **own},
        {"neuroncore": "4", "status_type": "completed"},
    ]


async def test_should_show_the_newest_page_and_nothing_of_the_one_before(reader: Reader) -> None:
    await reader.fetch(GOOD)

    changed = 'execution_status_total{neuroncore="4",status_type="completed"} 41\n'

    # Without a line of its type a counter keeps its name and becomes untyped.
    assert await reader.fetch(always(http_answer(changed))) == [
        ("execution_status_total", {"neuroncore": "4", "status_type": "completed", **OF_A}, 41.0)
    ]


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (always(http_answer("later", "503 Service Unavailable")), "503, message='Service Unavailable'"),
        (always(http_answer(PAGE, "404 Not Found")), "404, message='Not Found'"),
        (always(http_answer("<html>Sign in</html>")), "invalid metric name"),
        (always(http_answer("{")), "ValueError"),
        (always(http_answer(b"neuroncore_\xff\xfe 1\n")), "can't decode"),
        (always(b"SSH-2.0-OpenSSH_9.2\r\n"), "Bad status line"),
        (half_a_page(), "Not enough data"),
        (hang_up, "Server disconnected"),
        (never, "no answer in time"),
    ],
    ids=[
        "busy",
        "not there",
        "a sign-in page",
        "half a label",
        "no text",
        "not HTTP",
        "half a page",
        "silence",
        "hang",
    ],
)
async def test_should_keep_the_last_page_and_say_once_why_there_is_no_other(
    reader: Reader,
    conversation: Conversation,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await reader.fetch(GOOD)
    # Long enough for a busy machine to answer, short enough to wait for what never comes.
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.2 if conversation is never else 30.0)

    async with scripted_server(conversation) as port, aiohttp.ClientSession() as session:
        for _ in range(2):
            await reader.monitor.fetch(session, f"http://127.0.0.1:{port}/metrics")

    assert reader.shown() == SHOWN
    [complaint] = complaints(caplog)
    assert complaint.startswith(f"cannot read neuron-monitor at http://127.0.0.1:{port}/metrics: ")
    assert reason in complaint
    assert complaint.endswith("; trying again")


async def test_should_complain_anew_after_a_page_that_could_be_read(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    for conversation in (hang_up, GOOD, hang_up):
        await reader.fetch(conversation)

    assert len(complaints(caplog)) == 2


async def test_should_say_so_where_nobody_listens(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_server(GOOD) as port:
        pass
    async with aiohttp.ClientSession() as session:
        await reader.monitor.fetch(session, f"http://127.0.0.1:{port}/metrics")

    [complaint] = complaints(caplog)
    assert f"Cannot connect to host 127.0.0.1:{port}" in complaint


async def test_should_show_no_page_that_is_older_than_fifteen_seconds(reader: Reader) -> None:
    await reader.fetch(GOOD)

    reader.now_seconds += 14.9
    young = reader.shown()
    reader.now_seconds += 0.1
    old = reader.shown()
    again = await reader.fetch(GOOD)

    assert (young, old, again) == (SHOWN, [], SHOWN)


@contextlib.asynccontextmanager
async def running(monitor: NeuronMonitor, url: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(monitor.run(url))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_should_go_on_reading_whatever_comes(
    reader: Reader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.01)
    answers = [http_answer(PAGE), http_answer("", "500 Oops"), http_answer("{"), b"nonsense\r\n\r\n"]
    last = http_answer(PAGE.replace(" 40\n", " 50\n"))

    async def one_after_the_other(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await stream.readuntil(b"\r\n\r\n"):
            writer.write(answers.pop(0) if answers else last)
            await writer.drain()

    async with (
        scripted_server(one_after_the_other) as port,
        running(reader.monitor, f"http://127.0.0.1:{port}/metrics") as task,
    ):
        await eventually(lambda: reader.shown() == [*SHOWN[:2], (*SHOWN[2][:2], 50.0)], what="the last page")
        assert not task.done()

    assert len(complaints(caplog)) == 1

"""Pages of Pods over real connections: whole, half, wrong and absent answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fleetpack.signals.pod_metrics import MAXIMUM_PAGE_BYTES, PodMetricsSource, new_session
from scripted_server import Conversation, always, http_answer, scripted_server
from signal_targets import NOW, OWN_PAGE, pod_target, sample


@pytest.fixture
async def source() -> AsyncIterator[PodMetricsSource]:
    async with new_session() as session:
        yield PodMetricsSource(session, lambda: NOW)


async def test_should_read_the_page_of_a_pod(source: PodMetricsSource):
    async with scripted_server(always(http_answer(OWN_PAGE))) as port:
        found = await source.read(pod_target(port=port))

    assert found == sample(pod_uid="uid-0", waiting=3.0, running=2.0, finished_total=40.0)


async def test_should_read_a_pod_with_an_ipv6_address(source: PodMetricsSource):
    async with scripted_server(always(http_answer(OWN_PAGE)), host="::1") as port:
        found = await source.read(pod_target(address="::1", port=port))

    assert found == sample(pod_uid="uid-0", waiting=3.0, running=2.0, finished_total=40.0)


async def test_should_ask_for_the_path_on_the_kept_connection(source: PodMetricsSource):
    requests: list[str] = []
    connections = 0

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while request := await reader.readuntil(b"\r\n\r\n"):
            requests.append(request.decode().splitlines()[0])
            writer.write(http_answer(OWN_PAGE))

    async with scripted_server(conversation) as port:
        for _ in range(3):
            await source.read(pod_target(port=port, path="/engine/metrics?format=text"))

    assert (connections, requests) == (1, ["GET /engine/metrics?format=text HTTP/1.1"] * 3)


async def test_should_not_send_pod_addresses_to_a_proxy(source: PodMetricsSource, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with scripted_server(always(http_answer(OWN_PAGE))) as port:
        found = await source.read(pod_target(port=port))

    assert found.error == ""


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("conversation", "error"),
    [
        (always(http_answer("no", "404 Not Found")), "answered 404 Not Found"),
        (always(http_answer("no", "503 Service Unavailable")), "answered 503 Service Unavailable"),
        (always(http_answer("", "302 Found", headers="Location: http://127.0.0.1:1/\r\n")), "answered 302 Found"),
        (always(http_answer("{}")), "the page has no app_waiting"),
        (
            always(http_answer("app_waiting 1\napp_running 2\n", length=900), then_hang_up=True),
            "Response payload is not completed",
        ),
        (always(b"SSH-2.0-OpenSSH_9.6\r\n"), "SSH-2.0-OpenSSH_9.6"),
        (hangs_up, "Server disconnected"),
        (
            always(http_answer(b"#" * (MAXIMUM_PAGE_BYTES + 1))),
            "answered more than 4 MiB, which is no metrics page",
        ),
    ],
)
async def test_should_give_the_reason_of_a_failed_read(
    source: PodMetricsSource, conversation: Conversation, error: str
):
    async with scripted_server(conversation) as port:
        found = await source.read(pod_target(port=port))

    assert error in found.error
    assert found.error.startswith(f"http://127.0.0.1:{port}/metrics: ")
    assert found == sample(pod_uid="uid-0", error=found.error)


async def test_should_give_the_reason_when_nobody_listens(source: PodMetricsSource):
    async with scripted_server(always(b"")) as port:
        pass

    found = await source.read(pod_target(port=port))

    assert "Connect call failed" in found.error
    assert found == sample(pod_uid="uid-0", error=found.error)


async def test_should_give_the_reason_when_the_address_is_none(source: PodMetricsSource):
    found = await source.read(pod_target(address="no address"))

    assert found == sample(pod_uid="uid-0", error=found.error)
    assert found.error

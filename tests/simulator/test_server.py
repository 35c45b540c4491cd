"""The real-time server over real HTTP on loopback addresses."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventually import WAIT_LIMIT_SECONDS
from fleetpack_simulator.engine import EngineProfile, Hardware, ModelShape, coefficients_for, prefill_seconds
from fleetpack_simulator.registry import StaticRegistry
from fleetpack_simulator.server import RunningServer, start_server
from fleetpack_simulator.settings import ReplicaSettings, replica_settings

FIRST, SECOND = "127.10.0.1", "127.10.0.2"


def settings(model_name: str = "tiny", *, maximum_batch: int = 4) -> ReplicaSettings:
    hardware = Hardware(name="gpu", memory_gib=24, memory_bandwidth_gb_per_second=800, tflops_bf16=120)
    profile = EngineProfile(
        model=ModelShape.estimate(model_name, 1.0),
        hardware=hardware,
        cores=1,
        maximum_batch=maximum_batch,
        window_tokens=2048,
        coefficients=coefficients_for(hardware),
    )
    return ReplicaSettings(model_name=model_name, profile=profile)


@pytest.fixture
def registry() -> StaticRegistry:
    return StaticRegistry({FIRST: settings("first"), SECOND: settings("second", maximum_batch=1)})


@pytest.fixture
async def server(registry: StaticRegistry) -> AsyncIterator[RunningServer]:
    running = await start_server(registry, port=0)
    yield running
    await running.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def url(server: RunningServer, address: str, path: str = "/v1/completions") -> str:
    return f"http://{address}:{server.port}{path}"


async def metrics(session: aiohttp.ClientSession, server: RunningServer, address: str) -> dict[str, float]:
    async with session.get(url(server, address, "/metrics")) as response:
        text = await response.text()
    return {
        sample.name + sample.labels.get("finished_reason", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def until(
    session: aiohttp.ClientSession, server: RunningServer, address: str, condition: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """Return the first metrics of a replica for which something is so."""
    async with asyncio.timeout(WAIT_LIMIT_SECONDS):
        while not condition(shown := await metrics(session, server, address)):  # noqa: ASYNC110 (a page has no event)
            await asyncio.sleep(0.01)
    return shown


def is_under_way(shown: dict[str, float]) -> bool:
    return shown["vllm:num_requests_running"] > 0


async def stream(session: aiohttp.ClientSession, target: str, body: dict[str, Any]) -> tuple[list[float], list[Any]]:
    """Return when each object came and what it was."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    moments, objects = [], []
    async with session.post(target, json={"stream": True, **body}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: {"):
                moments.append(loop.time() - started)
                objects.append(json.loads(line[6:]))
            elif line.strip():
                assert line == b"data: [DONE]\n"
    return moments, objects


async def test_should_send_the_first_token_when_its_prefill_is_done_and_then_a_few_chunks_a_second(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    moments, objects = await stream(session, url(server, FIRST), {"prompt_tokens": 1000, "max_tokens": 200})

    expected_seconds = prefill_seconds(settings().profile, 1000)
    assert expected_seconds <= moments[0] < moments[-1]
    texts = [one["choices"][0]["text"] for one in objects]
    # One token, at once; on a busy machine it is late, and those of 4 ms each that have come since go with it.
    assert 1 <= texts[0].count(" tok") <= 1 + (moments[0] - expected_seconds) / 0.003
    assert "".join(texts) == " tok" * 200
    # 200 steps of about 4 ms: at most four chunks a second beside the first and the last.
    assert len(objects) <= 2 + moments[-1] * 4
    assert objects[-1]["usage"] == {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
    assert objects[-1]["choices"][0]["finish_reason"] == "length"
    assert objects[-1]["fleetpack"] == {"queue_seconds": 0, "prefill_seconds": pytest.approx(expected_seconds)}


async def test_should_answer_in_one_piece_when_no_stream_is_asked_for(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    async with session.post(url(server, FIRST), json={"prompt": "word " * 40, "max_tokens": 3}) as response:
        content = await response.json()

    assert content["choices"][0]["text"] == " tok" * 3
    assert content["usage"]["prompt_tokens"] == 50


async def test_should_keep_the_replicas_apart_by_the_address_that_is_called(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    await stream(session, url(server, FIRST), {"prompt_tokens": 10, "max_tokens": 5})

    names = []
    for address in (FIRST, SECOND):
        async with session.get(url(server, address, "/v1/models")) as response:
            names.append((await response.json())["data"][0]["id"])
    first, second = await metrics(session, server, FIRST), await metrics(session, server, SECOND)
    assert names == ["first", "second"]
    assert (first["vllm:generation_tokens_total"], second["vllm:generation_tokens_total"]) == (5, 0)


async def test_should_show_running_and_waiting_under_the_names_of_vllm(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    body = {"prompt_tokens": 10, "max_tokens": 300}
    streams = [asyncio.create_task(stream(session, url(server, SECOND), body)) for _ in range(3)]

    def all_are_there(shown: dict[str, float]) -> bool:
        running, waiting = shown["vllm:num_requests_running"], shown["vllm:num_requests_waiting"]
        return (running, waiting) == (1, 2) and shown["vllm:generation_tokens_total"] > 0

    during = await until(session, server, SECOND, all_are_there)
    await asyncio.gather(*streams)
    after = await metrics(session, server, SECOND)

    assert during["vllm:kv_cache_usage_perc"] > 0
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert after["vllm:prompt_tokens_total"] == 30
    assert after["vllm:generation_tokens_total"] == 900
    assert after["vllm:request_success_totallength"] == 3
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert after[f"vllm:{name}_count"] == 3
    assert after["vllm:request_queue_time_seconds_sum"] > 0


async def test_should_say_503_with_the_reason_where_there_is_no_replica(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    async with session.get(url(server, "127.10.9.9", "/health")) as response:
        content = await response.json()

    assert response.status == 503
    assert content["error"]["message"] == "no replica has the address 127.10.9.9"


async def test_should_reset_the_streams_of_a_replica_that_goes_away(
    server: RunningServer, session: aiohttp.ClientSession, registry: StaticRegistry
) -> None:
    running = asyncio.create_task(stream(session, url(server, FIRST), {"prompt_tokens": 10, "max_tokens": 2000}))
    await until(session, server, FIRST, is_under_way)

    registry.remove(FIRST)

    with pytest.raises(aiohttp.ClientError):
        await running
    async with session.get(url(server, FIRST, "/health")) as response:
        assert response.status == 503


async def test_should_free_the_slot_of_a_client_that_goes_away(
    server: RunningServer, session: aiohttp.ClientSession
) -> None:
    running = asyncio.create_task(stream(session, url(server, SECOND), {"prompt_tokens": 10, "max_tokens": 2000}))
    await until(session, server, SECOND, is_under_way)

    running.cancel()
    # The next request gets the only slot.
    await stream(session, url(server, SECOND), {"prompt_tokens": 10, "max_tokens": 2})

    after = await metrics(session, server, SECOND)
    assert (after["vllm:request_success_totalabort"], after["vllm:request_success_totallength"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "the body must be a JSON object"),
        (b'{"max_tokens": 5}', "prompt is missing"),
        (b'{"prompt": "a", "max_tokens": "5"}', "max_tokens is of the wrong type"),
        (b'{"prompt_tokens": 5000, "max_tokens": 5}', "the window holds 2048"),
        (b'{"prompt_tokens": 5, "max_tokens": 0}', "at least 1"),
    ],
)
async def test_should_refuse_what_it_cannot_serve(
    server: RunningServer, session: aiohttp.ClientSession, body: bytes, message: str
) -> None:
    async with session.post(url(server, FIRST), data=body) as response:
        content = await response.json()

    assert response.status == 400
    assert message in content["error"]["message"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_should_tell_replicas_apart_by_addresses_of_both_families(session: aiohttp.ClientSession) -> None:
    running = await start_server(StaticRegistry({"::1": settings("six"), FIRST: settings("four")}), port=0)
    try:
        models = {}
        for address in ("[::1]", FIRST):
            async with session.get(url(running, address, "/v1/models")) as response:
                models[address] = (await response.json())["data"][0]["id"]
    finally:
        await running.close()
    assert models == {"[::1]": "six", FIRST: "four"}


async def test_should_serve_an_encoder_whose_result_comes_at_once(session: aiohttp.ClientSession) -> None:
    environment = {
        "FLEETPACK_ENGINE_MODEL": "encoder",
        "FLEETPACK_ENGINE_KIND": "encoder",
        "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "0.11",
        "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
    }
    running = await start_server(StaticRegistry({FIRST: replica_settings(environment, cores=2)}), port=0)
    try:
        async with session.post(url(running, FIRST), json={"prompt": "a sentence", "max_tokens": 5}) as response:
            answer = (response.status, (await response.json())["usage"]["completion_tokens"])
        shown = await metrics(session, running, FIRST)
    finally:
        await running.close()
    assert answer == (200, 1)
    assert (shown["vllm:request_success_totallength"], shown["vllm:time_to_first_token_seconds_count"]) == (1, 1)

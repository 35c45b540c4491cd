"""The replayer against live simulated replicas on loopback addresses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from eventually import eventually
from fleetpack_simulator.engine import EngineProfile, Hardware, ModelShape, coefficients_for
from fleetpack_simulator.load import (
    Quantiles,
    Replayer,
    ReplayOptions,
    RequestRecord,
    StaticEndpoints,
    Status,
    quantiles,
    replay,
    summarize,
)
from fleetpack_simulator.registry import StaticRegistry
from fleetpack_simulator.server import RunningServer, start_server
from fleetpack_simulator.settings import ReplicaSettings
from fleetpack_simulator.workload import Request

ADDRESSES = ("127.10.1.1", "127.10.1.2", "127.10.1.3")


def settings(*, maximum_batch: int = 8) -> ReplicaSettings:
    hardware = Hardware(name="gpu", memory_gib=24, memory_bandwidth_gb_per_second=800, tflops_bf16=120)
    profile = EngineProfile(
        model=ModelShape.estimate("tiny", 1.0),
        hardware=hardware,
        cores=1,
        maximum_batch=maximum_batch,
        window_tokens=2048,
        coefficients=coefficients_for(hardware),
    )
    return ReplicaSettings(model_name="tiny", profile=profile)


def requests(count: int, *, gap_seconds: float = 0.0, prompt: int = 20, output: int = 10) -> list[Request]:
    return [
        Request(arrival_seconds=index * gap_seconds, prompt_tokens=prompt, output_tokens=output)
        for index in range(count)
    ]


def record(*, lag_seconds: float) -> RequestRecord:
    return RequestRecord(
        scheduled_seconds=1.0,
        taken_up_seconds=1.0 + lag_seconds,
        sent_seconds=1.1,
        first_token_seconds=1.5,
        finished_seconds=2.0,
        status=Status.COMPLETED,
        replica="127.10.1.1:8000",
        held_seconds=0.0,
        engine_queue_seconds=0.0,
        retries=0,
        prompt_tokens=10,
        output_tokens=10,
        error=None,
    )


@pytest.fixture
def registry() -> StaticRegistry:
    return StaticRegistry({address: settings() for address in ADDRESSES})


@pytest.fixture
async def server(registry: StaticRegistry) -> AsyncIterator[RunningServer]:
    running = await start_server(registry, port=0)
    yield running
    await running.close()


def at(server: RunningServer, *addresses: str) -> list[str]:
    return [f"{address}:{server.port}" for address in addresses]


async def test_should_serve_every_request_and_say_what_it_met(server: RunningServer) -> None:
    replayer = Replayer(StaticEndpoints(at(server, *ADDRESSES)))

    summary = await replayer.run(requests(30, gap_seconds=0.02, output=20))

    assert (summary.requests, summary.completed, summary.retries) == (30, 30, 0)
    assert (summary.prompt_tokens, summary.output_tokens) == (600, 600)
    assert summary.duration_seconds >= 0.58
    for record in replayer.records:
        assert record.sent_seconds is not None
        assert record.first_token_seconds is not None
        assert record.scheduled_seconds <= record.taken_up_seconds <= record.sent_seconds
        assert record.sent_seconds <= record.first_token_seconds <= record.finished_seconds
    assert json.loads(summary.to_json())["completed"] == 30


async def test_should_spread_requests_over_the_replicas_with_the_fewest_outstanding(server: RunningServer) -> None:
    replayer = Replayer(StaticEndpoints(at(server, *ADDRESSES)))

    await replayer.run(requests(30, output=50))

    replicas = sorted(record.replica or "" for record in replayer.records)
    assert replicas == sorted(at(server, *ADDRESSES) * 10)


async def test_should_hold_requests_until_a_replica_is_ready_and_count_that_as_queue_wait(
    server: RunningServer,
) -> None:
    endpoints = StaticEndpoints()
    replayer = Replayer(endpoints)
    running = asyncio.create_task(replayer.run(requests(5)))
    await eventually(lambda: replayer.live.held == 5, what="five requests that are held")
    await asyncio.sleep(0.3)

    endpoints.set(at(server, ADDRESSES[0]))
    summary = await running

    assert summary.completed == 5
    assert summary.queue_wait is not None
    assert summary.queue_wait.p50_seconds >= 0.3
    for record in replayer.records:
        # What it was held is no lag of the replayer's: the two come one after the other.
        assert record.held_seconds >= 0.3
        assert record.taken_up_seconds + record.held_seconds <= record.finished_seconds


async def test_should_retry_elsewhere_when_a_replica_goes_away(server: RunningServer, registry: StaticRegistry) -> None:
    replayer = Replayer(StaticEndpoints(at(server, *ADDRESSES[:2])))
    running = asyncio.create_task(replayer.run(requests(6, output=1500)))
    await eventually(lambda: replayer.live.outstanding == 6, what="three requests at each replica")

    registry.remove(ADDRESSES[0])
    summary = await running

    assert (summary.completed, summary.retries) == (6, 3)
    assert {record.replica for record in replayer.records} == set(at(server, ADDRESSES[1]))


async def test_should_count_a_request_that_no_replica_takes_as_refused(server: RunningServer) -> None:
    replayer = Replayer(StaticEndpoints(at(server, ADDRESSES[0])))

    summary = await replayer.run(requests(1, prompt=5000))

    assert (summary.completed, summary.refused, summary.latency) == (0, 1, None)
    assert "the window holds 2048" in (replayer.records[0].error or "")


async def test_should_give_up_after_the_last_attempt() -> None:
    # Nothing listens on the discard port.
    replayer = Replayer(StaticEndpoints(["127.10.9.9:9"]), ReplayOptions(maximum_attempts=2))

    summary = await replayer.run(requests(1))

    assert (summary.gave_up, summary.retries) == (1, 2)
    assert replayer.records[0].status is Status.GAVE_UP


async def test_should_not_take_a_stream_for_whole_that_breaks_off() -> None:
    async def cut_short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", cut_short)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    replayer = Replayer(StaticEndpoints([f"127.0.0.1:{runner.addresses[0][1]}"]), ReplayOptions(maximum_attempts=1))
    await replayer.run(requests(1))
    await runner.cleanup()

    assert replayer.records[0].error == "the stream ended before its last token"


async def test_should_summarize_an_empty_load() -> None:
    summary = await replay([], StaticEndpoints())

    assert (summary.requests, summary.latency, summary.lag, summary.is_valid) == (0, None, None, True)


@pytest.mark.parametrize(("late_requests", "is_valid"), [(1, True), (2, False)])
def test_should_call_a_run_void_when_the_replayer_itself_was_late(late_requests: int, is_valid: bool) -> None:
    records = [record(lag_seconds=0.051 if index < late_requests else 0.001) for index in range(100)]

    assert summarize(records).is_valid is is_valid


def test_should_take_quantiles_by_nearest_rank() -> None:
    assert quantiles(range(1, 101)) == Quantiles(p50_seconds=50, p95_seconds=95, p99_seconds=99, maximum_seconds=100)
    assert quantiles([]) is None

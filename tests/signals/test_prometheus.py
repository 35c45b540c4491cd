"""Instant queries: one number, or the reason why there is none."""

import json
from typing import Any

import httpx
import pytest

from fleetpack.core.samples import Sample
from fleetpack.signals import BasicCredentials, BearerToken, Measure, PrometheusTarget
from fleetpack.signals.prometheus import PrometheusSource
from signal_targets import NOW, prometheus_target, sample


def series(value: str) -> dict[str, Any]:
    return {"metric": {"queue": "chat"}, "value": [NOW, value]}


def success(kind: str, result: Any) -> httpx.Response:
    return httpx.Response(200, json={"status": "success", "data": {"resultType": kind, "result": result}})


async def read(target: PrometheusTarget, answer: httpx.Response | Exception) -> tuple[Sample, list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        return await PrometheusSource(client, lambda: NOW).read(target), requests


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        (Measure.WAITING, sample(signal="broker", waiting=12.5)),
        (Measure.RUNNING, sample(signal="broker", running=12.5)),
        (Measure.ARRIVAL_RATE, sample(signal="broker", arrival_rate_per_second=12.5)),
        (Measure.TTFT, sample(signal="broker", ttft_seconds=12.5)),
    ],
)
async def test_should_read_one_number_as_what_it_measures(measures: Measure, expected: Sample):
    found, _ = await read(prometheus_target(measures=measures), success("vector", [series("12.5")]))

    assert found == expected


async def test_should_read_a_scalar():
    found, _ = await read(prometheus_target(), success("scalar", [NOW, "1e3"]))

    assert found == sample(signal="broker", waiting=1000.0)


async def test_should_ask_below_the_path_and_beside_the_parameters_of_the_url():
    target = prometheus_target(url="http://mimir.test/prometheus/?tenant=ml", query='sum(a{b="c&d"}) + 1')

    _, requests = await read(target, success("vector", [series("1")]))

    asked = requests[0].url
    assert (asked.path, dict(asked.params)) == (
        "/prometheus/api/v1/query",
        {"tenant": "ml", "query": 'sum(a{b="c&d"}) + 1'},
    )


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        (None, None),
        (BearerToken(token="s3cret"), "Bearer s3cret"),
        (BasicCredentials(username="ml", password="s3cret"), "Basic bWw6czNjcmV0"),
    ],
)
async def test_should_send_credentials(credentials: BearerToken | BasicCredentials | None, header: str | None):
    target = prometheus_target(credentials=credentials)

    _, requests = await read(target, success("vector", [series("1")]))

    assert requests[0].headers.get("Authorization") == header
    assert "s3cret" not in repr(target)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            success("vector", []),
            "no data: the query gives no series; where none means zero, say so in it (`or vector(0)`)",
        ),
        (
            success("vector", [series("1"), series("2")]),
            "the query gives 2 series; bring them down to one, as with sum(...)",
        ),
        (success("vector", [series("NaN")]), "the answer is nan; waiting must be a number from 0 to 1e+12"),
        (success("vector", [series("-4")]), "the answer is -4; waiting must be a number from 0 to 1e+12"),
        (success("vector", [series("1e308")]), "the answer is 1e+308; waiting must be a number from 0 to 1e+12"),
        (success("vector", [series("+Inf")]), "the answer is inf; waiting must be a number from 0 to 1e+12"),
        (success("vector", [{"metric": {}}]), "answered 'None' where [time, number] belongs"),
        (success("vector", ["x"]), "answered 'None' where [time, number] belongs"),
        (
            success("matrix", [{"metric": {}, "values": []}]),
            "answered a matrix; an instant query must give one number (a scalar or a vector of one series)",
        ),
        (httpx.Response(200, json=[]), "answered 200"),
        (httpx.Response(200, text="<html>"), "answered no JSON but b'<html>'"),
        (httpx.Response(503, text="<html>"), "answered 503"),
        (httpx.Response(302, headers={"Location": "http://elsewhere.test/"}), "answered 302"),
        (
            httpx.Response(400, json={"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}),
            "answered 400 bad_data: parse error at char 3",
        ),
        (httpx.Response(200, json={"a": "x" * 1_100_000}), "answered more than 1024 KiB, where one number is wanted"),
        (httpx.ConnectError("All connection attempts failed"), "All connection attempts failed"),
        (httpx.RemoteProtocolError(""), "RemoteProtocolError"),
    ],
)
async def test_should_give_the_reason_when_there_is_no_number(answer: httpx.Response | Exception, error: str):
    found, _ = await read(prometheus_target(), answer)

    assert found == sample(signal="broker", error=f"query at http://prometheus.test:9090: {error}")


async def test_should_not_show_what_a_url_hides():
    found, _ = await read(prometheus_target(url="http://me:s3cret@prometheus.test/?key=s3cret"), httpx.Response(401))

    assert found == sample(signal="broker", error="query at http://prometheus.test/: answered 401")


async def test_should_refuse_a_url_that_is_none():
    found, _ = await read(prometheus_target(url="http://prometheus.test:many"), success("scalar", [NOW, "1"]))

    assert found == sample(signal="broker", error=found.error)
    assert json.dumps(found.error).startswith('"query at the URL: ')

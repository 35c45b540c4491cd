"""The port for machines, over real connections."""

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from fleetpack.telemetry import Probe, serve_telemetry


def well() -> tuple[bool, str]:
    return True, "planned 0.4 s ago"


def unwell() -> tuple[bool, str]:
    return False, "pods: not synced yet"


def broken() -> tuple[bool, str]:
    raise KeyError("pods")


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("fleetpack_leader", "Leads.", registry=registry).set(1)
    return registry


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def test_should_serve_metrics_as_text(registry: CollectorRegistry, client: httpx.AsyncClient):
    async with serve_telemetry(registry, live={}, ready={}, host="127.0.0.1", port=0) as port:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")

    assert (answer.status_code, answer.headers["Content-Type"], answer.text) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        "# HELP fleetpack_leader Leads.\n# TYPE fleetpack_leader gauge\nfleetpack_leader 1.0\n",
    )


async def test_should_serve_open_metrics_to_whoever_asks(registry: CollectorRegistry, client: httpx.AsyncClient):
    headers = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
    async with serve_telemetry(registry, live={}, ready={}, host="127.0.0.1", port=0) as port:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("probes", "status", "body"),
    [
        ({}, 200, {"ok": True, "checks": []}),
        ({"loop": well}, 200, {"ok": True, "checks": [{"name": "loop", "ok": True, "message": "planned 0.4 s ago"}]}),
        (
            {"loop": well, "caches": unwell},
            503,
            {
                "ok": False,
                "checks": [
                    {"name": "caches", "ok": False, "message": "pods: not synced yet"},
                    {"name": "loop", "ok": True, "message": "planned 0.4 s ago"},
                ],
            },
        ),
        (
            {"caches": broken},
            503,
            {
                "ok": False,
                "checks": [{"name": "caches", "ok": False, "message": "the check itself failed: KeyError: 'pods'"}],
            },
        ),
    ],
)
@pytest.mark.parametrize("path", ["livez", "readyz"])
async def test_should_say_which_check_failed_and_why(
    client: httpx.AsyncClient, probes: dict[str, Probe], status: int, body: object, path: str
):
    asked, other = (probes, {"other": unwell})
    live, ready = (asked, other) if path == "livez" else (other, asked)
    async with serve_telemetry(CollectorRegistry(), live=live, ready=ready, host="127.0.0.1", port=0) as port:
        answer = await client.get(f"http://127.0.0.1:{port}/{path}")

    assert (answer.status_code, answer.json()) == (status, body)


async def test_should_ask_probes_anew_each_time(client: httpx.AsyncClient):
    state = [unwell]
    ready = {"caches": lambda: state[0]()}
    async with serve_telemetry(CollectorRegistry(), live={}, ready=ready, host="127.0.0.1", port=0) as port:
        before = (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code
        state[0] = well
        after = (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code

    assert (before, after) == (503, 200)


async def test_should_serve_nothing_else(client: httpx.AsyncClient):
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, host="127.0.0.1", port=0) as port:
        statuses = [
            (await client.get(f"http://127.0.0.1:{port}/")).status_code,
            (await client.post(f"http://127.0.0.1:{port}/metrics")).status_code,
        ]

    assert statuses == [404, 405]


needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


async def served(client: httpx.AsyncClient, port: int, *hosts: str) -> list[int]:
    return [(await client.get(f"http://{host}:{port}/livez")).status_code for host in hosts]


@needs_ipv6
async def test_should_answer_on_addresses_of_both_families_unless_a_host_is_named(client: httpx.AsyncClient):
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, port=0) as port:
        assert await served(client, port, "127.0.0.1", "127.77.77.78", "[::1]") == [200, 200, 200]


async def test_should_answer_on_the_named_host_alone(client: httpx.AsyncClient):
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, host="127.77.77.79", port=0) as port:
        assert await served(client, port, "127.77.77.79") == [200]
        for other in ("127.0.0.1", "[::1]"):
            with pytest.raises(httpx.ConnectError):
                await served(client, port, other)


async def test_should_answer_on_ipv4_where_the_kernel_has_no_ipv6(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, port=0) as port:
        assert await served(client, port, "127.0.0.1") == [200]


async def test_should_answer_on_ipv4_where_the_network_has_no_ipv6_address(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    create_server = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int, **rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create_server(address, family=family, **rest)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", without_ipv6)
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, port=0) as port:
        assert await served(client, port, "127.0.0.1") == [200]


@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)])
async def test_should_say_that_a_port_is_taken_in_either_family(family: socket.AddressFamily):
    with socket.create_server(("", 0), family=family) as taken, pytest.raises(OSError, match="in use"):
        async with serve_telemetry(CollectorRegistry(), live={}, ready={}, port=taken.getsockname()[1]):
            pass


async def test_should_free_the_port_when_it_closes(client: httpx.AsyncClient):
    # An address that nothing else on this machine uses: another process may get the port at any moment.
    async with serve_telemetry(CollectorRegistry(), live={}, ready={}, host="127.77.77.77", port=0) as port:
        pass

    with pytest.raises(httpx.ConnectError):
        await client.get(f"http://127.77.77.77:{port}/livez")

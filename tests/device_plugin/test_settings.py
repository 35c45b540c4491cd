"""What the plugin makes of its command line before it runs."""

from __future__ import annotations

import pytest

from fleetpack.device_plugin.settings import settings_from_options


@pytest.mark.parametrize(
    ("host_address", "url", "read"),
    [
        ("10.0.0.7", "http://10.0.0.7:8000/metrics", "http://10.0.0.7:8000/metrics"),
        ("fd00::8", "http://fd00::8:8000/metrics", "http://[fd00::8]:8000/metrics"),
        ("fd00::8", "http://fd00::8/metrics", "http://[fd00::8]/metrics"),
        ("fd00::8", "http://fd00::8", "http://[fd00::8]"),
        ("fd00::8", "http://[fd00::8]:8000/metrics", "http://[fd00::8]:8000/metrics"),
        ("fd00::8", "http://fd00::88:8000/metrics", "http://fd00::88:8000/metrics"),
        ("fd00::8", "http://monitor.neuron.svc:8000/metrics", "http://monitor.neuron.svc:8000/metrics"),
        ("fd00::8", "", ""),
        ("", "http://10.0.0.7:8000/metrics", "http://10.0.0.7:8000/metrics"),
    ],
)
def test_should_put_the_nodes_ipv6_address_into_brackets(
    monkeypatch: pytest.MonkeyPatch, host_address: str, url: str, read: str
) -> None:
    monkeypatch.setenv("HOST_IP", host_address)
    options = {"node_name": "a", "source": "neuron", "core_numbering": "container", "neuron_monitor_url": url}
    assert settings_from_options(options).neuron_monitor_url == read

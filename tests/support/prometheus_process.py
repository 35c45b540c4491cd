"""A real Prometheus outside a kind cluster, with the chart's own alerts.

Concept: it finds the release's Pods by the labels that the chart's monitors select, and scrapes them through the API server's
proxy, since addresses of Pods end at the engine's network. They bear the labels that the Prometheus Operator and the chart's monitors
would give them, the job apart. The rules are those of the rendered PrometheusRule, with one change: `for` is a sixtieth, so that what
takes five minutes takes five seconds; every expression is the chart's. The program is the one on PATH (Debian's package) or built
from its locked module.
Boundary: starts, asks, ends. Failure: a Prometheus that ends or does not become ready raises with the end of its log.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chart import MONITORING, rendered, the
from control_plane.binaries import ensure
from control_plane.ports import free_ports
from control_plane.programs import PROMETHEUS
from kind_release import NAMESPACE, PLUGIN_NAMESPACE, RELEASE, SETTINGS

SCRAPE_SECONDS = 2
START_LIMIT_SECONDS = 60.0
SHORTENED = 60
"""By how much the rules' `for` is divided."""

Json = dict[str, Any]
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def targets(self) -> dict[str, str]:
        """Return the health of each target (`up`, `down`, `unknown`), by the name of its Pod."""
        active = self._ask("targets?state=active")["activeTargets"]
        return {target["labels"]["pod"]: target["health"] for target in active}

    def rules(self) -> dict[str, str]:
        """Return the health of each rule (`ok`, `err`, `unknown`), by name."""
        return {rule["name"]: rule["health"] for group in self._ask("rules")["groups"] for rule in group["rules"]}

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the labels of the alerts that fire, by name; of several with one name, one."""
        return {
            alert["labels"]["alertname"]: alert["labels"]
            for alert in self._ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series."""
        result = self._ask("query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def _ask(self, what: str) -> Json:
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}", timeout=10) as answer:
            data: Json = json.load(answer)["data"]
        return data


@contextmanager
def prometheus_running(kubeconfig: Path, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the release, its files in `folder`."""
    program = ensure((PROMETHEUS,))["prometheus"]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": shortened_rules()}))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration(kubeconfig, folder)))
    address = f"127.0.0.1:{free_ports(('prometheus',))['prometheus']}"
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(program),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_ready(process, f"http://{address}", log)
        yield Prometheus(url=f"http://{address}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def shortened_rules() -> list[Json]:
    """Return the groups of the chart's PrometheusRule, `for` divided by `SHORTENED`."""
    groups: list[Json] = the(rendered(*SETTINGS, api_versions=MONITORING), "PrometheusRule")["spec"]["groups"]
    for group in groups:
        for rule in group["rules"]:
            if "for" in rule:
                match = re.fullmatch(r"(\d+)([smh])", rule["for"])
                assert match is not None, f"{rule['alert']}: for: {rule['for']}"
                rule["for"] = f"{int(match[1]) * _UNITS[match[2]] * 1000 // SHORTENED}ms"
    return groups


def configuration(kubeconfig: Path, folder: Path) -> Json:
    """Return Prometheus' configuration; the credentials of the kubeconfig become files in `folder`."""
    content = yaml.safe_load(kubeconfig.read_text())
    server, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    files = {
        "ca_file": server["certificate-authority-data"],
        "cert_file": user["client-certificate-data"],
        "key_file": user["client-key-data"],
    }
    for name, data in files.items():
        (folder / name).write_bytes(base64.b64decode(data))
    (folder / "key_file").chmod(0o600)
    proxy = {
        "scheme": "https",
        "tls_config": {name: str(folder / name) for name in files},
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "kubeconfig_file": str(kubeconfig),
                "namespaces": {"names": [NAMESPACE, PLUGIN_NAMESPACE]},
            }
        ],
    }
    address = urllib.parse.urlsplit(server["server"]).netloc
    return {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
        },
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [
            {"job_name": "fleetpack", **proxy, "relabel_configs": _relabelling("operator", address)},
            {
                "job_name": "fleetpack-device-plugin",
                "honor_labels": True,
                **proxy,
                "relabel_configs": _relabelling("device-plugin", address),
            },
        ],
    }


def _relabelling(component: str, address: str) -> list[Json]:
    """Keep the Pods of a component that are ready, as a Service does, and reach them through the API server."""
    pod = "__meta_kubernetes_pod"
    label = f"{pod}_label_app_kubernetes_io"
    return [
        {
            "action": "keep",
            "source_labels": [f"{label}_instance", f"{label}_component", f"{pod}_container_port_name", f"{pod}_ready"],
            "regex": f"{RELEASE};{component};http;true",
        },
        # What the Prometheus Operator makes of a monitor: the instance is what Prometheus would reach directly.
        {
            "target_label": "instance",
            "source_labels": [f"{pod}_ip", f"{pod}_container_port_number"],
            "separator": ":",
        },
        {"target_label": "namespace", "source_labels": ["__meta_kubernetes_namespace"]},
        {"target_label": "pod", "source_labels": [f"{pod}_name"]},
        {"target_label": "container", "source_labels": [f"{pod}_container_name"]},
        {"target_label": "endpoint", "source_labels": [f"{pod}_container_port_name"]},
        # What the chart's PodMonitor adds for plugins.
        *([{"target_label": "node", "source_labels": [f"{pod}_node_name"]}] if component == "device-plugin" else []),
        {
            "target_label": "__metrics_path__",
            "source_labels": ["__meta_kubernetes_namespace", f"{pod}_name", f"{pod}_container_port_number"],
            "regex": "(.+);(.+);(.+)",
            "replacement": "/api/v1/namespaces/$1/pods/$2:$3/proxy/metrics",
        },
        {"target_label": "__address__", "replacement": address},
    ]


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_seconds = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < deadline_seconds and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"Prometheus did not become ready:\n{log.read_text()[-2000:]}")

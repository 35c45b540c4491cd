"""A second API server on the data of a running control plane, with an admission plugin that hardly any cluster for tests has.

OwnerReferencesPermissionEnforcement looks up kinds in a list that it makes anew twice a minute only. In the shared server it would
refuse Pods whose owner's definition is younger than that; one that starts later knows them all.
Boundary: starts, waits, ends. Failure: a server that ends or does not become ready raises with the end of its log.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient, ApiError
from control_plane.command_lines import command_line
from control_plane.folders import cluster_folder
from control_plane.ports import free_ports
from control_plane.processes import log_end
from control_plane.state import read_state

START_LIMIT_SECONDS = 120.0


@contextlib.contextmanager
def strict_api_server(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Run the server, and return the administrator's kubeconfig for it."""
    state = read_state(cluster_folder(cluster.name))
    assert state is not None, f"control plane {cluster.name} has no record"
    ports = {**state.layout.ports, **free_ports(("kube-apiserver",))}
    changed = {
        "--enable-admission-plugins": "NodeRestriction,OwnerReferencesPermissionEnforcement",
        "--audit-log-path": str(folder / "audit.log"),
    }
    command = command_line("kube-apiserver", replace(state.layout, ports=ports))
    for name, value in changed.items():
        [position] = [number for number, word in enumerate(command) if word.startswith(f"{name}=")]
        command[position] = f"{name}={value}"
    kubeconfig, log = folder / "kubeconfig", folder / "kube-apiserver.log"
    address = f"https://127.0.0.1:{ports['kube-apiserver']}"
    kubeconfig.write_text(cluster.kubeconfig.read_text().replace(cluster.server, address))
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not _is_ready(kubeconfig):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the second API server is not ready:\n{log_end(log)}")
            time.sleep(0.1)
        yield kubeconfig
    finally:
        process.kill()
        process.wait()


def _is_ready(kubeconfig: Path) -> bool:
    try:
        with ApiClient(kubeconfig, timeout_seconds=5.0) as client:
            return client.request_text("GET", "/readyz") == "ok"
    except (OSError, http.client.HTTPException, ApiError):
        return False

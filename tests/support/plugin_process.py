"""`fleetpack device-plugin` as a process of its own beside a real API server, with the chart's account and policies.

Concept: its token belongs to a Pod of the node, as its DaemonSet's would, so the admission policies of the chart hold it to that node.
The node has no kubelet: a Pod that is bound to it stays Pending, and a test gives devices out in the kubelet's place.
Boundary: sets up, starts, asks and cleans up; asserts nothing about the plugin. Failure: an answer of the API server that is no success
raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chart import Manifest, rendered
from cluster_fixtures import Cluster, wait_for
from control_plane.api_client import ApiClient
from kubelet_side import CORE, KubeletSide
from rights import wait_until_allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginAccount:
    """Who a plugin is: its account's kubeconfig, its node, its namespace, and what the chart rendered for it."""

    namespace: str
    node: str
    kubeconfig: Path
    manifests: list[Manifest]
    administrator: ApiClient

    @property
    def user(self) -> str:
        """Its name, as the API server knows it."""
        return f"system:serviceaccount:{self.namespace}:{_account(self.namespace)}"

    @property
    def pods(self) -> str:
        """The collection of the Pods of its namespace."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def create_pod(self, name: str, cores: str = "", count: int = 0) -> Any:
        """Create a Pod on the node, with so many cores and a plan for them."""
        return _create_pod(self.administrator, self.namespace, self.node, name, cores=cores, count=count)

    def annotation(self, name: str) -> str | None:
        """Return which cores were written on a Pod."""
        annotations = self.administrator.get(f"{self.pods}/{name}")["metadata"].get("annotations") or {}
        found: str | None = annotations.get("fleetpack.dev/allocated-cores")
        return found


@contextlib.contextmanager
def plugin_account(cluster: Cluster, administrator: ApiClient, folder: Path) -> Iterator[PluginAccount]:
    """Make a node, and the chart's account with a token of a Pod there."""
    namespace = f"plugin-process-{uuid.uuid4().hex[:6]}"
    account, node = _account(namespace), f"{namespace}-node"
    manifests = [
        own
        for own in rendered("devicePlugin.enabled=true", release=namespace, namespace=namespace)
        if own["metadata"]["name"].startswith(account) and own["kind"] != "DaemonSet"
    ]
    cluster.kubectl("create", "namespace", namespace)
    applied = cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(manifests))
    assert applied.returncode == 0, applied.stderr
    labels = {"node.kubernetes.io/instance-type": "inf2.24xlarge"}
    administrator.create(
        "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
    )
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_for(lambda: {one["metadata"]["name"] for one in administrator.get(accounts)["items"]} >= {"default", account})
    owner = _create_pod(administrator, namespace, node, "plugin", account=account)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "plugin", "uid": owner["metadata"]["uid"]}
    answer = administrator.create(
        f"{accounts}/{account}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}},
    )
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": answer["status"]["token"]}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(content))
    with ApiClient(kubeconfig) as client:
        wait_until_allowed(client, manifests)
    yield PluginAccount(
        namespace=namespace, node=node, kubeconfig=kubeconfig, manifests=manifests, administrator=administrator
    )
    cluster.kubectl("delete", "-f", "-", "--wait=false", input_text=yaml.safe_dump_all(manifests))
    cluster.kubectl("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period=0")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "node", node, "--wait=false")


class PluginProcess:
    """A running `fleetpack device-plugin`."""

    def __init__(self, kubelet: KubeletSide, node: str, kubeconfig: Path, folder: Path, *options: str) -> None:
        self.kubelet = kubelet
        self.unhealthy_file = folder / "unhealthy"
        self._log = (folder / "log").open("a+")
        command = [
            str(Path(sys.executable).with_name("fleetpack")),
            "device-plugin",
            f"--node-name={node}",
            f"--kubeconfig={kubeconfig}",
            "--source=simulated",
            f"--plugin-folder={kubelet.folder}",
            f"--pod-resources-socket={kubelet.pod_resources_socket}",
            f"--unhealthy-file={self.unhealthy_file}",
            "--http-host=127.0.0.1",
            "--http-port=0",
            *options,
        ]
        self.process = subprocess.Popen(command, stderr=self._log)

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the plugin's own port."""
        port = self.log().partition("/livez and /readyz on port ")[2].split()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def metrics(self) -> dict[str, float]:
        """Return series to value."""
        _, page = await asyncio.to_thread(self.get, "/metrics")
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}

    async def stop(self) -> None:
        """Ask it to end, as a kubelet does, and wait."""
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 60.0)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()


def _create_pod(
    client: ApiClient,
    namespace: str,
    node: str,
    name: str,
    *,
    cores: str = "",
    count: int = 0,
    account: str = "default",
) -> Any:
    container: dict[str, Any] = {"name": "server", "image": "none"}
    if count:
        container["resources"] = {"limits": {CORE: str(count)}}
    annotations = {"fleetpack.dev/cores": cores} if cores else {}
    spec = {"nodeName": node, "serviceAccountName": account, "containers": [container]}
    body = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
    return client.create(f"/api/v1/namespaces/{namespace}/pods", {"apiVersion": "v1", "kind": "Pod", **body})


def _account(namespace: str) -> str:
    return f"{namespace}-fleetpack-device-plugin"

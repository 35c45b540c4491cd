"""The demo on a kind cluster: real kubelets, the chart, replicas in containers, loads from Pods through the models' Services.

Concept: `hack/kind` brings the cluster up, `hack/images` the images onto its nodes, helm the release. With FLEETPACK_KIND_CLUSTER and
DOCKER_HOST, KUBECONFIG and KIND set, that cluster is used instead and left as it was. Boundary: the demo acts through kubectl and
helm, as a person would. Failure: a command that fails is a RuntimeError with its own words.
"""

import asyncio
import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from control_plane.binaries import ensure
from control_plane.programs import HELM, KUBECTL
from demonstration.own_site import GO_ON, load_arguments
from demonstration.site import Load, LoadPlan
from installation import CHART, NAMESPACE, REPOSITORY

RELEASE = "fleetpack"
PLUGIN_NAMESPACE = "fleetpack-device-plugin"
VALUES = (
    "devicePlugin.enabled=true",
    "devicePlugin.source=simulated",
    f"devicePlugin.namespace={PLUGIN_NAMESPACE}",
    "devicePlugin.createNamespace=true",
)
EXAMPLES = REPOSITORY / "examples" / "kind"
LARGEST_TRACE_BYTES = 1_000_000
"""What a ConfigMap holds (1 MiB with its own description)."""

LOAD_LIMIT_SECONDS = 120.0
"""How long after its last arrival a load may take to be answered."""


@dataclass(slots=True)
class KindLoad:
    """A Job in the cluster; its Pod leaves the summary as its termination message."""

    site: "KindSite"
    name: str
    limit_seconds: float
    _ended: bool = False

    @property
    def running(self) -> bool:
        """Whether it has not ended, as far as was waited for."""
        return not self._ended

    async def wait(self) -> object:
        """Wait until its Pod has ended, well or not."""
        deadline_seconds = asyncio.get_running_loop().time() + self.limit_seconds
        while asyncio.get_running_loop().time() < deadline_seconds:
            if await self._termination() is not None:
                self._ended = True
                return None
            await asyncio.sleep(1.0)
        raise RuntimeError(f"Job {self.name} had not ended after {self.limit_seconds:.0f} s")

    async def result(self) -> dict[str, Any]:
        """Return the replayer's summary."""
        found = await self._termination() or {}
        try:
            result: dict[str, Any] = json.loads(found.get("message", ""))
        except json.JSONDecodeError:
            log = await self.site.kubectl("logs", f"job/{self.name}", "--tail=20")
            raise RuntimeError(f"Job {self.name} ended without a result:\n{log}") from None
        return result

    async def end(self) -> None:
        """End it early."""
        await self.site.kubectl("delete", "job", self.name, "--ignore-not-found", "--wait=false")

    async def _termination(self) -> dict[str, Any] | None:
        pods = json.loads(await self.site.kubectl("get", "pods", f"--selector=job-name={self.name}", "--output=json"))[
            "items"
        ]
        for pod in pods:
            for status in pod.get("status", {}).get("containerStatuses", ()):
                if ended := status.get("state", {}).get("terminated"):
                    return dict(ended)
        return None


@dataclass(slots=True)
class KindSite:
    """A kind cluster with the chart."""

    name: str
    trace: Path | None
    load_seconds: float
    admin: Path = Path()
    _environment: dict[str, str] = field(default_factory=dict)
    _is_ours: bool = False
    _was_up: bool = False

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Pool and models."""
        return tuple(EXAMPLES / name for name in ("pool.yaml", "llama-1b.yaml", "llama-8b.yaml"))

    @property
    def load_plans(self) -> tuple[LoadPlan, ...]:
        """Two stretches of the trace; slower than elsewhere, since every replica is a container of this one machine."""
        return (
            LoadPlan(deployment="llama-1b", start_seconds=0.0, speed=0.4, duration_seconds=self.load_seconds),
            LoadPlan(deployment="llama-8b", start_seconds=600.0, speed=0.35, duration_seconds=self.load_seconds),
        )

    @property
    def about_load(self) -> str:
        """What people are told of cold starts and arrivals."""
        return "from Pods through the models' Services; cold starts are those of real containers"

    @property
    def about_start(self) -> str:
        """What people are told while it comes up."""
        return "bring up a kind cluster with real kubelets, build and load the images, install the chart (minutes the first time)"

    async def bring_up(self) -> None:
        """Find or create the cluster, load the images, install the chart."""
        given = os.environ.get("FLEETPACK_KIND_CLUSTER")
        if given and all(os.environ.get(name) for name in ("DOCKER_HOST", "KUBECONFIG", "KIND")):
            self.name, self._environment = given, {}
        else:
            hack_kind = (str(REPOSITORY / "hack" / "kind"), "--name", given or self.name)
            self.name, self._is_ours = given or self.name, True
            self._was_up = await self._succeeds(*hack_kind, "status")
            await self._run(*hack_kind, "up", told=True)
            lines = (await self._run(*hack_kind, "env")).splitlines()
            words = (shlex.split(line.removeprefix("export "))[0] for line in lines)
            self._environment = dict(word.split("=", 1) for word in words)
        self.admin = Path(self._environment.get("KUBECONFIG") or os.environ["KUBECONFIG"])
        await self._run(str(REPOSITORY / "hack" / "images"), "--load", self.name, told=True)
        await self._install()

    async def start_load(self, plan: LoadPlan) -> Load:
        """Start a Job that sends to the model's Service."""
        name = f"load-{plan.deployment}"
        job = yaml.safe_load((EXAMPLES / "load.yaml").read_text())
        job["metadata"]["name"] = name
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        trace = await self._trace_in_cluster(pod, container)
        container["args"] = [
            "load",
            *load_arguments(trace, plan),
            f"--address={plan.deployment}:8000",
            # The kubelet keeps what a container writes there (4096 bytes at most) in the Pod's status.
            "--json=/dev/termination-log",
        ]
        await self.kubectl("delete", "job", name, "--ignore-not-found")
        await self.kubectl("apply", "--filename=-", input_text=yaml.safe_dump(job))
        return KindLoad(self, name, plan.duration_seconds + LOAD_LIMIT_SECONDS)

    async def operator_metrics(self) -> str:
        """Return the leader's page, through the API server."""
        try:
            lease = json.loads(await self.kubectl("get", "lease", RELEASE, f"--namespace={NAMESPACE}", "--output=json"))
            pod = lease["spec"]["holderIdentity"].rpartition("_")[0]
            return await self.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics")
        except (RuntimeError, KeyError) as error:
            raise OSError(f"the leader's metrics: {error}") from error

    def require_running(self) -> None:
        """Nothing of the demo runs outside the cluster."""

    async def take_down(self, *, keep: bool) -> None:
        """Remove the cluster if it was made for the demo, else all that was installed."""
        if keep:
            return
        if self._is_ours and not self._was_up:
            await self._run(str(REPOSITORY / "hack" / "kind"), "--name", self.name, "down", told=True)
            return
        await self.kubectl(
            "delete", "job", *(f"load-{plan.deployment}" for plan in self.load_plans), "--ignore-not-found"
        )
        for file in reversed(self.manifests):
            await self.kubectl("delete", "--filename", str(file), "--ignore-not-found")
        await self._helm("uninstall", RELEASE, "--wait")
        await self.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    def how_to_go_on(self) -> str:
        """Return what to type when it was kept."""
        return f"  export KUBECONFIG={self.admin}\n{GO_ON}end it with: hack/kind --name {self.name} down"

    async def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """Run kubectl and return what it prints."""
        program = str(ensure((KUBECTL,))["kubectl"])
        return await self._run(program, f"--kubeconfig={self.admin}", *arguments, input_text=input_text)

    async def _install(self) -> None:
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
        await self.kubectl("apply", "--filename=-", input_text=yaml.safe_dump(namespace))
        values = [argument for value in VALUES for argument in ("--set", value)]
        await self._helm(
            "upgrade", "--install", RELEASE, str(CHART), *values, "--take-ownership", "--wait", "--timeout=180s"
        )

    async def _trace_in_cluster(self, pod: dict[str, Any], container: dict[str, Any]) -> Path | None:
        """Bring the trace into the load's Pod, and return where it is there."""
        if self.trace is None:
            return None
        if self.trace.stat().st_size > LARGEST_TRACE_BYTES:
            raise RuntimeError(
                f"{self.trace} is larger than the {LARGEST_TRACE_BYTES} bytes that a ConfigMap takes: cut it, or leave CLUSTER=kind off"
            )
        await self.kubectl("delete", "configmap", "trace", "--ignore-not-found")
        await self.kubectl("create", "configmap", "trace", f"--from-file={self.trace.name}={self.trace}")
        pod["volumes"] = [{"name": "trace", "configMap": {"name": "trace"}}]
        container["volumeMounts"] = [{"name": "trace", "mountPath": "/trace", "readOnly": True}]
        return Path("/trace") / self.trace.name

    async def _helm(self, *arguments: str) -> str:
        program = str(ensure((HELM,))["helm"])
        return await self._run(program, *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={self.admin}")

    async def _succeeds(self, *command: str) -> bool:
        try:
            await self._run(*command)
        except RuntimeError:
            return False
        return True

    async def _run(self, *command: str, told: bool = False, input_text: str | None = None) -> str:
        """Run a command; with `told` what it says to people goes to the terminal."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if input_text is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if told else asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
        )
        output, errors = await process.communicate(input_text.encode() if input_text is not None else None)
        if process.returncode != 0:
            said = (errors or b"").decode().strip() or output.decode().strip() or "see above"
            raise RuntimeError(f"{' '.join(command[:6])} failed: {said}")
        return output.decode()

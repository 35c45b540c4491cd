"""The demo on a kind cluster: real kubelets, the chart, replicas in containers, loads from Pods through the models' Services.

Concept: `hack/kind` brings the cluster up (and an engine of its own where none answers), `hack/images` the images onto its nodes, helm
the release; in the end all that was not there before is gone again. With FLEETPACK_KIND_CLUSTER and DOCKER_HOST, KUBECONFIG and KIND
set, that cluster is used instead and left as it was. Boundary: the demo acts through kubectl and helm, as a person would. Failure: a
command that fails is a RuntimeError with its own words; a demo that was killed leaves a cluster that the next one takes down.
"""

import asyncio
import json
import os
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from control_plane.binaries import ensure
from control_plane.programs import HELM, KUBECTL
from demonstration.own_site import GO_ON, load_arguments
from demonstration.site import Load, LoadPlan, Say
from demonstration.trace_cut import cut_trace
from installation import CHART, NAMESPACE, REPOSITORY
from kind_cluster import clusters

RELEASE = "fleetpack"
PLUGIN_NAMESPACE = "fleetpack-device-plugin"
VALUES = (
    "devicePlugin.enabled=true",
    "devicePlugin.source=simulated",
    f"devicePlugin.namespace={PLUGIN_NAMESPACE}",
    "devicePlugin.createNamespace=true",
)
EXAMPLES = REPOSITORY / "examples" / "kind"
HACK_KIND = str(REPOSITORY / "hack" / "kind")
CRDS = ("inferencedeployments.fleetpack.dev", "acceleratorpools.fleetpack.dev")
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
    keep: bool
    """Nobody takes the cluster down when this process has ended."""
    admin: Path = Path()
    _environment: dict[str, str] = field(default_factory=dict)
    _engine_is_ours: bool = False
    _cluster_is_ours: bool = False
    _release_is_ours: bool = False
    _definitions_are_ours: bool = False
    _cuts: dict[str, bytes] = field(default_factory=dict)
    """The trace for each model, cut before anything is started: one that does not fit ends the demo at once."""

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
        return "bring up real kubelets in kind (the first time some minutes more)"

    async def bring_up(self, say: Say) -> None:
        """Find or create engine and cluster, load the images, install the chart."""
        if self.trace is not None:
            self._cuts = {plan.deployment: cut_trace(self.trace, plan) for plan in self.load_plans}
        given = os.environ.get("FLEETPACK_KIND_CLUSTER")
        if given and all(os.environ.get(name) for name in ("DOCKER_HOST", "KUBECONFIG", "KIND")):
            self.name = given
        else:
            self.name = given or self.name
            await self._bring_cluster_up(say)
        self.admin = Path(self._environment.get("KUBECONFIG") or os.environ["KUBECONFIG"])
        say("build the images and load them onto the nodes")
        await self._run(str(REPOSITORY / "hack" / "images"), "--load", self.name, told=True)
        say("install the chart, and wait until operators and device plugins are ready")
        await self._install()

    async def _bring_cluster_up(self, say: Say) -> None:
        # What a demo that was killed has left.
        await self._run(HACK_KIND, "prune", told=True)
        if not await self._succeeds(HACK_KIND, "engine", "status"):
            say(
                "no Docker engine answers: start one of its own (its parts are built the first time, a quarter of an hour)"
            )
            self._engine_is_ours = True
            await self._run(HACK_KIND, "engine", "up", told=True)
        hack_kind = (HACK_KIND, "--name", self.name)
        say(f"create the kind cluster {self.name}: one control plane, three workers")
        self._cluster_is_ours = not await self._succeeds(*hack_kind, "status")
        owner = () if self.keep else ("--owner", str(os.getpid()))
        await self._run(*hack_kind, "up", *owner, told=True)
        lines = (await self._run(*hack_kind, "env")).splitlines()
        words = (shlex.split(line.removeprefix("export "))[0] for line in lines)
        self._environment = dict(word.split("=", 1) for word in words)

    async def start_load(self, plan: LoadPlan) -> Load:
        """Start a Job that sends to the model's Service."""
        name = f"load-{plan.deployment}"
        job = yaml.safe_load((EXAMPLES / "load.yaml").read_text())
        job["metadata"]["name"] = name
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        arguments = load_arguments(None, plan) if self.trace is None else await self._trace_in_cluster(pod, plan)
        container["args"] = [
            "load",
            *arguments,
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

    async def take_down(self, say: Say) -> None:
        """Remove what was made for the demo: engine, cluster, or what it put into a cluster that was there."""
        if self._cluster_is_ours:
            say(f"take the kind cluster {self.name} down")
            await self._run(HACK_KIND, "--name", self.name, "down", told=True)
        elif self._release_is_ours:
            say("take models and release out of the cluster again")
            await self._uninstall()
        if self._engine_is_ours:
            if others := [name for name in clusters.names() if name != self.name]:
                say(f"leave the Docker engine running: it has other clusters now ({', '.join(others)})")
            else:
                say("end the Docker engine")
                await self._run(HACK_KIND, "engine", "down", told=True)

    def how_to_go_on(self) -> str:
        """Return what to type when it was kept."""
        engine = "; hack/kind engine down" if self._engine_is_ours else ""
        return f"  export KUBECONFIG={self.admin}\n{GO_ON}end it with: hack/kind --name {self.name} down{engine}"

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
        if not self._cluster_is_ours and await self._succeeds_in_cluster("get", "namespace", NAMESPACE):
            raise RuntimeError(
                f"cluster {self.name} has the namespace {NAMESPACE} already, and the demo touches no release that is there: remove it, "
                f"or the whole cluster (hack/kind --name {self.name} down)"
            )
        self._release_is_ours = True
        self._definitions_are_ours = not await self._succeeds_in_cluster("get", "crd", CRDS[0])
        await self.kubectl("apply", "--filename=-", input_text=yaml.safe_dump(namespace))
        values = [argument for value in VALUES for argument in ("--set", value)]
        await self._helm(
            "upgrade", "--install", RELEASE, str(CHART), *values, "--take-ownership", "--wait", "--timeout=180s"
        )

    async def _uninstall(self) -> None:
        jobs = (f"load-{plan.deployment}" for plan in self.load_plans)
        await self.kubectl("delete", "job", *jobs, "--ignore-not-found")
        # While an operator is there to let the replicas drain; a wait, since the definitions go next.
        for file in reversed(self.manifests):
            await self.kubectl("delete", "--filename", str(file), "--ignore-not-found", "--timeout=120s")
        await self._helm("uninstall", RELEASE, "--wait")
        if self._definitions_are_ours:
            await self.kubectl("delete", "crd", *CRDS, "--ignore-not-found")
        await self.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    async def _trace_in_cluster(self, pod: dict[str, Any], plan: LoadPlan) -> list[str]:
        """Bring a model's stretch of the trace into its load's Pod, and return what the replayer is told of it."""
        name = f"trace-{plan.deployment}"
        with tempfile.NamedTemporaryFile(suffix=".csv.gz") as file:
            file.write(self._cuts[plan.deployment])
            file.flush()
            await self.kubectl("delete", "configmap", name, "--ignore-not-found")
            await self.kubectl("create", "configmap", name, f"--from-file=trace.csv.gz={file.name}")
        pod["volumes"] = [{"name": "trace", "configMap": {"name": name}}]
        pod["containers"][0]["volumeMounts"] = [{"name": "trace", "mountPath": "/trace", "readOnly": True}]
        return ["--trace=/trace/trace.csv.gz", f"--speed={plan.speed}", f"--duration={plan.duration_seconds}"]

    async def _helm(self, *arguments: str) -> str:
        program = str(ensure((HELM,))["helm"])
        return await self._run(program, *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={self.admin}")

    async def _succeeds_in_cluster(self, *arguments: str) -> bool:
        program = str(ensure((KUBECTL,))["kubectl"])
        return await self._succeeds(program, f"--kubeconfig={self.admin}", *arguments)

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
        try:
            output, errors = await process.communicate(input_text.encode() if input_text is not None else None)
        except asyncio.CancelledError:
            # Politely: what it has half made it takes down itself.
            if process.returncode is None:
                process.terminate()
            await process.wait()
            raise
        if process.returncode != 0:
            said = (errors or b"").decode().strip() or output.decode().strip() or "see above"
            raise RuntimeError(f"{' '.join(command[:6])} failed: {said}")
        return output.decode()

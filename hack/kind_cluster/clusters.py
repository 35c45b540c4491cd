"""One kind cluster from start to end: the page to read first.

Concept: `up` creates the cluster of kind-config.yaml, or finds it there and whole; whatever an interrupted or killed `up` left behind
is removed first. In the own engine the API server's port is carried out by `forwarding.py`. Several clusters run side by side by
name; each has a record, `clusters/NAME/cluster.json`, and one lock.
Boundary: makes and removes clusters; what runs on them is not our business. Failure: a cluster that was made by somebody else is
never touched; one that does not come up is removed again, and kind's own words are the message.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from control_plane.api_client import ApiClient, ApiError
from control_plane.binaries import ensure
from control_plane.errors import ControlPlaneError
from control_plane.folders import exclusive_lock
from control_plane.ports import free_ports
from control_plane.processes import ProcessRecord, end_processes, is_alive, start_process
from control_plane.programs import KIND
from control_plane.progress import say
from kind_cluster import forwarding, node_image, own_engine
from kind_cluster.commands import run
from kind_cluster.engine import Engine, find_engine
from kind_cluster.folders import clusters_folder

CONFIGURATION = Path(__file__).resolve().parents[2] / "kind-config.yaml"
STATE_FILE = "cluster.json"
# Nodes of a machine at a load of 100 on two cores took nearly four minutes.
READY_LIMIT_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class KindState:
    """What is written down of a cluster."""

    name: str
    folder: Path
    docker_host: str | None
    """The engine it is in; None: where `docker` looks by itself."""
    is_own: bool
    """It is in the own engine."""
    is_complete: bool
    """It has once been whole."""
    forwarder: ProcessRecord | None
    owner: ProcessRecord | None
    """The process on whose behalf it runs; None: until somebody takes it down."""

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def engine(self) -> Engine:
        """Return the engine that the cluster is in."""
        return Engine(docker_host=self.docker_host, is_own=self.is_own)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStatus:
    """A cluster as it is now; `healthy` means that its API server answers and all its nodes are Ready."""

    name: str
    healthy: bool
    kubeconfig: str
    docker_host: str | None
    nodes: dict[str, str]
    """Every node with its instance type, `control plane`, or nothing; with `not ready` where it is not."""


def kind_program() -> Path:
    """Return the `kind` program: the environment's KIND, else one on PATH, else ours."""
    if chosen := os.environ.get("KIND"):
        if (found := shutil.which(chosen)) is None:
            raise ControlPlaneError(f"KIND={chosen}: no such program; leave it unset to use one that is built here")
        return Path(found)
    return ensure((KIND,))[KIND.name]


def node_image_of(engine: Engine) -> str | None:
    """Return the image that nodes run: KIND_NODE_IMAGE, else ours in the own engine, else None for kind's own."""
    if chosen := os.environ.get("KIND_NODE_IMAGE"):
        return chosen
    return node_image.ensure_node_image() if engine.is_own else None


def up(name: str, *, owner: ProcessRecord | None = None) -> KindState:
    """Bring the cluster up, or find it up, and return its record."""
    folder = clusters_folder() / name
    with _cluster_lock(folder):
        state = read_state(name)
        if state is not None and (found := _found_whole(state)) is not None:
            say(f"{name} is up already")
            return found
        engine = find_engine()
        if state is not None:
            say(f"{name} is recorded but not whole: making it anew")
            _remove(state)
        elif name in _existing(engine):
            raise ControlPlaneError(
                f"the engine has a kind cluster {name} that was not made by hack/kind: choose another --name, or delete it"
            )
        state = KindState(
            name=name, folder=folder, docker_host=engine.docker_host, is_own=engine.is_own, is_complete=False,
            forwarder=None, owner=owner,
        )  # fmt: skip
        started_at_seconds = time.monotonic()
        try:
            state = _create(state)
        except BaseException:
            _remove(read_state(name) or state)
            raise
        say(f"{name} is up after {time.monotonic() - started_at_seconds:.0f} s")
        return state


def down(name: str) -> bool:
    """Remove the cluster and its record; tell whether there was one."""
    folder = clusters_folder() / name
    if not folder.exists():
        return False
    with _cluster_lock(folder):
        state = read_state(name)
        if state is not None:
            _remove(state)
        return state is not None


def status(name: str) -> KindStatus | None:
    """Return the cluster as it is, or None when none is recorded."""
    state = read_state(name)
    if state is None:
        return None
    nodes = _nodes(state)
    return KindStatus(
        name=name,
        healthy=nodes is not None and all(_is_ready(node) for node in nodes),
        kubeconfig=str(state.kubeconfig),
        docker_host=state.docker_host,
        nodes={node["metadata"]["name"]: _told(node) for node in nodes or ()},
    )


def names() -> tuple[str, ...]:
    """Return the names of all recorded clusters."""
    return tuple(sorted(file.parent.name for file in clusters_folder().glob(f"*/{STATE_FILE}")))


def remove_ownerless() -> tuple[str, ...]:
    """Take down the clusters whose owner has ended (a test run that was killed), and return their names."""
    removed = []
    for name in names():
        state = read_state(name)
        if state is not None and state.owner is not None and not is_alive(state.owner):
            down(name)
            removed.append(name)
    return tuple(removed)


def load(state: KindState, what: str) -> None:
    """Copy an image to every node: a file is an archive of images, anything else an image that the engine has."""
    kinds = "image-archive" if Path(what).is_file() else "docker-image"
    run((kind_program(), "load", kinds, what, "--name", state.name), environment=state.engine.environment())


def require_state(name: str) -> KindState:
    """Return the record of a cluster that must be there."""
    state = read_state(name)
    if state is None:
        raise ControlPlaneError(f"there is no kind cluster {name}: start it with `hack/kind --name {name} up`")
    return state


def configured(text: str, *, port: int) -> str:
    """Return a kind configuration with the port on which the API server is published."""
    content: dict[str, Any] = yaml.safe_load(text)
    networking = {**content.get("networking", {}), "apiServerAddress": "127.0.0.1", "apiServerPort": port}
    return yaml.safe_dump({**content, "networking": networking}, sort_keys=False)


def _create(state: KindState) -> KindState:
    """Create the cluster; the record comes before anything that it speaks of."""
    kind, image = kind_program(), node_image_of(state.engine)
    state.folder.mkdir(parents=True, exist_ok=True)
    state.folder.chmod(0o700)
    _write_state(state)
    configuration = state.folder / "kind-config.yaml"
    if state.is_own:
        port = free_ports(("api",))["api"]
        configuration.write_text(configured(CONFIGURATION.read_text(), port=port))
        state = _forward(state, port)
    else:
        shutil.copyfile(CONFIGURATION, configuration)
    words = [kind, "create", "cluster", "--name", state.name, "--config", configuration]
    words += ["--kubeconfig", state.kubeconfig, "--wait", f"{READY_LIMIT_SECONDS}s"]
    if image is not None:
        words += ["--image", image]
    _run_visibly([str(word) for word in words], state.engine)
    _wait_until_usable(state)
    state = replace(state, is_complete=True)
    _write_state(state)
    return state


def _run_visibly(words: list[str], engine: Engine) -> None:
    """Run kind with what it says of its steps on standard error, which is where people look."""
    answer = subprocess.run(words, env=engine.environment(), stdout=sys.stderr, check=False)
    if answer.returncode != 0:
        raise ControlPlaneError(f"`{' '.join(words[:3])}` failed with exit code {answer.returncode}; it says why above")


def _forward(state: KindState, port: int) -> KindState:
    """Carry the port of this machine's 127.0.0.1 into the own engine's network."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        command = ["nsenter", f"--net=/proc/{own_engine.init_process_id()}/ns/net", "--"]
        command += [sys.executable, str(forwarding.__file__), str(listening.fileno()), str(port)]
        record = start_process(
            "forwarder", command, log=state.folder / "forwarder.log", descriptors=(listening.fileno(),)
        )
    state = replace(state, forwarder=record)
    _write_state(state)
    return state


def _found_whole(state: KindState) -> KindState | None:
    """Return the record of a cluster that can go on being used, or None; a forwarder that has died is started again."""
    if not state.is_complete or (state.is_own and not own_engine.is_running()) or not _is_in_engine(state):
        return None
    if state.is_own and (state.forwarder is None or not is_alive(state.forwarder)):
        say(f"{state.name}: starting the way to its API server again")
        configuration = yaml.safe_load((state.folder / "kind-config.yaml").read_text())
        with contextlib.suppress(OSError):
            state = _forward(state, configuration["networking"]["apiServerPort"])
    deadline_seconds = time.monotonic() + 30
    while time.monotonic() < deadline_seconds:
        nodes = _nodes(state)
        if nodes is not None:
            return state
        time.sleep(0.5)
    return None


def _wait_until_usable(state: KindState) -> None:
    """Wait until all nodes are Ready and names can be looked up: kind itself waits for the control plane only."""
    deadline_seconds = time.monotonic() + READY_LIMIT_SECONDS
    while True:
        nodes = _nodes(state)
        if nodes and all(_is_ready(node) for node in nodes) and _has_dns(state):
            return
        if time.monotonic() > deadline_seconds:
            told = {node["metadata"]["name"]: _told(node) for node in nodes or ()}
            raise ControlPlaneError(f"{state.name} is not usable after {READY_LIMIT_SECONDS} s: nodes {told}")
        time.sleep(0.3)


def _nodes(state: KindState) -> list[dict[str, Any]] | None:
    """Return all Nodes, or None when the API server does not answer."""
    if not state.kubeconfig.exists():
        return None
    try:
        with ApiClient(state.kubeconfig, timeout_seconds=5.0) as client:
            items: list[dict[str, Any]] = client.get("/api/v1/nodes")["items"]
    except (OSError, http.client.HTTPException, ApiError):
        return None
    return items


def _has_dns(state: KindState) -> bool:
    try:
        with ApiClient(state.kubeconfig, timeout_seconds=5.0) as client:
            deployment = client.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    except (OSError, http.client.HTTPException, ApiError):
        return False
    return bool(deployment.get("status", {}).get("readyReplicas"))


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _told(node: dict[str, Any]) -> str:
    labels = node["metadata"]["labels"]
    is_control_plane = "node-role.kubernetes.io/control-plane" in labels
    what = "control plane" if is_control_plane else labels.get("node.kubernetes.io/instance-type", "")
    return what if _is_ready(node) else f"{what} (not ready)".strip()


def _existing(engine: Engine) -> list[str]:
    return run((kind_program(), "get", "clusters"), environment=engine.environment()).split()


def _is_in_engine(state: KindState) -> bool:
    try:
        return state.name in _existing(state.engine)
    except ControlPlaneError:
        return False


def _remove(state: KindState) -> None:
    """End the forwarder, delete the cluster in its engine, then forget it."""
    if state.forwarder is not None:
        end_processes((state.forwarder,))
    # An engine of our own that has ended took its clusters with it.
    if not state.is_own or own_engine.is_running():
        words = (kind_program(), "delete", "cluster", "--name", state.name, "--kubeconfig", state.kubeconfig)
        run(words, environment=state.engine.environment())
    shutil.rmtree(state.folder, ignore_errors=True)


def read_state(name: str) -> KindState | None:
    """Return the record of a cluster, or None when there is none."""
    folder = clusters_folder() / name
    file = folder / STATE_FILE
    try:
        content = json.loads(file.read_text())
        return KindState(
            name=content["name"],
            folder=folder,
            docker_host=content["docker_host"],
            is_own=content["is_own"],
            is_complete=content["is_complete"],
            forwarder=ProcessRecord(**content["forwarder"]) if content["forwarder"] else None,
            owner=ProcessRecord(**content["owner"]) if content["owner"] else None,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ControlPlaneError(
            f"{file} cannot be read ({error!r}): delete the cluster with `kind delete cluster --name {name}`, then the folder"
        ) from error


def _write_state(state: KindState) -> None:
    content = {
        "name": state.name,
        "docker_host": state.docker_host,
        "is_own": state.is_own,
        "is_complete": state.is_complete,
        "forwarder": _entry(state.forwarder),
        "owner": _entry(state.owner),
    }
    temporary = state.folder / f".{STATE_FILE}.new"
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(state.folder / STATE_FILE)


def _entry(record: ProcessRecord | None) -> dict[str, str | int] | None:
    if record is None:
        return None
    return {"name": record.name, "process_id": record.process_id, "started": record.started}


@contextlib.contextmanager
def _cluster_lock(folder: Path) -> Iterator[None]:
    with exclusive_lock(folder.with_name(f"{folder.name}.lock"), waiting_for=f"{folder.name} is being changed"):
        yield

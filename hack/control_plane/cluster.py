"""Start, stop and inspect one cluster: the page to read first.

Concept: `up` brings the five programs of a cluster up in order, each only when the one before answers; `down` ends them
by record and removes the state folder; `status` tells what is there. Calling `up` again on a healthy cluster changes
nothing; where some of its programs have died, only those are started again on the data that is there, and where that
does not help, the cluster is made anew. One lock per cluster: two commands at once wait for each other.
Boundary: processes and files of one cluster on this machine. What runs on it is not our business.
Failure: a program that ends or does not answer in time takes the start down with it, and its log's end is the message.
"""

import http.client
import ipaddress
import shutil
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from control_plane import binaries
from control_plane.api_client import ApiClient, ApiError
from control_plane.command_lines import DEFAULT_POD_CIDR, PORT_NAMES, Layout, command_line
from control_plane.errors import ControlPlaneError
from control_plane.folders import exclusive_lock
from control_plane.identities import apply_kwok_role, write_identities
from control_plane.ports import free_ports
from control_plane.processes import (
    ProcessRecord,
    end_processes,
    is_alive,
    log_end,
    resident_mebibytes,
    start_process,
)
from control_plane.programs import CONTROL_PLANE, KUBECTL
from control_plane.progress import say
from control_plane.state import STATE_FILE, ClusterState, read_state, write_state

PROGRAM_NAMES = tuple(program.name for program in CONTROL_PLANE)
# Two to three seconds on two idle cores; a machine under load may need ten times that.
START_LIMIT_SECONDS = 90.0
POLL_SECONDS = 0.05
# How long an API server that runs may take to answer before its cluster is thrown away.
BUSY_LIMIT_SECONDS = 30.0
# A port may be taken between our look and the start; more than a few times is no accident.
START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStatus:
    """One program of a cluster as it is now."""

    name: str
    process_id: int | None
    alive: bool
    port: int
    resident_mebibytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """A cluster as it is now; `healthy` means that every program runs and the API server answers."""

    name: str
    folder: Path
    kubeconfig: Path
    server: str
    audit_log: Path
    healthy: bool
    programs: tuple[ProgramStatus, ...]


def up(
    name: str, folder: Path, *, pod_cidr: str = DEFAULT_POD_CIDR, owner: ProcessRecord | None = None
) -> ClusterState:
    """Bring the cluster up, or find it up, and return its record."""
    with _cluster_lock(folder):
        state = read_state(folder)
        if state is not None:
            if _becomes_healthy(state):
                say(f"{name} is up already")
                return state
            if (repaired := _start_dead_programs(state)) is not None:
                return repaired
            _remove(folder)
        paths = binaries.ensure((*CONTROL_PLANE, KUBECTL))
        started_at_seconds = time.monotonic()
        state = _start_anew(name, folder, paths, pod_cidr=pod_cidr, owner=owner)
        say(f"{name} is up after {time.monotonic() - started_at_seconds:.1f} s: {state.layout.server}")
        return state


def down(folder: Path) -> bool:
    """End the cluster's processes and remove its folder; tell whether there was one."""
    if not folder.exists():
        return False
    with _cluster_lock(folder):
        there_was = folder.exists()
        _remove(folder)
        _lock_file(folder).unlink()
    return there_was


def status(folder: Path) -> ClusterStatus | None:
    """Return the state of every program, or None when no cluster is recorded in the folder."""
    state = read_state(folder)
    if state is None:
        return None
    return ClusterStatus(
        name=state.name,
        folder=folder,
        kubeconfig=state.layout.admin_kubeconfig,
        server=state.layout.server,
        audit_log=state.layout.audit_log,
        healthy=_is_healthy(state),
        programs=tuple(_program_status(state, name) for name in PROGRAM_NAMES),
    )


def require_state(folder: Path) -> ClusterState:
    """Return the record of a cluster that must be there."""
    state = read_state(folder)
    if state is None:
        raise ControlPlaneError(f"no cluster in {folder}: start it with `hack/cluster up`")
    return state


def remove_ownerless(clusters: Path) -> tuple[str, ...]:
    """Take down the clusters below the folder whose owner has ended (a test run that was killed), by name."""
    removed = []
    for file in sorted(clusters.glob(f"*/{STATE_FILE}")):
        state = read_state(file.parent)
        if state is not None and state.owner is not None and not is_alive(state.owner):
            down(file.parent)
            removed.append(state.name)
    return tuple(removed)


def _start_anew(
    name: str, folder: Path, paths: dict[str, Path], *, pod_cidr: str, owner: ProcessRecord | None
) -> ClusterState:
    """Start every program on free ports; other ports when one of them was taken just then."""
    for attempt in range(1, START_ATTEMPTS + 1):
        layout = Layout(folder=folder, ports=free_ports(PORT_NAMES), binaries=paths, pod_cidr=pod_cidr)
        state = ClusterState(name=name, layout=layout, processes=(), owner=owner)
        # The record comes first: a folder that an interrupted start left behind is then known as ours.
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_state(state)
        try:
            layout.logs.mkdir()
            # etcd warns about a data folder that others can read.
            folder.joinpath("etcd").mkdir(mode=0o700)
            write_identities(layout)
            return _start_missing(state, PROGRAM_NAMES)
        except ControlPlaneError as error:
            port_was_taken = "address already in use" in str(error)
            _remove(folder)
            if not port_was_taken or attempt == START_ATTEMPTS:
                raise
            say("a port was taken in between: starting again on others")
        except BaseException:
            _remove(folder)
            raise
    raise AssertionError("the last attempt returns or raises")


def _start_dead_programs(state: ClusterState) -> ClusterState | None:
    """Start the programs that have died again on the data that is there, or return None when that does not help."""
    dead = tuple(name for name in PROGRAM_NAMES if not _runs(state, name))
    if not dead:
        say(f"{state.name} runs but does not answer: making it anew")
        return None
    if len(dead) == len(PROGRAM_NAMES):
        say(f"{state.name} is recorded but none of its programs runs: making it anew")
        return None
    say(f"{state.name} is half dead: starting {', '.join(dead)} again")
    try:
        repaired = _start_missing(state, dead)
    except ControlPlaneError as error:
        say(f"that did not help, making it anew: {str(error).splitlines()[0]}")
        return None
    return repaired if _is_healthy(repaired) else None


def _start_missing(state: ClusterState, missing: tuple[str, ...]) -> ClusterState:
    """Start the programs named, in the order of their need, recording each as soon as it exists."""
    for name in ("etcd", "kube-apiserver"):
        if name in missing:
            state = _start(state, name, state.layout)
    _wait_until(state, "kube-apiserver", lambda: _api_server_is_ready(state.layout))
    layout = state.layout
    if "kwok" in missing:
        with ApiClient(layout.admin_kubeconfig) as client:
            apply_kwok_role(client)
            _free_node_leases(client)
            layout = replace(layout, pod_cidr=_unused_addresses(client, layout.pod_cidr))
    rest = tuple(name for name in ("kube-controller-manager", "kube-scheduler", "kwok") if name in missing)
    for name in rest:
        state = _start(state, name, layout)
    for name in rest:
        _wait_until(state, name, partial(_answers_healthz, state.layout, name))
    # Pods need their namespace's default service account, which the controller manager makes.
    _wait_until(state, "kube-controller-manager", lambda: _has_default_service_account(state.layout))
    return state


def _free_node_leases(client: ApiClient) -> None:
    """Delete the Leases that an earlier kwok held, so that a new one need not wait 40 s until they expire."""
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    for lease in client.get(path)["items"]:
        name = lease["metadata"]["name"]
        # A real kubelet holds its Lease under the name of its Node; kwok under an identity of its own.
        if lease["spec"].get("holderIdentity") != name:
            client.delete(f"{path}/{name}")


def _unused_addresses(client: ApiClient, pod_cidr: str) -> str:
    """Return the same network, starting after the addresses that Pods have already.

    kwok hands out addresses upwards from the one it is given, and one that was started again does not know which ones
    an earlier one gave away.
    """
    interface = ipaddress.ip_interface(pod_cidr)
    pods = client.get("/api/v1/pods")["items"]
    used = [ipaddress.ip_address(address) for pod in pods if (address := pod["status"].get("podIP"))]
    highest = max((address for address in used if address in interface.network), default=interface.ip)
    return f"{highest}/{interface.network.prefixlen}"


def _start(state: ClusterState, name: str, layout: Layout) -> ClusterState:
    record = start_process(name, command_line(name, layout), log=layout.logs / f"{name}.log")
    others = tuple(other for other in state.processes if other.name != name)
    state = replace(state, processes=(*others, record))
    write_state(state)
    return state


def _wait_until(state: ClusterState, name: str, is_ready: Callable[[], bool]) -> None:
    """Wait for an answer; give up at once when the program, or one started before it, has ended."""
    deadline_seconds = time.monotonic() + START_LIMIT_SECONDS
    while not is_ready():
        for record in state.processes:
            if not is_alive(record):
                raise ControlPlaneError(f"{record.name} has ended; its log ends with:\n{_log_end(state, record.name)}")
        if time.monotonic() > deadline_seconds:
            raise ControlPlaneError(
                f"{name} is not ready after {START_LIMIT_SECONDS:.0f} s; its log ends with:\n{_log_end(state, name)}"
            )
        time.sleep(POLL_SECONDS)


def _log_end(state: ClusterState, name: str) -> str:
    return log_end(state.layout.logs / f"{name}.log")


def _becomes_healthy(state: ClusterState) -> bool:
    """Tell whether all programs run and the API server answers, giving a busy one time: its data is worth the wait."""
    deadline_seconds = time.monotonic() + BUSY_LIMIT_SECONDS
    while all(_runs(state, name) for name in PROGRAM_NAMES):
        if _api_server_is_ready(state.layout):
            return True
        if time.monotonic() > deadline_seconds:
            return False
        time.sleep(POLL_SECONDS)
    return False


def _is_healthy(state: ClusterState) -> bool:
    return all(_runs(state, name) for name in PROGRAM_NAMES) and _api_server_is_ready(state.layout)


def _runs(state: ClusterState, name: str) -> bool:
    record = state.process(name)
    return record is not None and is_alive(record)


def _api_server_is_ready(layout: Layout) -> bool:
    try:
        with ApiClient(layout.admin_kubeconfig, timeout_seconds=5.0) as client:
            return client.request_text("GET", "/readyz") == "ok"
    except (OSError, http.client.HTTPException, ApiError):
        return False


def _has_default_service_account(layout: Layout) -> bool:
    try:
        with ApiClient(layout.admin_kubeconfig, timeout_seconds=5.0) as client:
            client.get("/api/v1/namespaces/default/serviceaccounts/default")
    except (OSError, http.client.HTTPException, ApiError):
        return False
    return True


def _answers_healthz(layout: Layout, name: str) -> bool:
    """Ask the program's own health page, which needs no identity."""
    connection: http.client.HTTPConnection
    if name == "kwok":
        connection = http.client.HTTPConnection("127.0.0.1", layout.ports[name], timeout=5)
    else:
        context = ssl.create_default_context(cafile=str(layout.certificates / "authority.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", layout.ports[name], timeout=5, context=context)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _program_status(state: ClusterState, name: str) -> ProgramStatus:
    record = state.process(name)
    alive = record is not None and is_alive(record)
    return ProgramStatus(
        name=name,
        process_id=record.process_id if record else None,
        alive=alive,
        port=state.layout.ports[name],
        resident_mebibytes=resident_mebibytes(record.process_id) if record and alive else None,
    )


def _remove(folder: Path) -> None:
    """End what is recorded in the folder, then remove it; a folder without a record of ours is left alone."""
    state = read_state(folder)
    if state is None:
        if folder.exists() and any(folder.iterdir()):
            raise ControlPlaneError(
                f"{folder} holds files but no {STATE_FILE}: not ours to remove, choose another --state"
            )
        return
    # The last started first: nobody then complains about a server that has gone.
    end_processes(reversed(state.processes))
    # The record goes last: what is left by an interruption is then still known as ours.
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STATE_FILE:
            path.unlink()
    shutil.rmtree(folder)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _cluster_lock(folder: Path) -> AbstractContextManager[None]:
    return exclusive_lock(_lock_file(folder), waiting_for=f"{folder.name} is being changed")

"""A Docker engine of our own, in namespaces of its own: nothing of the machine's network, mounts or processes changes.

Concept: Debian's dockerd as process 1 of new network, mount, process, IPC and host-name namespaces: whatever runs in it ends when
that process ends, however it ends. Its images stay in the cache for the next time; its containers do not. Where this machine lacks
CAP_SYS_RESOURCE, a wrapper around runc takes it out of what containers ask for.
Boundary: root, on Linux. Nothing can be pulled and no container reaches beyond the engine: there is no way out of its network.
Failure: after a kill the next `up` or `down` removes what is left (cgroups, containers, changed settings of the kernel).
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.folders import exclusive_lock
from control_plane.processes import ProcessRecord, end_processes, is_alive, log_end, start_process
from control_plane.progress import say
from kind_cluster import kernel_settings
from kind_cluster.commands import run, without_proxies
from kind_cluster.folders import engine_folder, engine_socket

CGROUPS = Path("/sys/fs/cgroup")
START_LIMIT_SECONDS = 60.0
STOP_LIMIT_SECONDS = 20.0
SYS_RESOURCE = 24
"""CAP_SYS_RESOURCE in the kernel's numbering (capabilities(7))."""

# Docker asks for this capability for privileged containers; where the machine does not have it to give, no container would start.
RUNC_WRAPPER = """\
#!/bin/sh
without_capability() { sed -i -e 's/"CAP_SYS_RESOURCE",//g' -e 's/,"CAP_SYS_RESOURCE"//g' "$1"; }
previous=
for word in "$@"; do
  case "$previous" in
    --bundle|-b) if [ -f "$word/config.json" ]; then without_capability "$word/config.json"; fi ;;
    --process|-p) if [ -f "$word" ]; then without_capability "$word"; fi ;;
  esac
  previous=$word
done
exec {runc} "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What is written down of the running engine."""

    process: ProcessRecord
    """`unshare`, whose one child is dockerd."""


def docker_host() -> str:
    """Return the own engine's address as DOCKER_HOST has it."""
    return f"unix://{engine_socket()}"


def environment() -> dict[str, str]:
    """Return the environment in which `docker` and `kind` talk to the own engine."""
    return {**without_proxies(), "DOCKER_HOST": docker_host()}


def is_running() -> bool:
    """Tell whether the own engine runs (whether it answers, it must be asked)."""
    state = _read_state()
    return state is not None and is_alive(state.process)


def init_process_id() -> int:
    """Return the process whose namespaces are the engine's, as this machine counts processes."""
    state = _read_state()
    if state is None or not is_alive(state.process):
        raise ControlPlaneError("the own Docker engine does not run: `hack/kind engine up`")
    parent = state.process.process_id
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    if not children:
        raise ControlPlaneError(f"the own Docker engine (process {parent}) has ended: `hack/kind engine up`")
    return int(children[0])


def up() -> bool:
    """Start the engine, or find it running; tell whether it was started."""
    with _engine_lock():
        if is_running() and _answers():
            return False
        was_killed = _read_state() is not None
        _clean_up()
        started_at_seconds = time.monotonic()
        _start()
        if was_killed:
            say("the own engine had not ended by itself: removing the containers it left")
        _remove_containers()
        say(f"the own Docker engine answers after {time.monotonic() - started_at_seconds:.1f} s: {docker_host()}")
        return True


def down() -> bool:
    """End the engine and everything in it; its images stay. Tell whether there was something to end."""
    if not engine_folder().exists():
        return False
    with _engine_lock():
        was_running = is_running()
        if was_running:
            if _answers():
                _remove_containers()
            with contextlib.suppress(ProcessLookupError, ControlPlaneError, OSError):
                os.kill(init_process_id(), signal.SIGTERM)
            _wait_for_end()
        _clean_up()
        return was_running


def cgroup_parent() -> str:
    """Return the name of the cgroup that holds the engine's containers: one per cache, so that two do not mix."""
    return f"fleetpack-kind-{hashlib.sha256(str(engine_folder()).encode()).hexdigest()[:8]}"


def _start() -> None:
    folder = engine_folder()
    for part in (folder, folder / "data"):
        part.mkdir(parents=True, exist_ok=True)
        part.chmod(0o711)
    script = folder / "start.sh"
    script.write_text(_start_script(folder, needs_wrapper=not _has_sys_resource()))
    namespaces = ("--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--mount-proc")
    log = folder / "dockerd.log"
    log.unlink(missing_ok=True)
    command = ("env", *_unset_proxies(), "unshare", *namespaces, "sh", str(script))
    process = start_process("dockerd", command, log=log)
    _write_state(EngineState(process=process))
    kernel_settings.keep(folder, process)
    deadline_seconds = time.monotonic() + START_LIMIT_SECONDS
    while not _answers():
        if not is_alive(process) or time.monotonic() > deadline_seconds:
            told = log_end(log)
            _clean_up()
            raise ControlPlaneError(f"dockerd did not start; its log ends with:\n{told}")
        time.sleep(0.1)


def _unset_proxies() -> tuple[str, ...]:
    return tuple(word for name in os.environ if name.lower().endswith("_proxy") for word in ("-u", name))


def _start_script(folder: Path, *, needs_wrapper: bool) -> str:
    options = [
        f"--data-root={folder / 'data'}",
        f"--host=unix://{engine_socket()}",
        "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{cgroup_parent()}",
    ]
    if needs_wrapper:
        wrapper = folder / "runc-without-sys-resource"
        # Not str.format: the shell has braces of its own.
        wrapper.write_text(RUNC_WRAPPER.replace("{runc}", shutil.which("runc") or "/usr/sbin/runc"))
        wrapper.chmod(0o755)
        options += ["--oom-score-adjust=0", f"--add-runtime=wrapped={wrapper}", "--default-runtime=wrapped"]
    lines = [
        "set -e",
        "ip link set lo up",
        "mount --make-rprivate /",
        # What runs outside has its sockets and locks here.
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/lock",
        "sysctl -qw net.ipv4.ip_forward=1",
        # All nodes share the machine's limit; with the usual 128 the kubelets of a second cluster do not start.
        '[ "$(sysctl -n fs.inotify.max_user_instances)" -ge 1024 ] || sysctl -qw fs.inotify.max_user_instances=1024',
        f"exec dockerd {shlex.join(options)}",
    ]
    return "\n".join(lines) + "\n"


def _has_sys_resource() -> bool:
    """Tell whether a process of this machine may have CAP_SYS_RESOURCE at all."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> SYS_RESOURCE & 1)
    return True


def _answers() -> bool:
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], environment=environment())
    except ControlPlaneError:
        return False
    return True


def _remove_containers() -> None:
    containers = run(["docker", "ps", "--all", "--quiet"], environment=environment()).split()
    if containers:
        run(["docker", "rm", "--force", "--volumes", *containers], environment=environment())
    run(["docker", "volume", "prune", "--force"], environment=environment())


def _wait_for_end() -> None:
    deadline_seconds = time.monotonic() + STOP_LIMIT_SECONDS
    while is_running() and time.monotonic() < deadline_seconds:
        time.sleep(0.1)


def _clean_up() -> None:
    """End what is left of a recorded engine, remove its cgroups, put the kernel's settings back where it was the last, forget it."""
    state = _read_state()
    if state is None:
        return
    end_processes((state.process,), limit_seconds=STOP_LIMIT_SECONDS)
    _remove_cgroups()
    kernel_settings.give_back(engine_folder())
    engine_socket().unlink(missing_ok=True)
    _state_file().unlink()


def _remove_cgroups() -> None:
    """Remove the empty cgroups of the engine: one tree with cgroup v2, one in each hierarchy with v1."""
    deadline_seconds = time.monotonic() + STOP_LIMIT_SECONDS
    while trees := [
        tree for tree in (CGROUPS / cgroup_parent(), *CGROUPS.glob(f"*/{cgroup_parent()}")) if tree.exists()
    ]:
        for tree in trees:
            for folder, _, _ in os.walk(tree, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline_seconds:
            raise ControlPlaneError(f"these cgroups are still in use: {', '.join(map(str, trees))}")
        time.sleep(0.05)


def _state_file() -> Path:
    return engine_folder() / "engine.json"


def _read_state() -> EngineState | None:
    try:
        content = json.loads(_state_file().read_text())
        return EngineState(process=ProcessRecord(**content["process"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ControlPlaneError(
            f"{_state_file()} cannot be read ({error!r}): end its dockerd by hand and remove the file"
        ) from error


def _write_state(state: EngineState) -> None:
    record = state.process
    content = {"process": {"name": record.name, "process_id": record.process_id, "started": record.started}}
    temporary = _state_file().with_suffix(".new")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(_state_file())


def _engine_lock() -> contextlib.AbstractContextManager[None]:
    return exclusive_lock(engine_folder().with_name("engine.lock"), waiting_for="the engine is being changed")

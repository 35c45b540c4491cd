"""Long-running processes by record: started detached, known by process id *and* start time, ended without mistaking.

Concept: a process id alone may have been given to somebody else since; together with the time at which the process
started (and the boot it belongs to) it cannot. A zombie has ended, whatever its id says.
Boundary: knows nothing of what the processes do. Failure: a record that no longer matches is a dead process; a process
that will not die within the limit is an error that names it.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import ControlPlaneError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What is written down of a process when it starts."""

    name: str
    process_id: int
    # Opaque: the kernel's own words for when the process started, with the boot it belongs to.
    started: str


def start_process(name: str, command: Sequence[str], *, log: Path, descriptors: Sequence[int] = ()) -> ProcessRecord:
    """Start `command` in a session of its own, so that it outlives us; its output goes to the file `log`.

    It inherits the open descriptors that are named, under their numbers.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )
    # Popen warns about children that are still running when it is collected; ours are meant to.
    process.returncode = 0
    started = start_time(process.pid)
    if started is None:
        raise ControlPlaneError(f"{name} ended at once; its log {log} ends with:\n{log_end(log)}")
    return ProcessRecord(name=name, process_id=process.pid, started=started)


def is_alive(record: ProcessRecord) -> bool:
    """Tell whether the very process of the record still runs."""
    return start_time(record.process_id) == record.started


def end_processes(records: Iterable[ProcessRecord], *, limit_seconds: float = 5.0) -> None:
    """Kill every process of the records that still is the recorded one, and wait until all are gone."""
    remaining = [record for record in records if is_alive(record)]
    for record in remaining:
        # SIGKILL at once: a cluster that is taken down keeps nothing, and etcd would only be slow to say goodbye.
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.process_id, signal.SIGKILL)
    deadline_seconds = time.monotonic() + limit_seconds
    while remaining := [record for record in remaining if is_alive(record)]:
        if time.monotonic() > deadline_seconds:
            names = ", ".join(f"{record.name} (process {record.process_id})" for record in remaining)
            raise ControlPlaneError(f"still running {limit_seconds:.0f} s after SIGKILL: {names}")
        time.sleep(0.01)


def start_time(process_id: int) -> str | None:
    """Return an opaque start time of a running process, or None when there is none or it is a zombie."""
    if process_id <= 0:
        return None
    # A child of ours that has ended stays a zombie until somebody asks; the parent of a detached one may be init.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process_id, os.WNOHANG)
    if PROC.joinpath("self", "stat").exists():
        return _start_time_from_proc(process_id)
    return _start_time_from_ps(process_id)


def resident_mebibytes(process_id: int) -> float | None:
    """Return the memory that a process holds, or None where it cannot be read."""
    try:
        status = PROC.joinpath(str(process_id), "status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return None


def log_end(log: Path, *, lines: int = 8) -> str:
    """Return the last lines of a log file, for an error message."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"


def parse_proc_stat(line: str) -> tuple[str, str]:
    """Return the state letter and the start time in clock ticks of a line of /proc/PID/stat.

    The second field, the command's name in parentheses, may hold blanks and parentheses itself: fields are counted
    from the last closing one (proc_pid_stat(5): state is field 3, start time field 22).
    """
    after_name = line[line.rindex(")") + 1 :].split()
    return after_name[0], after_name[19]


def _start_time_from_proc(process_id: int) -> str | None:
    try:
        state, ticks = parse_proc_stat(PROC.joinpath(str(process_id), "stat").read_text())
        boot = PROC.joinpath("sys", "kernel", "random", "boot_id").read_text().strip()
    except OSError:
        return None
    if state in "ZX" and not _has_other_threads(process_id):
        return None
    return f"{ticks} of boot {boot}"


def _has_other_threads(process_id: int) -> bool:
    """Tell whether a zombie's other threads are still on their way out: until then its ports stay taken."""
    try:
        return len(os.listdir(PROC / str(process_id) / "task")) > 1
    except OSError:
        return False


def _start_time_from_ps(process_id: int) -> str | None:
    """Ask ps where there is no /proc (macOS)."""
    command = ["ps", "-p", str(process_id), "-o", "state=", "-o", "lstart="]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not answer or answer.startswith("Z"):
        return None
    return answer.split(maxsplit=1)[1]

"""The settings of the machine that kubelets change, put back when its last own engine ends.

Concept: engines of several caches may run beside each other, and each finds what the kubelets of the others have changed. So what
was there before any of them is written down once for the machine, beside the engines that run; one that ends puts it back only when no
other runs. Boundary: root; one file in /run, which a new start of the machine empties as it resets the settings.
Failure: an engine that was killed no longer counts; the next to end, or its own next start, makes up for it.
"""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.folders import exclusive_lock
from control_plane.processes import ProcessRecord, is_alive

REGISTER = Path("/run/fleetpack-engines.json")
SETTINGS = Path("/proc/sys")
# pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables.
NAMES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def keep(engine: Path, process: ProcessRecord) -> None:
    """Write down that an engine runs; the first one also writes what the settings are. No kubelet of it may have started."""
    with _locked():
        before, engines = _read()
        engines = _living(engines)
        # What engines left behind that were all killed still has to be put back some day: it stays as it was written.
        _write(before or _settings(), {**engines, str(engine): process})


def give_back(engine: Path) -> None:
    """Strike an engine that has ended off; put the settings back when no other runs."""
    with _locked():
        before, engines = _read()
        others = _living({name: process for name, process in engines.items() if name != str(engine)})
        if others:
            _write(before, others)
            return
        for name, value in before.items():
            with contextlib.suppress(OSError):
                (SETTINGS / name).write_text(value)
        REGISTER.unlink(missing_ok=True)


def _settings() -> dict[str, str]:
    return {name: (SETTINGS / name).read_text().strip() for name in NAMES}


def _living(engines: dict[str, ProcessRecord]) -> dict[str, ProcessRecord]:
    return {name: process for name, process in engines.items() if is_alive(process)}


def _read() -> tuple[dict[str, str], dict[str, ProcessRecord]]:
    try:
        content = json.loads(REGISTER.read_text())
        engines = {name: ProcessRecord(**process) for name, process in content["engines"].items()}
        return dict(content["before"]), engines
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlPlaneError(
            f"{REGISTER} cannot be read ({error!r}): remove it when no own engine runs (`pgrep dockerd`)"
        ) from error


def _write(before: dict[str, str], engines: dict[str, ProcessRecord]) -> None:
    content = {"before": before, "engines": {name: asdict(process) for name, process in engines.items()}}
    temporary = REGISTER.with_name(f"{REGISTER.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(REGISTER)


def _locked() -> contextlib.AbstractContextManager[None]:
    return exclusive_lock(REGISTER.with_suffix(".lock"), waiting_for="another engine starts or ends")

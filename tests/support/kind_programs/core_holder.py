"""Runs in a test's container and holds its cores as a Neuron runtime would: alone.

Concept: it takes its cores from NEURON_RT_VISIBLE_CORES and /dev/neuron*, works out which cores of the node they are, and locks
one file for each in a folder that all containers of the node share. A lock that somebody else has is a core given out twice, seen by
the containers themselves, whatever kubelet, plugin and API server believe; the kernel lets a lock go with its process. One line of
JSON says what was found; then it waits for the end.
Boundary: standard library only, shares no code with what it checks. Failure: ends with 1 where it was given no cores.
"""

import fcntl
import json
import os
import re
import signal
import sys


def numbers(text):
    """Read `0-3,8`."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def main():
    visible = os.environ.get("NEURON_RT_VISIBLE_CORES", "")
    devices = sorted(int(name[6:]) for name in os.listdir("/dev") if re.fullmatch(r"neuron\d+", name))
    if not visible or not devices:
        sys.exit(f"no cores: NEURON_RT_VISIBLE_CORES={visible!r}, devices {devices}")
    per_device = int(os.environ["CORES_PER_DEVICE"])
    cores = numbers(visible)
    if os.environ["CORE_NUMBERING"] == "container":
        cores = [devices[core // per_device] * per_device + core % per_device for core in cores]
    locks, taken = [], []
    for core in cores:
        lock = open(f"/locks/{core}", "w")  # noqa: SIM115 (held until the process ends)
        locks.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken.append(core)
    print(json.dumps({"visible": visible, "devices": devices, "cores": sorted(cores), "taken": taken}), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


main()

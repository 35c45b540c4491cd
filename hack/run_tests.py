"""Run every test: those that need real kubelets beside all the others.

Concept: the kind suite mostly waits (for kubelets, Pods, leases), the others mostly compute, so two pytest runs at once take little
more than the longer one. The others are shown while they run; what the kind suite printed follows at the end, so that what did not
run is read last. Boundary: starts pytest twice and joins the exit codes; what runs and what is skipped is decided by the fixtures.
Failure: the first exit code that is not 0, after both have ended; an interrupt ends both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL_SECONDS = 0.5


def main() -> int:
    """Run both and return the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    # The cache of what failed last belongs to the run that people see.
    return run_beside([*pytest, "-m", "kind", "-p", "no:cacheprovider"], [*pytest, "-m", "not kind"])


def run_beside(quiet: list[str], shown: list[str]) -> int:
    """Run two commands at once, print what the quiet one says below the other, and return the first exit code that is not 0."""
    with tempfile.TemporaryDirectory(prefix="fleetpack-tests-") as folder:
        log = Path(folder) / "quiet.log"
        with log.open("wb") as output:
            beside = subprocess.Popen(quiet, stdout=output, stderr=subprocess.STDOUT)
        print("test: the kind suite runs beside the others; what it says comes at the end", flush=True)
        try:
            others = subprocess.run(shown, check=False).returncode
            print("\ntest: the kind suite", flush=True)
            follow(log, beside)
        except KeyboardInterrupt:
            # Both got the signal from the terminal; the suite takes its cluster down before it ends.
            beside.wait()
            raise SystemExit(130) from None
    return others or beside.returncode


def follow(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Print a log until the process that writes it has ended."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            ended = process.poll() is not None
            if text := lines.read():
                print(text, end="", flush=True)
            if ended:
                return
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())

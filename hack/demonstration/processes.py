"""The demo's own processes: the operator, the simulated engines, the load replayers; started, awaited, ended.

Each writes its output to a log file in the demo's folder; one that ends early is an error with the end of its log.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from control_plane.processes import log_end


class DemoProcess:
    """One child process with a log file."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, folder: Path, *command: str) -> "DemoProcess":
        """Start a command of the project's environment."""
        log = folder / f"{name}.log"
        executable = Path(sys.prefix) / "bin" / command[0]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                str(executable),
                *command[1:],
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return cls(name, log, process)

    @property
    def process_id(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def require_running(self) -> None:
        """Raise with the end of the log if it has ended."""
        if not self.running:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.returncode}:\n{log_end(self.log)}")

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await self._process.wait()

    async def end(self, limit_seconds: float = 10.0) -> None:
        """Ask it to end, and make it end after a while."""
        if not self.running:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), limit_seconds)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

"""Which Docker engine is used: the environment's, else the own one where it runs, else the machine's.

Concept: DOCKER_HOST decides when it is set. Clusters in the own engine need two things that others do not: a node image built
here, and a way for the API server's port out of its network.
Boundary: finds and asks; `own_engine.py` starts one. Failure: no engine that answers is an error with the ways out.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass

from control_plane.errors import ControlPlaneError
from kind_cluster import own_engine
from kind_cluster.commands import without_proxies

WAYS_OUT = (
    "start Docker, or name an engine in DOCKER_HOST, or let `hack/kind engine up` start one of its own "
    "(Debian, as root; ten minutes the first time)"
)
ANSWER_LIMIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A Docker engine that answers."""

    docker_host: str | None
    """None: where `docker` looks by itself."""
    is_own: bool

    def environment(self) -> dict[str, str]:
        """Return the environment in which `docker` and `kind` talk to it."""
        environment = without_proxies()
        if self.docker_host is not None:
            environment["DOCKER_HOST"] = self.docker_host
        return environment


def find_engine() -> Engine:
    """Return the engine to use, or raise an error that says what to do."""
    if shutil.which("docker") is None:
        raise ControlPlaneError(f"no Docker engine: the program `docker` is not on PATH. What to do: {WAYS_OUT}")
    engine = chosen_engine(os.environ.get("DOCKER_HOST"), own_runs=own_engine.is_running())
    if (problem := _problem(engine)) is not None:
        where = f" at {engine.docker_host}" if engine.docker_host else ""
        raise ControlPlaneError(f"no Docker engine answers{where} ({problem}). What to do: {WAYS_OUT}")
    return engine


def chosen_engine(docker_host: str | None, *, own_runs: bool) -> Engine:
    """Return the engine that the environment and the own engine's state choose, whether it answers or not."""
    own = own_engine.docker_host()
    if docker_host:
        return Engine(docker_host=docker_host, is_own=docker_host == own)
    return Engine(docker_host=own, is_own=True) if own_runs else Engine(docker_host=None, is_own=False)


def _problem(engine: Engine) -> str | None:
    """Return why the engine does not answer, or None when it does."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(
            command,
            env=engine.environment(),
            capture_output=True,
            text=True,
            timeout=ANSWER_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if answer.returncode == 0 and answer.stdout.strip():
        return None
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else "it says nothing"

"""The same commands on kind (Kubernetes in Docker), for what needs real kubelets, containers and images.

Concept: `CLUSTER=kind` hands `up`, `down` and `status` to the `kind` program with the repository's kind-config.yaml.
Boundary: needs the `kind` program and a Docker engine; brings neither. Failure: what is missing is named at once.
"""

import shutil
import subprocess
from pathlib import Path

from control_plane.errors import ControlPlaneError

CONFIGURATION = Path(__file__).resolve().parents[2] / "kind-config.yaml"


def up(name: str, kubeconfig: Path) -> None:
    """Create the cluster, or find it there, and write its kubeconfig."""
    require_tools()
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    if exists(name):
        _kind("export", "kubeconfig", "--name", name, "--kubeconfig", str(kubeconfig))
        return
    configuration = ("--config", str(CONFIGURATION)) if CONFIGURATION.exists() else ()
    _kind("create", "cluster", "--name", name, *configuration, "--kubeconfig", str(kubeconfig), "--wait", "180s")


def down(name: str, kubeconfig: Path) -> bool:
    """Delete the cluster; tell whether there was one."""
    require_tools()
    if not exists(name):
        return False
    _kind("delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig))
    kubeconfig.unlink(missing_ok=True)
    return True


def exists(name: str) -> bool:
    """Tell whether kind knows a cluster of this name."""
    command = ["kind", "get", "clusters"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return name in answer.stdout.split()


def require_tools() -> None:
    """Raise an error that names everything kind needs and this machine lacks."""
    missing = []
    if shutil.which("kind") is None:
        missing.append(
            "the program `kind` is not on PATH (https://kind.sigs.k8s.io/docs/user/quick-start/#installation)"
        )
    if (reason := _docker_problem()) is not None:
        missing.append(reason)
    if missing:
        listed = "; ".join(missing)
        raise ControlPlaneError(
            f"CLUSTER=kind cannot work here: {listed}. Without CLUSTER=kind nothing of it is needed"
        )


def _docker_problem() -> str | None:
    if shutil.which("docker") is None:
        return "the program `docker` is not on PATH"
    try:
        answer = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`docker info` does not answer ({error})"
    if answer.returncode != 0 or not answer.stdout.strip():
        lines = answer.stderr.strip().splitlines()
        return f"no Docker engine answers ({lines[-1] if lines else 'docker info says nothing'})"
    return None


def _kind(*arguments: str) -> None:
    answer = subprocess.run(["kind", *arguments], check=False)
    if answer.returncode != 0:
        raise ControlPlaneError(f"kind {' '.join(arguments[:2])} failed with exit code {answer.returncode}")

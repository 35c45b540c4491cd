"""The chart as tests see it: rendered by the real `helm`, parsed, and picked apart.

Concept: `template` renders one set of values; `MONITORING` makes helm believe that the Prometheus Operator is there. Boundary: no
server is asked. Failure: `objects` fails the test with helm's own words; `template` leaves the exit code to the caller.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from control_plane.binaries import ensure
from control_plane.programs import HELM

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "fleetpack"
NAMESPACE = "fleetpack-system"
MONITORING = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"))
EVERYTHING = (
    "devicePlugin.enabled=true",
    "monitoring.dashboard.enabled=true",
    "networkPolicy.enabled=true",
    "signals.secrets.enabled=true",
    "simulation.enabled=true",
)
"""Values that render every object that the chart has."""

Manifest = dict[str, Any]


@cache
def helm() -> Path:
    """Return the path of helm, built when needed."""
    return ensure((HELM,))["helm"]


def template(
    *settings: str, release: str = "fleetpack", namespace: str = NAMESPACE, api_versions: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Render the chart with `--set` values; the caller looks at the exit code."""
    command = [str(helm()), "template", release, str(CHART), "--namespace", namespace, *set_arguments(*settings)]
    command += [argument for version in api_versions for argument in ("--api-versions", version)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def set_arguments(*settings: str) -> list[str]:
    """Return settings as arguments of helm."""
    return [argument for setting in settings for argument in ("--set", setting)]


def objects(result: subprocess.CompletedProcess[str]) -> list[Manifest]:
    """Return what was rendered."""
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def rendered(*settings: str, **how: Any) -> list[Manifest]:
    """Render and parse in one."""
    return objects(template(*settings, **how))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the objects of these kinds."""
    return [item for item in manifests if item["kind"] in kinds]


def the(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the one object of a kind (and name)."""
    [found] = [item for item in of_kind(manifests, kind) if name in (None, item["metadata"]["name"])]
    return found

"""kubectl for tests: what people type, and what they read back.

Boundary: runs one command and hands back what it said; nothing is interpreted or retried. Failure: `read` fails the test with
kubectl's own words, `run` leaves the exit code to the caller.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl with the administrator's kubeconfig."""

    command: tuple[str, ...]

    def run(self, *arguments: str, manifest: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, a manifest on its standard input; the caller looks at the exit code."""
        text = None if manifest is None else yaml.safe_dump(manifest, sort_keys=False)
        return subprocess.run([*self.command, *arguments], input=text, capture_output=True, text=True, check=False)

    def read(self, *arguments: str) -> str:
        """Run it and return what it prints; a failure fails the test with kubectl's own words."""
        answer = self.run(*arguments)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

"""Where the demo runs: what differs between a control plane of this machine's own and a kind cluster.

Concept: the demo itself is the same everywhere; a `Site` brings a cluster with fleetpack up, names what is applied to it, starts the
loads where requests can reach replicas, and says where the operator's metrics are. Boundary: two sites implement it, `own_site.py` and
`kind_site.py`; neither decides anything. Failure: what cannot be brought up raises RuntimeError with what to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Say = Callable[[str], None]
"""Tells people what is being done now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Which part of a trace is replayed against one model."""

    deployment: str
    start_seconds: float
    speed: float
    duration_seconds: float


class Load(Protocol):
    """A load that is being replayed."""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        ...

    async def wait(self) -> object:
        """Wait for its end."""
        ...

    async def result(self) -> dict[str, Any]:
        """Return the replayer's summary; raises RuntimeError where it left none."""
        ...

    async def end(self) -> None:
        """End it early."""
        ...


class Site(Protocol):
    """A place for the demo."""

    admin: Path
    """The administrator's kubeconfig, from `bring_up` on."""

    @property
    def about_start(self) -> str:
        """What people are told while it comes up."""
        ...

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Pool and models."""
        ...

    @property
    def load_plans(self) -> tuple[LoadPlan, ...]:
        """Which model gets which load."""
        ...

    @property
    def about_load(self) -> str:
        """What people are told of cold starts and arrivals."""
        ...

    async def bring_up(self, say: Say) -> None:
        """Bring cluster and operator up."""
        ...

    async def start_load(self, plan: LoadPlan) -> Load:
        """Start to replay."""
        ...

    async def operator_metrics(self) -> str:
        """Return the leading operator's metrics page; raises OSError where it does not answer."""
        ...

    def require_running(self) -> None:
        """Raise RuntimeError if something that the demo needs has ended."""
        ...

    async def take_down(self, say: Say) -> None:
        """End what `bring_up` and `start_load` started, also where they have not come to their end."""
        ...

    def how_to_go_on(self) -> str:
        """Return what to type when it was kept."""
        ...

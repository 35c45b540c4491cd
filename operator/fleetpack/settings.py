"""Settings of the operator process: command line first, then environment, then these defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleetpack.listening import EVERY_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one operator process runs; what it decides by is in the cluster, not here."""

    kubeconfig: Path | None = None
    """None: in-cluster credentials, else KUBECONFIG."""
    lease_namespace: str = "fleetpack-system"
    lease_name: str = "fleetpack"
    identity: str = ""
    """Name in the Lease; empty: made from the host name and a random part."""
    http_host: str = EVERY_ADDRESS
    """Empty: every address, of IPv4 and of IPv6."""
    http_port: int = 8080
    """For /metrics, /livez and /readyz; 0: a free port."""
    writes_per_second: float = 50.0
    write_burst: int = 100
    """Both of actions; what is told of them has a share of its own beside (`main.TELLING_SHARE`)."""
    record_file: Path | None = None
    """Where planning passes are recorded as JSON lines; None: nowhere."""
    log_format: str = "text"
    """`text` for people, `json` for machines."""

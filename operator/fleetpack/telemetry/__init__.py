"""What the operator says about itself to machines: `fleetpack_*` metrics, and whether it lives and is ready.

Numbers are handed in as values; nothing here reads the cluster or decides anything. What is unknown has no series: it is
never shown as zero or NaN. Metric names and labels are an interface (docs/metrics.md) and change with the API version only.
"""

from fleetpack.telemetry.metrics import DeploymentNumbers, FleetMetrics, MetricDescription, PoolNumbers, VariantNumbers
from fleetpack.telemetry.server import Probe, serve_telemetry

__all__ = [
    "DeploymentNumbers",
    "FleetMetrics",
    "MetricDescription",
    "PoolNumbers",
    "Probe",
    "VariantNumbers",
    "serve_telemetry",
]

"""Manifests of simulated Nodes, as kwok plays them, from a catalog instance type or from plain numbers.

Concept: the Node states its own capacity and allocatable; kwok only makes it Ready. Boundary: manifests and one call
that creates them. Failure: a type whose allocatable CPU or memory is unknown must be given both.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from control_plane.api_client import ApiClient

# For types whose allocatable the catalog does not know: enough for any test that is not about CPU or memory.
AMPLE_CPU_MILLICORES = 64_000
AMPLE_MEMORY_BYTES = 256 * 2**30
DEFAULT_MAX_PODS = 110


class CatalogInstanceType(Protocol):
    """What is read of the catalog's instance type."""

    @property
    def name(self) -> str: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def devices(self) -> int: ...
    @property
    def cores_per_device(self) -> int: ...
    @property
    def resource_name(self) -> str: ...
    @property
    def allocatable_cpu_millicores(self) -> int | None: ...
    @property
    def allocatable_memory_bytes(self) -> int | None: ...
    @property
    def max_pods(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNode:
    """A Node of kwok; the defaults are an inf2.24xlarge (6 chips of 2 cores)."""

    name: str
    instance_type: str = "inf2.24xlarge"
    resource_name: str = "aws.amazon.com/neuroncore"
    cores: int = 12
    allocatable_cpu_millicores: int = AMPLE_CPU_MILLICORES
    allocatable_memory_bytes: int = AMPLE_MEMORY_BYTES
    max_pods: int = DEFAULT_MAX_PODS
    pool: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """Return the Node as it is sent to the API server."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": self.instance_type,
        }
        if self.pool is not None:
            labels["fleetpack.dev/pool"] = self.pool
        resources = {
            "cpu": f"{self.allocatable_cpu_millicores}m",
            "memory": str(self.allocatable_memory_bytes),
            "pods": str(self.max_pods),
            self.resource_name: str(self.cores),
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {**labels, **self.labels},
                "annotations": {"kwok.x-k8s.io/node": "fake", **self.annotations},
            },
            "status": {"capacity": resources, "allocatable": resources},
        }


def node_of_type(name: str, instance_type: CatalogInstanceType, *, pool: str | None = None) -> SimulatedNode:
    """Return a Node of a catalog instance type."""
    return SimulatedNode(
        name=name,
        instance_type=instance_type.name,
        resource_name=instance_type.resource_name,
        cores=instance_type.devices * instance_type.cores_per_device,
        allocatable_cpu_millicores=instance_type.allocatable_cpu_millicores or AMPLE_CPU_MILLICORES,
        allocatable_memory_bytes=instance_type.allocatable_memory_bytes or AMPLE_MEMORY_BYTES,
        max_pods=instance_type.max_pods or DEFAULT_MAX_PODS,
        pool=pool,
    )


def create_nodes(client: ApiClient, *nodes: SimulatedNode) -> None:
    """Create the Nodes; kwok makes them Ready within some hundred milliseconds."""
    for node in nodes:
        client.create("/api/v1/nodes", node.manifest())

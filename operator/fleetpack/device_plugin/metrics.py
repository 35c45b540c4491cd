"""The plugin's own numbers, and the node's hardware in neuron-monitor's words.

Names are an interface (docs/device-plugin.md). What is not known has no series; series of Pods that are gone are removed. The labels
`namespace`, `pod` and `container` are the Pod's that holds the cores: scrape with `honorLabels`, or Prometheus renames
them. The registry is our own; the numbers come in as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from fleetpack.catalog import InstanceType
from fleetpack.device_plugin.accounts import Holding
from fleetpack.device_plugin.comparison import DisagreementKind
from fleetpack.device_plugin.silicon import DeviceState, NeuronResource, RefusalReason

_PREFIX = "fleetpack_device_plugin"

# Without this each counter has a second series that tells when it was made; nobody asks.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it is not annotated


class PluginMetrics:
    """The metrics of one device plugin."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._preferences = self._counter(
            "preferences_total",
            "Answers to the kubelet's question which devices to take: planned cores, a set for a Pod without a plan, refused.",
            "resource",
            "outcome",
        )
        self._allocations = self._counter(
            "allocations_total", "Requests to give devices to a container.", "resource", "outcome"
        )
        self._refusals = self._counter(
            "refusals_total", "Requests of the kubelet that were refused.", "call", "resource", "reason"
        )
        self._disagreements = self._counter(
            "disagreements_total", "Pods that got other cores than planned, each counted once.", "kind"
        )
        self._registrations = self._counter(
            "registrations_total", "Registrations with the kubelet.", "resource", "outcome"
        )
        self._writes = self._counter(
            "annotation_writes_total", "Allocated cores written on Pods, by outcome: ok, gone, failed.", "outcome"
        )
        self._devices = self._gauge("devices", "Devices as told to the kubelet.", "resource", "health")
        self._holdings = self._gauge(
            "allocated_cores",
            "Cores that a container holds, by the kubelet's list.",
            "namespace",
            "pod",
            "container",
            "resource",
        )
        self._reading = self._gauge(
            "last_reading_timestamp_seconds", "When the kubelet's list was last read, in seconds since the epoch."
        )
        self._hardware = Gauge(
            "neuron_hardware",
            "1, with what the machine has as labels (as neuron-monitor tells it).",
            ("neuron_device_count", "neuroncore_per_device_count"),
            registry=self.registry,
        )
        self._instance = Gauge(
            "instance_info",
            "1, with the machine's type and name as labels (as neuron-monitor tells it).",
            ("instance_type", "instance_name"),
            registry=self.registry,
        )

    def show_machine(self, instance_type: InstanceType, node: str) -> None:
        """Show what the node is."""
        self._hardware.labels(str(instance_type.devices), str(instance_type.cores_per_device)).set(1)
        self._instance.labels(instance_type.name, node).set(1)

    def show_devices(self, lists: Mapping[NeuronResource, tuple[DeviceState, ...]]) -> None:
        """Show how many devices are healthy and how many are not."""
        for resource, states in lists.items():
            healthy = sum(state.healthy for state in states)
            self._devices.labels(resource.value, "healthy").set(healthy)
            self._devices.labels(resource.value, "unhealthy").set(len(states) - healthy)

    def show_holdings(self, holdings: Iterable[Holding]) -> None:
        """Show who holds how many cores, and nobody else."""
        self._holdings.clear()
        for holding in holdings:
            if not holding.cores:
                # Another plugin's devices alone: how many cores these are is not known.
                continue
            namespace, _, pod = holding.pod.partition("/")
            series = self._holdings.labels(namespace, pod, holding.container, holding.resource.value)
            series.set(holding.cores.bit_count())

    def show_reading(self, at: float) -> None:
        """Show when the kubelet's list was read."""
        self._reading.set(at)

    def count_preference(self, resource: NeuronResource, *, planned: bool) -> None:
        """Count an answer to GetPreferredAllocation."""
        self._preferences.labels(resource.value, "planned" if planned else "unplanned").inc()

    def count_allocation(self, resource: NeuronResource) -> None:
        """Count an Allocate that was granted."""
        self._allocations.labels(resource.value, "granted").inc()

    def count_refusal(self, call: str, resource: NeuronResource, reason: RefusalReason) -> None:
        """Count a refusal; `call` is `prefer` or `allocate`."""
        calls = self._preferences if call == "prefer" else self._allocations
        calls.labels(resource.value, "refused").inc()
        self._refusals.labels(call, resource.value, reason.value).inc()

    def count_disagreement(self, kind: DisagreementKind) -> None:
        """Count a Pod that got other cores than planned."""
        self._disagreements.labels(kind.value).inc()

    def count_registration(self, resource: NeuronResource, outcome: str) -> None:
        """Count a registration; the outcome is `ok` or `failed`."""
        self._registrations.labels(resource.value, outcome).inc()

    def count_write(self, outcome: str) -> None:
        """Count an annotation written or not."""
        self._writes.labels(outcome).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

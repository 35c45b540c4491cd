"""What is to be read: one frozen value per source, with everything resolved.

A target is made anew on every pass from the spec and the cluster: Pod addresses looked up, Secrets already read. It is its
own identity between passes (`key`), so a Pod that got a new address under the same UID continues the same series.
Credentials never show in a repr, hence in no log line and in no recorded input.

Boundary: targets are checked by whoever makes them (the API server refuses bad specs); a target that makes no sense all the
same fails as a read and says so in its sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, TypeAlias


class Measure(StrEnum):
    """What the one number of an outside source means."""

    WAITING = "waiting"
    RUNNING = "running"
    ARRIVAL_RATE = "arrivalRate"
    TTFT = "ttft"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricNames:
    """Which metric families of a page are read, and what they mean; all label sets of a family are added up.

    Names are as on the page. A counter is found with and without its `_total`. The histogram is named without `_bucket`.
    """

    waiting: str | None = None
    """Gauge. Where it is named, a page without it is a failed read."""
    running: str | None = None
    """Gauge. Where it is named, a page without it is a failed read."""
    finished: tuple[str, ...] = ()
    """Counters that together count requests that ended. Absent until the first request on many engines."""
    ttft: str | None = None
    """Histogram of the time to the first token. Absent until the first request on many engines."""
    ttft_unit_seconds: float = 1.0
    """How many seconds one unit of the histogram is: 0.001 where it counts in milliseconds."""

    VLLM: ClassVar[MetricNames]
    """vLLM's names, the same in its versions 0 and 1: docs.vllm.ai, "Production Metrics"."""
    TGI: ClassVar[MetricNames]
    """Text Generation Inference: huggingface.co/docs/text-generation-inference/reference/metrics. `tgi_request_count` counts
    requests when they come, so what ended is success and failure. It has no histogram of the time to the first token."""
    TRITON: ClassVar[MetricNames]
    """Triton Inference Server, user guide, "Metrics": per model, in milliseconds; the number of requests that run is not
    exported, and the histogram is off unless asked for (`--metrics-config histogram_latencies=true`)."""


MetricNames.VLLM = MetricNames(
    waiting="vllm:num_requests_waiting",
    running="vllm:num_requests_running",
    finished=("vllm:request_success_total",),
    ttft="vllm:time_to_first_token_seconds",
)
MetricNames.TGI = MetricNames(
    waiting="tgi_queue_size",
    running="tgi_batch_current_size",
    finished=("tgi_request_success", "tgi_request_failure"),
)
MetricNames.TRITON = MetricNames(
    waiting="nv_inference_pending_request_count",
    finished=("nv_inference_request_success", "nv_inference_request_failure"),
    ttft="nv_inference_first_response_histogram_ms",
    ttft_unit_seconds=0.001,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerToken:
    """`Authorization: Bearer <token>`."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicCredentials:
    """`Authorization: Basic`, from a user name and a password."""

    username: str
    password: str = field(repr=False)


Credentials: TypeAlias = BearerToken | BasicCredentials


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTarget:
    """The metrics page of one Pod."""

    deployment: str
    """`namespace/name`."""
    signal: str
    """Name of the signal in the spec."""
    pod_uid: str
    address: str
    """IP address of the Pod, version 4 or 6."""
    port: int
    path: str = "/metrics"
    names: MetricNames = MetricNames.VLLM
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What a series of samples belongs to: deployment, signal, Pod."""
        return (self.deployment, self.signal, self.pod_uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusTarget:
    """One instant query to a Prometheus API, whose answer is one number."""

    deployment: str
    signal: str
    url: str
    """Base URL of the server, to which `/api/v1/query` is added."""
    query: str
    measures: Measure
    credentials: Credentials | None = None
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What a series of samples belongs to: deployment, signal, no Pod."""
        return (self.deployment, self.signal, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTarget:
    """One JSON document, with one number in it."""

    deployment: str
    signal: str
    url: str
    json_path: str
    """Names and indices only: `$.queues[0].messages`, `a.b`, `["key with.dot"]`."""
    measures: Measure
    credentials: Credentials | None = None
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What a series of samples belongs to: deployment, signal, no Pod."""
        return (self.deployment, self.signal, "")


Target: TypeAlias = PodTarget | PrometheusTarget | HttpTarget

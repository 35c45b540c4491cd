"""What a simulated replica tells Prometheus, under vLLM's own metric names, labels and buckets.

Written by hand: a registry object per replica costs more than all its metrics together, and 200 replicas are read every 2 s.
Names and buckets as in vLLM (vllm/v1/metrics/loggers.py, `PrometheusStatLogger`). Gauges and totals come from the engine, so they
cannot disagree with what it does.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from fleetpack_simulator.engine import Completion, EngineCounters, FinishReason

TTFT_BUCKETS_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
_REQUEST_BUCKETS_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)


class Histogram:
    """A Prometheus histogram of seconds."""

    def __init__(self, name: str, description: str, buckets_seconds: tuple[float, ...]) -> None:
        self.name = name
        self._head = f"# HELP {name} {description}\n# TYPE {name} histogram\n"
        self._buckets_seconds = buckets_seconds
        self._counts = [0] * (len(buckets_seconds) + 1)
        self._sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._buckets_seconds, seconds)] += 1
        self._sum_seconds += seconds

    def text(self, labels: str) -> str:
        """Return the exposition of this histogram."""
        lines = [self._head]
        total = 0
        for bound, count in zip((*self._buckets_seconds, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{self.name}_bucket{{{labels},le="{bound}"}} {total}\n')
        lines.append(f"{self.name}_count{{{labels}}} {total}\n{self.name}_sum{{{labels}}} {self._sum_seconds}\n")
        return "".join(lines)


def _ttft() -> Histogram:
    return Histogram(
        "vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", TTFT_BUCKETS_SECONDS
    )


def _latency() -> Histogram:
    return Histogram(
        "vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _REQUEST_BUCKETS_SECONDS
    )


def _queue_time() -> Histogram:
    return Histogram(
        "vllm:request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        _REQUEST_BUCKETS_SECONDS,
    )


@dataclass(slots=True)
class ServingMetrics:
    """The histograms of one replica, and the text that joins them with the engine's counters."""

    model_name: str
    time_to_first_token: Histogram = field(default_factory=_ttft)
    request_latency: Histogram = field(default_factory=_latency)
    queue_time: Histogram = field(default_factory=_queue_time)

    def observe(self, completion: Completion) -> None:
        """Count a request that ended; vLLM observes aborted requests in no latency histogram."""
        if completion.reason is FinishReason.ABORT:
            return
        self.request_latency.observe(completion.finished_seconds - completion.submitted_seconds)
        if completion.admitted_seconds is not None:
            self.queue_time.observe(completion.admitted_seconds - completion.submitted_seconds)

    def text(self, counters: EngineCounters) -> str:
        """Return the whole exposition."""
        labels = f'engine="0",model_name="{_escape(self.model_name)}"'
        parts = []
        for name, kind, description, value in (
            ("num_requests_running", "gauge", "Number of requests in model execution batches.", counters.running),
            ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", counters.waiting),
            ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", counters.kv_cache_usage),
            ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", counters.prompt_tokens),
            ("generation_tokens_total", "counter", "Number of generation tokens processed.", counters.generated_tokens),
        ):
            parts.append(
                f"# HELP vllm:{name} {description}\n# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {value}\n"
            )
        parts.append(
            "# HELP vllm:request_success_total Count of successfully processed requests.\n"
            "# TYPE vllm:request_success_total counter\n"
            f'vllm:request_success_total{{{labels},finished_reason="length"}} {counters.finished}\n'
            f'vllm:request_success_total{{{labels},finished_reason="stop"}} 0\n'
            f'vllm:request_success_total{{{labels},finished_reason="abort"}} {counters.aborted}\n'
        )
        parts += [
            histogram.text(labels) for histogram in (self.time_to_first_token, self.request_latency, self.queue_time)
        ]
        return "".join(parts)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

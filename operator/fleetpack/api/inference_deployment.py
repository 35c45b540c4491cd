"""InferenceDeployment: one model, the ways it may run, and the promises it has to keep.

The spec is what people write; the status is what the operator last saw and decided. The descriptions here are the API
reference: each says what a field means, its unit, and what its absence means. Defaults live in the schema, so reading
an object back shows them all.

Boundary: nothing here is resolved. Whether the accelerator exists, whether a template works, what a percentage comes
to, is found by those who read these values.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fleetpack.api.meta import (
    LIST_MAP_KEYS,
    LIST_SET,
    CatalogName,
    Condition,
    Model,
    Name,
    ObjectMeta,
    Rule,
    ShortName,
)
from fleetpack.api.pod_template import PartialPodTemplate, PodTemplate, accelerator_resources, container_names
from fleetpack.api.values import DecimalRange, Duration, DurationRange, IntOrPercent, Money, Rate, Text

MAXIMUM_REPLICAS = 10_000
"""Highest number of replicas of one deployment that the API takes."""

_Port = Annotated[int, Field(ge=1, le=65535)]
_Replicas = Annotated[int, Field(ge=0, le=MAXIMUM_REPLICAS)]
_Text = Annotated[str, Field(min_length=1, max_length=253)]
_MetricName = Annotated[
    str,
    Text(
        pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$",
        expected="a metric name: letters, digits, underscores and colons, not beginning with a digit",
        maximum_length=253,
    ),
]
_Url = Annotated[
    str,
    Text(pattern=r"^https?://[^\s]+$", expected="a URL that begins with http:// or https://", maximum_length=2048),
]


class ModelSpec(Model):
    """What is known of the model itself: it checks that the model fits a replica, and feeds the simulator."""

    name: _Text
    """Name of the model, as its publisher writes it: `meta-llama/Llama-3.1-8B-Instruct`."""
    parameters_billions: Annotated[float, Field(ge=0.001, le=100_000)] | None = None
    """Number of parameters, in billions. With it, weights are checked against a replica's device memory."""
    weight_bits: Literal[4, 8, 16, 32] = 16
    """Bits per weight as loaded: 4, 8, 16 or 32."""
    layers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Number of transformer layers; with keyValueHeads and headDimension it gives the size of the KV cache."""
    key_value_heads: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Number of key-value heads of one layer."""
    head_dimension: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Width of one attention head."""
    key_value_bits: Literal[4, 8, 16, 32] = 16
    """Bits per number in the KV cache: 4, 8, 16 or 32."""
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest sequence that the engine is set up for, in tokens."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.layers) == has(self.keyValueHeads) && has(self.layers) == has(self.headDimension)",
            message="layers, keyValueHeads and headDimension belong together: set all three or none",
            holds=lambda model: (
                len({value is None for value in (model.layers, model.key_value_heads, model.head_dimension)}) == 1
            ),
        ),
    )


class PerformancePrior(Model):
    """What one replica is expected to do; measured values replace it."""

    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that one replica serves at the same time: the engine's maximum batch."""
    requests_per_second: Annotated[Rate, DecimalRange(above="0")] | None = None
    """Requests per second that one saturated replica completes."""
    startup: Annotated[Duration, DurationRange(minimum="100ms", maximum="24h")] | None = None
    """Cold start: from the creation of the Pod until it is Ready."""


class Variant(Model):
    """One way to run the model: an accelerator, how much of it one replica gets, and what changes in the template."""

    name: ShortName
    """Name of the variant, unique in the list; part of the names of its Pods."""
    accelerator: CatalogName
    """Accelerator from the catalog, such as `inferentia2`, `trainium2` or `h100-sxm`."""
    cores: Annotated[int, Field(ge=1, le=1024)] | None = None
    """NeuronCores per replica. Exactly one of cores and devices is set."""
    devices: Annotated[int, Field(ge=1, le=64)] | None = None
    """Whole devices per replica, for accelerators that are given out whole, such as GPUs."""
    template: PartialPodTemplate | None = None
    """What differs from spec.template: strategically merged, containers by name (image, args, env, volumes,
    nodeSelector, runtimeClassName and so on)."""
    performance: PerformancePrior = PerformancePrior()
    """What to expect of one replica until it has been measured."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.cores) != has(self.devices)",
            message="exactly one of cores and devices must be set",
            holds=lambda variant: (variant.cores is None) != (variant.devices is None),
        ),
        Rule(
            cel=None,
            message="the template must not ask for accelerators: cores and devices of the variant do that",
            holds=lambda variant: not accelerator_resources(variant.template or {}),
            field=".template",
        ),
    )


class ServiceSpec(Model):
    """The Service in front of the replicas."""

    port: _Port
    """Port of the Service, and of the serving container unless targetPort says otherwise."""
    target_port: _Port | None = None
    """Port of the serving container; default: port."""
    name: (
        Annotated[
            str,
            Text(
                pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
                expected="a Service name: at most 63 lower case letters, digits and dashes, beginning with a letter",
                maximum_length=63,
            ),
        ]
        | None
    ) = None
    """Name of the Service; default: the name of the InferenceDeployment."""


class Mode(StrEnum):
    """Who decides the number of replicas."""

    AUTO = "Auto"
    ADVISORY = "Advisory"
    MANUAL = "Manual"
    PAUSED = "Paused"


class LatencyTarget(Model):
    """A promise about latency."""

    ttft: Annotated[Duration, DurationRange(minimum="1ms", maximum="1h")]
    """Time to first token that the given percentile of requests must not exceed, the wait in the queue included."""
    percentile: Annotated[int, Field(ge=50, le=99)] = 95
    """Share of requests, in percent, that keep ttft."""


class MetricsFormat(StrEnum):
    """Whose metric names a Pod's metrics page has."""

    VLLM = "vllm"
    TGI = "tgi"
    TRITON = "triton"
    OPENMETRICS = "openmetrics"


class MetricNames(Model):
    """Names of an engine's metrics, for the format openmetrics."""

    waiting: _MetricName | None = None
    """Gauge: requests that wait in the engine."""
    running: _MetricName | None = None
    """Gauge: requests being served."""
    requests: _MetricName | None = None
    """Counter: requests that have been completed."""
    ttft: _MetricName | None = None
    """Histogram: time to first token, in seconds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.waiting) || has(self.running) || has(self.requests)",
            message="names must have at least one of waiting, running and requests",
            holds=lambda names: any((names.waiting, names.running, names.requests)),
        ),
    )


class PodMetricsSource(Model):
    """Reads every ready replica's own metrics page."""

    port: _Port
    """Port of the Pod that answers."""
    path: Annotated[str, Text(pattern=r"^/[^\s]*$", expected="a path that begins with /", maximum_length=1024)] = (
        "/metrics"
    )
    """Path of the page."""
    format: MetricsFormat = MetricsFormat.VLLM
    """Whose metric names it has: vllm, tgi, triton, or openmetrics with names."""
    names: MetricNames | None = None
    """The metric names, for the format openmetrics only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.format == 'openmetrics') == has(self.names)",
            message="format openmetrics needs names, and no other format may have them",
            holds=lambda source: (source.format is MetricsFormat.OPENMETRICS) == (source.names is not None),
        ),
    )


class PrometheusSource(Model):
    """Asks a Prometheus server; the query must give one number."""

    url: _Url
    """Base URL of the server: `http://prometheus.monitoring:9090`."""
    query: Annotated[str, Field(min_length=1, max_length=4096)]
    """PromQL instant query whose result is one sample; no sample means no data, never zero."""


class HttpSource(Model):
    """Asks an HTTP endpoint that answers with JSON."""

    url: _Url
    """URL that is read with GET."""
    json_path: Annotated[
        str,
        Text(
            pattern=r"^\$(\.[A-Za-z0-9_-]+|\[[0-9]{1,4}\])*$",
            expected="a path from the root $ by names and indices, such as $.queues[0].messages",
            maximum_length=512,
        ),
    ]
    """Path of the number in the body, from the root `$`: `$.queues[0].messages`."""


class Measure(StrEnum):
    """What a number from outside the Pods stands for."""

    WAITING = "waiting"
    RUNNING = "running"
    ARRIVAL_RATE = "arrivalRate"
    TTFT = "ttft"


class SecretReference(Model):
    """A Secret in the namespace of the InferenceDeployment."""

    name: Annotated[
        str,
        Text(
            pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
            expected="the name of a Secret: lower case letters, digits, dashes and dots",
            maximum_length=253,
        ),
    ]
    """Name of the Secret."""


class Authentication(Model):
    """How a source outside the Pods is authenticated with."""

    secret_ref: SecretReference
    """Secret with `token`, sent as a bearer token, or with `username` and `password`."""


class Signal(Model):
    """One source of numbers. Exactly one of podMetrics, prometheus and http is set."""

    name: Name
    """Name of the signal, unique in the list; decisions and metrics name it."""
    pod_metrics: PodMetricsSource | None = None
    """Reads the metrics page of every ready replica."""
    prometheus: PrometheusSource | None = None
    """Asks a Prometheus server."""
    http: HttpSource | None = None
    """Asks an HTTP endpoint, such as a broker's API."""
    measures: Measure | None = None
    """What the number is, for prometheus and http: waiting (requests), running (requests), arrivalRate (requests per
    second) or ttft (seconds). podMetrics know that from their format."""
    authentication: Authentication | None = None
    """Credentials for prometheus and http."""
    interval: Annotated[Duration, DurationRange(minimum="500ms", maximum="1h")] = Duration.parse("2s")
    """How often the source is read."""
    stale_after: Annotated[Duration, DurationRange(minimum="1s", maximum="24h")] = Duration.parse("10s")
    """Age above which a number is not used any more. Stale is not zero: with no fresh signal replicas are held."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.podMetrics), has(self.prometheus), has(self.http)].filter(x, x).size() == 1",
            message="exactly one of podMetrics, prometheus and http must be set",
            holds=lambda signal: [signal.pod_metrics, signal.prometheus, signal.http].count(None) == 2,
        ),
        Rule(
            cel="has(self.podMetrics) || has(self.measures)",
            message="prometheus and http need measures: one of waiting, running, arrivalRate, ttft",
            holds=lambda signal: signal.pod_metrics is not None or signal.measures is not None,
        ),
        Rule(
            cel="!has(self.podMetrics) || !has(self.measures)",
            message="measures is for prometheus and http only: podMetrics know it from their format",
            holds=lambda signal: signal.pod_metrics is None or signal.measures is None,
        ),
        Rule(
            cel="!has(self.podMetrics) || !has(self.authentication)",
            message="authentication is for prometheus and http only",
            holds=lambda signal: signal.pod_metrics is None or signal.authentication is None,
        ),
        Rule(
            cel="duration(self.staleAfter) >= duration(self.interval)",
            message="staleAfter must be at least interval",
            holds=lambda signal: signal.stale_after.seconds >= signal.interval.seconds,
            field=".staleAfter",
        ),
    )

    @property
    def in_pods(self) -> bool:
        """Whether the source lies in the Pods, and so is silent when there are none."""
        return self.pod_metrics is not None

    @property
    def wakes(self) -> bool:
        """Whether the source can tell that requests wait while there is no replica."""
        return not self.in_pods and self.measures in (Measure.WAITING, Measure.ARRIVAL_RATE)


class Scaling(Model):
    """How the number of replicas follows demand, in the modes Auto and Advisory."""

    min_replicas: _Replicas = 1
    """Fewest replicas. 0 needs a signal that lives outside the Pods. A cost ceiling beats it."""
    max_replicas: Annotated[int, Field(ge=1, le=MAXIMUM_REPLICAS)] = 10
    """Most replicas."""
    target_queue_depth: Annotated[int, Field(ge=1, le=100_000)] = 4
    """Waiting requests per ready replica that are fine; above it, replicas are added."""
    latency_target: LatencyTarget | None = None
    """Latency to keep, beside targetQueueDepth; absent, or where nothing measures it: the queue alone decides."""
    scale_to_zero_after: Annotated[Duration, DurationRange(minimum="1s", maximum="720h")] = Duration.parse("10m")
    """Time without any request after which minReplicas 0 is used."""
    signals: Annotated[tuple[Signal, ...], Field(max_length=8, json_schema_extra={LIST_MAP_KEYS: ["name"]})] = ()
    """Where the numbers come from; those that measure the same are added up."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            message="minReplicas must not be greater than maxReplicas",
            holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            field=".minReplicas",
        ),
        Rule(
            cel=(
                "self.minReplicas > 0 || self.signals.exists(s, (has(s.prometheus) || has(s.http)) && "
                "has(s.measures) && s.measures in ['waiting', 'arrivalRate'])"
            ),
            message=(
                "minReplicas 0 needs a signal that lives outside the Pods (prometheus or http) and measures waiting or "
                "arrivalRate, else zero would be for ever"
            ),
            holds=lambda scaling: scaling.min_replicas > 0 or any(signal.wakes for signal in scaling.signals),
            field=".minReplicas",
        ),
    )


class Cost(Model):
    """What the model may cost. The cost of a replica is its node's price times its share of the node's cores."""

    max_usd_per_hour: Annotated[Money, DecimalRange(above="0")] | None = Field(default=None, alias="maxUSDPerHour")
    """Ceiling in US dollars per hour: no action raises the projected cost above it. Absent: no ceiling. It beats
    minReplicas."""
    target_usd_per_million_requests: Annotated[Money, DecimalRange(above="0")] | None = Field(
        default=None, alias="targetUSDPerMillionRequests"
    )
    """US dollars per million requests above which no latency and no spare capacity is bought; demand itself is always served."""


class Weekday(StrEnum):
    """A day of the week."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


class Window(Model):
    """A time of the week."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7, json_schema_extra={LIST_SET: True})] = tuple(
        Weekday
    )
    """Days on which the window opens."""
    start: Annotated[
        str,
        Text(
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
            expected="a time of day of 24 hours, from 00:00 to 23:59, in quotes",
            maximum_length=8,
        ),
    ]
    """Time of day at which it opens, 24 hours: `22:30`."""
    duration: Annotated[Duration, DurationRange(minimum="1m", maximum="24h")]
    """How long it stays open; it may reach into the next day."""
    timezone: Annotated[
        str,
        Text(
            pattern=r"^[A-Za-z0-9_+/-]+$",
            expected="the IANA name of a time zone, such as Europe/Berlin",
            maximum_length=64,
        ),
    ] = "UTC"
    """Time zone of start, by its IANA name: `Europe/Berlin`."""


class Disruption(Model):
    """How much voluntary change (moves, template changes, consolidation) the model bears."""

    max_unavailable: IntOrPercent = IntOrPercent.parse("10%")
    """Replicas that may be missing at once for such a change where there is no room to start the new one first: a
    number, or a percentage of the replicas, rounded up. 0: never fewer."""
    drain: Annotated[Duration, DurationRange(minimum="0s", maximum="24h")] = Duration.parse("2m")
    """Longest time a replica that has left the Service may take to finish its requests."""
    windows: Annotated[tuple[Window, ...], Field(max_length=16)] = ()
    """Times at which such changes may begin; none given: always."""


class InferenceDeploymentSpec(Model):
    """What is wanted."""

    model: ModelSpec | None = None
    """The model itself; absent: nothing is checked against device memory."""
    template: PodTemplate
    """Pod template of a replica. The operator adds cores, placement and labels; accelerator resources in it are
    refused."""
    serving_container: Name | None = None
    """Container of the template that gets the cores; default: the first. Other containers get none."""
    variants: Annotated[
        tuple[Variant, ...], Field(min_length=1, max_length=16, json_schema_extra={LIST_MAP_KEYS: ["name"]})
    ]
    """Ways to run the model, in order of preference where their costs tie."""
    service: ServiceSpec | None = None
    """Makes a Service in front of the replicas; status.url says where it answers. Absent: no Service. One that was made before, or
    under a former name, stays until you or the end of the InferenceDeployment remove it."""
    mode: Mode = Mode.AUTO
    """Who decides the number of replicas. Auto: the operator, which writes replicas. Manual: whoever writes replicas.
    Advisory: like Manual, and status shows what Auto would do. Paused: nothing is touched."""
    replicas: _Replicas = 1
    """Number of replicas. Auto writes it through the scale subresource, as an autoscaler does; Manual and Advisory
    obey it."""
    scaling: Scaling = Scaling()
    """How the number of replicas follows demand."""
    cost: Cost = Cost()
    """What the model may cost."""
    disruption: Disruption = Disruption()
    """How much voluntary change the model bears."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "!has(self.servingContainer) || "
                "self.template.spec.containers.exists(c, c.name == self.servingContainer)"
            ),
            message="servingContainer must be the name of a container in template.spec.containers",
            holds=lambda spec: (
                spec.serving_container is None or spec.serving_container in container_names(spec.template)
            ),
            field=".servingContainer",
        ),
        Rule(
            cel="self.mode in ['Manual', 'Paused'] || self.scaling.signals.size() > 0",
            message=(
                "the modes Auto and Advisory need at least one signal in scaling.signals; without one, use mode Manual "
                "and set replicas"
            ),
            holds=lambda spec: spec.mode in (Mode.MANUAL, Mode.PAUSED) or len(spec.scaling.signals) > 0,
            field=".scaling.signals",
        ),
        Rule(
            cel=None,
            message="the template must not ask for accelerators: cores and devices of the variants do that",
            holds=lambda spec: not accelerator_resources(spec.template),
            field=".template",
        ),
    )


class VariantStatus(Model):
    """What is there of one variant, and what has been learnt of it."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the variant."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that exist."""
    ready: Annotated[int, Field(ge=0)] = 0
    """Replicas that are ready."""
    measured_requests_per_second: Rate | None = None
    """Measured: requests per second that one saturated replica completes."""
    measured_concurrency: Rate | None = None
    """Measured: requests that one saturated replica serves at once."""
    measured_startup: Duration | None = None
    """Measured: from the creation of a Pod until it is Ready."""


class PlacementStatus(Model):
    """Where one replica is."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the Pod."""
    variant: Annotated[str, Field(max_length=63)]
    """Its variant."""
    node: Annotated[str, Field(max_length=253)]
    """Its node."""
    cores: Annotated[str, Field(max_length=1024)] = ""
    """Its cores on that node, such as `8-15`; empty where devices have no ids."""


class LastDecision(Model):
    """The last decision about the number of replicas that changed something or had a new reason."""

    time: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
    """When (RFC 3339)."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, as a constant in CamelCase."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, as a sentence with the numbers."""


class InferenceDeploymentStatus(Model):
    """What the operator last saw and decided."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that the rest was said about."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Replicas that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Replicas that are ready."""
    desired_replicas: Annotated[int, Field(ge=0)] | None = None
    """Replicas that Auto wants; in Advisory it is only shown."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Where the Service answers inside the cluster."""
    queue_depth: Annotated[int, Field(ge=0)] | None = None
    """Requests waiting, over all signals; absent when unknown. Written when it moves by a tenth, at most every 30 s."""
    arrival_rate: Rate | None = None
    """Requests arriving per second; absent when unknown."""
    usd_per_hour: Money | None = Field(default=None, alias="usdPerHour")
    """What the replicas cost now, in US dollars per hour; absent when a price is unknown."""
    usd_per_million_requests: Money | None = Field(default=None, alias="usdPerMillionRequests")
    """What a million requests cost at the present rate, in US dollars."""
    variants: Annotated[
        tuple[VariantStatus, ...], Field(max_length=32, json_schema_extra={LIST_MAP_KEYS: ["name"]})
    ] = ()
    """Each variant's replicas and what has been learnt of it."""
    placements: Annotated[tuple[PlacementStatus, ...], Field(max_length=100)] = ()
    """Where the replicas are, the first 100 by name; all of them stand on the Pods."""
    last_decision: LastDecision | None = None
    """The last decision about the number of replicas, with its reason."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={LIST_MAP_KEYS: ["type"]})] = ()
    """Accepted, Ready, ScalingActive, CapacityAvailable, WithinBudget."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the Pods, for the scale subresource."""


class InferenceDeployment(Model):
    """One inference model that runs on the fleet: how it may run, how it scales, what it may cost."""

    api_version: Literal["fleetpack.dev/v1alpha1"] = "fleetpack.dev/v1alpha1"
    kind: Literal["InferenceDeployment"] = "InferenceDeployment"
    metadata: ObjectMeta = ObjectMeta()
    spec: InferenceDeploymentSpec
    status: InferenceDeploymentStatus = InferenceDeploymentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message=(
                "metadata.name names the Service and labels the Pods: at most 63 lower case letters, digits and "
                "dashes, beginning with a letter"
            ),
            holds=lambda deployment: _is_service_name(deployment.metadata.name),
        ),
    )

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


def _is_service_name(name: str) -> bool:
    body = name.replace("-", "a")
    return (
        0 < len(name) <= 63
        and name.isascii()
        and body.isalnum()
        and body == body.lower()
        and name[0].isalpha()
        and name[-1] != "-"
    )

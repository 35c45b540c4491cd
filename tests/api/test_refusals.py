"""Bad manifests, and what a person reads when one is refused.

One table, two readers: the API server (through `kubectl apply`, as a person meets it) and the parser that needs no server. Each
row changes one thing in a manifest that is good, and names the words that the answer must have: the field, and what is allowed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from fleetpack.api import AcceleratorPool, InferenceDeployment

if TYPE_CHECKING:
    from kubectl import Kubectl

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "fleetpack.dev/v1alpha1",
    "kind": "InferenceDeployment",
    "metadata": {"name": "good", "namespace": "default"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {"name": "server", "image": "example.com/server:1", "resources": {"requests": {"cpu": "2"}}},
                    {"name": "proxy", "image": "example.com/proxy:1"},
                ]
            }
        },
        "variants": [{"name": "tp8", "accelerator": "inferentia2", "cores": 8}],
        "scaling": {
            "signals": [
                {"name": "engine", "podMetrics": {"port": 8000}},
                {
                    "name": "broker",
                    "prometheus": {"url": "http://prometheus:9090", "query": "sum(waiting)"},
                    "measures": "waiting",
                },
            ]
        },
        "disruption": {"windows": [{"start": "22:00", "duration": "4h"}]},
    },
}

POOL: dict[str, Any] = {
    "apiVersion": "fleetpack.dev/v1alpha1",
    "kind": "AcceleratorPool",
    "metadata": {"name": "good"},
    "spec": {
        "provider": "Simulated",
        "instanceTypes": ["inf2.24xlarge"],
        "customInstanceTypes": [
            {"name": "own", "accelerator": "inferentia2", "devices": 4, "cpu": 32, "memory": "128Gi"},
        ],
        "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]},
        "simulation": {"bootDelay": "5s"},
    },
}

ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One change that makes a good manifest bad."""

    name: str
    base: dict[str, Any] | None = None
    """The good manifest; None: the deployment above."""
    path: str
    value: Any
    server_says: tuple[str, ...]
    parser_says: tuple[str, ...] | None = None
    """None: the same words as the server's; empty: only the API server can know (Pod templates, names of Kubernetes)."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The bad manifest."""
        return changed(self.base or DEPLOYMENT, self.path, self.value)


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of `base` with the field at `path` (as in `spec.variants.0.cores`) set, or taken away if `ABSENT`."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    node: Any = result
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if value is ABSENT:
        del node[last]
    elif isinstance(node, list):
        node[int(last) :] = [value]
    else:
        node[last] = value
    return result


SIGNAL = "spec.scaling.signals"
SERVER = "spec.template.spec.containers.0"

DEPLOYMENT_REFUSALS = (
    # The template
    Refusal(name="no template", path="spec.template", value=ABSENT, server_says=("spec.template", "Required value")),
    Refusal(
        name="template without containers",
        path="spec.template.spec.containers",
        value=[],
        server_says=("spec.template.spec.containers", "at least 1 items"),
        parser_says=(),
    ),
    Refusal(
        name="NeuronCores in the template",
        path=f"{SERVER}.resources.limits",
        value={"aws.amazon.com/neuroncore": 8},
        server_says=("spec.template.spec.containers[0].resources.limits", "set cores or devices of the variant"),
        parser_says=("template", "cores and devices of the variants"),
    ),
    Refusal(
        name="GPUs in the requests of a sidecar",
        path="spec.template.spec.containers.1.resources",
        value={"requests": {"nvidia.com/gpu": 1}},
        server_says=("spec.template.spec.containers[1].resources.requests", "set cores or devices of the variant"),
        parser_says=("template", "cores and devices of the variants"),
    ),
    Refusal(
        name="NeuronCores in an init container",
        path="spec.template.spec.initContainers",
        value=[{"name": "warm", "resources": {"limits": {"aws.amazon.com/neuron": 1}}}],
        server_says=("spec.template.spec.initContainers[0].resources.limits", "set cores or devices of the variant"),
        parser_says=("template", "cores and devices of the variants"),
    ),
    Refusal(
        name="NeuronCores in a variant's template",
        path="spec.variants.0.template",
        value={"spec": {"containers": [{"name": "server", "resources": {"limits": {"aws.amazon.com/neuroncore": 8}}}]}},
        server_says=("spec.variants[0].template.spec.containers[0].resources.limits", "cores or devices"),
        parser_says=("template", "cores and devices of the variant"),
    ),
    Refusal(
        name="a node chosen in the template",
        path="spec.template.spec.nodeName",
        value="node-1",
        server_says=("spec.template.spec.nodeName", "the operator decides where a replica runs"),
        parser_says=(),
    ),
    Refusal(
        name="a template that ends by itself",
        path="spec.template.spec.restartPolicy",
        value="Never",
        server_says=("spec.template.spec.restartPolicy", "must be Always"),
        parser_says=(),
    ),
    Refusal(
        name="a misspelt field of a container",
        path=f"{SERVER}.imagee",
        value="x",
        server_says=('unknown field "spec.template.spec.containers[0].imagee"',),
        parser_says=(),
    ),
    Refusal(
        name="two containers of one name",
        path="spec.template.spec.containers.1.name",
        value="server",
        server_says=("spec.template.spec.containers[1]", "Duplicate value"),
        parser_says=(),
    ),
    Refusal(
        name="a serving container that is not there",
        path="spec.servingContainer",
        value="engine",
        server_says=("spec.servingContainer", "must be the name of a container in template.spec.containers"),
        parser_says=("servingContainer", "must be the name of a container in template.spec.containers"),
    ),
    # The variants
    Refusal(name="no variants", path="spec.variants", value=[], server_says=("spec.variants", "at least 1 item")),
    Refusal(
        name="too many variants",
        path="spec.variants",
        value=[{"name": f"v{number}", "accelerator": "inferentia2", "cores": 2} for number in range(17)],
        server_says=("spec.variants", "16"),
    ),
    Refusal(
        name="two variants of one name",
        path="spec.variants",
        value=[{"name": "a", "accelerator": "inferentia2", "cores": 2}] * 2,
        server_says=("spec.variants[1]", "Duplicate value"),
        parser_says=("variants", "a occurs more than once"),
    ),
    Refusal(
        name="cores and devices",
        path="spec.variants.0.devices",
        value=4,
        server_says=("spec.variants[0]", "exactly one of cores and devices must be set"),
        parser_says=("exactly one of cores and devices must be set",),
    ),
    Refusal(
        name="neither cores nor devices",
        path="spec.variants.0.cores",
        value=ABSENT,
        server_says=("spec.variants[0]", "exactly one of cores and devices must be set"),
        parser_says=("exactly one of cores and devices must be set",),
    ),
    Refusal(
        name="zero cores",
        path="spec.variants.0.cores",
        value=0,
        server_says=("spec.variants[0].cores", "greater than or equal to 1"),
        parser_says=("spec.variants.0.cores", "greater than or equal to 1"),
    ),
    Refusal(
        name="a variant without accelerator",
        path="spec.variants.0.accelerator",
        value=ABSENT,
        server_says=("spec.variants[0].accelerator", "Required value"),
        parser_says=("spec.variants.0.accelerator", "Field required"),
    ),
    Refusal(
        name="a variant's name with capitals",
        path="spec.variants.0.name",
        value="TP8",
        server_says=("spec.variants[0].name", "at most 32 lower case letters, digits and dashes"),
        parser_says=("spec.variants.0.name", "at most 32 lower case letters, digits and dashes"),
    ),
    Refusal(
        name="a prior without quotes",
        path="spec.variants.0.performance",
        value={"requestsPerSecond": 2.5},
        server_says=("spec.variants[0].performance.requestsPerSecond", "must be of type string"),
        parser_says=("spec.variants.0.performance.requestsPerSecond", 'a quoted decimal number such as "2.5"'),
    ),
    Refusal(
        name="a prior of nothing",
        path="spec.variants.0.performance",
        value={"requestsPerSecond": "0"},
        server_says=("spec.variants[0].performance.requestsPerSecond", "must be greater than 0"),
        parser_says=("spec.variants.0.performance.requestsPerSecond", "must be greater than 0"),
    ),
    Refusal(
        name="a startup without unit",
        path="spec.variants.0.performance",
        value={"startup": "120"},
        server_says=("spec.variants[0].performance.startup", 'a duration such as "2m"'),
        parser_says=("spec.variants.0.performance.startup", 'a duration such as "2m"'),
    ),
    # The model, the Service, the mode
    Refusal(
        name="weights of seven bits",
        path="spec.model",
        value={"name": "m", "weightBits": 7},
        server_says=("spec.model.weightBits", "supported values", "4", "8", "16", "32"),
        parser_says=("spec.model.weightBits", "4, 8, 16 or 32"),
    ),
    Refusal(
        name="half of a KV cache",
        path="spec.model",
        value={"name": "m", "layers": 32},
        server_says=("spec.model", "set all three or none"),
        parser_says=("spec.model", "set all three or none"),
    ),
    Refusal(
        name="a port that is none",
        path="spec.service",
        value={"port": 70000},
        server_says=("spec.service.port", "less than or equal to 65535"),
    ),
    Refusal(
        name="an unknown mode",
        path="spec.mode",
        value="Automatic",
        server_says=("spec.mode", "Auto", "Advisory", "Manual", "Paused"),
    ),
    Refusal(
        name="negative replicas",
        path="spec.replicas",
        value=-1,
        server_says=("spec.replicas", "greater than or equal to 0"),
    ),
    Refusal(
        name="a field that does not exist",
        path="spec.replica",
        value=2,
        server_says=('unknown field "spec.replica"',),
        parser_says=("spec.replica", "not permitted"),
    ),
    Refusal(
        name="a name that no Service can have",
        path="metadata.name",
        value="8b.llama",
        server_says=("metadata.name", "at most 63 lower case letters, digits and dashes"),
    ),
    Refusal(
        name="a name longer than a label",
        path="metadata.name",
        value="a" * 64,
        server_says=("metadata.name", "at most 63"),
    ),
    # Scaling
    Refusal(
        name="Auto without a signal",
        path=SIGNAL,
        value=[],
        server_says=("spec.scaling.signals", "need at least one signal", "use mode Manual"),
        parser_says=("scaling.signals", "need at least one signal", "use mode Manual"),
    ),
    Refusal(
        name="minReplicas above maxReplicas",
        path="spec.scaling.minReplicas",
        value=11,
        server_says=("spec.scaling.minReplicas", "must not be greater than maxReplicas"),
        parser_says=("spec.scaling", "minReplicas must not be greater than maxReplicas"),
    ),
    Refusal(
        name="zero replicas with signals in the Pods only",
        path="spec.scaling",
        value={"minReplicas": 0, "signals": [{"name": "engine", "podMetrics": {"port": 8000}}]},
        server_says=("spec.scaling.minReplicas", "a signal that lives outside the Pods (prometheus or http)"),
        parser_says=("spec.scaling", "a signal that lives outside the Pods (prometheus or http)"),
    ),
    Refusal(
        name="no most replicas",
        path="spec.scaling.maxReplicas",
        value=0,
        server_says=("spec.scaling.maxReplicas", "greater than or equal to 1"),
    ),
    Refusal(
        name="a queue of no length",
        path="spec.scaling.targetQueueDepth",
        value=0,
        server_says=("spec.scaling.targetQueueDepth", "greater than or equal to 1"),
    ),
    Refusal(
        name="a latency target without latency",
        path="spec.scaling.latencyTarget",
        value={"percentile": 95},
        server_says=("spec.scaling.latencyTarget.ttft", "Required value"),
        parser_says=("spec.scaling.latencyTarget.ttft", "Field required"),
    ),
    Refusal(
        name="the hundredth percentile",
        path="spec.scaling.latencyTarget",
        value={"ttft": "2s", "percentile": 100},
        server_says=("spec.scaling.latencyTarget.percentile", "less than or equal to 99"),
    ),
    Refusal(
        name="scaleToZeroAfter in words",
        path="spec.scaling.scaleToZeroAfter",
        value="ten minutes",
        server_says=("spec.scaling.scaleToZeroAfter", 'a duration such as "2m"'),
    ),
    # Signals
    Refusal(
        name="a signal with two sources",
        path=f"{SIGNAL}.0.http",
        value={"url": "http://queue", "jsonPath": "$.depth"},
        server_says=("spec.scaling.signals[0]", "exactly one of podMetrics, prometheus and http"),
        parser_says=("spec.scaling.signals.0", "exactly one of podMetrics, prometheus and http"),
    ),
    Refusal(
        name="a signal without source",
        path=f"{SIGNAL}.0",
        value={"name": "engine"},
        server_says=("spec.scaling.signals[0]", "exactly one of podMetrics, prometheus and http"),
        parser_says=("spec.scaling.signals.0", "exactly one of podMetrics, prometheus and http"),
    ),
    Refusal(
        name="a number from outside that measures nothing",
        path=f"{SIGNAL}.1.measures",
        value=ABSENT,
        server_says=("spec.scaling.signals[1]", "one of waiting, running, arrivalRate, ttft"),
        parser_says=("spec.scaling.signals.1", "one of waiting, running, arrivalRate, ttft"),
    ),
    Refusal(
        name="an unknown measure",
        path=f"{SIGNAL}.1.measures",
        value="queue",
        server_says=("spec.scaling.signals[1].measures", "waiting", "arrivalRate"),
        parser_says=("spec.scaling.signals.1.measures", "waiting", "arrivalRate"),
    ),
    Refusal(
        name="podMetrics that say what they measure",
        path=f"{SIGNAL}.0.measures",
        value="waiting",
        server_says=("spec.scaling.signals[0]", "measures is for prometheus and http only"),
        parser_says=("spec.scaling.signals.0", "measures is for prometheus and http only"),
    ),
    Refusal(
        name="podMetrics with credentials",
        path=f"{SIGNAL}.0.authentication",
        value={"secretRef": {"name": "s"}},
        server_says=("spec.scaling.signals[0]", "authentication is for prometheus and http only"),
        parser_says=("spec.scaling.signals.0", "authentication is for prometheus and http only"),
    ),
    Refusal(
        name="openmetrics without names",
        path=f"{SIGNAL}.0.podMetrics.format",
        value="openmetrics",
        server_says=("spec.scaling.signals[0].podMetrics", "format openmetrics needs names"),
        parser_says=("spec.scaling.signals.0.podMetrics", "format openmetrics needs names"),
    ),
    Refusal(
        name="an unknown format",
        path=f"{SIGNAL}.0.podMetrics.format",
        value="ollama",
        server_says=("spec.scaling.signals[0].podMetrics.format", "vllm", "tgi", "triton", "openmetrics"),
        parser_says=("spec.scaling.signals.0.podMetrics.format", "vllm", "tgi", "triton", "openmetrics"),
    ),
    Refusal(
        name="two signals of one name",
        path=f"{SIGNAL}.1.name",
        value="engine",
        server_says=("spec.scaling.signals[1]", "Duplicate value"),
        parser_says=("signals", "engine occurs more than once"),
    ),
    Refusal(
        name="stale before it is read again",
        path=f"{SIGNAL}.0.interval",
        value="30s",
        server_says=("spec.scaling.signals[0].staleAfter", "must be at least interval"),
        parser_says=("spec.scaling.signals.0", "staleAfter must be at least interval"),
    ),
    Refusal(
        name="a signal read without pause",
        path=f"{SIGNAL}.0.interval",
        value="1ms",
        server_says=("spec.scaling.signals[0].interval", "must be from 500ms to 1h"),
        parser_says=("spec.scaling.signals.0.interval", "must be from 500ms to 1h"),
    ),
    Refusal(
        name="a Prometheus that is no URL",
        path=f"{SIGNAL}.1.prometheus.url",
        value="prometheus:9090",
        server_says=("spec.scaling.signals[1].prometheus.url", "a URL that begins with http:// or https://"),
        parser_says=("spec.scaling.signals.1.prometheus.url", "a URL that begins with http:// or https://"),
    ),
    Refusal(
        name="a path that is no JSON path",
        path=f"{SIGNAL}.1",
        value={"name": "inbox", "measures": "waiting", "http": {"url": "http://queue", "jsonPath": "depth"}},
        server_says=("spec.scaling.signals[1].http.jsonPath", "a path from the root $ by names and indices"),
        parser_says=("spec.scaling.signals.1.http.jsonPath", "a path from the root $ by names and indices"),
    ),
    # Money and disruption
    Refusal(
        name="money without quotes",
        path="spec.cost",
        value={"maxUSDPerHour": 12.5},
        server_says=("spec.cost.maxUSDPerHour", "must be of type string"),
        parser_says=("spec.cost.maxUSDPerHour", 'a quoted decimal number such as "12.50"'),
    ),
    Refusal(
        name="money with a currency sign",
        path="spec.cost",
        value={"maxUSDPerHour": "$12.50"},
        server_says=("spec.cost.maxUSDPerHour", 'a quoted decimal number such as "12.50"'),
    ),
    Refusal(
        name="a ceiling of nothing",
        path="spec.cost",
        value={"maxUSDPerHour": "0.00"},
        server_says=("spec.cost.maxUSDPerHour", "must be greater than 0"),
    ),
    Refusal(
        name="more than all replicas unavailable",
        path="spec.disruption.maxUnavailable",
        value="110%",
        server_says=("spec.disruption.maxUnavailable", 'a percentage from "0%" to "100%"'),
    ),
    Refusal(
        name="a negative number unavailable",
        path="spec.disruption.maxUnavailable",
        value=-1,
        server_says=("spec.disruption.maxUnavailable", "a whole number that is not negative"),
    ),
    Refusal(
        name="a window at 25 o'clock",
        path="spec.disruption.windows.0.start",
        value="25:00",
        server_says=("spec.disruption.windows[0].start", "a time of day of 24 hours"),
        parser_says=("spec.disruption.windows.0.start", "a time of day of 24 hours"),
    ),
    Refusal(
        name="a window on no day of the week",
        path="spec.disruption.windows.0.days",
        value=["Monday"],
        server_says=("spec.disruption.windows[0].days[0]", "Mon", "Sun"),
        parser_says=("spec.disruption.windows.0.days.0", "Mon", "Sun"),
    ),
    Refusal(
        name="a window that is longer than a day",
        path="spec.disruption.windows.0.duration",
        value="25h",
        server_says=("spec.disruption.windows[0].duration", "must be from 1m to 24h"),
        parser_says=("spec.disruption.windows.0.duration", "must be from 1m to 24h"),
    ),
)

POOL_REFUSALS = (
    Refusal(
        name="no provider",
        base=POOL,
        path="spec.provider",
        value=ABSENT,
        server_says=("spec.provider", "Required value"),
        parser_says=("spec.provider", "Field required"),
    ),
    Refusal(
        name="an unknown provider",
        base=POOL,
        path="spec.provider",
        value="ClusterAutoscaler",
        server_says=("spec.provider", "Static", "Simulated", "Karpenter"),
    ),
    Refusal(
        name="nothing to launch",
        base=POOL,
        path="spec",
        value={"provider": "Simulated"},
        server_says=("spec.instanceTypes", "need instanceTypes or customInstanceTypes"),
        parser_says=("instanceTypes", "need instanceTypes or customInstanceTypes"),
    ),
    Refusal(
        name="a simulation of real machines",
        base=POOL,
        path="spec.provider",
        value="Static",
        server_says=("spec.simulation", "for the provider Simulated only"),
        parser_says=("simulation", "for the provider Simulated only"),
    ),
    Refusal(
        name="an instance type twice",
        base=POOL,
        path="spec.instanceTypes",
        value=["inf2.xlarge", "inf2.xlarge"],
        server_says=("spec.instanceTypes[1]", "Duplicate value"),
        parser_says=("instanceTypes", "inf2.xlarge occurs more than once"),
    ),
    Refusal(
        name="an own type with a name of the catalog's list",
        base=POOL,
        path="spec.customInstanceTypes.0.name",
        value="inf2.24xlarge",
        server_says=("spec.customInstanceTypes", "must not have a name that instanceTypes has too"),
        parser_says=("customInstanceTypes", "must not have a name that instanceTypes has too"),
    ),
    Refusal(
        name="an own type without memory",
        base=POOL,
        path="spec.customInstanceTypes.0.memory",
        value=ABSENT,
        server_says=("spec.customInstanceTypes[0].memory", "Required value"),
        parser_says=("spec.customInstanceTypes.0.memory", "Field required"),
    ),
    Refusal(
        name="memory in words",
        base=POOL,
        path="spec.customInstanceTypes.0.memory",
        value="128 GB",
        server_says=("spec.customInstanceTypes[0].memory", 'a quantity such as 96, "250m" or "384Gi"'),
        parser_says=("spec.customInstanceTypes.0.memory", 'a quantity such as 96, "250m" or "384Gi"'),
    ),
    Refusal(
        name="a torus of four",
        base=POOL,
        path="spec.customInstanceTypes.0.topology",
        value="torus2d-4x4",
        server_says=("spec.customInstanceTypes[0].devices", "needs exactly 16 devices"),
        parser_says=("spec.customInstanceTypes.0", "needs exactly 16 devices"),
    ),
    Refusal(
        name="an unknown topology",
        base=POOL,
        path="spec.customInstanceTypes.0.topology",
        value="star",
        server_says=("spec.customInstanceTypes[0].topology", "none", "ring", "torus2d-4x4", "switched"),
        parser_says=("spec.customInstanceTypes.0.topology", "none", "ring", "torus2d-4x4", "switched"),
    ),
    Refusal(
        name="more devices for one replica than there are",
        base=POOL,
        path="spec.customInstanceTypes.0.allowedDeviceCounts",
        value=[1, 8],
        server_says=("spec.customInstanceTypes[0].allowedDeviceCounts", "must not be greater than devices"),
        parser_says=("spec.customInstanceTypes.0", "allowedDeviceCounts must not be greater than devices"),
    ),
    Refusal(
        name="an unknown capacity type",
        base=POOL,
        path="spec.capacityTypes",
        value=["preemptible"],
        server_says=("spec.capacityTypes[0]", "on-demand", "spot", "reserved"),
        parser_says=("spec.capacityTypes.0", "on-demand", "spot", "reserved"),
    ),
    Refusal(
        name="two prices for one machine",
        base=POOL,
        path="spec.priceOverrides",
        value=[
            {"instanceType": "inf2.24xlarge", "usdPerHour": "5"},
            {"instanceType": "inf2.24xlarge", "usdPerHour": "6"},
        ],
        server_says=("spec.priceOverrides[1]", "Duplicate value"),
        parser_says=("priceOverrides", "inf2.24xlarge, on-demand occurs more than once"),
    ),
    Refusal(
        name="a limit below zero",
        base=POOL,
        path="spec.limits",
        value={"nodes": -1},
        server_says=("spec.limits.nodes", "greater than or equal to 0"),
    ),
    Refusal(
        name="a limit in euros",
        base=POOL,
        path="spec.limits",
        value={"usdPerHour": "80 EUR"},
        server_says=("spec.limits.usdPerHour", "US dollars as a quoted decimal number"),
    ),
    Refusal(
        name="a selector without values",
        base=POOL,
        path="spec.namespaceSelector.matchExpressions.0.values",
        value=[],
        server_says=("spec.namespaceSelector.matchExpressions[0].values", "In and NotIn need values"),
        parser_says=("spec.namespaceSelector.matchExpressions.0", "In and NotIn need values"),
    ),
    Refusal(
        name="more failures than launches",
        base=POOL,
        path="spec.simulation.failureRate",
        value="1.5",
        server_says=("spec.simulation.failureRate", "must be at most 1"),
    ),
    Refusal(
        name="a budget of half a node",
        base=POOL,
        path="spec.disruption",
        value={"budgets": [{"nodes": "0.5"}]},
        server_says=("spec.disruption.budgets[0].nodes", "a whole number that is not negative, or a percentage"),
        parser_says=("spec.disruption.budgets.0.nodes", "a whole number that is not negative, or a percentage"),
    ),
)

REFUSALS = DEPLOYMENT_REFUSALS + POOL_REFUSALS


def cases(refusals: tuple[Refusal, ...]) -> list[Any]:
    """Return one parameter for each, named as in the table."""
    return [pytest.param(refusal, id=refusal.name) for refusal in refusals]


def parse(manifest: dict[str, Any]) -> object:
    """Read a manifest strictly, as its kind says."""
    kinds = {"InferenceDeployment": InferenceDeployment, "AcceleratorPool": AcceleratorPool}
    return kinds[manifest["kind"]].parse_strictly(manifest)


@pytest.mark.parametrize("manifest", [DEPLOYMENT, POOL], ids=["InferenceDeployment", "AcceleratorPool"])
def test_should_take_the_manifest_that_the_bad_ones_are_made_from(manifest: dict[str, Any]) -> None:
    parse(manifest)


@pytest.mark.parametrize("refusal", cases(tuple(refusal for refusal in REFUSALS if refusal.parser_says != ())))
def test_should_refuse_without_a_server_and_say_why(refusal: Refusal) -> None:
    with pytest.raises(ValidationError) as raised:
        parse(refusal.manifest)

    text = str(raised.value)
    expected = refusal.parser_says or refusal.server_says
    assert [words for words in expected if words not in text and words != "Required value"] == [], text


@pytest.mark.cluster
@pytest.mark.parametrize("refusal", cases(REFUSALS))
def test_should_be_refused_by_the_api_server_with_the_field_and_what_is_allowed(
    kubectl: Kubectl, refusal: Refusal
) -> None:
    answer = kubectl.run("apply", "--dry-run=server", "-f", "-", manifest=refusal.manifest)

    assert answer.returncode != 0, f"taken: {answer.stdout}"
    assert [words for words in refusal.server_says if words not in answer.stderr] == [], answer.stderr


@pytest.mark.cluster
@pytest.mark.parametrize("manifest", [DEPLOYMENT, POOL], ids=["InferenceDeployment", "AcceleratorPool"])
def test_should_be_taken_by_the_api_server_before_the_change(kubectl: Kubectl, manifest: dict[str, Any]) -> None:
    answer = kubectl.run("apply", "--dry-run=server", "-f", "-", manifest=manifest)

    assert answer.returncode == 0, answer.stderr

module fleetpack.dev/hack/prometheus_operator

go 1.26.0

// Nothing is built of it: its CustomResourceDefinitions are what the chart's monitors are checked against.
require github.com/prometheus-operator/prometheus-operator v0.85.0

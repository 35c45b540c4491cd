"""A scenario file with one pool and one model, for tests that vary the rest."""

from __future__ import annotations

from pathlib import Path

MANIFESTS = """
---
apiVersion: fleetpack.dev/v1alpha1
kind: AcceleratorPool
metadata: {name: ring}
spec: {provider: Simulated, instanceTypes: [inf2.24xlarge], simulation: {bootDelay: 7s, failureRate: "0.25"}}
---
apiVersion: fleetpack.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: chat}
spec:
  model: {name: a-model, parametersBillions: 1.24, contextTokens: 2048}
  template: {spec: {containers: [{name: server, image: "example.com/x:1"}]}}
  variants:
  - {name: tp2, accelerator: inferentia2, cores: 2, performance: {maxConcurrency: 8, startup: 90s}}
  scaling: {latencyTarget: {ttft: 1500ms, percentile: 90}, signals: [{name: engine, podMetrics: {port: 8000}}]}
"""


def write(folder: Path, text: str, manifests: str = MANIFESTS) -> Path:
    path = folder / "one.yaml"
    path.write_text(text + manifests, encoding="utf-8")
    return path

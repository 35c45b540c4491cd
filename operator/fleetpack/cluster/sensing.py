"""Which sources to read for the fleet of this moment. Pure: resources and replicas in, targets out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleetpack.api.inference_deployment import InferenceDeployment, MetricsFormat, Signal
from fleetpack.core.fleet import FleetSnapshot, Replica, ReplicaPhase
from fleetpack.signals import Credentials, HttpTarget, Measure, MetricNames, PodTarget, PrometheusTarget, Target

READ_PHASES = (ReplicaPhase.READY, ReplicaPhase.DRAINING)
"""A loading replica answers nothing; a draining one tells when it is idle."""


def signal_targets(
    deployments: Mapping[str, InferenceDeployment],
    snapshot: FleetSnapshot,
    secrets: Mapping[tuple[str, str], Credentials],
) -> tuple[Target, ...]:
    """Return every source to read, each Pod by its address; `secrets` are known credentials by namespace and name."""
    replicas: dict[str, list[Replica]] = {}
    for replica in snapshot.replicas:
        if replica.phase in READ_PHASES and replica.address:
            replicas.setdefault(replica.deployment, []).append(replica)
    return tuple(
        target
        for key, resource in sorted(deployments.items())
        for signal in resource.spec.scaling.signals
        for target in _targets(key, signal, replicas.get(key, ()), _credentials(resource, signal, secrets))
    )


def _credentials(
    resource: InferenceDeployment, signal: Signal, secrets: Mapping[tuple[str, str], Credentials]
) -> Credentials | None:
    if signal.authentication is None:
        return None
    return secrets.get((resource.metadata.namespace, signal.authentication.secret_ref.name))


def _targets(
    key: str, signal: Signal, replicas: Iterable[Replica], credentials: Credentials | None
) -> Iterable[Target]:
    interval_seconds = signal.interval.seconds
    if signal.pod_metrics is not None:
        source = signal.pod_metrics
        return [
            PodTarget(
                deployment=key,
                signal=signal.name,
                pod_uid=replica.uid,
                address=replica.address,
                port=source.port,
                path=source.path,
                names=_names(signal),
                interval_seconds=interval_seconds,
            )
            for replica in replicas
        ]
    measures = Measure(signal.measures) if signal.measures else Measure.WAITING
    if signal.prometheus is not None:
        return [
            PrometheusTarget(
                deployment=key,
                signal=signal.name,
                url=signal.prometheus.url,
                query=signal.prometheus.query,
                measures=measures,
                credentials=credentials,
                interval_seconds=interval_seconds,
            )
        ]
    if signal.http is not None:
        return [
            HttpTarget(
                deployment=key,
                signal=signal.name,
                url=signal.http.url,
                json_path=signal.http.json_path,
                measures=measures,
                credentials=credentials,
                interval_seconds=interval_seconds,
            )
        ]
    return []


def _names(signal: Signal) -> MetricNames:
    source = signal.pod_metrics
    assert source is not None
    if source.format is MetricsFormat.OPENMETRICS and source.names is not None:
        return MetricNames(
            waiting=source.names.waiting,
            running=source.names.running,
            finished=(source.names.requests,) if source.names.requests else (),
            ttft=source.names.ttft,
        )
    return {
        MetricsFormat.TGI: MetricNames.TGI,
        MetricsFormat.TRITON: MetricNames.TRITON,
    }.get(source.format, MetricNames.VLLM)

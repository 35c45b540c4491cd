"""Builders of core values for tests: everything has a sensible default, a test names only what matters to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fleetpack.catalog import load_catalog
from fleetpack.core.cores import format_cores, parse_cores
from fleetpack.core.decision import CreateReplica, DeleteReplica, DrainReplica, SetScale
from fleetpack.core.deployments import Deployment, Disruption, SignalSpecification, Variant
from fleetpack.core.fleet import (
    FleetSnapshot,
    Node,
    Offering,
    Pool,
    PoolProvider,
    Replica,
    ReplicaPhase,
    Resources,
)
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.samples import Sample

NOW = 1_000_000.0
ENGINE = SignalSpecification(name="engine", in_pods=True)
QUEUE = SignalSpecification(name="inbox", in_pods=False, measures="waiting")


def a_variant(name: str = "tp8", cores: int = 8, **changes: Any) -> Variant:
    values: dict[str, Any] = {
        "name": name,
        "accelerator": "inferentia2",
        "cores": cores,
        "prior_requests_per_second": 2.0,
        "prior_concurrency": 32,
        "prior_startup_seconds": 10.0,
        "requests": Resources(cpu_millicores=1000, memory_bytes=2**30, pods=1),
        "template_hash": "hash-1",
    }
    return Variant(**{**values, **changes})


def a_deployment(name: str = "chat", **changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "namespace": "default",
        "name": name,
        "uid": f"uid-{name}",
        "variants": (a_variant(),),
        "signals": (ENGINE,),
        "disruption": Disruption(drain_seconds=30.0),
    }
    return Deployment(**{**values, **changes})


def a_node(name: str = "node-a", instance_type: str = "inf2.48xlarge", **changes: Any) -> Node:
    kind = load_catalog().instance_types[instance_type]
    values: dict[str, Any] = {
        "name": name,
        "pool": "inferentia2",
        "instance_type": kind,
        "ready": True,
        "created_at": NOW - 3600,
        "price_usd_per_hour": kind.price_usd_per_hour,
        "allocatable": Resources(
            cpu_millicores=kind.allocatable_cpu_millicores or 0,
            memory_bytes=kind.allocatable_memory_bytes or 0,
            pods=kind.max_pods or 0,
            accelerator_cores=kind.cores,
        ),
    }
    return Node(**{**values, **changes})


def a_pool(name: str = "inferentia2", provider: PoolProvider = PoolProvider.STATIC, **changes: Any) -> Pool:
    types = load_catalog().instance_types
    offerings = tuple(
        Offering(instance_type=types[kind], price_usd_per_hour=types[kind].price_usd_per_hour)
        for kind in ("inf2.24xlarge", "inf2.48xlarge")
    )
    return replace(Pool(name=name, provider=provider, offerings=offerings), **changes)


def a_replica(ordinal: int = 0, cores: str = "0-7", **changes: Any) -> Replica:
    """A ready replica of `a_deployment()` on `a_node()`."""
    mask = parse_cores(cores)
    deployment = changes.get("deployment", "default/chat")
    variant = changes.get("variant", "tp8")
    name = f"{deployment.partition('/')[2]}-{variant}-{ordinal}"
    values: dict[str, Any] = {
        "deployment": deployment,
        "variant": variant,
        "name": name,
        "uid": f"uid-{name}",
        "resource_version": "1",
        "node": "node-a",
        "cores": mask,
        "planned_cores": mask,
        "cores_count": mask.bit_count(),
        "phase": ReplicaPhase.READY,
        "template_hash": "hash-1",
        "requests": Resources(cpu_millicores=1000, memory_bytes=2**30, pods=1, accelerator_cores=mask.bit_count()),
        "created_at": NOW - 1000,
        "ready_at": NOW - 990,
        "address": "127.10.0.1",
    }
    return Replica(**{**values, **changes})


def a_sample(replica: Replica, *, at: float = NOW, **numbers: Any) -> Sample:
    values: dict[str, Any] = {
        "deployment": replica.deployment,
        "signal": "engine",
        "pod_uid": replica.uid,
        "observed_at": at,
        "waiting": 0.0,
        "running": 0.0,
        "finished_total": 0.0,
        "arrival_rate_per_second": None,
        "ttft_seconds": None,
    }
    return Sample(**{**values, **numbers})


def some_inputs(**changes: Any) -> Inputs:
    """Inputs with one pool and one inf2.48xlarge, `snapshot` given in parts: nodes, replicas, foreign_pods, pools."""
    snapshot = FleetSnapshot(
        nodes=changes.pop("nodes", (a_node(),)),
        replicas=changes.pop("replicas", ()),
        foreign_pods=changes.pop("foreign_pods", ()),
        pools=changes.pop("pools", (a_pool(),)),
    )
    values: dict[str, Any] = {"now": NOW, "deployments": (a_deployment(),), "snapshot": snapshot}
    return Inputs(**{**values, **changes})


def said(plan: Plan) -> list[str]:
    """The plan's actions, one short line each: what a person would say is going to happen."""
    lines = []
    for action in plan.actions:
        if isinstance(action, CreateReplica):
            lines.append(f"create {action.name} on {action.node} cores {format_cores(action.cores)}")
        elif isinstance(action, DrainReplica | DeleteReplica):
            verb = "drain" if isinstance(action, DrainReplica) else "delete"
            lines.append(f"{verb} {action.name}")
        elif isinstance(action, SetScale):
            lines.append(f"scale {action.deployment} to {action.replicas}")
        else:
            lines.append(f"{type(action).__name__} {getattr(action, 'name', getattr(action, 'node', ''))}")
    return lines

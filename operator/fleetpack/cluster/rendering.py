"""The Kubernetes objects that fleetpack makes: a replica's Pod, a deployment's Service, a simulated node. Pure functions.

A Pod is the user's template with exactly what placement needs added: cores on the serving container, affinity to one node,
labels, annotations, an owner. Nothing the user wrote is taken away, but annotations that are fleetpack's own words about a Pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.catalog import InstanceType
from fleetpack.cluster import names
from fleetpack.core.cores import format_cores
from fleetpack.core.decision import CreateReplica
from fleetpack.core.templates import merge_template

Manifest = dict[str, Any]


def owner_reference(resource: InferenceDeployment) -> Manifest:
    """Return the reference by which Kubernetes deletes what we made when the InferenceDeployment goes."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.metadata.name,
        "uid": resource.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def render_pod(resource: InferenceDeployment, action: CreateReplica, instance_type: InstanceType) -> Manifest:
    """Return the Pod of one replica, for its planned node and cores.

    Raises `ValueError` when the spec no longer has the variant: the plan was made from an older spec.
    """
    variant = next((entry for entry in resource.spec.variants if entry.name == action.variant), None)
    if variant is None:
        raise ValueError(f"{action.deployment}: variant {action.variant!r} is no longer in spec.variants; planned anew")
    template = merge_template(resource.spec.template, variant.template or {})
    metadata, spec = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
    serving = resource.spec.serving_container or spec["containers"][0]["name"]
    spec["containers"] = [
        _with_cores(container, instance_type.resource_name, action.cores_count)
        if container["name"] == serving
        else container
        for container in spec["containers"]
    ]
    spec["affinity"] = _with_node(spec.get("affinity") or {}, action.node)
    # A template made from a Pod that ran has its annotations too: they would be believed to be this Pod's.
    written = {
        key: text for key, text in (metadata.get("annotations") or {}).items() if key not in names.POD_ANNOTATIONS
    }
    annotations = {
        **written,
        names.TEMPLATE_HASH_ANNOTATION: action.template_hash,
    }
    if action.cores:
        annotations[names.CORES_ANNOTATION] = format_cores(action.cores)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": action.name,
            "namespace": resource.metadata.namespace,
            "labels": {
                **(metadata.get("labels") or {}),
                names.DEPLOYMENT_LABEL: resource.metadata.name,
                names.VARIANT_LABEL: action.variant,
                names.SERVING_LABEL: "true",
            },
            "annotations": annotations,
            "ownerReferences": [owner_reference(resource)],
        },
        "spec": spec,
    }


def _with_cores(container: Mapping[str, Any], resource_name: str, count: int) -> Manifest:
    resources = dict(container.get("resources") or {})
    for kind in ("limits", "requests"):
        resources[kind] = {**(resources.get(kind) or {}), resource_name: str(count)}
    return {**container, "resources": resources}


def _with_node(affinity: Mapping[str, Any], node: str) -> Manifest:
    """Add the one node to every term of the user's own node affinity: terms are alternatives, fields in a term add up."""
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    node_affinity = dict(affinity.get("nodeAffinity") or {})
    terms = (node_affinity.get(required) or {}).get("nodeSelectorTerms") or [{}]
    node_affinity[required] = {
        "nodeSelectorTerms": [{**term, "matchFields": [*(term.get("matchFields") or ()), field]} for term in terms]
    }
    return {**affinity, "nodeAffinity": node_affinity}


def render_service(resource: InferenceDeployment) -> Manifest | None:
    """Return the Service of a deployment that asks for one; it selects the replicas that serve."""
    service = resource.spec.service
    if service is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(resource),
            "namespace": resource.metadata.namespace,
            "labels": {names.DEPLOYMENT_LABEL: resource.metadata.name},
            "ownerReferences": [owner_reference(resource)],
        },
        "spec": {
            "selector": {names.DEPLOYMENT_LABEL: resource.metadata.name, names.SERVING_LABEL: "true"},
            "ports": [
                {
                    "name": "http",
                    "port": service.port,
                    "targetPort": service.target_port or service.port,
                    "protocol": "TCP",
                }
            ],
        },
    }


def render_disruption_budget(resource: InferenceDeployment, minimum_available: int) -> Manifest:
    """Return the budget that makes `kubectl drain` ask before it takes replicas away.

    It is an integer, because the Pods have no workload controller whose size Kubernetes could take a share of.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": resource.metadata.name,
            "namespace": resource.metadata.namespace,
            "labels": {names.DEPLOYMENT_LABEL: resource.metadata.name},
            "ownerReferences": [owner_reference(resource)],
        },
        "spec": {
            "minAvailable": minimum_available,
            "selector": {"matchLabels": {names.DEPLOYMENT_LABEL: resource.metadata.name, names.SERVING_LABEL: "true"}},
        },
    }


def covers(stored: object, wanted: object) -> bool:
    """Whether what is stored has everything that is wanted; the API server and other people may have added to it.

    Not to a selector: it would select less.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(stored, Mapping) or ("selector" in wanted and stored.get("selector") != wanted["selector"]):
            return False
        return all(covers(stored.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(stored, list) and all(any(covers(own, entry) for own in stored) for entry in wanted)
    return stored == wanted


def service_name(resource: InferenceDeployment) -> str:
    """Return the name of the deployment's Service."""
    service = resource.spec.service
    return (service.name if service else None) or resource.metadata.name


def service_url(resource: InferenceDeployment) -> str:
    """Return where the deployment answers inside the cluster; empty without a Service."""
    service = resource.spec.service
    if service is None:
        return ""
    return f"http://{service_name(resource)}.{resource.metadata.namespace}.svc:{service.port}"


def render_simulated_node(name: str, pool: str, instance_type: InstanceType, boot_seconds: float) -> Manifest:
    """Return a node without a machine, for kwok: labels, capacity and allocatable of its instance type."""
    amounts = {
        "cpu": f"{instance_type.allocatable_cpu_millicores or 0}m",
        "memory": str(instance_type.allocatable_memory_bytes or 0),
        "pods": str(instance_type.max_pods or 110),
        instance_type.resource_name: str(instance_type.cores),
    }
    if instance_type.resource_name == names.NEURON_CORE_RESOURCE:
        amounts["aws.amazon.com/neuron"] = str(instance_type.devices)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                names.POOL_LABEL: pool,
                names.INSTANCE_TYPE_LABEL: instance_type.name,
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "type": "kwok",
            },
            "annotations": {
                names.KWOK_NODE_ANNOTATION: "fake",
                names.BOOT_SECONDS_ANNOTATION: f"{boot_seconds:g}",
            },
        },
        "status": {"capacity": amounts, "allocatable": amounts},
    }

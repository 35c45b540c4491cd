"""The words that fleetpack writes on Kubernetes objects: labels, annotations, resources, paths. Each once."""

from __future__ import annotations

GROUP = "fleetpack.dev"
VERSION = "v1alpha1"
FIELD_MANAGER = "fleetpack"

DEPLOYMENT_LABEL = f"{GROUP}/deployment"
VARIANT_LABEL = f"{GROUP}/variant"
SERVING_LABEL = f"{GROUP}/serving"
"""`true` while the replica is in its Service, `false` while it drains."""
POOL_LABEL = f"{GROUP}/pool"

CORES_ANNOTATION = f"{GROUP}/cores"
"""The planned cores: `8-15`."""
ALLOCATED_CORES_ANNOTATION = f"{GROUP}/allocated-cores"
"""The cores that the kubelet gave: the truth, where it is known."""
UNHEALTHY_CORES_ANNOTATION = f"{GROUP}/unhealthy-cores"
"""On a node: the cores that its device plugin has taken out, `6-7`; empty or absent: none."""
TEMPLATE_HASH_ANNOTATION = f"{GROUP}/template-hash"
DRAINING_SINCE_ANNOTATION = f"{GROUP}/draining-since"
POD_ANNOTATIONS = frozenset(
    {CORES_ANNOTATION, ALLOCATED_CORES_ANNOTATION, TEMPLATE_HASH_ANNOTATION, DRAINING_SINCE_ANNOTATION}
)
"""What only fleetpack says of a Pod."""
BOOT_SECONDS_ANNOTATION = f"{GROUP}/simulated-boot-seconds"
"""On a simulated node: how long it takes to become Ready."""
KWOK_NODE_ANNOTATION = "kwok.x-k8s.io/node"

INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
NEURON_CORE_RESOURCE = "aws.amazon.com/neuroncore"
NEURON_DEVICE_RESOURCE = "aws.amazon.com/neuron"
"""Whole devices; counted apart from cores by the scheduler, over the same silicon."""

PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
INFERENCE_DEPLOYMENTS = f"/apis/{GROUP}/{VERSION}/inferencedeployments"
ACCELERATOR_POOLS = f"/apis/{GROUP}/{VERSION}/acceleratorpools"


def pod_path(namespace: str, name: str = "") -> str:
    """Return the path of the Pods of a namespace, or of one of them."""
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def deployment_path(key: str, subresource: str = "") -> str:
    """Return the path of an InferenceDeployment `namespace/name`, or of one of its subresources."""
    namespace, _, name = key.partition("/")
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/inferencedeployments/{name}"
    return f"{path}/{subresource}" if subresource else path

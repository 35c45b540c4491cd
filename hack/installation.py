"""Installs fleetpack on a control plane of `hack/cluster`: the CRDs, and exactly the chart's RBAC for a service account.

Concept: the operator runs outside the cluster here, as a process with the service account's token, so what a chart would install
beside it (the Deployment) is left out; what it may do is what `helm template` says. Boundary: no process is started. Failure: an
answer of the API server or of helm that is no success ends the installation with that answer.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from control_plane import binaries
from control_plane.api_client import ApiClient, ApiError
from control_plane.programs import HELM

REPOSITORY = Path(__file__).resolve().parents[1]
CHART = REPOSITORY / "helm" / "fleetpack"
NAMESPACE = "fleetpack-system"
SERVICE_ACCOUNT = "fleetpack"
_TEMPLATES = ("templates/serviceaccount.yaml", "templates/rbac.yaml", "templates/priorityclasses.yaml")

_PLURALS = {
    "Namespace": ("/api/v1/namespaces", False),
    "ServiceAccount": ("/api/v1/namespaces/{namespace}/serviceaccounts", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1/clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", False),
    "Role": ("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", True),
    "PriorityClass": ("/apis/scheduling.k8s.io/v1/priorityclasses", False),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", False),
    "AcceleratorPool": ("/apis/fleetpack.dev/v1alpha1/acceleratorpools", False),
    "InferenceDeployment": ("/apis/fleetpack.dev/v1alpha1/namespaces/{namespace}/inferencedeployments", True),
}


def install(client: ApiClient) -> None:
    """Apply CRDs, namespace, service account and RBAC; again is no harm."""
    apply(client, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for file in sorted((REPOSITORY / "crds").glob("*.yaml")):
        apply(client, yaml.safe_load(file.read_text()))
    for manifest in rendered_chart():
        apply(client, manifest)
    _wait_for_crds(client)


def rendered_chart(*settings: str) -> list[dict[str, Any]]:
    """Return what the chart installs beside the operator's own Deployment, with further `--set` values."""
    helm = binaries.ensure((HELM,))[HELM.name]
    command = [
        str(helm),
        "template",
        "fleetpack",
        str(CHART),
        f"--namespace={NAMESPACE}",
        "--set=simulation.enabled=true",
        *(f"--set={setting}" for setting in settings),
    ]
    for template in _TEMPLATES:
        command += ["--show-only", template]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"helm template failed: {answer.stderr.strip()}")
    return [manifest for manifest in yaml.safe_load_all(answer.stdout) if manifest]


def apply(client: ApiClient, manifest: dict[str, Any], namespace: str | None = None) -> None:
    """Apply one manifest server-side, as `kubectl apply --server-side` would."""
    path, namespaced = _PLURALS[manifest["kind"]]
    metadata = manifest["metadata"]
    if namespaced:
        metadata = {"namespace": "default", **metadata, **({"namespace": namespace} if namespace else {})}
    client.apply(
        f"{path.format(namespace=metadata.get('namespace'))}/{metadata['name']}", {**manifest, "metadata": metadata}
    )


def apply_file(client: ApiClient, file: Path, namespace: str | None = None) -> None:
    """Apply every manifest of a file."""
    for manifest in yaml.safe_load_all(file.read_text()):
        apply(client, manifest, namespace)


def _wait_for_crds(client: ApiClient) -> None:
    """Wait until the API server serves our kinds: a moment after the CRDs are stored."""
    import time

    for _ in range(1200):
        try:
            client.get("/apis/fleetpack.dev/v1alpha1/inferencedeployments?limit=1")
            client.get("/apis/fleetpack.dev/v1alpha1/acceleratorpools?limit=1")
        except ApiError as error:
            if error.code not in (404, 503):
                raise
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the API server does not serve fleetpack.dev/v1alpha1 a minute after the CRDs were applied")

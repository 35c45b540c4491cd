"""The Pod templates inside our resources: kept exactly as written, checked by the API server.

A template is Kubernetes' own type and grows with it. The models hold it as plain data, so that no field is lost or
rewritten on the way through; the CRD carries the structural schema of the pinned Kubernetes version, put in place of
the markers here by `api.schema`. What that schema cannot see (a value that Kubernetes refuses later) is found by a
server-side dry run.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field

MARKER = "x-fleetpack-pod-template"
"""Key in the generated JSON schema whose value says which schema belongs there: `full` or `partial`."""

PodTemplate: TypeAlias = Annotated[dict[str, Any], Field(json_schema_extra={MARKER: "full"})]
"""A whole Pod template: `metadata` with labels and annotations, and a Pod `spec`."""
PartialPodTemplate: TypeAlias = Annotated[dict[str, Any], Field(json_schema_extra={MARKER: "partial"})]
"""Changes to a Pod template, strategically merged; only what differs is written."""

ACCELERATOR_RESOURCE_PREFIXES = ("aws.amazon.com/", "nvidia.com/", "amd.com/", "habana.ai/", "google.com/tpu")
"""Resources that the operator sets itself; in a template they are refused."""


def container_names(template: dict[str, Any]) -> tuple[str, ...]:
    """Names of the template's ordinary containers, in their order."""
    containers = (template.get("spec") or {}).get("containers") or []
    return tuple(str(container.get("name", "")) for container in containers)


def accelerator_resources(template: dict[str, Any]) -> tuple[str, ...]:
    """Accelerator resources that any container of the template asks for, as `container: resource`."""
    spec = template.get("spec") or {}
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return tuple(
        f"{container.get('name', '')}: {resource}"
        for container in containers
        for kind in ("limits", "requests")
        for resource in ((container.get("resources") or {}).get(kind) or {})
        if resource.startswith(ACCELERATOR_RESOURCE_PREFIXES)
    )

"""Make `operator/fleetpack/api/pod_template_schema.json` from Kubernetes' published OpenAPI.

Run it when the pinned Kubernetes version changes; the result is checked in, so nothing else needs Kubernetes' sources:

    python hack/generate_pod_template_schema.py path/to/kubernetes/api/openapi-spec/v3/api__v1_openapi.json v1.36.1

The result is a structural schema (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources): references are put
in place, descriptions and defaults dropped: a template stays exactly as it was written. Metadata is cut down to labels and
annotations; ephemeral containers, which no template may have, are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

TARGET = Path(__file__).resolve().parent.parent / "operator/fleetpack/api/pod_template_schema.json"
ROOT = "io.k8s.api.core.v1.PodTemplateSpec"

INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True}
QUANTITY: Schema = {
    "x-kubernetes-int-or-string": True,
    # As Kubernetes' own CRD tools write it for resource.Quantity: sign, digits, and an optional suffix or exponent.
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: Schema = {
    "type": "object",
    "properties": {
        "labels": STRINGS,
        "annotations": STRINGS,
        # kubectl writes `creationTimestamp: null` into templates that it makes.
        "creationTimestamp": {"type": "string", "format": "date-time", "nullable": True},
    },
}
REPLACED: dict[str, Schema] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": QUANTITY,
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": INT_OR_STRING,
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": METADATA,
}
KEPT = frozenset(
    {
        "additionalProperties",
        "enum",
        "format",
        "items",
        "properties",
        "required",
        "type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
    }
)


def structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return `node` as a structural schema, references put in place."""
    if "allOf" in node:
        (only,) = node["allOf"]
        return structural(only, definitions)
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        return REPLACED[name] if name in REPLACED else structural(definitions[name], definitions)
    result: Schema = {key: value for key, value in node.items() if key in KEPT}
    if "properties" in result:
        result["properties"] = {key: structural(value, definitions) for key, value in result["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in result:
            result[key] = structural(result[key], definitions)
    keys = set(result.get("x-kubernetes-list-map-keys", ()))
    if keys - set(result.get("items", {}).get("required", ())):
        # Keys must be required or have a default, and a default would change what the user wrote.
        del result["x-kubernetes-list-map-keys"]
        result["x-kubernetes-list-type"] = "atomic"
    return result


def pod_template(openapi: Schema) -> Schema:
    """Return the structural schema of a Pod template."""
    definitions = openapi["components"]["schemas"]
    template = structural(definitions[ROOT], definitions)
    del template["properties"]["spec"]["properties"]["ephemeralContainers"]
    return template


def main(arguments: list[str]) -> int:
    """Write the file."""
    if len(arguments) != 2:
        print("usage: generate_pod_template_schema.py OPENAPI_JSON KUBERNETES_VERSION", file=sys.stderr)
        return 2
    path, version = arguments
    schema = pod_template(json.loads(Path(path).read_text()))
    text = json.dumps({"kubernetesVersion": version, "schema": schema}, indent=1, sort_keys=True)
    TARGET.write_text(text + "\n")
    print(f"wrote {TARGET.name}: {len(text)} bytes, Kubernetes {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

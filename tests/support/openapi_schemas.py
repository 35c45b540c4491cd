"""The API server's OpenAPI documents, and foreign CustomResourceDefinitions, as the JSON schemas that kubeconform reads.

Concept: one file for each kind, holding the document's components and a reference to the kind; a field that a component does not name
is refused, as the API server's strict validation does. Boundary: says nothing about CEL, defaults or admission. Failure: a kind that
the server does not serve gets no file, and kubeconform then fails on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from control_plane.api_client import ApiClient

LOCATION = "{{ .Group }}-{{ .ResourceAPIVersion }}-{{ .ResourceKind }}.json"
"""Of a schema in its folder, for `kubeconform -schema-location`; the core group is called by its version there."""


def write_schemas(client: ApiClient, kinds: set[tuple[str, str]], folder: Path) -> None:
    """Write the schemas of these kinds: `("apps/v1", "Deployment")`."""
    for group_version in sorted({version for version, _ in kinds}):
        path = f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"
        schemas: dict[str, Any] = client.get(f"/openapi/v3/{path}")["components"]["schemas"]
        components = {"schemas": {name: _strict(schema) for name, schema in schemas.items()}}
        for name, schema in schemas.items():
            for own in schema.get("x-kubernetes-group-version-kind", ()):
                version = "/".join(part for part in (own["group"], own["version"]) if part)
                if (version, own["kind"]) in kinds:
                    whole = {"$ref": f"#/components/schemas/{name}", "components": components}
                    file = f"{own['group'] or own['version']}-{own['version']}-{own['kind'].lower()}.json"
                    (folder / file).write_text(json.dumps(whole))


def write_definition_schemas(definitions: Iterable[dict[str, Any]], folder: Path) -> None:
    """Write the schemas of CustomResourceDefinitions, every version of each."""
    for definition in definitions:
        group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
        for version in definition["spec"]["versions"]:
            schema = _strict_throughout(version["schema"]["openAPIV3Schema"])
            (folder / f"{group}-{version['name']}-{kind.lower()}.json").write_text(json.dumps(schema))


def _strict_throughout(schema: Any) -> Any:
    """Do the same at every depth: these schemas refer to nothing, and nest instead."""
    if isinstance(schema, list):
        return [_strict_throughout(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    nested = {name: _strict_throughout(own) for name, own in schema.items()}
    # `properties` may also be the name of a field; its schemas then stand where a schema's own words do.
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return _strict(nested) if schema.get("type") == "object" and not is_open else nested


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse unknown fields of an object whose fields are named."""
    if "properties" in schema and "additionalProperties" not in schema:
        return {**schema, "additionalProperties": False}
    return schema

"""The generated CRDs: current, small enough, structural, and every field explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

import generate_api_reference
import generate_crds
from fleetpack.api.conditions import ConditionType, Reason
from fleetpack.api.meta import Model
from fleetpack.api.schema import RESOURCES, open_api_schema

Schema = dict[str, Any]

POD_TEMPLATE: Schema = json.loads(generate_crds.POD_TEMPLATE.read_text())["schema"]
CLIENT_SIDE_LIMIT_BYTES = 200_000
"""kubectl keeps the whole manifest in an annotation, and all annotations together may have 256 KiB."""


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Yield every node of a schema with its path, templates of Pods left out: those are Kubernetes' own."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        if name != "template":
            yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def all_nodes() -> Iterator[tuple[str, Schema]]:
    for resource in RESOURCES:
        schema = open_api_schema(resource.model, POD_TEMPLATE)
        for name in ("spec", "status"):
            yield from nodes(schema["properties"][name], f"{resource.kind}.{name}")


def test_should_have_crds_that_are_what_the_models_say() -> None:
    stale = [path.name for path, text in generate_crds.render_crds().items() if path.read_text() != text]

    assert stale == [], "run: python hack/generate_crds.py"


def test_should_have_a_reference_that_is_what_the_crds_say() -> None:
    assert generate_api_reference.TARGET.read_text() == generate_api_reference.render(), (
        "run: python hack/generate_api_reference.py"
    )


@pytest.mark.parametrize("path", sorted((generate_crds.ROOT / "crds").glob("*.yaml")), ids=lambda path: path.stem)
def test_should_be_small_enough_for_a_client_side_apply(path: Path) -> None:
    assert path.stat().st_size < CLIENT_SIDE_LIMIT_BYTES
    assert len(json.dumps(yaml.safe_load(path.read_text()))) < CLIENT_SIDE_LIMIT_BYTES


def test_should_explain_every_field() -> None:
    assert [path for path, node in all_nodes() if "description" not in node and not path.endswith("[]")] == []


def test_should_bound_every_list_map_and_text() -> None:
    bounds = {"array": "maxItems", "string": "maxLength"}
    unbounded = [
        path
        for path, node in all_nodes()
        if "enum" not in node and bounds.get(node.get("type", ""), "type") not in (node | {"type": 1})
    ]
    maps = [path for path, node in all_nodes() if "additionalProperties" in node and "maxProperties" not in node]

    assert unbounded + maps == []


def test_should_give_every_list_a_kind() -> None:
    assert [
        path for path, node in all_nodes() if node.get("type") == "array" and "x-kubernetes-list-type" not in node
    ] == []


def test_should_never_name_a_field_that_is_missing_in_a_rule_s_path() -> None:
    lost = [
        f"{path}{rule['fieldPath']}"
        for path, node in all_nodes()
        for rule in node.get("x-kubernetes-validations", ())
        if "fieldPath" in rule and rule["fieldPath"].split(".")[1] not in node["properties"]
    ]

    assert lost == []


def test_should_leave_no_default_in_status_that_a_new_object_would_get() -> None:
    for resource in RESOURCES:
        status = open_api_schema(resource.model, POD_TEMPLATE)["properties"]["status"]

        assert "default" not in status
        assert [name for name, child in status["properties"].items() if "default" in child] == []


def test_should_stop_at_what_has_no_structural_form() -> None:
    class Choice(Model):
        """Either."""

        choice: int | Annotated[str, Field(max_length=3)] = 1
        """Either."""

    class Holder(Model):
        """Holds it."""

        spec: Choice
        """It."""
        api_version: str = ""
        kind: str = ""
        metadata: str = ""
        status: str = ""

    with pytest.raises(ValueError, match="cannot choose between"):
        open_api_schema(Holder, POD_TEMPLATE)


def test_should_have_reasons_and_condition_types_that_kubernetes_takes() -> None:
    words = [*Reason, *ConditionType]

    assert [word for word in words if not re.fullmatch("[A-Z][A-Za-z]{1,63}", word)] == []
    assert len(set(Reason)) == len(Reason.__members__)

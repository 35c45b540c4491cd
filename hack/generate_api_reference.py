"""Write `docs/api.md` from the CRDs and the examples, or check that it is current.

    python hack/generate_api_reference.py            # write
    python hack/generate_api_reference.py --check    # fail when the page is not what the CRDs say

The page has every field with its type, default, bounds, meaning and rules. Words come from the models' docstrings, examples from
`examples/`; nothing is written here twice.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from fleetpack.api.conditions import ConditionType, Reason
from fleetpack.api.schema import RESOURCES, Resource

Schema = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs/api.md"
EXAMPLES = {
    "InferenceDeployment": ("llama-8b", "two-variants", "scale-to-zero", "cost-ceiling", "manual", "advisory"),
    "AcceleratorPool": ("pool", "own-machines"),
}
INTRODUCTION = """\
# API reference

Group `fleetpack.dev`, version `v1alpha1`. This page is generated from the CRDs by `hack/generate_api_reference.py`.

* Durations are Go durations: `250ms`, `2m`, `1h30m`. Money is a decimal number in quotes, in US dollars, and the field's name
  says per what. Quantities are Kubernetes': `96`, `250m`, `384Gi`.
* Defaults are written into the object by the API server, so `kubectl get -o yaml` shows them.
* What the schema can tell is refused by the API server with a message that names the field and what is allowed. What can only be
  known later becomes the condition `Accepted: False` with a reason, an event, and a hint.
* `kubectl explain infd.spec.scaling` shows the same words.
"""


def render() -> str:
    """Return the page."""
    lines = [INTRODUCTION]
    for resource in reversed(RESOURCES):
        lines += _resource(resource)
    lines += ["## Condition types", "", "Each reads `True` when things are well.", ""]
    lines += _constants(ConditionType)
    lines += ["## Reasons", "", "The constants that conditions, events, decisions and metrics use.", ""]
    lines += _constants(Reason)
    return "\n".join(lines)


def _constants(constants: type[StrEnum]) -> Iterator[str]:
    """Yield a table of the constants with the comment below each in its source."""
    (definition,) = ast.parse(inspect.getsource(constants)).body
    assert isinstance(definition, ast.ClassDef)
    comments = [
        node.value.value
        for node in definition.body[1:]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    yield "| constant | meaning |"
    yield "|---|---|"
    for constant, comment in zip(constants, comments, strict=True):
        yield f"| `{constant.value}` | {_cell(' '.join(str(comment).split()))} |"
    yield ""


def _resource(resource: Resource) -> Iterator[str]:
    path = ROOT / "crds" / f"fleetpack.dev_{resource.plural}.yaml"
    definition = yaml.safe_load(path.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    scope = "Namespaced" if resource.namespaced else "Cluster-scoped"
    yield f"## {resource.kind}"
    yield ""
    yield f"{schema['description']} {scope}; short name `{resource.short_name}`."
    yield ""
    yield from _rules(schema)
    for part in ("spec", "status"):
        yield from _object(part, schema["properties"][part])
    yield f"### Examples of {resource.kind}"
    yield ""
    for name in EXAMPLES[resource.kind]:
        yield f"`examples/{name}.yaml`:"
        yield ""
        yield "```yaml"
        yield (ROOT / "examples" / f"{name}.yaml").read_text().rstrip()
        yield "```"
        yield ""


def _object(path: str, schema: Schema) -> Iterator[str]:
    """Yield one object's table, then the tables of the objects in it."""
    yield f"### `{path}`"
    yield ""
    if "description" in schema:
        yield schema["description"]
        yield ""
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    inner: list[tuple[str, Schema]] = []
    for name, child in schema["properties"].items():
        required = " (required)" if name in schema.get("required", ()) else ""
        meaning = _cell(child.get("description", ""))
        yield f"| `{name}`{required} | {_type(child)} | {_default(child)} | {meaning} |"
        element = child.get("items", child)
        if "properties" in element and not _is_pod_template(element):
            inner.append((f"{path}.{name}" + ("[]" if "items" in child else ""), element))
    yield ""
    yield from _rules(schema)
    for child_path, child in inner:
        yield from _object(child_path, child)


def _rules(schema: Schema) -> Iterator[str]:
    messages = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
    if messages:
        yield "Rules:"
        yield ""
        yield from (f"* {message}" for message in messages)
        yield ""


def _is_pod_template(schema: Schema) -> bool:
    return "containers" in schema["properties"].get("spec", {}).get("properties", {})


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or text" + _expectation(schema)
    kind = schema["type"]
    if kind == "array":
        bounds = [f"at least {schema['minItems']}"] if "minItems" in schema else []
        bounds.append(f"at most {schema['maxItems']}")
        return f"list of {_type(schema['items'])} ({', '.join(bounds)})"
    if kind == "object":
        if "additionalProperties" in schema:
            return f"map of {_type(schema['additionalProperties'])}"
        return "Pod template" if _is_pod_template(schema) else "object"
    if kind == "string":
        return ("time" if schema.get("format") == "date-time" else "text") + _expectation(schema)
    bounds = [f"from {schema['minimum']}"] if "minimum" in schema else []
    bounds += [f"to {schema['maximum']}"] if "maximum" in schema else []
    return " ".join([kind, *bounds])


def _expectation(schema: Schema) -> str:
    """What the field's own rules say it must be."""
    messages = [rule["message"].removeprefix("must be ") for rule in schema.get("x-kubernetes-validations", ())]
    return _cell(": " + "; ".join(messages)) if messages else ""


def _default(schema: Schema) -> str:
    if "default" not in schema or schema["default"] in ({}, []):
        return ""
    if schema.get("type") == "object":
        return "see below"
    text = yaml.safe_dump(schema["default"], default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write or check."""
    text = render()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text() == text:
            return 0
        print(
            f"{TARGET.relative_to(ROOT)} is not what the CRDs say: run python hack/generate_api_reference.py",
            file=sys.stderr,
        )
        return 1
    if arguments:
        print("usage: generate_api_reference.py [--check]", file=sys.stderr)
        return 2
    TARGET.write_text(text)
    print(f"wrote {TARGET.relative_to(ROOT)}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

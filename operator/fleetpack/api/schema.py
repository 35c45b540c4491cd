"""CustomResourceDefinitions out of the models: structural OpenAPI v3, as the API server wants it.

Pydantic describes the models in JSON Schema; here that becomes the stricter form that CRDs take (facts and traps:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema):
references are put in place, an optional field is one that is not required, markers for Pod templates and list keys become
their schemas. Every node is converted exactly once, on a copy. Pure: the Pod template's schema is an argument.

A construct that has no structural form raises `ValueError` with the path: the generator stops, it never ships a guess.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.api.meta import GROUP, LIST_MAP_KEYS, LIST_SET, VERSION, Model
from fleetpack.api.pod_template import ACCELERATOR_RESOURCE_PREFIXES, MARKER

Schema = dict[str, Any]

_KEPT = (
    "default",
    "description",
    "enum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "pattern",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
)
_TRANSLATED = frozenset(
    {
        "$defs",
        "additionalProperties",
        "const",
        "items",
        "patternProperties",
        "properties",
        "required",
        "title",
        LIST_MAP_KEYS,
        LIST_SET,
    }
)
"""Keys that become something else, or that nobody needs; any further key stops the generator."""
MAXIMUM_CONTAINERS = 32
"""Most containers of a Pod template, and as many init containers: rules over them need a bound to have a known cost."""
_MAXIMUM_RESOURCES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PrinterColumn:
    """One column of `kubectl get`; wide columns are shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    description: str
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What a CRD says apart from its schema."""

    model: type[Model]
    plural: str
    singular: str
    short_name: str
    namespaced: bool
    columns: tuple[PrinterColumn, ...]
    selectable_fields: tuple[str, ...] = ()
    scalable: bool = False

    @property
    def kind(self) -> str:
        """The kind, which is the model's name."""
        return self.model.__name__

    @property
    def name(self) -> str:
        """The CRD's name."""
        return f"{self.plural}.{GROUP}"


def _condition(condition_type: str) -> str:
    return f'.status.conditions[?(@.type=="{condition_type}")].status'


_AGE = PrinterColumn(name="Age", path=".metadata.creationTimestamp", type="date", description="Time since creation.")

INFERENCE_DEPLOYMENTS = Resource(
    model=InferenceDeployment,
    plural="inferencedeployments",
    singular="inferencedeployment",
    short_name="infd",
    namespaced=True,
    scalable=True,
    selectable_fields=(".spec.mode", ".spec.model.name"),
    columns=(
        PrinterColumn(name="Mode", path=".spec.mode", description="Who decides the number of replicas."),
        PrinterColumn(
            name="Desired", path=".status.desiredReplicas", type="integer", description="Replicas that Auto wants."
        ),
        PrinterColumn(name="Replicas", path=".status.replicas", type="integer", description="Replicas that exist."),
        PrinterColumn(
            name="Ready", path=".status.readyReplicas", type="integer", description="Replicas that are ready."
        ),
        PrinterColumn(name="Queue", path=".status.queueDepth", type="integer", description="Requests waiting."),
        PrinterColumn(name="USD/h", path=".status.usdPerHour", description="Cost in US dollars per hour."),
        PrinterColumn(name="Reason", path=".status.lastDecision.reason", description="Reason of the last decision."),
        _AGE,
        PrinterColumn(name="Model", path=".spec.model.name", description="Name of the model.", wide=True),
        PrinterColumn(name="Rate", path=".status.arrivalRate", description="Requests arriving per second.", wide=True),
        PrinterColumn(name="Accepted", path=_condition("Accepted"), description="Understood as written.", wide=True),
        PrinterColumn(
            name="Scaling", path=_condition("ScalingActive"), description="Fresh signals drive the replicas.", wide=True
        ),
        PrinterColumn(
            name="Placed", path=_condition("CapacityAvailable"), description="Every replica has a place.", wide=True
        ),
        PrinterColumn(
            name="Budget", path=_condition("WithinBudget"), description="No ceiling holds replicas back.", wide=True
        ),
        PrinterColumn(name="URL", path=".status.url", description="Where the Service answers.", wide=True),
    ),
)

ACCELERATOR_POOLS = Resource(
    model=AcceleratorPool,
    plural="acceleratorpools",
    singular="acceleratorpool",
    short_name="accpool",
    namespaced=False,
    selectable_fields=(".spec.provider",),
    columns=(
        PrinterColumn(name="Provider", path=".spec.provider", description="Who makes the nodes."),
        PrinterColumn(name="Nodes", path=".status.nodes", type="integer", description="Nodes of the pool."),
        PrinterColumn(name="Cores", path=".status.cores", type="integer", description="Cores of all nodes."),
        PrinterColumn(name="Used", path=".status.coresUsed", type="integer", description="Cores held."),
        PrinterColumn(name="Free", path=".status.coresFree", type="integer", description="Cores free."),
        PrinterColumn(
            name="Largest", path=".status.largestFreeRange", type="integer", description="Largest free range of cores."
        ),
        PrinterColumn(name="USD/h", path=".status.usdPerHour", description="Cost in US dollars per hour."),
        PrinterColumn(name="Ready", path=_condition("Ready"), description="The pool can give nodes."),
        _AGE,
        PrinterColumn(name="Accepted", path=_condition("Accepted"), description="Understood as written.", wide=True),
        PrinterColumn(name="Budget", path=_condition("WithinBudget"), description="Below its limits.", wide=True),
    ),
)

RESOURCES = (ACCELERATOR_POOLS, INFERENCE_DEPLOYMENTS)


def custom_resource_definition(resource: Resource, pod_template: Schema) -> Schema:
    """Return the CRD of `resource`; `pod_template` is the structural schema of a whole Pod template."""
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_printer_column(column) for column in resource.columns],
        "schema": {"openAPIV3Schema": open_api_schema(resource.model, pod_template)},
        "subresources": {"status": {}},
    }
    if resource.selectable_fields:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable_fields]
    if resource.scalable:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.name, "labels": {"app.kubernetes.io/part-of": "fleetpack"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": [resource.short_name],
                "categories": ["fleetpack"],
            },
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [version],
        },
    }


def open_api_schema(model: type[Model], pod_template: Schema) -> Schema:
    """Return the structural schema of one kind, its metadata left to the API server."""
    source = model.model_json_schema(by_alias=True, mode="validation")
    for name in ("apiVersion", "kind", "metadata"):
        del source["properties"][name]
    templates = {"full": full_template(pod_template), "partial": partial_template(pod_template)}
    schema = _Converter(definitions=source.get("$defs", {}), templates=templates).convert(source, model.__name__)
    # Written by the operator only, so an object that was just created has none.
    del schema["properties"]["status"]["default"]
    for field in schema["properties"]["status"]["properties"].values():
        field.pop("default", None)
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    return schema


def full_template(pod_template: Schema) -> Schema:
    """Return the schema of `spec.template`: Kubernetes' own, with what no template of ours may say."""
    template = copy.deepcopy(pod_template)
    template["required"] = ["spec"]
    template["properties"]["spec"]["properties"]["containers"]["minItems"] = 1
    return _restricted(template)


def partial_template(pod_template: Schema) -> Schema:
    """Return the schema of a variant's `template`: the same, with nothing required but the names of list entries."""
    template = copy.deepcopy(pod_template)
    spec = template["properties"]["spec"]
    spec["required"] = [name for name in spec.get("required", ()) if name != "containers"]
    if not spec["required"]:
        del spec["required"]
    return _restricted(template)


def _restricted(template: Schema) -> Schema:
    """Bound what rules walk over, and refuse what the operator itself decides."""
    spec = template["properties"]["spec"]
    spec["x-kubernetes-validations"] = [
        {
            "rule": "!has(self.nodeName)",
            "message": "nodeName must not be set: the operator decides where a replica runs; nodeSelector may narrow it",
            "fieldPath": ".nodeName",
        },
        {
            "rule": "!has(self.restartPolicy) || self.restartPolicy == 'Always'",
            "message": "restartPolicy must be Always: a replica serves until it is taken away",
            "fieldPath": ".restartPolicy",
        },
    ]
    for name in ("containers", "initContainers"):
        containers = spec["properties"][name]
        containers["maxItems"] = MAXIMUM_CONTAINERS
        properties = containers["items"]["properties"]
        properties["name"] |= {"minLength": 1, "maxLength": 63}
        for kind in ("limits", "requests"):
            properties["resources"]["properties"][kind]["maxProperties"] = _MAXIMUM_RESOURCES
        properties["resources"]["x-kubernetes-validations"] = [
            {"rule": _without_accelerators(kind), "message": _ACCELERATOR_MESSAGE, "fieldPath": f".{kind}"}
            for kind in ("limits", "requests")
        ]
    return template


_ACCELERATOR_MESSAGE = (
    "accelerator resources must not be in the template: set cores or devices of the variant, "
    "the operator adds the resource"
)


def _without_accelerators(kind: str) -> str:
    prefixes = " || ".join(f"name.startsWith('{prefix}')" for prefix in ACCELERATOR_RESOURCE_PREFIXES)
    return f"!has(self.{kind}) || !self.{kind}.exists(name, {prefixes})"


def _printer_column(column: PrinterColumn) -> Schema:
    result: Schema = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    return result | ({"priority": 1} if column.wide else {})


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converter:
    definitions: Schema
    templates: Schema

    def convert(self, source: Schema, path: str) -> Schema:
        """Return the structural form of one node."""
        node = self._resolved(source)
        if MARKER in node:
            template: Schema = copy.deepcopy(self.templates[node[MARKER]])
            return {"description": _one_line(node["description"])} | template
        if unknown := node.keys() - {*_KEPT, *_TRANSLATED}:
            raise ValueError(f"{path}: no structural form is known for {sorted(unknown)}")
        if not {"type", "x-kubernetes-int-or-string"} & node.keys():
            raise ValueError(f"{path}: has no type that a structural schema can say: {sorted(node)}")
        result = {key: copy.deepcopy(node[key]) for key in _KEPT if key in node}
        if "description" in result:
            result["description"] = _one_line(result["description"])
        if result.get("default", ...) is None:
            del result["default"]
        if "const" in node:
            result["enum"] = [node["const"]]
        if result.get("type") == "array":
            self._convert_array(node, result, path)
        elif result.get("type") == "object":
            self._convert_object(node, result, path)
        return result

    def _resolved(self, source: Schema) -> Schema:
        """Put the reference in place and take the only alternative that is not null; keys beside it win."""
        node = dict(source)
        while "$ref" in node or "anyOf" in node:
            if "$ref" in node:
                inner = self.definitions[node.pop("$ref").rsplit("/", 1)[-1]]
            else:
                alternatives = [option for option in node.pop("anyOf") if option.get("type") != "null"]
                if len(alternatives) != 1:
                    raise ValueError(f"a structural schema cannot choose between {alternatives}")
                (inner,) = alternatives
            node = {**inner, **node}
        return node

    def _convert_array(self, node: Schema, result: Schema, path: str) -> None:
        if "items" not in node or "prefixItems" in node:
            raise ValueError(f"{path}: a list needs one schema for all its items")
        if "maxItems" not in node:
            raise ValueError(f"{path}: a list needs a maximum length, else the cost of rules over it is unknown")
        result["items"] = self.convert(node["items"], f"{path}[]")
        result["items"].pop("description", None)
        if LIST_MAP_KEYS in node:
            result["x-kubernetes-list-type"] = "map"
            result["x-kubernetes-list-map-keys"] = list(node[LIST_MAP_KEYS])
        else:
            result["x-kubernetes-list-type"] = "set" if LIST_SET in node else "atomic"

    def _convert_object(self, node: Schema, result: Schema, path: str) -> None:
        if "properties" in node:
            result["properties"] = {
                name: self.convert(child, f"{path}.{name}") for name, child in node["properties"].items()
            }
            if node.get("required"):
                result["required"] = list(node["required"])
            return
        values = node.get("additionalProperties")
        if values is None and "patternProperties" in node:
            (values,) = node["patternProperties"].values()
        if not isinstance(values, dict):
            raise ValueError(f"{path}: a map needs a schema for its values")
        result["additionalProperties"] = self.convert(values, f"{path}{{}}")

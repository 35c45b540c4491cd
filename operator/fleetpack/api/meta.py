"""What both resources share: the base of all models, object metadata, conditions, rules across fields.

A model is a frozen value. Its docstring and the docstrings under its fields are the descriptions of the CRD and of
the API reference; a field's default stands in the CRD too, so that whoever reads the object back sees it. A rule
across fields is a `Rule`: CEL for the API server and the same question in Python beside it, so that a manifest can be
checked without a server.

Two ways to read: `parse` ignores unknown fields (a newer CRD must not break an older operator) and trusts the API
server for rules across fields; `parse_strictly` refuses unknown fields and checks every rule. Both raise
`pydantic.ValidationError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from fleetpack.api.values import Text, Value

GROUP = "fleetpack.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_STRICT = "fleetpack-strict"

LIST_MAP_KEYS = "x-list-map-keys"
"""In a list field's schema: the fields that together name an entry; two entries of the same name are refused."""
LIST_SET = "x-list-set"
"""In a list field's schema: no entry may occur twice."""

_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_LABEL_WORDS = "lower case letters, digits and dashes, beginning and ending with a letter or digit"

Name: TypeAlias = Annotated[str, Text(pattern=_DNS_LABEL, expected=f"at most 63 {_LABEL_WORDS}", maximum_length=63)]
"""A DNS label."""
ShortName: TypeAlias = Annotated[
    str, Text(pattern=_DNS_LABEL, expected=f"at most 32 {_LABEL_WORDS}", maximum_length=32)
]
"""A DNS label that becomes part of a longer name."""
CatalogName: TypeAlias = Annotated[
    str,
    Text(
        pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
        expected="a name of the catalog's form: lower case letters, digits, dashes and dots, such as inf2.24xlarge",
        maximum_length=63,
    ),
]
"""The name of an accelerator or an instance type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule across the fields of a model, in CEL and in Python."""

    cel: str | None
    """Over `self`, the object that the model describes; true when all is well. None: the CRD has it in another place."""
    message: str
    """Names the field and says what is allowed."""
    holds: Callable[[Any], bool]
    """The same over the parsed model."""
    field: str = ""
    """Path from `self` of the field that is to blame, such as `.minReplicas`; empty: the object itself."""


class Model(BaseModel):
    """Base of everything that stands in a manifest."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def parse(cls, manifest: Mapping[str, Any]) -> Self:
        """Read what the API server holds; unknown fields are ignored."""
        return cls.model_validate(manifest)

    @classmethod
    def parse_strictly(cls, manifest: Mapping[str, Any]) -> Self:
        """Read what a person wrote: unknown fields are refused and every rule is checked."""
        return cls.model_validate(manifest, extra="forbid", by_name=False, by_alias=True, context={_STRICT: True})

    def to_manifest(self) -> dict[str, Any]:
        """Return the manifest, without fields that are absent; values stand as they were written."""
        return self.model_dump(mode="json", exclude_none=True)

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        if info.context and info.context.get(_STRICT):
            broken = [f"{rule.field.lstrip('.')}: {rule.message}" for rule in self.rules if not rule.holds(self)]
            broken += self._duplicates()
            if broken:
                raise ValueError("; ".join(text.removeprefix(": ") for text in broken))
        return self

    def _duplicates(self) -> list[str]:
        """Name the entries that occur twice in lists whose entries must differ."""
        messages = []
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            items = getattr(self, name)
            if not isinstance(extra, dict) or not items:
                continue
            keys: tuple[str, ...] = ()
            if LIST_MAP_KEYS in extra:
                wanted = [str(key) for key in cast("list[str]", extra[LIST_MAP_KEYS])]
                keys = tuple(", ".join(str(item.to_manifest()[key]) for key in wanted) for item in items)
            elif LIST_SET in extra:
                keys = tuple(str(item) for item in items)
            twice = sorted({key for key in keys if keys.count(key) > 1})
            messages += [f"{field.alias}: {key} occurs more than once" for key in twice]
        return messages

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        result = handler.resolve_ref_schema(handler(schema))
        for field in cls.model_fields.values():
            alias = str(field.alias)
            if not field.is_required() and alias in result["properties"]:
                default = _manifest_default(field.get_default(call_default_factory=True))
                result["properties"][alias] |= {"default": default}
        if cls.rules:
            result["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message} | ({"fieldPath": rule.field} if rule.field else {})
                for rule in cls.rules
                if rule.cel is not None
            ]
        return result


def _manifest_default(value: Any) -> Any:
    """Return a default as it stands in a manifest: in full, because the API server checks a default's rules as it is."""
    if isinstance(value, Model):
        return value.to_manifest()
    if isinstance(value, Value):
        return value.to_manifest()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_manifest_default(item) for item in value]
    return value


class ObjectMeta(Model):
    """The part of an object's metadata that is used here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_the_rest(cls, raw: Any) -> Any:
        # Metadata is Kubernetes' own and has more fields than are used here: they are no user's mistake.
        known = {field.alias for field in cls.model_fields.values()} | set(cls.model_fields)
        return {key: value for key, value in raw.items() if key in known} if isinstance(raw, Mapping) else raw


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the object's state, with the reason."""

    type: Annotated[str, Field(max_length=64)]
    """Which aspect: Accepted, Ready, ScalingActive, CapacityAvailable, WithinBudget."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$")]
    """Why, as a constant in CamelCase."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, as a sentence with the numbers and a hint."""
    last_transition_time: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
    """When the status last changed (RFC 3339)."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this was said about."""

"""Values with units, as people write them in manifests and as code wants them.

Each class is one notation: Go durations (`1h30m`), decimal money and rates (`"12.50"`), Kubernetes quantities
(`250m`, `4Gi`), a number or a percentage. A value keeps the text it was written as and gives it back unchanged, so
that writing a manifest back never reformats it; two values are equal when they mean the same. The rules of each
notation stand here once: they make the parser's error, the CRD's pattern and the CEL message.

Boundary: only notation and range. What a number means belongs to the field that has it. Text in no known notation
raises `ValueError` with the text, and with what would be right.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, ClassVar, Self, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

JsonSchema: TypeAlias = dict[str, Any]


def cel_rule(rule: str, message: str) -> JsonSchema:
    """Return one entry of `x-kubernetes-validations`."""
    return {"rule": rule, "message": message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One written value; equality is by meaning, `text` is only how it was written."""

    text: str = field(compare=False)

    pattern: ClassVar[str]
    """RE2 and Python alike; anchored."""
    expected: ClassVar[str]
    """What would be right, for errors: completes "must be ..."."""
    maximum_length: ClassVar[int] = 32

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the notation; raises `ValueError`, which says what is allowed."""
        if not isinstance(text, str) or len(text) > cls.maximum_length or not re.fullmatch(cls.pattern, text):
            raise ValueError(f"{text!r} must be {cls.expected}")
        return cls._from_text(text)

    @classmethod
    def _from_text(cls, text: str) -> Self:
        raise NotImplementedError

    @classmethod
    def _from_input(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        return cls.parse(value)  # type: ignore[arg-type]  # parse itself refuses what is no text

    def to_manifest(self) -> str | int:
        """Return what stands in the manifest."""
        return self.text

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_plain_validator_function(
            cls._from_input,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_manifest),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        del schema, handler
        return cls.json_schema()

    @classmethod
    def json_schema(cls) -> JsonSchema:
        """Return the structural schema of one such value."""
        pattern = cls.pattern.replace("\\", "\\\\")
        return {
            "type": "string",
            "minLength": 1,
            "maxLength": cls.maximum_length,
            "pattern": cls.pattern,
            "x-kubernetes-validations": [cel_rule(f"self.matches('{pattern}')", f"must be {cls.expected}")],
        }


_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration(Value):
    """A length of time as Go writes it: `2m`, `1h30m`, `1.5s`, `250ms`."""

    seconds: float

    pattern = r"^([0-9]{1,6}(\.[0-9]{1,3})?(h|m|s|ms))+$"
    expected = 'a duration such as "2m", "1h30m" or "250ms" (units h, m, s, ms)'

    @classmethod
    def _from_text(cls, text: str) -> Self:
        parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
        # Exact until the one last division, so that 13ms and 0.013s are the same number.
        milliseconds = sum(Decimal(number) * _MILLISECONDS[unit] for number, unit in parts)
        return cls(text=text, seconds=float(milliseconds / 1000))

    @classmethod
    def of(cls, seconds: float) -> Self:
        """Write a number of seconds, rounded to milliseconds, in the largest whole units."""
        milliseconds = round(seconds * 1000)
        if milliseconds < 0:
            raise ValueError(f"a duration cannot be negative: {seconds} s")
        hours, rest = divmod(milliseconds, 3_600_000)
        minutes, rest = divmod(rest, 60_000)
        whole_seconds, rest = divmod(rest, 1000)
        parts = ((hours, "h"), (minutes, "m"), (whole_seconds, "s"), (rest, "ms"))
        text = "".join(f"{number}{unit}" for number, unit in parts if number)
        return cls(text=text or "0s", seconds=milliseconds / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecimalValue(Value):
    number: Decimal

    pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
    maximum_length = 16
    places: ClassVar[int]
    """Decimal places that `of` keeps."""

    @classmethod
    def _from_text(cls, text: str) -> Self:
        return cls(text=text, number=Decimal(text))

    @classmethod
    def of(cls, number: Decimal | float) -> Self:
        """Write a number that is not negative, rounded to the places that this kind of value has."""
        exact = number if isinstance(number, Decimal) else Decimal(repr(number))
        rounded = exact.quantize(Decimal(1).scaleb(-cls.places), rounding=ROUND_HALF_EVEN)
        return cls.parse(f"{rounded:f}")

    def __float__(self) -> float:
        return float(self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Money(_DecimalValue):
    """An amount of US dollars as a decimal text, `"12.50"`; the field's name says per what."""

    expected = 'US dollars as a quoted decimal number such as "12.50", not negative'
    places = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(_DecimalValue):
    """A decimal number that is not negative, as text: `"2.5"`; the field's name or description has its unit."""

    expected = 'a quoted decimal number such as "2.5", not negative'
    places = 3


_QUANTITY_SCALE = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity(Value):
    """A Kubernetes quantity: cpu `250m` or `96`, memory `4Gi`; written as a number or as text."""

    number: Decimal
    """In the base unit: cores of CPU, or bytes."""

    # Kubernetes' notation (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity) without signs.
    pattern = r"^[0-9]{1,18}(\.[0-9]{1,9})?([numkMGTPE]|[KMGTPE]i|[eE]-?[0-9]{1,2})?$"
    expected = 'a quantity such as 96, "250m" or "384Gi"'

    @classmethod
    def _from_input(cls, value: object) -> Self:
        if isinstance(value, int) and not isinstance(value, bool):
            return cls.parse(str(value))
        return super(Quantity, cls)._from_input(value)

    @classmethod
    def _from_text(cls, text: str) -> Self:
        digits = re.match(r"[0-9.]+", text)
        assert digits is not None
        suffix = text[digits.end() :]
        if suffix not in _QUANTITY_SCALE:
            return cls(text=text, number=Decimal(text))  # an exponent: 1e3
        return cls(text=text, number=Decimal(digits.group()) * _QUANTITY_SCALE[suffix])

    @property
    def millicores(self) -> int:
        """Of an amount of CPU: thousandths of a core, rounded up as Kubernetes does."""
        return math.ceil(self.number * 1000)

    @property
    def bytes(self) -> int:
        """Of an amount of memory: bytes, rounded up as Kubernetes does."""
        return math.ceil(self.number)

    def to_manifest(self) -> str | int:
        """Return a plain number as a number, all else as text."""
        return int(self.text) if self.text.isdecimal() else self.text

    @classmethod
    def json_schema(cls) -> JsonSchema:
        """Return the structural schema: an integer or a text."""
        pattern = cls.pattern.replace("\\", "\\\\")
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": cls.maximum_length,
            "x-kubernetes-validations": [
                cel_rule(
                    f"type(self) == int ? self >= 0 : string(self).matches('{pattern}')", f"must be {cls.expected}"
                )
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IntOrPercent(Value):
    """A number of things, or a share of all of them: `2` or `10%`. Exactly one of the two fields is not None."""

    count: int | None = None
    percent: int | None = None

    pattern = r"^(100|[0-9]{1,2})%$"
    expected = 'a whole number that is not negative, or a percentage from "0%" to "100%"'

    @classmethod
    def _from_input(cls, value: object) -> Self:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value <= 1_000_000:
                raise ValueError(f"{value} must be {cls.expected}")
            return cls(text=str(value), count=value)
        return super(IntOrPercent, cls)._from_input(value)

    @classmethod
    def _from_text(cls, text: str) -> Self:
        return cls(text=text, percent=int(text.removesuffix("%")))

    @classmethod
    def of(cls, count: int) -> Self:
        """Return a plain number."""
        return cls._from_input(count)

    def resolve(self, total: int) -> int:
        """How many of `total` that is; a share is rounded up, so that a tenth of three is one."""
        if self.count is not None:
            return self.count
        return -(-(self.percent or 0) * total // 100)

    def to_manifest(self) -> str | int:
        """Return a number as a number, a percentage as text."""
        return self.text if self.count is None else self.count

    @classmethod
    def json_schema(cls) -> JsonSchema:
        """Return the structural schema: an integer or a text."""
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": cls.maximum_length,
            "x-kubernetes-validations": [
                cel_rule(
                    f"type(self) == int ? self >= 0 && self <= 1000000 : string(self).matches('{cls.pattern}')",
                    f"must be {cls.expected}",
                )
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A pattern for a text field, for `Annotated`, with words for people who do not read patterns."""

    pattern: str
    """RE2 and Python alike; anchored, without look-around."""
    expected: str
    """What would be right: completes "must be ..."."""
    maximum_length: int

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        inner = core_schema.str_schema(max_length=self.maximum_length)
        return core_schema.no_info_after_validator_function(self._check, inner)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        del schema, handler
        escaped = self.pattern.replace("\\", "\\\\")
        return {
            "type": "string",
            "maxLength": self.maximum_length,
            "pattern": self.pattern,
            "x-kubernetes-validations": [cel_rule(f"self.matches('{escaped}')", f"must be {self.expected}")],
        }

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"{value!r} must be {self.expected}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationRange:
    """Bounds of a `Duration` field, for `Annotated`; both ends are allowed."""

    minimum: str
    maximum: str

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        result = handler(schema)
        # A text that is no duration has its own rule; here it passes, so that one fault gives one message.
        pattern = Duration.pattern.replace("\\", "\\\\")
        result["x-kubernetes-validations"] = [
            *result["x-kubernetes-validations"],
            cel_rule(
                f"!self.matches('{pattern}') || "
                f"(duration(self) >= duration('{self.minimum}') && duration(self) <= duration('{self.maximum}'))",
                self._message,
            ),
        ]
        return result

    @property
    def _message(self) -> str:
        return f"must be from {self.minimum} to {self.maximum}"

    def _check(self, value: Duration) -> Duration:
        lowest, highest = Duration.parse(self.minimum), Duration.parse(self.maximum)
        if not lowest.seconds <= value.seconds <= highest.seconds:
            raise ValueError(f'"{value}" {self._message}')
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class DecimalRange:
    """Bounds of a `Money` or `Rate` field, for `Annotated`: above `above`, and at most `maximum` where one is given."""

    above: str | None = None
    maximum: str | None = None

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        result = handler(schema)
        pattern = _DecimalValue.pattern.replace("\\", "\\\\")
        above = None if self.above is None else f"double(self) > double('{self.above}')"
        maximum = None if self.maximum is None else f"double(self) <= double('{self.maximum}')"
        bounds = " && ".join(bound for bound in (above, maximum) if bound)
        result["x-kubernetes-validations"] = [
            *result["x-kubernetes-validations"],
            cel_rule(f"!self.matches('{pattern}') || ({bounds})", self._message),
        ]
        return result

    @property
    def _message(self) -> str:
        above = None if self.above is None else f"greater than {self.above}"
        maximum = None if self.maximum is None else f"at most {self.maximum}"
        return "must be " + " and ".join(bound for bound in (above, maximum) if bound)

    def _check(self, value: _DecimalValue) -> _DecimalValue:
        too_low = self.above is not None and value.number <= Decimal(self.above)
        too_high = self.maximum is not None and value.number > Decimal(self.maximum)
        if too_low or too_high:
            raise ValueError(f'"{value}" {self._message}')
        return value

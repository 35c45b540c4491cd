"""Absence as a value: a number that is not known says why, and is never zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """There is no number; `reason` is a constant of `api.conditions`, `message` says which source and since when."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A number with the age of its oldest part."""

    value: float
    age_seconds: float

"""Values with units: what each notation means, what is refused, and that text comes back as it was written."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fleetpack.api import Duration, IntOrPercent, Money, Quantity, Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m", 120), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("0s", 0), ("1h1m1s1ms", 3661.001), ("90m", 5400)],
)
def test_should_read_a_go_duration(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 s", "1d", "5S", "s", "1h 30m", "1,5s", "5s\n", "1" * 40 + "s"])
def test_should_refuse_what_is_no_duration_and_say_what_is(text: str) -> None:
    with pytest.raises(ValueError, match='must be a duration such as "2m"'):
        Duration.parse(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_should_write_a_duration_that_reads_as_the_same_seconds(milliseconds: int) -> None:
    written = Duration.of(milliseconds / 1000)

    assert Duration.parse(written.text) == written
    assert written.seconds == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "1m30s"), (3600, "1h"), (0.25, "250ms"), (12.0004, "12s")]
)
def test_should_write_a_duration_in_the_largest_whole_units(seconds: float, text: str) -> None:
    assert Duration.of(seconds).text == text


def test_should_call_two_ways_of_writing_one_value_equal() -> None:
    assert Duration.parse("60s") == Duration.parse("1m")
    assert Money.parse("12.50") == Money.parse("12.5")
    assert Quantity.parse("1Gi") == Quantity.parse("1024Mi")
    assert len({Duration.parse("60s"), Duration.parse("1m")}) == 1


@pytest.mark.parametrize(
    ("text", "number"), [("12.50", "12.5"), ("0", "0"), ("0.000001", "0.000001"), ("999999999", "999999999")]
)
def test_should_read_money_exactly(text: str, number: str) -> None:
    assert Money.parse(text).number == Decimal(number)


@pytest.mark.parametrize("text", ["", "$5", "-1", "1e3", "1.", ".5", "1,50", "NaN", "Infinity", "1.1234567"])
def test_should_refuse_what_is_no_money(text: str) -> None:
    with pytest.raises(ValueError, match="US dollars as a quoted decimal number"):
        Money.parse(text)


def test_should_write_numbers_to_their_usual_places() -> None:
    assert Money.of(12.98127).text == "12.9813"
    assert Money.of(Decimal("0.1") + Decimal("0.2")).text == "0.3000"
    assert Rate.of(2.5).text == "2.500"
    assert Rate.of(1e-9).text == "0.000"
    assert float(Money.parse("12.50")) == 12.5


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("250m", "0.25"),
        (96, "96"),
        ("96", "96"),
        ("4Gi", str(4 * 2**30)),
        ("1.5k", "1500"),
        ("2M", "2000000"),
        ("1e3", "1000"),
        ("5E", "5" + "0" * 18),
        ("100n", "0.0000001"),
        ("2199023255552", "2199023255552"),
    ],
)
def test_should_read_a_quantity_as_kubernetes_does(written: str | int, number: str) -> None:
    assert TypeAdapter(Quantity).validate_python(written).number == Decimal(number)


def test_should_give_cpu_in_millicores_and_memory_in_bytes() -> None:
    assert Quantity.parse("95690m").millicores == 95_690
    assert Quantity.parse("96").millicores == 96_000
    assert Quantity.parse("355262Mi").bytes == 355_262 * 2**20


def test_should_round_a_quantity_up_as_kubernetes_does() -> None:
    assert Quantity.parse("100u").millicores == 1
    assert Quantity.parse("1500m").bytes == 2


@pytest.mark.parametrize(
    ("written", "total", "count"), [("10%", 3, 1), ("10%", 0, 0), ("50%", 5, 3), (2, 40, 2), ("100%", 7, 7), (0, 9, 0)]
)
def test_should_resolve_a_share_rounded_up(written: str | int, total: int, count: int) -> None:
    assert TypeAdapter(IntOrPercent).validate_python(written).resolve(total) == count


@pytest.mark.parametrize("written", ["101%", "-1%", "10", "half", -1, 1.5, True, None, "10 %"])
def test_should_refuse_what_is_neither_number_nor_percentage(written: object) -> None:
    with pytest.raises(ValidationError, match="a whole number that is not negative, or a percentage"):
        TypeAdapter(IntOrPercent).validate_python(written)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Duration, "90m"),
        (Money, "012.50"),
        (Rate, "2.0"),
        (Quantity, "1024Mi"),
        (Quantity, 96),
        (IntOrPercent, "10%"),
        (IntOrPercent, 3),
    ],
)
def test_should_give_back_what_was_written(kind: type[Any], written: str | int) -> None:
    adapter = TypeAdapter[Any](kind)

    assert adapter.dump_python(adapter.validate_python(written)) == written


@given(st.text(max_size=12))
def test_should_never_read_text_that_the_pattern_of_the_schema_refuses(text: str) -> None:
    for kind in (Duration, Money, Rate, Quantity, IntOrPercent):
        if re.fullmatch(kind.pattern, text):
            kind.parse(text)
        else:
            with pytest.raises(ValueError):
                kind.parse(text)

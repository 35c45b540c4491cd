"""How a pool's own prices and types change the catalog, and what it answers to names that it does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack.catalog import (
    OVERRIDE,
    Accelerator,
    AllocationPolicy,
    Catalog,
    CatalogError,
    InstanceType,
    Source,
    Topology,
    UnknownAccelerator,
    UnknownInstanceType,
    load_catalog,
)


def chip(name: str = "chip") -> Accelerator:
    return Accelerator(name=name)


def machine(name: str = "own.large", **changes: Any) -> InstanceType:
    plain = InstanceType(
        name=name,
        accelerator="chip",
        devices=4,
        cores_per_device=2,
        topology=Topology.RING,
        allocation_policy=AllocationPolicy.CONTIGUOUS_WINDOW,
        allowed_device_counts=(1, 2, 3, 4),
        resource_name="aws.amazon.com/neuroncore",
        price_usd_per_hour=2.0,
    )
    return replace(plain, **changes)


def small_catalog(*machines: InstanceType) -> Catalog:
    return Catalog(accelerators={"chip": chip()}, instance_types={one.name: one for one in machines or (machine(),)})


def test_should_answer_an_unknown_instance_type_with_the_nearest_names() -> None:
    assert load_catalog().instance_type("inf2.42xlarge") == UnknownInstanceType(
        name="inf2.42xlarge", nearest=("inf2.48xlarge", "inf2.24xlarge", "inf2.xlarge")
    )


def test_should_answer_an_unknown_accelerator_with_the_nearest_names() -> None:
    assert load_catalog().accelerator("inferentia-2") == UnknownAccelerator(
        name="inferentia-2", nearest=("inferentia2", "inferentia")
    )


def test_should_name_nothing_where_nothing_is_near() -> None:
    assert small_catalog().instance_type("0") == UnknownInstanceType(name="0", nearest=())


def test_should_replace_prices_and_say_that_they_are_overrides() -> None:
    changed = small_catalog().with_prices({"own.large": 1.5}, spot_usd_per_hour={"own.large": 0.5})
    assert changed.instance_type("own.large") == machine(
        price_usd_per_hour=1.5,
        spot_price_usd_per_hour=(0.5, 0.5),
        sources=(
            Source(field="price_usd_per_hour", reference=OVERRIDE),
            Source(field="spot_price_usd_per_hour", reference=OVERRIDE),
        ),
    )


def test_should_replace_reserved_prices_alone() -> None:
    changed = small_catalog().with_prices({}, reserved_usd_per_hour={"own.large": 1.0})
    assert changed.instance_type("own.large") == machine(
        reserved_price_usd_per_hour=1.0, sources=(Source(field="reserved_price_usd_per_hour", reference=OVERRIDE),)
    )


def test_should_price_a_type_that_has_no_list_price() -> None:
    changed = load_catalog().with_prices({"trn2.48xlarge": 40.0}).instance_type("trn2.48xlarge")
    assert isinstance(changed, InstanceType)
    assert changed.price_usd_per_hour == 40.0


def test_should_add_own_accelerators_and_instance_types_in_order_of_names() -> None:
    own = machine("a.large", accelerator="own-chip")
    changed = small_catalog().with_accelerators([chip("own-chip")]).with_instance_types([own])
    assert list(changed.accelerators.items()) == [("chip", chip()), ("own-chip", chip("own-chip"))]
    assert list(changed.instance_types.items()) == [("a.large", own), ("own.large", machine())]


def test_should_replace_a_type_of_a_known_name() -> None:
    own = machine(devices=2, allowed_device_counts=(1, 2))
    assert dict(small_catalog().with_instance_types([own]).instance_types) == {"own.large": own}


@pytest.mark.parametrize(
    "override",
    [
        lambda catalog: catalog.with_prices({"inf2.48xlarge": 1.0}),
        lambda catalog: catalog.with_accelerators([chip()]),
        lambda catalog: catalog.with_accelerators([chip()]).with_instance_types([machine()]),
    ],
    ids=["prices", "accelerators", "instance types"],
)
def test_should_never_change_the_original(override: Callable[[Catalog], Catalog]) -> None:
    original = load_catalog()
    before = (dict(original.accelerators), dict(original.instance_types))
    changed = override(original)
    assert (dict(original.accelerators), dict(original.instance_types)) == before
    assert changed != original


def test_should_not_follow_changes_of_the_mapping_that_it_was_made_from() -> None:
    machines = {"own.large": machine()}
    catalog = Catalog(accelerators={"chip": chip()}, instance_types=machines)
    machines.clear()
    assert list(catalog.instance_types) == ["own.large"]


def test_should_refuse_to_be_changed_in_place() -> None:
    with pytest.raises(TypeError):
        small_catalog().instance_types["own.large"] = machine()  # type: ignore[index]  # What is being refused.


def test_should_refuse_the_price_of_an_unknown_type_and_name_the_nearest() -> None:
    with pytest.raises(CatalogError) as refusal:
        small_catalog().with_prices({"own.larg": 1.0})
    assert str(refusal.value) == (
        "instance type 'own.larg': price_usd_per_hour is given, but no such type is known; the nearest are own.large"
    )


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_should_refuse_a_price_that_is_no_amount_of_money(price: float) -> None:
    with pytest.raises(CatalogError, match=r"^instance type 'own.large': price_usd_per_hour is "):
        small_catalog().with_prices({"own.large": price})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "chp"}, "accelerator 'chp' is not in the catalog; the nearest are chip"),
        ({"devices": 0}, "devices is 0; it must be at least 1"),
        ({"cores_per_device": 0}, "cores_per_device is 0; it must be at least 1"),
        (
            {"allowed_device_counts": (1, 5)},
            "allowed_device_counts is (1, 5); it must ascend and stay within 1 to 4, the devices",
        ),
        (
            {"allowed_device_counts": (2, 1)},
            "allowed_device_counts is (2, 1); it must ascend and stay within 1 to 4, the devices",
        ),
        (
            {"allocation_policy": AllocationPolicy.SINGLE},
            "allowed_device_counts is (1, 2, 3, 4); policy 'single' allows (1,) only",
        ),
        ({"topology": Topology.TORUS_2D_4X4}, "devices is 4; topology torus2d-4x4 has 16"),
    ],
)
def test_should_refuse_an_own_type_that_contradicts_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        small_catalog().with_instance_types([machine(**changes)])
    assert str(refusal.value) == f"instance type 'own.large': {message}"


@given(st.permutations(["b", "a", "c"]))
def test_should_not_depend_on_the_order_in_which_types_are_given(names: list[str]) -> None:
    catalog = small_catalog().with_instance_types(machine(name) for name in names)
    assert list(catalog.instance_types) == ["a", "b", "c", "own.large"]

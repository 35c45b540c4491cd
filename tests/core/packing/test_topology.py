"""Which sets of cores may serve one replica."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_maps import small_type, type_of
from fleetpack.api.conditions import Reason
from fleetpack.catalog import AllocationPolicy, load_catalog
from fleetpack.core.cores import format_cores, range_mask
from fleetpack.core.packing.topology import Misfit, cores_needed, counted, free_sets, legal_masks, shape_of


def _written(instance_type: str, cores: int) -> list[str]:
    masks = legal_masks(type_of(instance_type), cores)
    assert not isinstance(masks, Misfit)
    return [format_cores(mask) for mask in masks]


@pytest.mark.parametrize(
    ("instance_type", "cores", "expected"),
    [
        ("inf2.xlarge", 1, ["0", "1"]),
        ("inf2.xlarge", 2, ["0-1"]),
        ("inf2.24xlarge", 2, ["0-1", "2-3", "4-5", "6-7", "8-9", "10-11"]),
        ("inf2.24xlarge", 3, ["0-2", "2-4", "4-6", "6-8", "8-10"]),
        ("inf2.24xlarge", 8, ["0-7", "2-9", "4-11"]),
        ("inf2.24xlarge", 12, ["0-11"]),
        ("inf1.6xlarge", 3, ["0-2", "1-3", "4-6", "5-7", "8-10", "9-11", "12-14", "13-15"]),
        ("inf1.6xlarge", 9, ["0-8", "4-12"]),
        ("trn1.32xlarge", 8, ["0-7", "8-15", "16-23", "24-31"]),
        ("trn1.32xlarge", 16, ["0-15", "16-31"]),
        ("trn1.32xlarge", 32, ["0-31"]),
        ("trn2.48xlarge", 16, ["0-15", "16-31", "32-47", "48-63"]),
        ("trn2.48xlarge", 3, [f"{4 * d + o}-{4 * d + o + 2}" for d in range(16) for o in range(2)]),
    ],
)
def test_should_list_the_legal_sets_by_ascending_start(instance_type: str, cores: int, expected: list[str]) -> None:
    assert _written(instance_type, cores) == expected


@pytest.mark.parametrize(
    ("instance_type", "cores", "devices", "expected"),
    [
        ("inf2.24xlarge", 8, 0, 8),
        ("inf2.24xlarge", 0, 4, 8),
        ("trn1.32xlarge", 0, 4, 8),
        ("trn2.48xlarge", 0, 4, 16),
        ("p5.48xlarge", 0, 3, 3),
    ],
)
def test_should_turn_devices_into_cores(instance_type: str, cores: int, devices: int, expected: int) -> None:
    assert cores_needed(type_of(instance_type), cores, devices) == expected


@pytest.mark.parametrize(
    ("instance_type", "cores", "devices", "reason", "message"),
    [
        (
            "trn1.32xlarge",
            0,
            7,
            Reason.UNSUPPORTED_DEVICE_COUNT,
            "Instance type trn1.32xlarge does not support requests for 7 devices; ask for 1, 4, 8 or 16",
        ),
        (
            "trn1.32xlarge",
            6,
            0,
            Reason.UNSUPPORTED_CORE_COUNT,
            "Instance type trn1.32xlarge does not support requests for 6 cores; ask for 1, 2, 8, 16 or 32",
        ),
        (
            "inf2.24xlarge",
            13,
            0,
            Reason.UNSUPPORTED_CORE_COUNT,
            "Instance type inf2.24xlarge does not support requests for 13 cores; ask for 1 to 12",
        ),
        (
            "inf2.xlarge",
            0,
            2,
            Reason.UNSUPPORTED_DEVICE_COUNT,
            "Instance type inf2.xlarge does not support requests for 2 devices; ask for 1",
        ),
        (
            "p5.48xlarge",
            9,
            0,
            Reason.UNSUPPORTED_DEVICE_COUNT,
            "Instance type p5.48xlarge does not support requests for 9 devices; ask for 1 to 8",
        ),
    ],
)
def test_should_say_what_may_be_asked_for_instead(
    instance_type: str, cores: int, devices: int, reason: Reason, message: str
) -> None:
    assert cores_needed(type_of(instance_type), cores, devices) == Misfit(reason=reason, message=message)


def test_should_place_nothing_where_no_rule_is_published() -> None:
    silent = next(one for one in load_catalog().instance_types.values() if not one.allowed_device_counts)
    assert cores_needed(silent, 0, 1) == Misfit(
        reason=Reason.UNSUPPORTED_DEVICE_COUNT,
        message=f"Instance type {silent.name} has no published allocation rule; nothing can be placed on it",
    )


def test_should_give_counted_devices_by_number_only() -> None:
    gpus = type_of("p5.48xlarge")
    assert (counted(gpus), legal_masks(gpus, 3)) == (True, (0b111,))


def test_should_take_scattered_free_devices_where_they_are_counted() -> None:
    assert free_sets(shape_of(type_of("p5.48xlarge")), 0b10110000, 2) == (0b00110000,)


TYPES = st.sampled_from(sorted(load_catalog().instance_types.values(), key=lambda one: one.name))


@given(instance_type=TYPES, cores=st.integers(1, 140))
def test_law_legal_sets_are_windows_that_respect_devices(instance_type, cores: int) -> None:  # type: ignore[no-untyped-def]
    masks = legal_masks(instance_type, cores)
    if isinstance(masks, Misfit):
        return
    per_device = instance_type.cores_per_device
    assert list(masks) == sorted(set(masks))
    for mask in masks:
        start = (mask & -mask).bit_length() - 1
        assert mask == range_mask(start, cores)
        assert start + cores <= instance_type.cores
        if cores <= per_device:
            assert start // per_device == (start + cores - 1) // per_device
        else:
            assert start % per_device == 0
        if instance_type.allocation_policy is AllocationPolicy.ALIGNED and cores > per_device:
            assert start % cores == 0


def test_should_refuse_several_devices_on_a_single_policy() -> None:
    single = small_type(2, 2, AllocationPolicy.SINGLE, (1,))
    assert isinstance(legal_masks(single, 4), Misfit)

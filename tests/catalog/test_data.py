"""What the shipped catalog says, held against the totals that the vendors publish."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fleetpack.catalog import (
    Accelerator,
    AllocationPolicy,
    Catalog,
    InstanceType,
    NumaNode,
    Topology,
    load_catalog,
)

MIB = 2**20

# Cores that EC2 counts, cores at the default logical core config, device memory in GiB: totals of the whole machine.
PUBLISHED_TOTALS = {
    "inf1.xlarge": (4, 4, 8),
    "inf1.2xlarge": (4, 4, 8),
    "inf1.6xlarge": (16, 16, 32),
    "inf1.24xlarge": (64, 64, 128),
    "inf2.xlarge": (2, 2, 32),
    "inf2.8xlarge": (2, 2, 32),
    "inf2.24xlarge": (12, 12, 192),
    "inf2.48xlarge": (24, 24, 384),
    "trn1.2xlarge": (2, 2, 32),
    "trn1.32xlarge": (32, 32, 512),
    "trn1n.32xlarge": (32, 32, 512),
    "trn2.3xlarge": (8, 4, 96),
    "trn2.48xlarge": (128, 64, 1536),
    "trn2u.48xlarge": (128, 64, 1536),
    "trn3-gen1-ultraserver": (512, 256, 9216),
    "trn3-gen2-ultraserver": (1152, 576, 20736),
}
# Names and kinds, which are no measured numbers.
WITHOUT_SOURCE = {
    "name",
    "vendor",
    "cloud",
    "accelerator",
    "resource_name",
    "resource_names",
    "allocation_policy",
    "verified",
    "sources",
    "unverified",
    "notes",
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def instance_type(catalog: Catalog, name: str) -> InstanceType:
    found = catalog.instance_type(name)
    assert isinstance(found, InstanceType)
    return found


def accelerator(catalog: Catalog, name: str) -> Accelerator:
    found = catalog.accelerator(name)
    assert isinstance(found, Accelerator)
    return found


def test_should_hold_every_known_chip_and_machine(catalog: Catalog) -> None:
    assert len(catalog.accelerators) == 22
    assert len(catalog.instance_types) == 38
    assert (catalog.price_region, catalog.price_date) == ("us-east-1", "2026-07-20")


def test_should_list_names_in_a_total_order(catalog: Catalog) -> None:
    assert list(catalog.accelerators) == sorted(catalog.accelerators)
    assert list(catalog.instance_types) == sorted(catalog.instance_types)


def test_should_know_the_accelerator_of_every_instance_type(catalog: Catalog) -> None:
    assert {one.accelerator for one in catalog.instance_types.values()} <= set(catalog.accelerators)


def test_should_ask_for_a_resource_that_the_accelerator_announces(catalog: Catalog) -> None:
    strangers = [
        one.name
        for one in catalog.instance_types.values()
        if one.resource_name not in catalog.accelerators[one.accelerator].resource_names
    ]
    assert strangers == []


def test_should_agree_with_the_published_totals_of_cores_and_device_memory(catalog: Catalog) -> None:
    totals = {}
    for one in catalog.instance_types.values():
        chip = catalog.accelerators[one.accelerator]
        if chip.physical_cores is not None and chip.memory_gib is not None:
            totals[one.name] = (one.devices * chip.physical_cores, one.cores, one.devices * chip.memory_gib)
    assert totals == PUBLISHED_TOTALS


def test_should_count_the_cores_of_a_device_as_its_chip_shows_them_by_default(catalog: Catalog) -> None:
    differing = [
        one.name
        for one in catalog.instance_types.values()
        if one.cores_per_device != (catalog.accelerators[one.accelerator].logical_cores or 1)
    ]
    assert differing == []


def test_should_count_a_gpu_as_one_core(catalog: Catalog) -> None:
    gpu_node = instance_type(catalog, "p5.48xlarge")
    assert (gpu_node.devices, gpu_node.cores_per_device, gpu_node.cores) == (8, 1, 8)
    assert (gpu_node.allocation_policy, gpu_node.allowed_device_counts) == (
        AllocationPolicy.COUNT,
        (1, 2, 3, 4, 5, 6, 7, 8),
    )
    assert gpu_node.resource_name == "nvidia.com/gpu"


def test_should_price_the_inf2_family_as_listed(catalog: Catalog) -> None:
    family = {name: one for name, one in catalog.instance_types.items() if name.startswith("inf2.")}
    prices = {
        name: (one.price_usd_per_hour, one.spot_price_usd_per_hour, one.reserved_price_usd_per_hour)
        for name, one in family.items()
    }
    assert prices == {
        "inf2.xlarge": (0.7582, (0.1309, 0.1844), 0.328),
        "inf2.8xlarge": (1.96786, (0.6146, 0.6395), 0.85),
        "inf2.24xlarge": (6.49063, (1.1422, 1.7345), 2.804),
        "inf2.48xlarge": (12.98127, (2.0712, 3.4252), 5.608),
    }


def test_should_give_the_room_that_pods_have_on_an_inf2_48xlarge(catalog: Catalog) -> None:
    node = instance_type(catalog, "inf2.48xlarge")
    assert (node.allocatable_cpu_millicores, node.allocatable_memory_bytes, node.max_pods) == (
        191_450,
        718_987 * MIB,
        737,
    )


@pytest.mark.parametrize(
    ("name", "topology", "policy", "counts"),
    [
        ("inf2.xlarge", Topology.NONE, AllocationPolicy.SINGLE, (1,)),
        ("inf2.24xlarge", Topology.RING, AllocationPolicy.CONTIGUOUS_WINDOW, (1, 2, 3, 4, 5, 6)),
        ("inf2.48xlarge", Topology.RING, AllocationPolicy.CONTIGUOUS_WINDOW, tuple(range(1, 13))),
        ("inf1.24xlarge", Topology.RING, AllocationPolicy.CONTIGUOUS_WINDOW, tuple(range(1, 17))),
        ("trn1.32xlarge", Topology.TORUS_2D_4X4, AllocationPolicy.ALIGNED, (1, 4, 8, 16)),
        ("trn1n.32xlarge", Topology.TORUS_2D_4X4, AllocationPolicy.ALIGNED, (1, 4, 8, 16)),
        ("trn2.48xlarge", Topology.TORUS_2D_4X4, AllocationPolicy.ALIGNED, (1, 4, 8, 16)),
        ("trn2u.48xlarge", Topology.TORUS_2D_4X4, AllocationPolicy.ALIGNED, (1, 4, 8, 16)),
        ("g6.xlarge", Topology.NONE, AllocationPolicy.COUNT, (1,)),
    ],
)
def test_should_say_which_sets_of_devices_may_serve_one_replica(
    catalog: Catalog, name: str, topology: Topology, policy: AllocationPolicy, counts: tuple[int, ...]
) -> None:
    node = instance_type(catalog, name)
    assert (node.topology, node.allocation_policy, node.allowed_device_counts) == (topology, policy, counts)


def test_should_allow_nothing_where_no_allocation_rule_is_published(catalog: Catalog) -> None:
    without_rule = {name for name, one in catalog.instance_types.items() if not one.allowed_device_counts}
    assert without_rule == {"trn3-gen1-ultraserver", "trn3-gen2-ultraserver"}


def test_should_leave_prices_that_nobody_lists_absent(catalog: Catalog) -> None:
    without_price = {name for name, one in catalog.instance_types.items() if one.price_usd_per_hour is None}
    assert without_price == {
        "p5e.48xlarge",
        "trn2.3xlarge",
        "trn2.48xlarge",
        "trn2u.48xlarge",
        "trn3-gen1-ultraserver",
        "trn3-gen2-ultraserver",
    }


def test_should_keep_secondary_figures_apart_from_facts(catalog: Catalog) -> None:
    chip = accelerator(catalog, "l4")
    assert (chip.memory_bandwidth_gb_per_second, chip.tflops_bf16, chip.tflops_fp8, chip.tdp_watts) == (None,) * 4
    assert chip.unverified == (
        ("memory_bandwidth_gb_per_second", 300),
        ("tflops_bf16", 121),
        ("tflops_fp8", 242),
        ("tdp_watts", 72),
    )


def test_should_give_link_bandwidth_in_gb_per_second_whatever_the_source_prints(catalog: Catalog) -> None:
    # The Inf1 and Inf2 pages print GiB/s: 192 GiB/s are 206.158 GB/s.
    links = {
        name: instance_type(catalog, name).device_link_gb_per_second for name in ("inf2.48xlarge", "trn1.32xlarge")
    }
    assert links == {"inf2.48xlarge": 206.158, "trn1.32xlarge": 384}
    assert accelerator(catalog, "inferentia").memory_bandwidth_gb_per_second == 53.687


def test_should_know_which_devices_are_near_which_cpus_on_trn2(catalog: Catalog) -> None:
    assert instance_type(catalog, "trn2.48xlarge").numa_nodes == (
        NumaNode(node=0, devices=(4, 5, 6, 7, 8, 9, 10, 11), cpus="0-47,96-143"),
        NumaNode(node=1, devices=(0, 1, 2, 3, 12, 13, 14, 15), cpus="48-95,144-191"),
    )


def test_should_name_a_source_for_every_number(catalog: Catalog) -> None:
    without_source = [
        (entry.name, name)
        for entry in entries(catalog)
        for name in fields_with_a_value(entry)
        if not any(source.field == name and source.reference for source in entry.sources)
    ]
    assert without_source == []


def test_should_name_a_source_for_every_secondary_figure(catalog: Catalog) -> None:
    without_source = [
        (entry.name, name)
        for entry in entries(catalog)
        for name, _ in entry.unverified
        if not any(source.field == f"unverified.{name}" for source in entry.sources)
    ]
    assert without_source == []


def entries(catalog: Catalog) -> list[Accelerator | InstanceType]:
    return [*catalog.accelerators.values(), *catalog.instance_types.values()]


def fields_with_a_value(entry: Accelerator | InstanceType) -> list[str]:
    """Names of the fields that claim something: `servers: 1` and one core per counted device are how we count."""
    return [
        one.name
        for one in fields(entry)
        if one.name not in WITHOUT_SOURCE and getattr(entry, one.name) not in (one.default, ())
    ]


def test_should_read_the_files_once(catalog: Catalog) -> None:
    assert load_catalog() is catalog

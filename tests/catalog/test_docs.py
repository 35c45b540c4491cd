"""The table that users read is the data; when they differ, the failure shows the table to paste."""

from __future__ import annotations

from pathlib import Path

from fleetpack.catalog import AllocationPolicy, InstanceType, load_catalog

PAGE = Path(__file__).parents[2] / "docs" / "catalog.md"
HEADER = (
    "| instance type | accelerator | devices | cores | topology | devices per replica | on-demand USD per hour |\n"
    "|---|---|---:|---:|---|---|---:|\n"
)


def row(one: InstanceType) -> str:
    counts = one.allowed_device_counts
    if not counts:
        per_replica = "no rule published"
    elif one.allocation_policy is AllocationPolicy.ALIGNED:
        per_replica = ", ".join(map(str, counts))
    else:
        per_replica = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    price = "not listed" if one.price_usd_per_hour is None else one.price_usd_per_hour
    cells = (one.name, one.accelerator, one.devices, one.cores, one.topology.value, per_replica, price)
    return f"| {' | '.join(map(str, cells))} |\n"


def test_should_document_the_neuron_instance_types_as_they_are_in_the_data() -> None:
    neuron = [one for one in load_catalog().instance_types.values() if one.resource_name == "aws.amazon.com/neuroncore"]
    table = HEADER + "".join(row(one) for one in neuron)
    assert table in PAGE.read_text(encoding="utf-8"), f"docs/catalog.md is out of date; its table must be:\n{table}"

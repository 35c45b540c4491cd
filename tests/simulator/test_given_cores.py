"""Which cores a container was given: both ways of counting them, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack.catalog import InstanceType, UnknownInstanceType, load_catalog
from fleetpack.core.cores import parse_cores, range_mask
from fleetpack.device_plugin.silicon import devices_of
from fleetpack.device_plugin.sources import CoreNumbering, SimulatedDevices
from fleetpack.device_plugin.sources import visible_cores as handed_out
from fleetpack_simulator.given_cores import (
    CoresError,
    devices_in,
    refuse_other_number,
    refuse_unreachable,
    visible_cores,
)


def machine(name: str) -> InstanceType:
    found = load_catalog().instance_type(name)
    assert not isinstance(found, UnknownInstanceType)
    return found


def test_should_read_the_cores_that_the_container_was_told_of() -> None:
    assert visible_cores({"NEURON_RT_VISIBLE_CORES": "0-3,8"}) == 0b1_0000_1111


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "NEURON_RT_VISIBLE_CORES is not set: this container was given no cores"),
        ({"NEURON_RT_VISIBLE_CORES": " "}, "NEURON_RT_VISIBLE_CORES is not set"),
        ({"NEURON_RT_VISIBLE_CORES": "all"}, "NEURON_RT_VISIBLE_CORES is 'all'"),
        ({"NEURON_RT_VISIBLE_CORES": "7-4"}, "NEURON_RT_VISIBLE_CORES is '7-4'"),
    ],
)
def test_should_refuse_what_names_no_cores(environment: dict[str, str], message: str) -> None:
    with pytest.raises(CoresError, match=message):
        visible_cores(environment)


@given(
    name=st.sampled_from(["inf1.6xlarge", "inf2.24xlarge", "inf2.48xlarge", "trn1.32xlarge", "trn2.48xlarge"]),
    numbering=st.sampled_from(CoreNumbering),
    data=st.data(),
)
def test_should_accept_whatever_the_device_plugin_hands_out(
    name: str, numbering: CoreNumbering, data: st.DataObject
) -> None:
    instance_type = machine(name)
    cores = instance_type.devices * instance_type.cores_per_device
    start = data.draw(st.integers(0, cores - 1))
    mask = range_mask(start, data.draw(st.integers(1, cores - start)))
    source = SimulatedDevices(instance_type=instance_type, core_numbering=numbering)
    told = visible_cores({"NEURON_RT_VISIBLE_CORES": handed_out(source, mask)})

    refuse_unreachable(told, devices=devices_of(instance_type, mask), cores_per_device=instance_type.cores_per_device)
    refuse_other_number(told, expected=mask.bit_count())


def test_should_refuse_cores_of_devices_that_are_not_in_the_container() -> None:
    with pytest.raises(CoresError) as refusal:
        refuse_unreachable(parse_cores("4-7"), devices=[1, 0], cores_per_device=2)

    assert str(refusal.value) == (
        "NEURON_RT_VISIBLE_CORES is '4-7', but /dev/neuron0, /dev/neuron1 with 2 cores each have the cores 0-3"
    )


def test_should_name_both_ways_of_counting_where_they_differ() -> None:
    with pytest.raises(CoresError, match="have the cores 0-1, or 6-7 by the node's count"):
        refuse_unreachable(parse_cores("2-3"), devices=[3], cores_per_device=2)


def test_should_refuse_cores_without_any_device() -> None:
    with pytest.raises(CoresError, match=r"no /dev/neuron\* in this container"):
        refuse_unreachable(parse_cores("0-1"), devices=[], cores_per_device=2)


def test_should_refuse_another_number_than_the_replica_is_made_for() -> None:
    refuse_other_number(parse_cores("0-7"), expected=None)

    with pytest.raises(CoresError, match=r"made for 4 cores .* was given 8 .NEURON_RT_VISIBLE_CORES=0-7"):
        refuse_other_number(parse_cores("0-7"), expected=4)


def test_should_see_device_files_by_their_name(tmp_path: Path) -> None:
    for name in ("neuron0", "neuron12", "neuron_monitor", "null"):
        (tmp_path / name).touch()

    assert devices_in(tmp_path) == {0, 12}


def test_should_load_no_kubernetes_client_to_be_a_replica() -> None:
    """The image of the simulated engine has none."""
    program = "import sys, fleetpack_simulator.cli; print(sorted({'kubernetes', 'kopf', 'highspy', 'grpc'} & set(sys.modules)))"

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert output == "[]\n"

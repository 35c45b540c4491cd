"""Which core sets are legal: examples from the vendor's documents by hand, then agreement with the operator's catalog."""

from __future__ import annotations

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.core.packing.topology import masks_of, shape_of
from fleetpack_simulator.checking.facts import read_cores
from fleetpack_simulator.checking.machines import MACHINES, Layout, why_illegal

# instance type, cores, legal?
EXAMPLES = """
inf1.6xlarge   0-8      yes
inf1.6xlarge   2-3      yes
inf1.6xlarge   3-4      no
inf1.6xlarge   2-9      no
inf1.6xlarge   4-15     yes
inf2.xlarge    0-1      yes
inf2.xlarge    0-2      no
inf2.24xlarge  0-1      yes
inf2.24xlarge  1-2      no
inf2.24xlarge  0-2      yes
inf2.24xlarge  1-3      no
inf2.24xlarge  0-1,4-5  no
inf2.24xlarge  10-11    yes
inf2.24xlarge  10-13    no
inf2.24xlarge  0,11     no
inf2.24xlarge  0-11     yes
inf2.48xlarge  4-9      yes
trn1.32xlarge  0-1      yes
trn1.32xlarge  0-3      no
trn1.32xlarge  0-7      yes
trn1.32xlarge  8-15     yes
trn1.32xlarge  4-11     no
trn1.32xlarge  16-31    yes
trn1.32xlarge  8-23     no
trn1.32xlarge  0-6      no
trn1.32xlarge  0-31     yes
trn2.48xlarge  0-3      yes
trn2.48xlarge  1-2      yes
trn2.48xlarge  0-15     yes
trn2.48xlarge  0-7      no
"""


@pytest.mark.parametrize("line", EXAMPLES.strip().splitlines())
def test_should_know_the_legal_sets(line: str) -> None:
    instance_type, text, legal = line.split()
    cores = read_cores(text)
    assert cores is not None
    assert (why_illegal(MACHINES[instance_type], cores) is None) == (legal == "yes")


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_should_agree_with_the_catalog_that_was_written_apart_from_it(machine) -> None:
    entry = load_catalog().instance_types[machine.name]
    assert (entry.devices, entry.cores_per_device) == (machine.devices, machine.cores_per_device)
    known = None if machine.usd_per_hour is None else float(machine.usd_per_hour)
    assert entry.price_usd_per_hour == known
    if machine.layout is Layout.COUNT:
        return
    for size in range(1, machine.cores + 1):
        windows = [tuple(range(start, start + size)) for start in range(machine.cores - size + 1)]
        legal = tuple(sum(1 << core for core in window) for window in windows if why_illegal(machine, window) is None)
        assert masks_of(shape_of(entry), size) == legal

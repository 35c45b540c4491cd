"""The judge's own table of machines, and the rules which cores of one may serve one replica.

Written by hand, small on purpose, and deliberately not read from the operator's catalog. Sources: devices and cores per device,
aws-neuron-sdk `about-neuron/arch/neuron-hardware`; allowed sets, `deploy/infrastructure/scheduler.rst` (rings take contiguous
devices and never wrap; a trn1.32xlarge takes 1, 4, 8 or 16 devices in aligned blocks) and `deploy/eks/dra.rst` for Trn2; prices,
EC2 on-demand in us-east-1 as of 2026-07-20. A machine whose price is not published has None.

Core ids: device d of a machine with n cores per device owns cores d*n to d*n+n-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

NEURON_CORE = "aws.amazon.com/neuroncore"
GPU = "nvidia.com/gpu"


class Layout(StrEnum):
    """How a replica that needs more than one device may be laid over devices."""

    SINGLE = "single"
    """There is one device."""
    RING = "ring"
    """Contiguous devices from any device on, without wrapping around."""
    BLOCKS = "blocks"
    """Whole devices in blocks of certain sizes, each aligned to its size."""
    COUNT = "count"
    """Devices are only counted: nobody chooses which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One instance type as the rules need it."""

    name: str
    accelerator: str
    devices: int
    cores_per_device: int
    layout: Layout
    device_counts: tuple[int, ...]
    """Numbers of devices that one replica may span."""
    usd_per_hour: Fraction | None
    other_cores_per_device: tuple[int, ...] = ()
    """What a device may have instead, in another mode of the same machine (Trn2: logical or physical cores)."""

    @property
    def cores(self) -> int:
        """Cores of the whole machine; devices where those are counted."""
        return self.devices * self.cores_per_device


def why_illegal(machine: Machine, cores: tuple[int, ...]) -> str | None:
    """Return why `cores` may not serve one replica on `machine`; None: they may."""
    if not cores or len(set(cores)) != len(cores):
        return "the set is empty or names a core twice"
    first, last, count = min(cores), max(cores), len(cores)
    if last >= machine.cores:
        return f"core {last} does not exist: the machine has cores 0-{machine.cores - 1}"
    if machine.layout is Layout.COUNT:
        return None
    if last - first + 1 != count:
        return "the cores are not contiguous"
    per_device = machine.cores_per_device
    if count <= per_device:
        return None if first // per_device == last // per_device else "a set that fits one device lies across two"
    if first % per_device:
        return f"core {first} is not the first of a device, and the set spans several"
    return _why_illegal_span(machine, first, count)


def _why_illegal_span(machine: Machine, first: int, count: int) -> str | None:
    spanned = -(-count // machine.cores_per_device)
    if spanned not in machine.device_counts:
        return f"{spanned} devices are not among the allowed numbers {list(machine.device_counts)}"
    if machine.layout is Layout.BLOCKS:
        if count % machine.cores_per_device:
            return "only whole devices may be joined on this machine"
        if (first // machine.cores_per_device) % spanned:
            return f"a block of {spanned} devices must begin at a multiple of {spanned}"
    return None


def _neuron(row: tuple[str, str, int, int, Layout, str | None]) -> Machine:
    name, accelerator, devices, cores_per_device, layout, price = row
    counts = {
        Layout.SINGLE: (1,),
        Layout.RING: tuple(range(1, devices + 1)),
        Layout.BLOCKS: (1, 4, 8, 16),
        Layout.COUNT: tuple(range(1, devices + 1)),
    }[layout]
    return Machine(
        name=name,
        accelerator=accelerator,
        devices=devices,
        cores_per_device=cores_per_device,
        layout=layout,
        device_counts=counts,
        usd_per_hour=None if price is None else Fraction(price),
        # With LNC=1 the runtime and the device plugin show the physical cores of a Trainium2: 8 where LNC=2 shows 4.
        other_cores_per_device=(8,) if accelerator == "trainium2" else (),
    )


_NEURON_ROWS: tuple[tuple[str, str, int, int, Layout, str | None], ...] = (
    ("inf1.xlarge", "inferentia", 1, 4, Layout.SINGLE, "0.228"),
    ("inf1.2xlarge", "inferentia", 1, 4, Layout.SINGLE, "0.362"),
    ("inf1.6xlarge", "inferentia", 4, 4, Layout.RING, "1.18"),
    ("inf1.24xlarge", "inferentia", 16, 4, Layout.RING, "4.721"),
    ("inf2.xlarge", "inferentia2", 1, 2, Layout.SINGLE, "0.7582"),
    ("inf2.8xlarge", "inferentia2", 1, 2, Layout.SINGLE, "1.96786"),
    ("inf2.24xlarge", "inferentia2", 6, 2, Layout.RING, "6.49063"),
    ("inf2.48xlarge", "inferentia2", 12, 2, Layout.RING, "12.98127"),
    ("trn1.2xlarge", "trainium", 1, 2, Layout.SINGLE, "1.34375"),
    ("trn1.32xlarge", "trainium", 16, 2, Layout.BLOCKS, "21.5"),
    ("trn1n.32xlarge", "trainium", 16, 2, Layout.BLOCKS, "24.78"),
    ("trn2.3xlarge", "trainium2", 1, 4, Layout.SINGLE, None),
    ("trn2.48xlarge", "trainium2", 16, 4, Layout.BLOCKS, None),
    ("trn2u.48xlarge", "trainium2", 16, 4, Layout.BLOCKS, None),
)

_GPU_ROWS: tuple[tuple[str, str, int, str | None], ...] = (
    ("p5.4xlarge", "h100-sxm", 1, "6.88"),
    ("p5.48xlarge", "h100-sxm", 8, "55.04"),
    ("p5e.48xlarge", "h200-sxm", 8, None),
    ("p5en.48xlarge", "h200-sxm", 8, "63.296"),
    ("p6-b200.48xlarge", "b200-sxm", 8, "113.9328"),
    ("p6-b300.48xlarge", "b300-sxm", 8, "142.416"),
    ("p4d.24xlarge", "a100-sxm-40", 8, "21.957642"),
    ("p4de.24xlarge", "a100-sxm-80", 8, "27.44705"),
    ("g5.xlarge", "a10g", 1, "1.006"),
    ("g5.2xlarge", "a10g", 1, "1.212"),
    ("g5.12xlarge", "a10g", 4, "5.672"),
    ("g5.48xlarge", "a10g", 8, "16.288"),
    ("g6.xlarge", "l4", 1, "0.8048"),
    ("g6.2xlarge", "l4", 1, "0.9776"),
    ("g6.12xlarge", "l4", 4, "4.6016"),
    ("g6.48xlarge", "l4", 8, "13.3504"),
    ("g6e.xlarge", "l40s", 1, "1.861"),
    ("g6e.2xlarge", "l40s", 1, "2.24208"),
    ("g6e.12xlarge", "l40s", 4, "10.49264"),
    ("g6e.48xlarge", "l40s", 8, "30.13118"),
    ("g7e.2xlarge", "rtx-pro-server-6000", 1, "3.36312"),
    ("g7e.48xlarge", "rtx-pro-server-6000", 8, "33.14432"),
)

MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        *(_neuron(row) for row in _NEURON_ROWS),
        *(_neuron((name, gpu, devices, 1, Layout.COUNT, price)) for name, gpu, devices, price in _GPU_ROWS),
    )
}


def cores_per_device_of(accelerator: str) -> int:
    """Return how many cores one device of an accelerator has; 1 where the table does not know it."""
    return next((own.cores_per_device for own in MACHINES.values() if own.accelerator == accelerator), 1)


_SPOT_USD_PER_HOUR = {
    "inf1.xlarge": "0.0727",
    "inf1.2xlarge": "0.1156",
    "inf1.6xlarge": "0.3704",
    "inf1.24xlarge": "1.2423",
    "inf2.xlarge": "0.1844",
    "inf2.8xlarge": "0.6395",
    "inf2.24xlarge": "1.7345",
    "inf2.48xlarge": "3.4252",
    "trn1n.32xlarge": "4.0098",
}
"""The dearest zone of a snapshot of us-east-1 (skypilot-catalog `catalogs/v8/aws/vms.csv`): spot prices move, so the cautious one."""


def list_price(machine: Machine, capacity_type: str) -> Fraction | None:
    """Return what a machine costs by the hour when bought that way; None: not published, or not in the table."""
    if capacity_type == "on-demand" or machine.name not in MACHINES:
        return machine.usd_per_hour
    if capacity_type == "spot" and machine.name in _SPOT_USD_PER_HOUR:
        return Fraction(_SPOT_USD_PER_HOUR[machine.name])
    return None

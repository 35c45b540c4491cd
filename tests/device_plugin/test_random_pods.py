"""Two hundred random Pods against the plugin, with restarts on both sides and a watch that is held back.

Pods of every size come and go, a fifth of them foreign; the planner's part is played by a planner that knows only what was
written back. No core may ever be given twice, every range must be legal, and the numbers of both sides must agree. The seed
is printed first by pytest's parameters.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from eventually import eventually
from fleetpack.catalog import load_catalog
from fleetpack.core.cores import format_cores, range_mask
from fleetpack.core.packing.topology import legal_masks
from fleetpack.device_plugin.accounts import Reading
from fleetpack.device_plugin.choosing import is_legal
from fleetpack.device_plugin.comparison import allocated_by_pod, annotations_to_write
from fleetpack.device_plugin.pods import planned_pods
from fleetpack.device_plugin.silicon import NeuronResource, mask_of_ids
from fleetpack.device_plugin.sources import machine_of
from kubelet_side import CORE, DEVICE, AdmissionError, Admitted, KubeletSide
from plugin_world import PodBoard, node_pod, running_plugin

MACHINE = machine_of(load_catalog(), "inf2.48xlarge")
PODS = 200


def held(kubelet: KubeletSide) -> int:
    """Return the cores that are given out; fails where one is given out twice."""
    masks = [mask(resource, admitted) for (_, resource), admitted in kubelet.held.items()]
    union = sum(masks)
    assert union.bit_count() == sum(one.bit_count() for one in masks), "a core is given out twice"
    return union


def mask(resource: str, admitted: Admitted) -> int:
    found = mask_of_ids(MACHINE, NeuronResource(resource), admitted.ids)
    assert isinstance(found, int)
    return found


def plan(free: int, size: int, chance: random.Random) -> str:
    legal = legal_masks(MACHINE, size)
    assert isinstance(legal, tuple)
    fitting = [one for one in legal if one & free == one]
    return format_cores(chance.choice(fitting)) if fitting else ""


def write_back(board: PodBoard, reading: Reading) -> None:
    """Do what the process does with a reading, and compare everybody's view."""
    for one in annotations_to_write(planned_pods(tuple(board.truth.values())), reading):
        board.put(replace(board.truth[one.name], written=one.cores))


@pytest.mark.parametrize("seed", range(3))
async def test_should_never_give_a_core_twice(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kubelet, board = KubeletSide(tmp_path, seed), PodBoard()
    await kubelet.start()
    alive: list[str] = []
    admitted = refused = followed = 0
    async with running_plugin(tmp_path, board, "inf2.48xlarge") as running:
        for number in range(PODS):
            await eventually(lambda: kubelet.allocatable() == 24, what="a registered plugin")
            while len(alive) >= 8 or (alive and chance.random() < 0.3):
                name = alive.pop(chance.randrange(len(alive)))
                kubelet.end(f"default/{name}")
                board.remove(name)
            size, foreign = chance.randint(1, 24), chance.random() < 0.2
            board.watch_is_held = chance.random() < 0.3
            planned = "" if foreign else plan(range_mask(0, 24) & ~held(kubelet), size, chance)
            name = f"pod-{number}"
            board.put(node_pod(name, planned, count=size))
            with contextlib.suppress(AdmissionError):
                if chance.random() < 0.05:
                    await kubelet.restart()
                    continue
                if chance.random() < 0.05:
                    running.plugin.accounts = replace(running.plugin.accounts, kept=(), grants=())
                    await running.plugin.start()
                got = await kubelet.admit(f"default/{name}", size)
                assert is_legal(MACHINE, mask(CORE, got))
                followed += format_cores(mask(CORE, got)) == planned
                admitted += 1
                alive.append(name)
                board.start(name)
                held(kubelet)
            if name not in alive:
                board.remove(name)
                refused += 1
            write_back(board, await running.plugin.refresh())
        view = {pod: format_cores(cores) for pod, cores in allocated_by_pod(running.plugin.accounts.shown).items()}
    expected = {pod: format_cores(mask(resource, one)) for (pod, resource), one in kubelet.held.items()}
    annotated = {pod.key: pod.written for pod in board.truth.values() if pod.key in expected}
    await kubelet.stop()
    assert (view, annotated) == (expected, expected)
    assert admitted > 50
    assert followed > admitted // 2


@pytest.mark.parametrize("seed", range(3))
async def test_should_never_give_a_chip_twice_across_both_resources(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kubelet, board = KubeletSide(tmp_path, seed), PodBoard()
    await kubelet.start()
    alive: list[str] = []
    admitted = 0
    async with running_plugin(tmp_path, board, "inf2.48xlarge", whole_devices=True) as running:
        for number in range(PODS):
            await eventually(
                lambda: kubelet.capacity(CORE) == 24 and kubelet.capacity(DEVICE) == 12, what="both resources"
            )
            if alive and chance.random() < 0.45:
                name = alive.pop(chance.randrange(len(alive)))
                kubelet.end(f"default/{name}")
                board.remove(name)
            if chance.random() < 0.05:
                kubelet.knows_its_pods = False
                await kubelet.restart()
                await running.plugin.refresh()
                continue
            kubelet.knows_its_pods = kubelet.knows_its_pods or chance.random() < 0.5
            whole = chance.random() < 0.5
            count, name = (chance.randint(1, 3), f"pod-{number}")
            board.put(node_pod(name, count=count, whole_devices=whole))
            try:
                await kubelet.admit(f"default/{name}", count, DEVICE if whole else CORE)
            except AdmissionError:
                board.remove(name)
            else:
                admitted += 1
                alive.append(name)
                board.start(name)
            held(kubelet)
            by_core = {core // 2 for core in range(24) if _held_through(kubelet, CORE) >> core & 1}
            by_device = {core // 2 for core in range(24) if _held_through(kubelet, DEVICE) >> core & 1}
            assert not by_core & by_device
            if chance.random() < 0.5:
                await running.plugin.refresh()
    await kubelet.stop()
    assert admitted > 30


def _held_through(kubelet: KubeletSide, resource: str) -> int:
    union = 0
    for (_, own), one in kubelet.held.items():
        union |= mask(own, one) if own == resource else 0
    return union

"""The plugin over real gRPC on unix sockets, against a small kubelet side (tests/support/kubelet_side.py).

The checks of Kubernetes' own e2e_node device plugin suite that need no container: capacity, allocatable, who gets which cores, and
what survives which restart. Real kubelets are another suite.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from eventually import eventually
from fleetpack.core.cores import parse_cores
from fleetpack.device_plugin.pods import ContainerRequest, NodePod
from fleetpack.device_plugin.silicon import NeuronResource
from fleetpack.device_plugin.sources import CoreNumbering
from kubelet_side import CORE, DEVICE, AdmissionError, Admitted, KubeletSide
from plugin_world import PodBoard, node_pod, running_plugin


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[KubeletSide]:
    side = KubeletSide(tmp_path)
    await side.start()
    yield side
    await side.stop()


def cores(text: str) -> frozenset[str]:
    return frozenset(f"neuroncore-{core}" for core in range(4096) if parse_cores(text) >> core & 1)


async def registered(kubelet: KubeletSide, count: int = 12, resource: str = CORE) -> None:
    await eventually(lambda: kubelet.allocatable(resource) == count, what=f"{count} allocatable {resource}")


async def test_should_show_every_core_after_registering(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()):
        await registered(kubelet)
        assert (kubelet.capacity(), kubelet.healthy()) == (12, set(cores("0-11")))


async def test_should_give_a_pod_its_planned_cores_and_the_devices_under_them(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard(node_pod("a", "4-7"))):
        await registered(kubelet)
        admitted = await kubelet.admit("default/a", 4)
    assert admitted.ids == cores("4-7")
    assert admitted.environment == {"NEURON_RT_VISIBLE_CORES": "0-3"}
    assert admitted.devices == {"/dev/neuron2": "/dev/null", "/dev/neuron3": "/dev/null"}


async def test_should_number_cores_as_on_the_host_for_older_drivers(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("a", "4-7"))
    async with running_plugin(kubelet.folder, board, core_numbering=CoreNumbering.HOST):
        await registered(kubelet)
        admitted = await kubelet.admit("default/a", 4)
    assert admitted.environment == {"NEURON_RT_VISIBLE_CORES": "4-7"}


async def test_should_give_pods_of_one_size_their_plans_in_the_order_of_their_creation(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("older", "8-9"), node_pod("younger", "2-3"))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        older = await kubelet.admit("default/older", 2)
        younger = await kubelet.admit("default/younger", 2)
    assert (older.ids, younger.ids) == (cores("8-9"), cores("2-3"))


async def test_should_keep_a_foreign_pod_off_the_cores_that_others_wait_for(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("planned", "0-7"), node_pod("foreign", count=4))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        foreign = await kubelet.admit("default/foreign", 4)
        planned = await kubelet.admit("default/planned", 8)
    assert (foreign.ids, planned.ids) == (cores("8-11"), cores("0-7"))


async def test_should_give_a_plan_to_its_pod_and_not_to_an_older_foreign_pod_of_its_size(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("foreign", count=4), node_pod("planned", "0-3"))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        foreign = await kubelet.admit("default/foreign", 4)
        # The kubelet's list was not read yet: only the question tells that the foreign Pod has had its turn.
        planned = await kubelet.admit("default/planned", 4)
    assert planned.ids == cores("0-3")
    assert not foreign.ids & planned.ids


async def test_should_keep_the_plan_of_a_pod_that_has_the_name_of_one_that_has_just_ended(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("chat-0", "0-1"))
    async with running_plugin(kubelet.folder, board) as running:
        await registered(kubelet)
        await kubelet.admit("default/chat-0", 2)
        board.start("chat-0")
        await running.plugin.refresh()
        # Between the end of the one and the other's question the kubelet's list is not read.
        kubelet.end("default/chat-0")
        board.put(replace(node_pod("chat-0", "6-7"), uid="uid-of-another"))
        again = await kubelet.admit("default/chat-0", 2)
    assert again.ids == cores("6-7")


async def test_should_complete_a_swap_that_the_kubelets_list_shows_already(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("elder", "0-1"), node_pod("younger", "10-11"))
    async with running_plugin(kubelet.folder, board) as running:
        await registered(kubelet)
        younger = await kubelet.admit("default/younger", 2)
        await running.plugin.refresh()
        elder = await kubelet.admit("default/elder", 2)
    assert (younger.ids, elder.ids) == (cores("0-1"), cores("10-11"))


async def test_should_offer_no_core_that_the_kubelet_lists_although_it_calls_it_free(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("holder", "0-3"))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        await kubelet.admit("default/holder", 4)
        # A kubelet whose list was read at the wrong moment has forgotten it (devicemanager UpdateAllocatedDevices).
        offered = await kubelet.prefer(sorted(cores("0-11")), 8)
    assert set(offered) == cores("4-11")


async def test_should_give_no_core_again_that_the_kubelet_lists(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("holder", "0-3"))
    async with running_plugin(kubelet.folder, board) as running:
        await registered(kubelet)
        await kubelet.admit("default/holder", 4)
        await running.plugin.refresh()
        # Such a kubelet asks nothing where it takes all that it believes to be free.
        with pytest.raises(AdmissionError, match=r"of cores 0-11 the kubelet's list has 0-3 by Pod default/holder"):
            await kubelet.allocate("default/next", sorted(cores("0-11")))
        kubelet.end("default/holder")
        board.remove("holder")
        assert (await kubelet.allocate("default/next", sorted(cores("0-11")))).ids == cores("0-11")


async def test_should_give_cores_again_to_a_pod_that_a_kubelet_without_checkpoint_has_forgotten(
    kubelet: KubeletSide,
) -> None:
    async with running_plugin(kubelet.folder, PodBoard(node_pod("a", "0-3"))) as running:
        await registered(kubelet)
        await kubelet.admit("default/a", 4)
        await running.plugin.refresh()
        kubelet.held.clear()
        await kubelet.restart()
        await registered(kubelet)
        assert (await kubelet.allocate("default/a", sorted(cores("0-3")))).ids == cores("0-3")


async def test_should_note_when_it_answers_and_not_only_when_it_is_asked(kubelet: KubeletSide) -> None:
    class LateBoard(PodBoard):
        async def ask(self) -> tuple[NodePod, ...]:
            await asyncio.sleep(0.5)
            return await super().ask()

    async with running_plugin(kubelet.folder, LateBoard()) as running:
        await registered(kubelet)
        asked_at = time.monotonic()
        await kubelet.prefer(sorted(cores("0-11")), 4)
    assert running.plugin.asked_at - asked_at >= 0.5


async def test_should_mean_the_same_pod_again_after_a_restart_of_the_kubelet(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("first", "0-1"), node_pod("second", "6-7"))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        everything = sorted(cores("0-11"))
        before = await kubelet.prefer(everything, 2)
        await kubelet.restart()
        await registered(kubelet)
        after = [await kubelet.prefer(everything, 2) for _ in range(2)]
    assert [before, *after] == [sorted(cores(text)) for text in ("0-1", "0-1", "6-7")]


async def test_should_refuse_a_foreign_pod_rather_than_break_a_plan(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("planned", "4-7"), node_pod("foreign", count=8))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        refusal = (
            "is planned for Pods that wait on this node: default/planned; the kubelet seems to ask for default/foreign"
        )
        with pytest.raises(AdmissionError, match=refusal):
            await kubelet.admit("default/foreign", 8)


async def test_should_ask_the_api_server_once_when_the_watch_is_behind(kubelet: KubeletSide) -> None:
    board = PodBoard()
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        board.watch_is_held, asked = True, board.asked
        board.put(node_pod("new", "6-9"))
        admitted = await kubelet.admit("default/new", 4)
    assert (admitted.ids, board.asked - asked) == (cores("6-9"), 1)


async def test_should_give_a_legal_range_when_the_api_server_does_not_answer(kubelet: KubeletSide) -> None:
    board = PodBoard()
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        board.answers = False
        admitted = await kubelet.admit("default/unknown", 4)
    assert admitted.ids in {cores(f"{start}-{start + 3}") for start in range(0, 9, 2)}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["neuroncore-0", "neuroncore-4"], "FAILED_PRECONDITION: .*cores 0,4 may not serve one container"),
        (["neuroncore-1", "neuroncore-2"], "FAILED_PRECONDITION: .*cores 1-2 may not serve one container"),
        (["neuroncore-12"], "NOT_FOUND: .*'neuroncore-12' is not on this node"),
        (["neuron-0"], "NOT_FOUND: .*'neuron-0' is not on this node"),
    ],
)
async def test_should_refuse_what_no_replica_could_run_on(kubelet: KubeletSide, ids: list[str], message: str) -> None:
    async with running_plugin(kubelet.folder, PodBoard()):
        await registered(kubelet)
        with pytest.raises(AdmissionError, match=message):
            await kubelet.allocate("default/a", ids)


async def test_should_refuse_a_size_that_the_torus_does_not_have(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard(), "trn1.32xlarge"):
        await registered(kubelet, 32)
        with pytest.raises(
            AdmissionError, match=r"trn1.32xlarge does not support requests for 6 cores; ask for 1, 2, 8"
        ):
            await kubelet.admit("default/a", 6)


async def test_should_keep_devices_over_a_restart_of_the_kubelet(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("a", "4-7"), node_pod("b", "0-3"))
    async with running_plugin(kubelet.folder, board) as running:
        await registered(kubelet)
        before = await kubelet.admit("default/a", 4)
        await kubelet.restart()
        assert kubelet.capacity() == 0
        await registered(kubelet)
        await running.plugin.refresh()
        again, other = await kubelet.admit("default/a", 4), await kubelet.admit("default/b", 4)
    assert (again.ids, other.ids, kubelet.registrations) == (before.ids, cores("0-3"), [CORE, CORE])


async def test_should_register_again_after_its_own_restart_and_know_what_is_given_out(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("a", "4-7"))
    async with running_plugin(kubelet.folder, board):
        await registered(kubelet)
        await kubelet.admit("default/a", 4)
    await eventually(lambda: kubelet.allocatable() == 0, what="unhealthy devices")
    assert kubelet.capacity() == 12
    async with running_plugin(kubelet.folder, board) as running:
        await registered(kubelet)
        assert running.plugin.accounts.held_through(NeuronResource.CORE) == parse_cores("4-7")
        assert kubelet.registrations == [CORE, CORE]


async def test_should_register_again_when_its_socket_is_lost(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()):
        await registered(kubelet)
        (kubelet.folder / "fleetpack-neuroncore.sock").unlink()
        await eventually(lambda: kubelet.registrations == [CORE, CORE], what="a second registration")
        await registered(kubelet)


async def test_should_register_again_with_a_kubelet_that_has_stopped_listening(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()):
        await registered(kubelet)
        await kubelet._forget(CORE)
        await eventually(lambda: kubelet.allocatable() == 12, what="a second registration")


async def test_should_register_again_when_another_plugin_has_registered_the_same(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()):
        await eventually(lambda: kubelet.allocatable() == 12, what="all devices")
        kubelet.count_devices_of_another("rival-0", "rival-1")
        await eventually(lambda: kubelet.registrations == [CORE, CORE], what="a second registration")
        await eventually(lambda: kubelet.allocatable() == 12, what="all devices again")
        # And it leaves it at that.
        await asyncio.sleep(1.5)
        assert kubelet.registrations == [CORE, CORE]


async def test_should_wait_for_a_kubelet_that_is_not_there(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()) as running:
        await registered(kubelet)
        await kubelet.stop()
        kubelet.socket.unlink(missing_ok=True)
        await eventually(lambda: not running.registrar.readiness()[0], what="a plugin that is not ready")
        assert running.registrar.readiness() == (False, f"no kubelet: {kubelet.socket} does not exist")
        await kubelet.start()
        await registered(kubelet)
        assert running.registrar.readiness() == (True, "registered with the kubelet")


async def test_should_lower_allocatable_only_while_a_device_is_out(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()) as running:
        await registered(kubelet)
        running.plugin.set_out("test", parse_cores("2-3"))
        await registered(kubelet, 10)
        assert (kubelet.capacity(), kubelet.healthy()) == (12, set(cores("0-1,4-11")))
        running.plugin.set_out("test", 0)
        await registered(kubelet)


async def test_should_say_which_cause_takes_cores_out_of_reach(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()) as running:
        await registered(kubelet)
        running.plugin.set_out("node condition", parse_cores("2-3"))
        running.plugin.set_out("file", parse_cores("3,8"))
        with pytest.raises(
            AdmissionError, match=r"cores 2-3 of the asked 0-3 are unhealthy \(3 by file, 2-3 by node condition\)"
        ):
            await kubelet.allocate("default/a", sorted(cores("0-3")))
        out = r"free cores: 0-1,4-7,9-11\); out of its reach: 2-3 by node condition, 3,8 by file; ask for fewer cores"
        with pytest.raises(AdmissionError, match=out):
            await kubelet.prefer(sorted(cores("0-11")), 8)


async def test_should_send_no_second_list_while_nothing_changes(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard()) as running:
        await registered(kubelet)
        for _ in range(3):
            await running.plugin.refresh()
            await asyncio.sleep(0.02)
        assert kubelet.endpoints[CORE].lists == 1


async def test_should_tell_numa_nodes_only_when_asked_to(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard(), "trn2.48xlarge", with_numa=True):
        await registered(kubelet, 64)
        told = kubelet.endpoints[CORE].numa
    async with running_plugin(kubelet.folder, PodBoard(), "trn2.48xlarge"):
        await registered(kubelet, 64)
        untold = kubelet.endpoints[CORE].numa
    assert ([told[f"neuroncore-{core}"] for core in (0, 15, 16, 47, 48)], untold) == ([1, 1, 0, 0, 1], {})


async def test_should_give_no_chip_out_through_both_resources(kubelet: KubeletSide) -> None:
    async with running_plugin(kubelet.folder, PodBoard(), whole_devices=True) as running:
        await registered(kubelet, 12)
        await registered(kubelet, 6, DEVICE)
        await kubelet.allocate("default/a", ["neuroncore-4"])
        await registered(kubelet, 5, DEVICE)
        with pytest.raises(AdmissionError, match=r"/dev/neuron2, which is given out through aws.amazon.com/neuroncore"):
            await kubelet.allocate("default/b", ["neuron-2"], DEVICE)
        await running.plugin.refresh()
        with pytest.raises(
            AdmissionError, match=rf"\(4-5 by Pod default/a through {CORE}\): free it, or use another node"
        ):
            await kubelet.allocate("default/b", ["neuron-2"], DEVICE)
        whole = await kubelet.admit("default/c", 2, DEVICE)
        await registered(kubelet, 8)
        assert not {f"neuron-{device}" for device in (2,)} & whole.ids
        # The other core of device 2 is still to be had.
        assert (await kubelet.allocate("default/d", ["neuroncore-5"])).environment == {"NEURON_RT_VISIBLE_CORES": "1"}
        assert running.plugin.accounts.held_through(NeuronResource.CORE) == parse_cores("4-5")


async def test_should_refuse_a_container_that_asks_for_both_resources_and_nobody_after_it(kubelet: KubeletSide) -> None:
    requests = tuple(
        ContainerRequest(container="server", resource=resource, units=1, units_of_other_resource=1)
        for resource in NeuronResource
    )
    board = PodBoard(replace(node_pod("both", count=1), requests=requests), node_pod("one", "3"))
    async with running_plugin(kubelet.folder, board, whole_devices=True):
        await registered(kubelet)
        refusal = r"INVALID_ARGUMENT: .*: Pod default/both: container server asks for both .*; ask for one of them, or use two"
        with pytest.raises(AdmissionError, match=refusal):
            await kubelet.admit("default/both", 1)
        assert (await kubelet.admit("default/one", 1)).ids == cores("3")


async def test_should_free_a_chip_for_the_other_resource_when_its_pod_has_ended(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("a", count=1))
    async with running_plugin(kubelet.folder, board, whole_devices=True) as running:
        await registered(kubelet, 6, DEVICE)
        await kubelet.allocate("default/a", ["neuroncore-4"])
        await running.plugin.refresh()
        kubelet.end("default/a")
        board.remove("a")
        # The plugin has not read the kubelet's list again: it asks before it refuses.
        assert (await kubelet.allocate("default/b", ["neuron-2"], DEVICE)).ids == {"neuron-2"}


async def test_should_hold_a_chip_while_a_restarted_kubelet_does_not_know_its_pods(kubelet: KubeletSide) -> None:
    board = PodBoard(node_pod("a", count=1))
    async with running_plugin(kubelet.folder, board, whole_devices=True) as running:
        await registered(kubelet, 6, DEVICE)
        await kubelet.allocate("default/a", ["neuroncore-4"])
        await running.plugin.refresh()
        kubelet.knows_its_pods = False
        await kubelet.restart()
        await running.plugin.refresh()
        await registered(kubelet, 5, DEVICE)
        with pytest.raises(AdmissionError, match="given out through"):
            await kubelet.allocate("default/b", ["neuron-2"], DEVICE)


def hold_devices_of_another_plugin(kubelet: KubeletSide, pod: str, *ids: str, resource: str = CORE) -> None:
    """Let a Pod hold what another plugin gave, before this one came."""
    kubelet.held[(pod, resource)] = Admitted(ids=frozenset(ids), environment={}, devices={})


async def test_should_give_out_no_core_while_a_pod_holds_devices_that_another_plugin_gave(kubelet: KubeletSide) -> None:
    hold_devices_of_another_plugin(kubelet, "default/old", "0", "1")
    board = PodBoard(node_pod("old", count=2), node_pod("new", "0-3"))
    async with running_plugin(kubelet.folder, board) as running:
        await eventually(lambda: kubelet.capacity() == 12, what="a registered plugin")
        assert kubelet.allocatable() == 0
        why = (
            r"Pod default/old holds aws.amazon.com/neuroncore device '0', which another plugin gave: nobody can tell which "
            r"cores that is; drain the node \(or end that Pod\), then its cores are offered"
        )
        with pytest.raises(AdmissionError, match=f"FAILED_PRECONDITION: {CORE}: {why}"):
            await kubelet.prefer(sorted(cores("0-11")), 4)
        with pytest.raises(AdmissionError, match=f"FAILED_PRECONDITION: {CORE}: {why}"):
            await kubelet.allocate("default/new", sorted(cores("0-3")))

        kubelet.end("default/old")
        board.remove("old")
        await running.plugin.refresh()
        await registered(kubelet)
        assert (await kubelet.admit("default/new", 4)).ids == cores("0-3")


async def test_should_give_a_core_as_soon_as_the_pod_with_another_plugins_devices_has_ended(
    kubelet: KubeletSide,
) -> None:
    hold_devices_of_another_plugin(kubelet, "default/old", "0")
    board = PodBoard(node_pod("old", count=1), node_pod("new", "0-3"))
    async with running_plugin(kubelet.folder, board):
        await eventually(lambda: kubelet.capacity() == 12, what="a registered plugin")
        kubelet.end("default/old")
        board.remove("old")
        # The list was not read again: it is before the refusal.
        await kubelet.allocate("default/new", sorted(cores("0-3")))
        await registered(kubelet)


async def test_should_still_give_no_core_while_a_restarted_kubelet_does_not_know_that_pod(kubelet: KubeletSide) -> None:
    hold_devices_of_another_plugin(kubelet, "default/old", "0000:90:00.0", resource="aws.amazon.com/neurondevice")
    async with running_plugin(kubelet.folder, PodBoard(node_pod("old", count=1))) as running:
        await eventually(lambda: kubelet.capacity() == 12, what="a registered plugin")
        kubelet.knows_its_pods = False
        await running.plugin.refresh()
        assert (kubelet.allocatable(), running.plugin.unhealthy) == (0, parse_cores("0-11"))

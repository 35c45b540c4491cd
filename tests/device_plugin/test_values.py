"""Words and numbers: names of devices, what containers get, health, the comparison of plan and truth, rows of Pods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.core.cores import format_cores, parse_cores
from fleetpack.device_plugin.accounts import ForeignDevice, Holding, Reading
from fleetpack.device_plugin.comparison import (
    AnnotationWrite,
    DisagreementKind,
    PlannedPod,
    annotations_to_write,
    disagreements,
)
from fleetpack.device_plugin.health import cores_out_by_condition, named_cores
from fleetpack.device_plugin.pods import (
    ContainerRequest,
    live_pods,
    project_node_pod,
    remembered_holdings,
    waiting_pods,
)
from fleetpack.device_plugin.silicon import NeuronResource, Refusal, ids_of, mask_of_ids
from fleetpack.device_plugin.sources import (
    CoreNumbering,
    NeuronDevices,
    SimulatedDevices,
    SourceError,
    device_files,
    found_devices,
    machine_of,
    visible_cores,
)

CORE, DEVICE = NeuronResource.CORE, NeuronResource.DEVICE
MACHINE = machine_of(load_catalog(), "inf2.24xlarge")


@pytest.mark.parametrize("resource", list(NeuronResource))
def test_should_read_the_names_that_it_writes(resource: NeuronResource) -> None:
    cores = parse_cores("4-9")
    assert mask_of_ids(MACHINE, resource, ids_of(MACHINE, resource, cores)) == cores


@pytest.mark.parametrize(
    "name", ["neuroncore-12", "neuroncore-", "neuroncore-01", "neuroncore-²", "nc-1", "neuron-1", ""]
)
def test_should_refuse_names_that_are_not_on_the_node(name: str) -> None:
    assert isinstance(mask_of_ids(MACHINE, CORE, (name,)), Refusal)


@pytest.mark.parametrize(
    ("cores", "inside", "outside"),
    [("4-7", "0-3", "4-7"), ("5", "1", "5"), ("4", "0", "4"), ("0-11", "0-11", "0-11"), ("2-4", "0-2", "2-4")],
)
def test_should_number_visible_cores_over_the_containers_own_devices(cores: str, inside: str, outside: str) -> None:
    mask = parse_cores(cores)
    by_container, by_host = (
        visible_cores(SimulatedDevices(instance_type=MACHINE, core_numbering=numbering), mask)
        for numbering in (CoreNumbering.CONTAINER, CoreNumbering.HOST)
    )
    assert (by_container, by_host) == (inside, outside)


def test_should_find_real_devices_by_their_files(tmp_path: Path) -> None:
    for name in ("neuron0", "neuron2", "neuron11", "neuron_x", "null"):
        (tmp_path / name).touch()
    source = NeuronDevices(instance_type=MACHINE, device_folder=tmp_path)
    assert source.present_devices() == {0, 2, 11}
    assert found_devices(tmp_path / "nothing") == frozenset()
    assert [one.host_path for one in device_files(source, parse_cores("3-4"))] == ["/dev/neuron1", "/dev/neuron2"]


@pytest.mark.parametrize(
    ("name", "message"), [("inf2.25xlarge", "nearest are inf2"), ("p5.48xlarge", "no Neuron cores")]
)
def test_should_say_what_is_wrong_with_a_machine(name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        machine_of(load_catalog(), name)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("", ""), ("neuron-1", "2-3"), ("neuroncore-7, neuron-0 # why\n\nneuroncore-9", "0-1,7,9"), ("all", "0-11")],
)
def test_should_read_what_is_out(text: str, cores: str) -> None:
    assert format_cores(named_cores(MACHINE, text)) == cores


@pytest.mark.parametrize("text", ["neuron-6", "gpu-1", "neuron-1; neuron-2"])
def test_should_quote_the_word_that_it_cannot_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not on this inf2.24xlarge: write neuron-0 to neuron-5"):
        named_cores(MACHINE, text)


@pytest.mark.parametrize(
    ("kind", "reason", "message", "cores"),
    [
        ("NeuronHealth", "NeuronHasNoError", "", ""),
        ("NeuronHealth", "NeuronHasError_DMA_ERROR", "NEURON_HW_ERR=DMA_ERROR", "0-11"),
        ("NeuronHealth", "NeuronHasError_DMA_ERROR", "on /dev/neuron4", "8-9"),
        ("NeuronHealth", "NeuronHasError_DMA_ERROR", "on /dev/neuron99", "0-11"),
        ("Ready", "NeuronHasError_DMA_ERROR", "", ""),
    ],
)
def test_should_take_out_what_the_node_condition_names(kind: str, reason: str, message: str, cores: str) -> None:
    conditions = ({"type": kind, "status": "True", "reason": reason, "message": message},)
    assert format_cores(cores_out_by_condition(MACHINE, conditions)) == cores


def planned(name: str, cores: str, written: str | None = None) -> PlannedPod:
    return PlannedPod(namespace="n", name=name, uid=f"u-{name}", planned=parse_cores(cores), written=written)


def shown(**cores: str) -> Reading:
    return Reading(
        started_at=0.0,
        holdings=tuple(
            Holding(pod=f"n/{name}", container="server", resource=CORE, cores=parse_cores(text))
            for name, text in cores.items()
        ),
    )


def test_should_write_only_what_differs_and_what_is_known() -> None:
    pods = (planned("right", "0-1", "0-1"), planned("new", "2-3"), planned("old", "4-5", "6-7"), planned("none", "8-9"))
    writes = annotations_to_write(pods, shown(right="0-1", new="2-3", old="4-5", stranger="10-11"))
    assert writes == (
        AnnotationWrite(namespace="n", name="new", uid="u-new", cores="2-3"),
        AnnotationWrite(namespace="n", name="old", uid="u-old", cores="4-5"),
    )


def test_should_write_nothing_on_a_name_that_the_kubelet_lists_twice() -> None:
    reading = replace(shown(twice="0-1"), ambiguous=frozenset({"n/twice"}))
    pods = (planned("twice", "2-3"),)
    assert (annotations_to_write(pods, reading), disagreements(pods, reading)) == ((), ())


def test_should_write_nothing_on_a_pod_of_which_not_all_cores_can_be_told() -> None:
    reading = shown(mixed="0-1")
    foreign = (ForeignDevice(resource=CORE.value, device_id="7"),)
    reading = replace(reading, holdings=(replace(reading.holdings[0], foreign=foreign),))
    pods = (planned("mixed", "2-3"),)
    assert (annotations_to_write(pods, reading), disagreements(pods, reading)) == ((), ())


def test_should_tell_a_swap_from_a_move() -> None:
    pods = (planned("a", "0-1"), planned("b", "2-3"), planned("c", "4-5"), planned("foreign", ""))
    found = disagreements(pods, shown(a="2-3", b="8-9", c="4-5", foreign="0-1"))
    assert [(one.name, one.kind) for one in found] == [("a", DisagreementKind.SWAPPED), ("b", DisagreementKind.MOVED)]
    assert found[1].message == "planned on cores 2-3, the kubelet gave other cores 8-9; the planner goes on from these"


def raw_pod(limits: dict[str, Any], *, init: tuple[dict[str, Any], ...] = (), **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "n",
            "name": "a",
            "uid": "u",
            "creationTimestamp": "1970-01-01T00:00:05Z",
            "annotations": {f"fleetpack.dev/{key.replace('_', '-')}": text for key, text in annotations.items()},
        },
        "spec": {
            "initContainers": list(init),
            "containers": [{"name": "proxy"}, {"name": "server", "resources": {"limits": limits}}],
        },
    }


def waiting_cores(raw: dict[str, Any], held: dict[str, int] | None = None) -> list[str]:
    pod = project_node_pod(raw)
    return [format_cores(one.planned) for one in waiting_pods(MACHINE, (pod,) if pod else (), held or {})]


def test_should_see_a_pod_wait_until_it_holds_cores() -> None:
    raw = raw_pod({CORE: "4"}, cores="4-7")
    assert (waiting_cores(raw), waiting_cores(raw, {"n/a": parse_cores("4-7")})) == (["4-7"], [])
    assert waiting_cores({**raw, "status": {"phase": "Running"}}) == []


@pytest.mark.parametrize("cores", ["4-6", "nonsense", ""])
def test_should_believe_no_plan_that_is_not_of_the_pods_size(cores: str) -> None:
    assert waiting_cores(raw_pod({CORE: "4"}, cores=cores)) == [""]


def test_should_see_each_container_wait_and_know_which_was_asked_for() -> None:
    raw = raw_pod({CORE: "4"}, cores="4-7")
    raw["spec"]["containers"].append({"name": "helper", "resources": {"limits": {CORE: "1"}}})
    pod = project_node_pod(raw)
    assert pod is not None
    first, second = waiting_pods(MACHINE, (pod,), {}, frozenset({"n/a/u/0"}))
    assert [(one.size, format_cores(one.planned), one.asked) for one in (first, second)] == [
        (4, "4-7", True),
        (1, "", False),
    ]


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, "0-1"),
        ({"b": "0-1"}, "2-3"),
        ({"b": "0-1", "c": "2-3"}, "4-5"),
        # Taken by a Pod without a plan of this size, or in a circle: the plan is broken.
        ({"stranger": "0-1"}, "0-1"),
        ({"b": "0-1", "c": "2-3", "stranger": "4-5"}, "0-1"),
    ],
)
def test_should_complete_a_swap(held: dict[str, str], expected: str) -> None:
    template = project_node_pod(raw_pod({CORE: "2"}, cores="0-1"))
    assert template is not None
    others = [replace(template, name=name, planned=parse_cores(plan)) for name, plan in (("b", "2-3"), ("c", "4-5"))]
    masks = {f"n/{name}": parse_cores(cores) for name, cores in held.items()}
    found = [one for one in waiting_pods(MACHINE, (template, *others), masks) if one.name == "n/a"]
    assert [format_cores(one.planned) for one in found] == [expected]


def test_should_leave_pods_without_neuron_cores_aside() -> None:
    assert project_node_pod(raw_pod({"cpu": "2"})) is None


def test_should_know_whether_a_pod_with_devices_of_another_plugin_is_alive() -> None:
    pod = project_node_pod(raw_pod({"aws.amazon.com/neurondevice": "1"}))
    assert pod is not None
    assert (live_pods((pod,)).names, waiting_pods(MACHINE, (pod,), {})) == ({"n/a"}, ())


def test_should_know_a_container_that_asks_for_both_resources() -> None:
    pod = project_node_pod(raw_pod({CORE: "1", DEVICE: "2"}))
    assert pod is not None
    found = waiting_pods(MACHINE, (pod,), {})
    why = (
        "Pod n/a: container server asks for both aws.amazon.com/neuroncore: 1 and aws.amazon.com/neuron: 2, and could see "
        "cores of other Pods; ask for one of them, or use two containers"
    )
    assert [(one.resource, one.size, one.contradiction) for one in found] == [(CORE, 1, why), (DEVICE, 4, why)]


def test_should_know_why_one_container_must_not_have_both_resources() -> None:
    source = SimulatedDevices(instance_type=MACHINE)
    single, whole = parse_cores("5"), parse_cores("8-9")
    # What such a container would have: the devices of both answers, and the variable of either.
    in_container = [
        core
        for file in sorted({*device_files(source, single), *device_files(source, whole)}, key=str)
        for device in [int(file.container_path.removeprefix("/dev/neuron"))]
        for core in (2 * device, 2 * device + 1)
    ]
    seen = {
        in_container[inside]
        for inside in range(len(in_container))
        if parse_cores(visible_cores(source, whole)) >> inside & 1
    }
    assert seen == {4, 5}, "core 4 is another Pod's, and its own cores 8 and 9 are not seen"


def test_should_know_that_an_init_container_may_hold_cores() -> None:
    init = {"name": "first", "resources": {"limits": {CORE: 2}}}
    for_a_while, sidecar = raw_pod({}, init=(init,)), raw_pod({}, init=({**init, "restartPolicy": "Always"},))
    pods = [pod for raw in (for_a_while, sidecar) if (pod := project_node_pod(raw))]
    assert [live_pods((pod,)).any_init_requests for pod in pods] == [True, False]
    assert [pod.requests for pod in pods] == [
        (),
        (ContainerRequest(container="first", resource=CORE, units=2),),
    ]


def test_should_remember_what_annotations_say_of_live_pods() -> None:
    pod = project_node_pod(raw_pod({CORE: "4"}, allocated_cores="4-7"))
    assert pod is not None
    remembered = (Holding(pod="n/a", container="", resource=CORE, cores=parse_cores("4-7")),)
    assert remembered_holdings((pod,)) == remembered
    assert remembered_holdings((replace(pod, phase="Failed"),)) == ()

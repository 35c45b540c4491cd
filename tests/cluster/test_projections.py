from __future__ import annotations

from dataclasses import replace

import pytest

from fleetpack.cluster.projections import NodeRow, project_node, project_pod, timestamp_seconds
from fleetpack.cluster.reflector import ProjectedStore
from fleetpack.core.cores import parse_cores
from fleetpack.core.fleet import ForeignPod, Replica, ReplicaPhase, Resources, Taint
from raw_objects import CREATED_SECONDS, a_raw_node, a_raw_pod

READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T12:00:08Z"}


def test_should_read_a_ready_replica_whole() -> None:
    raw = a_raw_pod(status={"phase": "Running", "podIP": "127.10.0.7", "conditions": [READY]})

    assert project_pod(raw) == Replica(
        deployment="team/chat",
        variant="tp8",
        name="chat-tp8-0",
        uid="uid-pod",
        resource_version="9",
        node="node-a",
        cores=parse_cores("8-15"),
        cores_count=8,
        planned_cores=parse_cores("8-15"),
        phase=ReplicaPhase.READY,
        template_hash="h",
        requests=Resources(cpu_millicores=2000, memory_bytes=4 * 2**30, pods=1, accelerator_cores=8),
        created_at=CREATED_SECONDS,
        ready_at=CREATED_SECONDS + 8,
        address="127.10.0.7",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ReplicaPhase.STARTING),
        ({"node": ""}, ReplicaPhase.UNBOUND),
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, ReplicaPhase.FAILED),
        ({"deletionTimestamp": "2026-11-24T12:01:00Z"}, ReplicaPhase.TERMINATING),
        ({"status": {"phase": "Failed"}, "deletionTimestamp": "2026-11-24T12:01:00Z"}, ReplicaPhase.FAILED),
    ],
)
def test_should_tell_how_far_a_replica_has_come(changes: dict[str, object], expected: ReplicaPhase) -> None:
    found = project_pod(a_raw_pod(**changes))  # type: ignore[arg-type]

    assert isinstance(found, Replica)
    assert found.phase is expected


def test_should_take_what_the_kubelet_gave_for_the_truth_and_keep_what_was_planned() -> None:
    raw = a_raw_pod()
    raw["metadata"]["annotations"]["fleetpack.dev/allocated-cores"] = "16-23"

    found = project_pod(raw)

    assert isinstance(found, Replica)
    assert (found.cores, found.planned_cores) == (parse_cores("16-23"), parse_cores("8-15"))


def test_should_see_a_foreign_pod_that_holds_cores_nobody_has_written_down() -> None:
    raw = a_raw_pod(labels={}, annotations={})

    assert project_pod(raw) == ForeignPod(
        name="team/chat-tp8-0",
        node="node-a",
        requests=Resources(cpu_millicores=2000, memory_bytes=4 * 2**30, pods=1, accelerator_cores=8),
        cores=None,
    )


@pytest.mark.parametrize("changes", [{"node": ""}, {"status": {"phase": "Succeeded"}}])
def test_should_pass_over_foreign_pods_that_hold_no_room(changes: dict[str, object]) -> None:
    assert project_pod(a_raw_pod(labels={}, annotations={}, **changes)) is None  # type: ignore[arg-type]


def test_should_name_the_annotation_that_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="'8-x' is neither a core id nor a range"):
        project_pod(a_raw_pod(annotations={"fleetpack.dev/cores": "8-x"}))


@pytest.mark.parametrize(
    ("annotation", "cores"), [("cores", ""), ("allocated-cores", "8-15"), ("draining-since", "8-15")]
)
def test_should_keep_a_replica_on_its_node_when_it_is_first_seen_with_an_annotation_that_cannot_be_read(
    annotation: str, cores: str
) -> None:
    store = ProjectedStore(project_pod)
    raw = a_raw_pod()
    raw["metadata"]["annotations"][f"fleetpack.dev/{annotation}"] = "see wiki"

    store.put(raw)

    found = store.objects["team", "chat-tp8-0"]
    assert isinstance(found, Replica)
    assert (found.node, found.cores, found.cores_count, found.draining_since) == ("node-a", parse_cores(cores), 8, None)
    assert list(store.unreadable) == [("team", "chat-tp8-0")]


def test_should_put_nothing_new_on_a_node_that_is_first_seen_with_health_that_cannot_be_read() -> None:
    store = ProjectedStore(project_node)
    raw = a_raw_node()
    raw["metadata"]["annotations"] = {"fleetpack.dev/unhealthy-cores": "6 and 7"}

    store.put(raw)

    taint = Taint(key="fleetpack.dev/unhealthy-cores", value="unreadable", effect="NoSchedule")
    whole = project_node(a_raw_node())
    assert whole is not None
    assert dict(store.objects) == {("", "node-a"): replace(whole, taints=(taint,))}


def test_should_read_a_node_of_a_pool_whole() -> None:
    taints = [{"key": "aws.amazon.com/neuron", "effect": "NoSchedule"}]

    assert project_node(a_raw_node(spec={"taints": taints})) == NodeRow(
        name="node-a",
        uid="uid-node",
        labels=(("fleetpack.dev/pool", "inferentia2"), ("node.kubernetes.io/instance-type", "inf2.48xlarge")),
        taints=(Taint(key="aws.amazon.com/neuron"),),
        cordoned=False,
        deleting=False,
        ready=True,
        unready_since=None,
        ever_ready=True,
        created_at=CREATED_SECONDS,
        allocatable=Resources(cpu_millicores=191450, memory_bytes=718987 * 2**20, pods=737, accelerator_cores=24),
    )


def test_should_take_a_node_that_nobody_has_reported_on_for_booting() -> None:
    silent = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusNeverUpdated"}]

    found = project_node(a_raw_node(conditions=silent))

    assert found is not None
    assert (found.ready, found.ever_ready) == (False, False)


def test_should_say_since_when_a_node_is_silent_and_whether_it_is_cordoned_or_deleted() -> None:
    lost = [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-24T12:00:08Z"}]

    found = project_node(a_raw_node(conditions=lost, spec={"unschedulable": True}))

    assert found is not None
    assert (found.cordoned, found.deleting, found.unready_since) == (True, False, CREATED_SECONDS + 8)


def test_should_read_which_cores_and_devices_of_a_node_are_out() -> None:
    bad = {"type": "NeuronHealth", "reason": "NeuronHasError_DMA_ERROR", "message": "on /dev/neuron5 and /dev/neuron3"}
    raw = a_raw_node(conditions=[READY, bad])
    raw["metadata"]["annotations"] = {"fleetpack.dev/unhealthy-cores": "0-1,7"}

    found = project_node(raw)

    assert found is not None
    assert (found.unhealthy_cores, found.unhealthy_devices) == (parse_cores("0-1,7"), (3, 5))


@pytest.mark.parametrize(("allocated", "cores"), [(None, None), ("8-11", parse_cores("8-11")), ("mine", None)])
def test_should_count_a_foreign_pod_that_asks_for_whole_devices(allocated: str | None, cores: int | None) -> None:
    raw = a_raw_pod(labels={}, annotations={"fleetpack.dev/allocated-cores": allocated} if allocated else {})
    for container in raw["spec"]["containers"]:
        container["resources"] = {}
    raw["spec"]["containers"][0]["resources"] = {"limits": {"aws.amazon.com/neuron": "2"}}

    found = project_pod(raw)

    assert isinstance(found, ForeignPod)
    assert (found.whole_devices, found.requests.accelerator_cores, found.cores) == (2, 0, cores)


def test_should_count_what_init_containers_hold_as_the_scheduler_does() -> None:
    raw = a_raw_pod(labels={}, annotations={})
    eight = {"resources": {"limits": {"aws.amazon.com/neuroncore": "8"}}}
    raw["spec"]["containers"] = [{"name": "server", "resources": {"limits": {"aws.amazon.com/neuroncore": "2"}}}]
    raw["spec"]["initContainers"] = [{"name": "warm", **eight}]

    found = project_pod(raw)

    assert isinstance(found, ForeignPod)
    assert found.requests.accelerator_cores == 8


def test_should_leave_nodes_of_no_pool_alone() -> None:
    raw = a_raw_node()
    del raw["metadata"]["labels"]["fleetpack.dev/pool"]

    assert project_node(raw) is None


def test_should_read_times_with_and_without_fractions() -> None:
    assert timestamp_seconds("2026-11-24T12:00:00.500Z") - timestamp_seconds("2026-11-24T12:00:00Z") == 0.5

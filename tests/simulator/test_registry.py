"""Which replica answers at an address, from Pods as the API server gives them."""

from __future__ import annotations

from typing import Any

import pytest

from fleetpack_simulator.engine import Topology
from fleetpack_simulator.load import PodEndpoints
from fleetpack_simulator.pods import Listener, PodView, pod_view
from fleetpack_simulator.registry import NoReplica, PodRegistry, ReplicaAt
from fleetpack_simulator.settings import SettingsError, hardware_of, replica_settings

ENGINE = {
    "FLEETPACK_ENGINE_MODEL": "llama",
    "FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "8",
    "FLEETPACK_ENGINE_ACCELERATOR": "inferentia2",
    "FLEETPACK_ENGINE_MAX_BATCH": "16",
}


class Watcher:
    """Stands for a PodWatcher: the test says what changes."""

    def __init__(self) -> None:
        self.pods: dict[str, PodView] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def put(self, pod: dict[str, Any]) -> None:
        view = pod_view(pod)
        before = self.pods.get(view.uid)
        self.pods[view.uid] = view
        for listener in self._listeners:
            listener(before, view)

    def delete(self, uid: str) -> None:
        before = self.pods.pop(uid)
        for listener in self._listeners:
            listener(before, None)


def pod(
    uid: str = "u1", *, phase: str = "Running", ip: str | None = "127.10.0.5", cores: str = "8-15", **metadata: str
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if phase == "Running" else "False"}]
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in ENGINE.items()]
    environment.append({"name": "TOKEN", "valueFrom": {"secretKeyRef": {}}})
    return {
        "metadata": {
            "namespace": "default",
            "name": f"pod-{uid}",
            "uid": uid,
            "labels": {"fleetpack.dev/deployment": "chat"},
            "annotations": {"fleetpack.dev/cores": cores},
            **metadata,
        },
        "spec": {"containers": [{"name": "server", "env": environment}, {"name": "sidecar"}]},
        "status": {"phase": phase, "podIP": ip, "conditions": conditions},
    }


def test_should_read_the_engine_from_a_pods_environment_and_cores() -> None:
    watcher = Watcher()
    registry = PodRegistry(watcher)  # type: ignore[arg-type]
    watcher.put(pod())

    found = registry.locate("127.10.0.5")

    assert isinstance(found, ReplicaAt)
    profile = found.settings.profile
    assert (found.identity, found.settings.model_name) == ("u1", "llama")
    assert (profile.cores, profile.devices, profile.maximum_batch, profile.window_tokens) == (8, 4, 16, 8192)


def test_should_believe_the_kubelets_cores_over_the_planned_ones() -> None:
    watcher = Watcher()
    registry = PodRegistry(watcher)  # type: ignore[arg-type]
    raw = pod()
    raw["metadata"]["annotations"]["fleetpack.dev/allocated-cores"] = "0-11"
    watcher.put(raw)

    found = registry.locate("127.10.0.5")

    assert isinstance(found, ReplicaAt)
    assert found.settings.profile.cores == 12


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (pod(phase="Pending"), "Pod default/pod-u1 is Pending, it is not Running"),
        (pod(ip="127.10.0.6"), "no Pod has the address 127.10.0.5"),
        (pod(phase="Failed"), "no Pod has the address 127.10.0.5"),
        (pod(cores="0"), "do not fit 1 cores of inferentia2"),
        (pod(cores="a"), "neither a core id nor a range"),
    ],
)
def test_should_say_why_nobody_answers(raw: dict[str, Any], reason: str) -> None:
    watcher = Watcher()
    registry = PodRegistry(watcher)  # type: ignore[arg-type]
    watcher.put(raw)

    found = registry.locate("127.10.0.5")

    assert isinstance(found, NoReplica)
    assert reason in found.reason


def test_should_tell_once_that_a_replica_has_gone_and_free_its_address() -> None:
    watcher = Watcher()
    registry = PodRegistry(watcher)  # type: ignore[arg-type]
    gone: list[str] = []
    registry.listen(gone.append)
    watcher.put(pod())
    watcher.put(pod("u2"))

    watcher.delete("u1")
    found = registry.locate("127.10.0.5")

    assert gone == ["u1"]
    assert isinstance(found, ReplicaAt)
    assert found.identity == "u2"


def test_should_send_only_to_pods_that_are_ready_and_stay() -> None:
    watcher = Watcher()
    endpoints = PodEndpoints(watcher, port=8000)  # type: ignore[arg-type]
    seen = []
    endpoints.listen(lambda: seen.append(tuple(endpoints.ready())))

    watcher.put(pod(phase="Pending"))
    watcher.put(pod())
    watcher.put(pod("u2", ip="127.10.0.4"))
    watcher.put(pod(deletionTimestamp="2026-01-01T00:00:00Z"))
    watcher.delete("u2")

    both = ("127.10.0.4:8000", "127.10.0.5:8000")
    assert seen == [(), both[1:], both, both[:1], ()]


def test_should_take_hardware_from_the_catalog() -> None:
    hardware = hardware_of("inferentia2")

    assert (hardware.memory_bandwidth_gb_per_second, hardware.cores_per_device) == (820, 2)
    assert (hardware.topology, hardware.static_shapes) == (Topology.RING, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FLEETPACK_ENGINE_PARAMETERS_BILLIONS": ""}, "PARAMETERS_BILLIONS is not set"),
        (
            {"FLEETPACK_ENGINE_PARAMETERS_BILLIONS": "big"},
            "PARAMETERS_BILLIONS is 'big', it must be a number above zero",
        ),
        (
            {"FLEETPACK_ENGINE_ACCELERATOR": "inferentia3"},
            "'inferentia3', which is not in the catalog; the nearest are inferentia",
        ),
        ({"FLEETPACK_ENGINE_ACCELERATOR": "tpu7x"}, None),
        ({"FLEETPACK_ENGINE_MAX_BATCH": "1.5"}, "MAX_BATCH is 1.5, it must be a whole number"),
        ({"FLEETPACK_ENGINE_MAX_BATCH": "500"}, "do not fit 8 cores of inferentia2"),
    ],
)
def test_should_refuse_settings_and_name_the_variable(changes: dict[str, str], message: str | None) -> None:
    if message is None:
        assert replica_settings({**ENGINE, **changes}, cores=8).profile.coefficients.projected
        return
    with pytest.raises(ValueError, match=message):
        replica_settings({**ENGINE, **changes}, cores=8)


def test_should_ask_for_cores_when_none_were_given() -> None:
    with pytest.raises(SettingsError, match="FLEETPACK_ENGINE_CORES is not set and the replica was given no cores"):
        replica_settings(ENGINE, cores=None)


def test_should_say_once_for_a_deployment_that_its_shape_is_estimated() -> None:
    watcher, told = Watcher(), list[str]()
    registry = PodRegistry(watcher, tell=told.append)
    watcher.put(pod("u1"))
    watcher.put(pod("u2", ip="127.10.0.6"))
    published = pod("u3", ip="127.10.0.7", labels={"fleetpack.dev/deployment": "small"})
    published["spec"]["containers"][0]["env"][0]["value"] = "meta-llama/Llama-3.1-8B-Instruct"
    watcher.put(published)

    for address in ("127.10.0.5", "127.10.0.6", "127.10.0.5", "127.10.0.7"):
        registry.locate(address)

    assert told == [
        "default/chat: llama: the model's shape is estimated from its size: its name is no published model's"
    ]

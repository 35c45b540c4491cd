"""The checker of the random Pods on real kubelets finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from core_timeline import Views, double_gifts, node_cores, random_pods, views_of


def reading(listed: dict[str, list[str]], written: dict[str, list[str]] | None = None) -> dict[str, Any]:
    entries = {key: {"ids": ids, "visible": ""} for key, ids in (written or {}).items()}
    return {"at": 1.0, "pod_resources": listed, "checkpoint": entries, "error": None}


def test_should_find_a_core_that_two_containers_have() -> None:
    clean = reading({"n/a/s/core": ["neuroncore-1"], "n/b/s/core": ["neuroncore-2"]}, {"u/s/core": ["neuroncore-1"]})
    listed = reading({"n/a/s/core": ["neuroncore-1", "neuroncore-2"], "n/b/s/core": ["neuroncore-2"]})
    written = reading({}, {"u/s/core": ["neuroncore-5"], "v/s/core": ["neuroncore-5"]})

    assert double_gifts([clean, listed, written], 2) == (
        "pod_resources: core 2 is with n/a/s/core and with n/b/s/core",
        "checkpoint: core 5 is with u/s/core and with v/s/core",
    )
    assert double_gifts([clean], 2) == ()


def test_should_find_a_chip_that_both_resources_gave_out() -> None:
    across = reading({"n/a/s/neuroncore": ["neuroncore-3"], "n/b/s/neuron": ["neuron-1"]})

    assert double_gifts([across], 2) == ("pod_resources: core 3 is with n/a/s/neuroncore and with n/b/s/neuron",)


@pytest.mark.parametrize(("numbering", "expected"), [("container", {6, 7, 10}), ("host", {0, 1, 2})])
def test_should_read_the_environment_through_the_numbering(numbering: str, expected: set[int]) -> None:
    assert node_cores("0-2", [5, 3], 2, numbering) == expected


def test_should_bring_four_views_into_one_form_and_see_when_one_differs() -> None:
    pod = {
        "metadata": {
            "namespace": "n",
            "name": "a",
            "uid": "u",
            "annotations": {"fleetpack.dev/allocated-cores": "6-7"},
        }
    }
    ids = ["neuroncore-7", "neuroncore-6"]
    told = {"visible": "0-1", "devices": [3]}
    cores = frozenset({6, 7})

    views = views_of(
        pod, reading({"n/a/s/core": ids}, {"u/s/core": ids}), told, cores_per_device=2, numbering="container"
    )
    missing = views_of(pod, reading({"n/b/s/core": ids}), told, cores_per_device=2, numbering="container")

    assert views == Views(checkpoint=cores, pod_resources=cores, environment=cores, annotation=cores)
    assert (views.agree, missing.agree) == (True, False)


def test_should_make_pods_of_every_size_a_fifth_of_them_foreign() -> None:
    pods = random_pods(1, 200, 24)

    assert sum(pod.foreign for pod in pods) == 40
    assert {min(pod.cores for pod in pods), max(pod.cores for pod in pods)} <= set(range(1, 25))
    assert max(pod.cores for pod in pods) > 20
    assert pods == random_pods(1, 200, 24)

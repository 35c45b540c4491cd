"""The operator is killed at one of its first writes, before or after the API server has seen it, and started again.

A proxy is its only way to the API server; it counts the writes (the Lease's renewals, which come by the clock, excepted), kills the
process at the n-th, and never answers that one. Where the fleet then ends must be where it ends without a kill: as many replicas of
every model, on legal cores, with today's template, nothing twice and nothing left over, and the same said in status.

`make test` walks a spread of the points, `make test-kills` (FLEETPACK_TEST_KILLS=all) each of the first hundred.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from background import proxy_running
from cluster_fixtures import Cluster
from control_plane.api_client import ApiClient
from fault_proxy import FaultProxy, Moment
from operator_process import ForkedOperator
from small_fleet import SmallFleet, template, variant
from witness import Witness, in_service, witnessing

pytestmark = pytest.mark.cluster

FIRST_WRITES = 100
SPREAD = (1, 2, 6, 17, 30, 44, 66, 97)
POINTS = tuple(range(1, FIRST_WRITES + 1)) if os.environ.get("FLEETPACK_TEST_KILLS") == "all" else SPREAD

OLD, NEW = "example.com/engine:1", "example.com/engine:2"
WIDE = {"drain": "0s", "maxUnavailable": "50%"}
FIRST = {"ants": 12, "bees": 10, "crabs": 4}
LAST = {"ants": 8, "bees": 10, "crabs": 5}
IMAGES = {"ants": OLD, "bees": NEW, "crabs": NEW}
MOST_LIVE = {"ants": 12, "bees": 15, "crabs": 7}
"""What was ever wanted, and half of it more while a template rolls."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where every run takes place: three nodes of 24 cores, a proxy, and an operator that knows only the proxy."""

    cluster: Cluster
    fleet: SmallFleet
    proxy: FaultProxy
    operator: ForkedOperator

    def run(self, kill: tuple[int, Moment] | None) -> dict[str, Any]:
        """Play the scenario, which takes some 130 writes, killing once; returns what the fleet is in the end."""
        killed: list[float] = []

        def hook(_: object) -> None:
            killed.append(time.monotonic())
            self.operator.kill_from_elsewhere()

        if kill is not None:
            self.proxy.on_write(*kill, hook)
        self.fleet.witness = Witness()
        self.operator.start()
        try:
            with witnessing(self.cluster.kubeconfig) as witness:
                self.fleet.witness = witness
                self._play()
                end = self._end()
                while kill is not None and not killed:
                    # On a busy machine several changes are told in one write of status: go on until the write has come.
                    self._change_once_more()
                    end = self._end()
                return end
        finally:
            self.operator.kill()
            self._clear()

    def _play(self) -> None:
        """Make the first replicas, and change each model."""
        quick = template(startup_seconds=0.1)
        for name, replicas in FIRST.items():
            self.fleet.deploy(
                name, template=quick, replicas=replicas, variants=variant(4 if name == "crabs" else 2), disruption=WIDE
            )
        self._until(lambda: self._serves(FIRST, {"ants": OLD, "bees": OLD, "crabs": OLD}), "the first replicas")
        changed = template(startup_seconds=0.1, image=NEW)
        self.fleet.scale("ants", LAST["ants"])
        self.fleet.change("bees", template=changed)
        self.fleet.change("crabs", template=changed, replicas=LAST["crabs"])

    def _change_once_more(self) -> None:
        """Change one number, and leave all as it was at the end."""
        more = {**LAST, "ants": LAST["ants"] + 1}
        self.fleet.scale("ants", more["ants"])
        self._until(lambda: self._serves(more, IMAGES), "one replica more")
        self.fleet.scale("ants", LAST["ants"])

    def _end(self) -> dict[str, Any]:
        """Wait for the last replicas and return what the fleet is."""
        self._until(lambda: self._serves(LAST, IMAGES), "the last replicas")
        self._until(lambda: all(self._agrees(name) for name in LAST), "a status that says so")
        return {name: self._essence(name) for name in LAST}

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, and start the operator again where it was killed."""

        def look() -> bool:
            if not self.operator.running:
                self.operator.start()
            return condition()

        try:
            self.fleet.until(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\nThe operator's last words:\n{self.operator.log_end()}") from None

    def _serves(self, wanted: dict[str, int], image: dict[str, str]) -> bool:
        """Whether exactly the wanted Pods are there, all in service."""
        for name, replicas in wanted.items():
            pods = self.fleet.witness.pods(self.fleet.namespace, name)
            good = [pod for pod in pods if in_service(pod) and pod["spec"]["containers"][0]["image"] == image[name]]
            if len(pods) != replicas or len(good) != replicas:
                return False
        return True

    def _resource(self, name: str) -> dict[str, Any] | None:
        mine = (self.fleet.namespace, name)
        found = self.fleet.witness.all("inferencedeployments")
        return next((own for own in found if (own["metadata"]["namespace"], own["metadata"]["name"]) == mine), None)

    def _agrees(self, name: str) -> bool:
        resource = self._resource(name)
        if resource is None:
            return False
        status = resource.get("status", {})
        numbers = (status.get("replicas"), status.get("readyReplicas"), status.get("desiredReplicas"))
        places = len(status.get("placements", ()))
        current = status.get("observedGeneration") == resource["metadata"]["generation"]
        true = {own["type"] for own in status.get("conditions", ()) if own["status"] == "True"}
        return (
            current and (*numbers, places) == (LAST[name],) * 4 and {"Accepted", "Ready", "CapacityAvailable"} <= true
        )

    def _essence(self, name: str) -> dict[str, Any]:
        """Return what must be the same in every run; on which of several equal nodes a replica is need not be."""
        resource = self._resource(name)
        assert resource is not None
        pods = self.fleet.witness.pods(self.fleet.namespace, name)
        status = resource["status"]
        return {
            "spec.replicas": resource["spec"]["replicas"],
            "pods": len(pods),
            "names": len({pod["metadata"]["name"] for pod in pods}),
            "images": sorted({pod["spec"]["containers"][0]["image"] for pod in pods}),
            "cores": sorted({pod["spec"]["containers"][0]["resources"]["limits"][CORES] for pod in pods}),
            "templates": len({pod["metadata"]["annotations"]["fleetpack.dev/template-hash"] for pod in pods}),
            "draining": [pod for pod in pods if "fleetpack.dev/draining-since" in pod["metadata"]["annotations"]],
            "placements": len(status["placements"]),
            "conditions": {own["type"]: (own["status"], own["reason"]) for own in status["conditions"]},
        }

    def _clear(self) -> None:
        path = f"/apis/fleetpack.dev/v1alpha1/namespaces/{self.fleet.namespace}/inferencedeployments"
        self.fleet.admin.delete(path)
        # A young controller manager learns of new kinds each 30 s, and collects no garbage of theirs before.
        self.fleet.admin.delete(f"/api/v1/namespaces/{self.fleet.namespace}/pods", {"gracePeriodSeconds": 0})
        self.fleet.until(lambda: not self.fleet.pods(), "the end of all Pods")


CORES = "aws.amazon.com/neuroncore"


@pytest.fixture(scope="module")
def stage(cluster: Cluster, operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Set the stage for all runs."""
    folder = tmp_path_factory.mktemp("kills")
    namespace = f"kills-{uuid.uuid4().hex[:6]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    with ApiClient(cluster.kubeconfig) as admin, proxy_running(operator_kubeconfig) as proxy:
        admin.create("/api/v1/namespaces", body)
        fleet = SmallFleet(admin=admin, namespace=namespace, witness=Witness())
        pool = fleet.pool(provider="Static", instanceTypes=["inf2.48xlarge"])
        fleet.nodes(pool, "a", "b", "c", instance_type="inf2.48xlarge", cores=24)
        operator = ForkedOperator(
            kubeconfig=proxy.write_kubeconfig(folder / "proxy.kubeconfig"),
            log=folder / "operator.log",
            lease_name=namespace,
            identity="killed",
        )
        yield Stage(cluster=cluster, fleet=fleet, proxy=proxy, operator=operator)
        operator.kill()
        fleet.clear()
        admin.delete(f"/api/v1/namespaces/{namespace}")


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> dict[str, Any]:
    """Return what the fleet ends as when nobody is killed."""
    return stage.run(None)


@pytest.mark.parametrize("moment", list(Moment), ids=["before-delivery", "after-delivery"])
@pytest.mark.parametrize("number", POINTS)
def test_should_end_as_without_a_kill(stage: Stage, undisturbed: dict[str, Any], number: int, moment: Moment) -> None:
    end = stage.run((number, moment))

    witness, namespace = stage.fleet.witness, stage.fleet.namespace
    assert [
        f"{name}.{key}: {end[name][key]} != {wanted}"
        for name in end
        for key, wanted in undisturbed[name].items()
        if end[name][key] != wanted
    ] == []
    assert [str(violation) for violation in witness.report().violations] == []
    assert {name: count for name in LAST if (count := witness.most_live(namespace, name)) > MOST_LIVE[name]} == {}

"""Two hundred random Pods on one real kubelet, while kubelet and plugin are restarted and the plugin's watch is late.

Eight at a time, of 1 to 24 cores, a fifth of them foreign; a planner that knows no more than what was written back plans the others.
Kubelet restarts fall into the moments in which Pods are admitted. Whatever happens, three witnesses must never see a core with two
containers: the locks that the containers themselves take, the kubelet's PodResources, and its checkpoint. Every Pod that runs must be
the same in all four views before it goes. Pods that a restart catches may fail, as kubelets make them; hardly any others may.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from control_plane.api_client import ApiClient, ApiError
from core_timeline import CORE_RESOURCE, RandomPod, Views, cores_of_text, double_gifts, random_pods, views_of
from fleetpack.catalog import load_catalog
from fleetpack.core.cores import format_cores
from fleetpack.core.packing.topology import legal_masks
from fleetpack.device_plugin.sources import machine_of
from kind_core_pods import CorePods
from kind_device_plugin import InstalledPlugin, installed_plugin
from kind_fixtures import KindCluster
from kind_images import KindImages

pytestmark = pytest.mark.kind

MACHINE = machine_of(load_catalog(), "inf2.48xlarge")
SEED = 20260417
SLOTS = 8
PODS = int(os.environ.get("FLEETPACK_CONFORMANCE_PODS", "200"))
"""More for a soak, fewer for a quick look."""
PUNCTUAL = int(0.75 * PODS)
"""Pods before the plugin's watch is made late."""
LIMIT_SECONDS = 1500.0
"""A machine that does other things too may need ten times as long as an idle one."""
AGREEMENT_SECONDS = 60.0
"""A Pod that has not come to agree by then never will."""
SHADOW_SECONDS = 20.0
"""A restart is to blame for what fails so soon after it."""
PAUSE_SECONDS = 2.0
"""Without plugin or kubelet Pods fail as fast as they are made: a while without new ones, as the operator's back-off has it."""

NO_ROOM = re.compile(r"no legal set of \d+ cores is free|is planned for Pods that wait")
"""A Pod that nobody planned may meet a node on which enough cores are free, but not in one piece."""

Manifest = dict[str, Any]


@pytest.fixture
def plugin(kind_cluster: KindCluster, kind_images: KindImages) -> Iterator[InstalledPlugin]:
    with installed_plugin(kind_cluster, kind_images.fleetpack, watched="inf2.48xlarge") as installed:
        yield installed


@pytest.fixture
def pods(plugin: InstalledPlugin, kind_admin: ApiClient, kind_namespace: str) -> Iterator[CorePods]:
    node = plugin.cluster.node_of("inf2.48xlarge")
    found = CorePods(plugin=plugin, client=kind_admin, namespace=kind_namespace, node=node)
    yield found
    found.delete_all()


def test_should_never_give_a_core_twice(pods: CorePods, plugin: InstalledPlugin) -> None:
    plugin.wait_for_counts(pods.node, CORE_RESOURCE, 24, 24)
    plan = random_pods(SEED, PODS, MACHINE.cores)
    run = Run(pods=pods, plugin=plugin, chance=random.Random(SEED))

    run.play(plan[:PUNCTUAL], kubelet_at=(0.2, 0.5, 0.8), plugin_at=(0.35, 0.65))
    plugin.make_api_late()
    run.play(plan[PUNCTUAL:], kubelet_at=(0.25, 0.7), plugin_at=(0.5,))
    whole_node = run.last_pod_takes_everything()

    history = plugin.history(pods.node)
    print(run.report())
    assert run.locked_by_two == []
    twice = [(reading, found) for reading in history if (found := double_gifts([reading], plugin.cores_per_device))]
    assert twice == [], f"{len(twice)} of {len(history)} readings, the first: {twice[0]}"
    assert whole_node == frozenset(range(24))
    assert sum(run.outcomes.values()) == PODS
    assert len(history) > PODS
    assert run.most_at_once >= 4
    assert run.outcomes["agreed"] > 0.7 * PODS
    assert run.outcomes["failed"] <= 0.05 * PODS
    # The others met foreign Pods whose cores were not written down yet when they were planned: 5 s long, in the late part.
    assert run.as_planned > 0.7 * run.planned_agreed


@dataclass(kw_only=True)
class Slot:
    """A Pod that is there."""

    pod: RandomPod
    planned: str
    created_at: float
    told: Manifest | None = None
    views: Views | None = None
    runs_since: float | None = None
    agreed_at: float | None = None
    ended: bool = False


@dataclass(kw_only=True)
class Run:
    """The driver: looks at everything, does what is due, and looks again."""

    pods: CorePods
    plugin: InstalledPlugin
    chance: random.Random
    slots: dict[str, Slot] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    locked_by_two: list[str] = field(default_factory=list)
    planned_agreed: int = 0
    as_planned: int = 0
    most_at_once: int = 0
    disturbed_at: float = float("-inf")
    paused_until: float = float("-inf")
    restarts: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def play(self, plan: tuple[RandomPod, ...], *, kubelet_at: tuple[float, ...], plugin_at: tuple[float, ...]) -> None:
        """Let all these Pods live, with restarts when these parts of them are made."""
        queue = list(plan)
        kubelet_numbers, plugin_numbers = (
            {int(part * len(plan)) for part in parts} for parts in (kubelet_at, plugin_at)
        )
        deadline_seconds = time.monotonic() + LIMIT_SECONDS
        before = self.as_planned, self.planned_agreed
        while queue or self.slots:
            assert time.monotonic() < deadline_seconds, f"stuck: {self.report()}"
            self.restarts = [one for one in self.restarts if one.poll() is None]
            if self.restarts:
                self.disturbed_at = time.monotonic()
            found = {pod["metadata"]["name"]: pod for pod in self.pods.client.get(self.pods.path)["items"]}
            self._look(found)
            for pod in queue[:SLOTS]:
                if self._may_create() and self._create(pod, found):
                    number = len(plan) - len(queue)
                    queue.remove(pod)
                    self._disturb(kubelet=number in kubelet_numbers, plugin=number in plugin_numbers)
            time.sleep(0.2)
        print(f"as planned: {self.as_planned - before[0]} of {self.planned_agreed - before[1]}")

    def _may_create(self) -> bool:
        alive = sum(not slot.ended for slot in self.slots.values())
        return alive < SLOTS and time.monotonic() >= self.paused_until

    def last_pod_takes_everything(self) -> frozenset[int]:
        """Return the cores of a Pod that asks for all: nothing has leaked."""
        self.pods.create("everything", MACHINE.cores)
        return self.pods.agreed_cores("everything")

    def report(self) -> str:
        """What happened, for people."""
        lines = [
            f"{dict(self.outcomes)}, at once {self.most_at_once}, as planned {self.as_planned} of {self.planned_agreed}"
        ]
        lines += [f"  {name}: {slot}" for name, slot in self.slots.items()]
        return "\n".join(lines + self.failures)

    def _look(self, found: dict[str, Manifest]) -> None:
        now = time.monotonic()
        reading = self._reading()
        for name, slot in list(self.slots.items()):
            pod = found.get(name)
            if pod is None:
                if now - slot.created_at > 1.0:
                    del self.slots[name]
            elif slot.ended:
                continue
            elif pod["status"]["phase"] == "Failed":
                self._end(slot, self._failure(slot, pod["status"], now))
            elif pod["status"]["phase"] == "Running":
                self._compare(slot, pod, reading, now)
        running = sum(slot.runs_since is not None for slot in self.slots.values())
        self.most_at_once = max(self.most_at_once, running)

    def _compare(self, slot: Slot, pod: Manifest, reading: Manifest | None, now: float) -> None:
        slot.runs_since = slot.runs_since or now
        slot.told = slot.told or self.pods.told(slot.pod.name)
        if slot.told and slot.told["taken"]:
            self.locked_by_two.append(f"{slot.pod.name}: {slot.told}")
        if slot.agreed_at is None and reading is not None:
            numbering = self.plugin.core_numbering
            slot.views = views_of(
                pod, reading, slot.told, cores_per_device=self.plugin.cores_per_device, numbering=numbering
            )
            if slot.views.agree:
                slot.agreed_at = now
                self.planned_agreed += bool(slot.planned)
                self.as_planned += bool(slot.planned) and slot.views.annotation == cores_of_text(slot.planned)
            else:
                limit = max(slot.runs_since, self.disturbed_at) + AGREEMENT_SECONDS
                assert now < limit, f"{slot.pod.name} does not agree: {slot.views}\n{self.report()}"
        if slot.agreed_at is not None and now - slot.agreed_at >= slot.pod.stays_seconds:
            self._end(slot, "agreed")

    def _failure(self, slot: Slot, status: Manifest, now: float) -> str:
        message = str(status.get("message"))
        self.failures.append(f"{slot.pod.name} ({slot.pod.cores}, {slot.planned or 'foreign'}): {message}")
        if slot.pod.foreign and NO_ROOM.search(message):
            return "foreign without room"
        if now - self.disturbed_at < SHADOW_SECONDS:
            self.paused_until = now + PAUSE_SECONDS
            return "failed after a restart"
        return "failed"

    def _end(self, slot: Slot, outcome: str) -> None:
        self.outcomes[outcome] += 1
        slot.ended = True
        self.pods.delete(slot.pod.name)

    def _create(self, pod: RandomPod, found: dict[str, Manifest]) -> bool:
        """Make a Pod if it can be planned now (a foreign one always can); say whether."""
        planned = ""
        if not pod.foreign:
            planned = self._plan(pod.cores, found)
            if not planned:
                return False
        found[pod.name] = self.pods.create(pod.name, pod.cores, planned=planned)
        self.slots[pod.name] = Slot(pod=pod, planned=planned, created_at=time.monotonic())
        return True

    def _plan(self, size: int, found: dict[str, Manifest]) -> str:
        """Choose a legal range by the annotations alone, as the operator does, and by the scheduler's count."""
        free, requested = (1 << MACHINE.cores) - 1, 0
        for pod in found.values():
            if pod["status"].get("phase") in ("Failed", "Succeeded"):
                continue
            annotations = pod["metadata"].get("annotations") or {}
            text = annotations.get("fleetpack.dev/allocated-cores") or annotations.get("fleetpack.dev/cores")
            for core in cores_of_text(text) if text else ():
                free &= ~(1 << core)
            if text or "nodeName" in pod["spec"]:
                requested += int(pod["spec"]["containers"][0]["resources"]["limits"][CORE_RESOURCE])
        legal = legal_masks(MACHINE, size)
        assert isinstance(legal, tuple)
        fitting = [mask for mask in legal if mask & free == mask]
        if not fitting or requested + size > MACHINE.cores:
            return ""
        return format_cores(self.chance.choice(fitting))

    def _disturb(self, *, kubelet: bool, plugin: bool) -> None:
        if plugin:
            self.plugin.restart(self.pods.node)
        if kubelet:
            # Not at once: the Pods just made are then being admitted.
            wait = f"sleep {self.chance.uniform(0.1, 0.6):.2f}; exec systemctl restart kubelet"
            command = ["docker", "exec", self.pods.node, "sh", "-c", wait]
            self.restarts.append(subprocess.Popen(command, env=self.plugin.cluster.environment))
        if plugin or kubelet:
            self.disturbed_at = time.monotonic()

    def _reading(self) -> Manifest | None:
        try:
            return self.plugin.reading(self.pods.node)
        except (ApiError, OSError):
            return None

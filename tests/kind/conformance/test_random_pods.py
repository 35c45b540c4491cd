"""Two hundred random Pods on one real kubelet, while kubelet and plugin are restarted and the plugin's watch is late.

Eight at a time, of 1 to 24 cores, a fifth of them foreign; a planner that knows no more than what was written back plans the others.
Kubelet restarts fall into the moments in which Pods are admitted. Whatever happens, three witnesses must never see a core with two
containers: the locks that the containers themselves take, the kubelet's PodResources, and its checkpoint. Every Pod that runs must be
the same in all four views before it goes. Pods that a restart catches may fail, as kubelets make them; hardly any others may.
That the disturbances really came, and came where they hurt, is asserted too.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from core_timeline import CORE_RESOURCE, RandomPod, Views, cores_of_text, double_gifts, random_pods, views_of
from fleetpack.catalog import load_catalog
from fleetpack.core.cores import format_cores
from fleetpack.core.packing.topology import legal_masks
from fleetpack.device_plugin.sources import machine_of
from kind_core_pods import CorePods
from kind_device_plugin import WATCH_DELAY_SECONDS, InstalledPlugin, installed_plugin
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
KUBELET_AT, PLUGIN_AT = (0.2, 0.5, 0.8), (0.35, 0.65)
"""When kubelet and plugin are restarted, as parts of the Pods that are made by then."""
LATE_KUBELET_AT, LATE_PLUGIN_AT = (0.25, 0.7), (0.5,)
LIMIT_SECONDS = 1500.0
"""A machine that does other things too may need ten times as long as an idle one."""
AGREEMENT_SECONDS = 60.0
"""A Pod that has not come to agree by then never will."""
SHADOW_SECONDS = 20.0
"""A restart is to blame for what fails so soon after it."""
PAUSE_SECONDS = 2.0
"""Without plugin or kubelet Pods fail as fast as they are made: a while without new ones, as the operator's back-off has it."""

AFTER_RESTART = "failed after a restart"
NO_ROOM = re.compile(r"no legal set of \d+ cores is free|is planned for Pods that wait")
"""A Pod that nobody planned may meet a node on which enough cores are free, but not in one piece."""

RESTART = """
sleep {seconds:.2f}
systemctl show --property=MainPID --value kubelet
date +%s.%N
systemctl restart kubelet || exit
systemctl show --property=MainPID --value kubelet
"""
"""In the node's container; says which process the kubelet was, when it was told to end, and which it is."""

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

    run.play(plan[:PUNCTUAL], kubelet_at=KUBELET_AT, plugin_at=PLUGIN_AT)
    run.note_registrations()
    plugin.make_api_late()
    run.play(plan[PUNCTUAL:], kubelet_at=LATE_KUBELET_AT, plugin_at=LATE_PLUGIN_AT)
    whole_node = run.last_pod_takes_everything()
    run.note_registrations()

    history = plugin.history(pods.node)
    print(run.report())
    assert_disturbed(run, late={pod.name for pod in plan[PUNCTUAL:]})
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


def assert_disturbed(run: Run, late: set[str]) -> None:
    """A run on which nothing was inflicted shows nothing."""
    bound_at = run.bound_at()
    caught = [run.caught_by_restart(at, bound_at) for at in run.kubelet_restarts_at]
    waited: dict[bool, list[float]] = {True: [], False: []}
    for slot in run.ended:
        if slot.written_at is not None:
            waited[slot.pod.name in late].append(slot.written_at - bound_at[slot.pod.name])
    medians = {part: statistics.median(seconds) for part, seconds in waited.items()}
    print(f"caught by kubelet restarts: {caught}; registrations: {run.registrations}; written after: {medians}")

    assert len(run.kubelet_restarts_at) == len(KUBELET_AT + LATE_KUBELET_AT)
    # The first plugin, the one with the late watch, and one for each restart; each registers, and again with each new kubelet.
    assert len(run.registrations) == 2 + len(PLUGIN_AT + LATE_PLUGIN_AT)
    assert min(run.registrations.values()) >= 1
    assert sum(run.registrations.values()) >= len(run.registrations) + len(run.kubelet_restarts_at)
    assert any(caught), "no kubelet was restarted between the binding of a Pod and its start"
    assert run.most_in_flight == SLOTS
    # The plugin writes on a Pod what it holds once its watch has brought it; where it begins anew, its first list does: the median.
    assert medians[False] < WATCH_DELAY_SECONDS <= medians[True]


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
    started_at: float | None = None
    """By the kubelet, cut to whole seconds since the epoch; where there is none, when it had failed."""
    written_at: float | None = None
    """When all views agreed, the annotation as well: in seconds since the epoch."""
    outcome: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.outcome)


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
    most_in_flight: int = 0
    disturbed_at: float = float("-inf")
    paused_until: float = float("-inf")
    restarts: list[subprocess.Popen[str]] = field(default_factory=list)
    ended: list[Slot] = field(default_factory=list)
    kubelet_restarts_at: list[float] = field(default_factory=list)
    """When kubelets were told to end that have then been replaced: in seconds since the epoch."""
    kubelets_before: int = 0
    """How many restarts of the kubelet there were before the plugin that is there."""
    registrations: dict[str, float] = field(default_factory=dict)
    """How often each plugin has registered, by the UID of its Pod."""

    def play(self, plan: tuple[RandomPod, ...], *, kubelet_at: tuple[float, ...], plugin_at: tuple[float, ...]) -> None:
        """Let all these Pods live, with restarts when these parts of them are made."""
        queue = list(plan)
        kubelet_numbers, plugin_numbers = (
            {int(part * len(plan)) for part in parts} for parts in (kubelet_at, plugin_at)
        )
        deadline_seconds = time.monotonic() + LIMIT_SECONDS
        before = self.as_planned, self.planned_agreed
        while queue or self.slots or self.restarts:
            assert time.monotonic() < deadline_seconds, f"stuck: {self.report()}"
            self._follow_restarts()
            found = self._pods_by_name()
            self._look(found)
            for pod in queue[:SLOTS]:
                number = len(plan) - len(queue)
                if number in kubelet_numbers | plugin_numbers and self._may_create():
                    self._wait_for_registrations()
                    found = self._pods_by_name()
                if self._may_create() and self._create(pod, found):
                    queue.remove(pod)
                    self._disturb(kubelet=number in kubelet_numbers, plugin=number in plugin_numbers)
            time.sleep(0.2)
        print(f"as planned: {self.as_planned - before[0]} of {self.planned_agreed - before[1]}")

    def _pods_by_name(self) -> dict[str, Manifest]:
        return {pod["metadata"]["name"]: pod for pod in self.pods.client.get(self.pods.path)["items"]}

    def _may_create(self) -> bool:
        alive = sum(not slot.is_over for slot in self.slots.values())
        return alive < SLOTS and time.monotonic() >= self.paused_until

    def last_pod_takes_everything(self) -> frozenset[int]:
        """Return the cores of a Pod that asks for all: nothing has leaked."""
        self.pods.create("everything", MACHINE.cores)
        return self.pods.agreed_cores("everything")

    def note_registrations(self) -> None:
        """Write down how often the node's plugin has registered; the number goes with it."""
        self._wait_for_registrations()
        pod = self.plugin.pod(self.pods.node)
        assert pod is not None
        self.registrations[pod["metadata"]["uid"]] = self.plugin.registrations(self.pods.node)
        self.kubelets_before = len(self.kubelet_restarts_at)

    def bound_at(self) -> dict[str, float]:
        """Return when each Pod was bound, by the scheduler's own events: in seconds since the epoch.

        Times in them are whole seconds; their names end with the nanoseconds (makeEvent in client-go's tools/record/event.go).
        """
        path = f"/apis/events.k8s.io/v1/namespaces/{self.pods.namespace}/events?fieldSelector=reason=Scheduled"
        found = self.pods.client.get(path)["items"]
        names = [event["metadata"]["name"].rpartition(".") for event in found]
        return {pod: int(nanoseconds, 16) / 1e9 for pod, _, nanoseconds in names}

    def caught_by_restart(self, at: float, bound_at: dict[str, float]) -> list[str]:
        """Return the Pods that were bound when the kubelet was told to end, and had not started."""
        return [
            slot.pod.name
            for slot in self.ended
            if slot.outcome in ("agreed", AFTER_RESTART)
            and slot.started_at is not None
            and bound_at[slot.pod.name] <= at < slot.started_at
        ]

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
            elif slot.is_over:
                continue
            elif pod["status"]["phase"] == "Failed":
                self._end(slot, self._failure(slot, pod["status"], now))
            elif pod["status"]["phase"] == "Running":
                self._compare(slot, pod, reading, now)
        in_flight = [
            pod
            for pod in found.values()
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")
        ]
        self.most_in_flight = max(self.most_in_flight, len(in_flight))
        running = sum(slot.runs_since is not None for slot in self.slots.values())
        self.most_at_once = max(self.most_at_once, running)

    def _compare(self, slot: Slot, pod: Manifest, reading: Manifest | None, now: float) -> None:
        slot.runs_since = slot.runs_since or now
        [container] = pod["status"]["containerStatuses"]
        if slot.started_at is None and "running" in container["state"]:
            slot.started_at = seconds_since_epoch(container["state"]["running"]["startedAt"])
        slot.told = slot.told or self.pods.told(slot.pod.name)
        if slot.told and slot.told["taken"]:
            self.locked_by_two.append(f"{slot.pod.name}: {slot.told}")
        if slot.agreed_at is None and reading is not None:
            numbering = self.plugin.core_numbering
            slot.views = views_of(
                pod, reading, slot.told, cores_per_device=self.plugin.cores_per_device, numbering=numbering
            )
            if slot.views.agree:
                slot.agreed_at, slot.written_at = now, time.time()
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
            return AFTER_RESTART
        return "failed"

    def _end(self, slot: Slot, outcome: str) -> None:
        self.outcomes[outcome] += 1
        slot.outcome, slot.started_at = outcome, slot.started_at or time.time()
        self.ended.append(slot)
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

    def _wait_for_registrations(self) -> None:
        """Wait until the plugin has registered with each kubelet since it came: one restart must not hide in another."""
        while self.restarts:
            self._follow_restarts()
            time.sleep(0.1)
        self.plugin.wait_until_registered(self.pods.node)
        kubelets = 1 + len(self.kubelet_restarts_at) - self.kubelets_before
        wait_for(
            lambda: self.plugin.registrations(self.pods.node) >= kubelets,
            what=f"a plugin on {self.pods.node} that has registered with {kubelets} kubelets",
        )

    def _disturb(self, *, kubelet: bool, plugin: bool) -> None:
        if plugin:
            self.note_registrations()
            self.plugin.restart(self.pods.node)
        if kubelet:
            # Not at once: the Pods just made are then being admitted.
            script = RESTART.format(seconds=self.chance.uniform(0.1, 0.6))
            command = ["docker", "exec", self.pods.node, "sh", "-c", script]
            environment = self.plugin.cluster.environment
            self.restarts.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        if plugin or kubelet:
            self.disturbed_at = time.monotonic()

    def _follow_restarts(self) -> None:
        if self.restarts:
            self.disturbed_at = time.monotonic()
        for one in [one for one in self.restarts if one.poll() is not None]:
            self.restarts.remove(one)
            told, _ = one.communicate()
            assert one.returncode == 0, f"the kubelet was not restarted: exit code {one.returncode}, {told!r}"
            before, at, after = told.split()
            assert before != after, f"the kubelet was told to restart, and is process {after} as before"
            self.kubelet_restarts_at.append(float(at))

    def _reading(self) -> Manifest | None:
        try:
            return self.plugin.reading(self.pods.node)
        except (ApiError, OSError):
            return None


def seconds_since_epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()

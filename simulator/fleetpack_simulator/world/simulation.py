"""The event loop: takes a setting, plays it to its end, and returns what happened.

One step is one event: traffic is served up to it, it happens, and the invariants are checked. The planner (and a policy, if there is
one) has its tick among the events. The run ends when every request has ended, or when the tail is over; what is still inside then is
reported as unfinished, not dropped.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fleetpack.core.decision import Decision
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet import ReplicaPhase
from fleetpack.core.inputs import Inputs
from fleetpack.core.state import State
from fleetpack_simulator.world.cluster import SimulatedCluster, SimulatedPod
from fleetpack_simulator.world.events import EPOCH_SECONDS, Clock, EventQueue, Kind
from fleetpack_simulator.world.faults import STRIKES, Fault, FaultKind
from fleetpack_simulator.world.invariants import Invariants, Violation
from fleetpack_simulator.world.metrics import Scraper
from fleetpack_simulator.world.monitor import PolicyMonitor
from fleetpack_simulator.world.operator import SimulatedOperator
from fleetpack_simulator.world.policy import ModelView, PodView, Policy, PolicyView
from fleetpack_simulator.world.setting import WorldSetting
from fleetpack_simulator.world.traffic import RequestLog, Traffic

Progress = Callable[[float, int], None]
"""Called at each tick with the simulated second and how many requests have come."""

_STARTING = (ReplicaPhase.UNBOUND, ReplicaPhase.STARTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """A decision of the planner that said something new."""

    at_seconds: float
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One model at one tick."""

    at_seconds: float
    desired: int
    live: int
    ready: int
    waiting: int
    """In engines and at the gateway."""
    running: int
    usd_per_hour: float


@dataclass(slots=True, kw_only=True)
class RunResult:
    """What happened."""

    setting: WorldSetting
    log: RequestLog
    cluster: SimulatedCluster
    ended_seconds: float
    decisions: list[LoggedDecision]
    series: dict[str, list[Point]]
    """By deployment."""
    violations: list[Violation]
    plans: int
    actions: int
    events: int
    """Queue events and batch changes of engines."""
    retries: int
    recorded: list[tuple[Inputs, State]]


def simulate(
    setting: WorldSetting,
    *,
    policy: Policy | None = None,
    progress: Progress | None = None,
    record: bool = False,
    until_rest: bool = False,
) -> RunResult:
    """Play a setting to its end; without a policy fleetpack itself decides the numbers.

    With `until_rest` the world goes on after the load, for the tail at most, until minimums are restored and nothing is on its way.
    """
    world = World(setting, policy=policy, record=record)
    # The loop makes no cycles, and looking for them costs a tenth of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        world.run(progress, until_rest=until_rest)
    finally:
        if was_enabled:
            gc.enable()
    return world.result()


class World:
    """Everything together."""

    def __init__(self, setting: WorldSetting, *, policy: Policy | None = None, record: bool = False) -> None:
        if policy is not None:
            setting = _numbers_by_hand(setting)
        self.setting = setting
        self.clock = Clock()
        self.queue = EventQueue()
        self.log = RequestLog([(model.load_start_seconds, model.load) for model in setting.models])
        self.traffic = Traffic(self.log, len(setting.models))
        self.cluster = SimulatedCluster(setting, self.clock, self.queue, self.traffic)
        self.scraper = Scraper(self.cluster, self.traffic, self.clock, setting.seed)
        self.monitor = PolicyMonitor(self.cluster, self.traffic, self.clock, setting.seed)
        self.operator = SimulatedOperator(self.cluster, self.clock, self.queue, self.scraper)
        self.operator.record = record
        self.operator.trigger.on_settled = self._pass
        self.invariants = Invariants(self.cluster, self.traffic, self.clock)
        self.operator.writer.on_applied = self.invariants.after_write
        self.policy = policy
        self.decisions: list[LoggedDecision] = []
        self.series: dict[str, list[Point]] = {model.deployment.key: [] for model in setting.models}
        self.steps = 0
        self._random = random.Random(f"{setting.seed}/faults")
        self._last_said: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._desired: dict[str, int] = {}
        for fault in sorted(setting.faults, key=lambda one: (one.at_seconds, one.kind, one.target)):
            if fault.kind in STRIKES:
                self.queue.push(fault.at_seconds, Kind.FAULT, partial(self._strike, fault))
        for change in sorted(setting.changes, key=lambda one: (one.at_seconds, one.deployment)):
            self.queue.push(change.at_seconds, Kind.FAULT, partial(self.cluster.edit, change))

    def run(self, progress: Progress | None, *, until_rest: bool) -> None:
        """Let time go by until the end."""
        end_seconds = self.setting.duration_seconds + self.setting.tail_seconds
        self.queue.push(end_seconds, Kind.END, lambda: None)
        self.queue.push(0.0, Kind.PLAN, self._tick)
        if self.policy is not None:
            self.queue.push(0.0, Kind.POLICY, self._decide)
        while True:
            at_seconds, kind = self.queue.head
            self.traffic.serve_until(at_seconds, inclusive=kind > Kind.ARRIVAL)
            self.clock.now = at_seconds
            self.queue.pop()()
            self.steps += 1
            self.invariants.after_step()
            if kind == Kind.END:
                break
            if kind == Kind.PLAN:
                if progress is not None:
                    progress(at_seconds, self.traffic.arrived)
                if at_seconds >= self.setting.duration_seconds and self._is_over(until_rest):
                    break
        self.invariants.at_end()
        if until_rest:
            self.invariants.at_rest()
        self.cluster.settle()

    def result(self) -> RunResult:
        """Return what happened so far."""
        return RunResult(
            setting=self.setting,
            log=self.log,
            cluster=self.cluster,
            ended_seconds=self.clock.now,
            decisions=self.decisions,
            series=self.series,
            violations=self.invariants.violations,
            plans=self.operator.plans,
            actions=self.operator.actions_sent,
            events=self.steps + self.traffic.engine_events,
            retries=self.traffic.retries,
            recorded=self.operator.recorded,
        )

    def _is_over(self, until_rest: bool) -> bool:
        return self.traffic.all_ended and not (until_rest and self.invariants.unrested())

    def _tick(self) -> None:
        self._pass()
        self._measure()
        self.invariants.on_tick()
        self.queue.push(self.clock.now + self.setting.tick_seconds, Kind.PLAN, self._tick)

    def _pass(self) -> None:
        done = self.operator.run_pass()
        if self.policy is not None:
            # At the moments at which fleetpack reads too, so that neither sees more than the other.
            self.monitor.tick()
        if done is not None:
            inputs, found = done
            self.invariants.after_plan(inputs, found)
            self._note(found.decisions)
            for report in found.deployments:
                self._desired[report.deployment] = report.desired_replicas

    def _note(self, decisions: tuple[Decision, ...]) -> None:
        for decision in decisions:
            key = (decision.subject, decision.kind)
            said = (decision.before, decision.after, decision.reason)
            if self._last_said.get(key) != said:
                self._last_said[key] = said
                self.decisions.append(LoggedDecision(at_seconds=self.clock.now, decision=decision))

    def _measure(self) -> None:
        by_model: list[list[SimulatedPod]] = [[] for _ in self.setting.models]
        for pod in self.cluster.pods.values():
            by_model[pod.model].append(pod)
        alive = {pod.seen.uid for pod in self.cluster.pods.values()}
        self.scraper.forget(alive)
        for index, model in enumerate(self.setting.models):
            key = model.deployment.key
            gateway = self.traffic.gateways[index]
            engines = [pod.serving.engine for pod in by_model[index] if pod.serving is not None]
            running = sum(engine.counters().running for engine in engines)
            ready = sum(pod.seen.phase is ReplicaPhase.READY for pod in by_model[index])
            starting = sum(pod.seen.phase in _STARTING for pod in by_model[index])
            self.series[key].append(
                Point(
                    at_seconds=self.clock.now,
                    desired=self._desired.get(key, 0),
                    live=ready + starting,
                    ready=ready,
                    waiting=gateway.outstanding - running,
                    running=running,
                    usd_per_hour=self.cluster.replica_costs.usd_per_hour(key),
                )
            )

    def _strike(self, fault: Fault) -> None:
        """Let a fault of an instant happen to its target, or to one that is drawn."""
        if fault.kind is FaultKind.OPERATOR_RESTART:
            self.operator.restart(fault.seconds)
            return
        if fault.kind is FaultKind.REPLICA_CRASH:
            pods = [
                pod
                for _, pod in sorted(self.cluster.pods.items())
                if pod.serving is not None and fault.target in ("", pod.seen.deployment)
            ]
            if pods:
                self.cluster.fail_pod(self._random.choice(pods), "Error")
            return
        names = [name for name in sorted(self.cluster.nodes) if fault.target in ("", name)]
        if not names:
            return
        name = self._random.choice(names)
        if fault.kind is FaultKind.NODE_FAILURE:
            self.cluster.break_machine(name)
        elif fault.kind is FaultKind.SPOT_INTERRUPTION:
            self.cluster.warn_spot(name)
        elif fault.kind is FaultKind.NODE_NOT_READY:
            self.cluster.silence_machine(name, fault.duration_seconds)
        elif fault.kind is FaultKind.FOREIGN_POD:
            self.cluster.land_foreign_pod(name, fault.cores, fault.duration_seconds)
        else:
            devices = self.cluster.nodes[name].instance_type.devices
            self.cluster.break_device(name, self._random.randrange(devices))

    def _decide(self) -> None:
        assert self.policy is not None
        for key, wanted in sorted(self.policy.decide(self._view()).items()):
            deployment = self.cluster.deployments.get(key)
            if deployment is None:
                continue
            bounded = max(deployment.minimum_replicas, min(wanted, deployment.maximum_replicas))
            if bounded != deployment.replicas:
                self.cluster.respecify(key, replicas=bounded)
        self.queue.push(self.clock.now + self.policy.interval_seconds, Kind.POLICY, self._decide)

    def _view(self) -> PolicyView:
        self.monitor.look()
        return PolicyView(
            now_seconds=self.clock.now,
            models=tuple(
                self._model_view(index)
                for index, model in enumerate(self.setting.models)
                if model.deployment.key in self.cluster.deployments
            ),
        )

    def _model_view(self, index: int) -> ModelView:
        model = self.setting.models[index]
        deployment = self.cluster.deployments[model.deployment.key]
        variant = deployment.variants[0]
        reading, is_answered = self.monitor.gateway(deployment.key)
        pods = sorted((pod for pod in self.cluster.pods.values() if pod.model == index), key=lambda pod: pod.key)
        return ModelView(
            deployment=deployment.key,
            minimum_replicas=deployment.minimum_replicas,
            maximum_replicas=deployment.maximum_replicas,
            target_queue_depth=deployment.target_queue_depth,
            prior_concurrency=variant.prior_concurrency,
            prior_requests_per_second=variant.prior_requests_per_second,
            objective_ttft_seconds=model.objective_ttft_seconds,
            desired_replicas=deployment.replicas,
            starting_replicas=sum(pod.seen.phase in _STARTING for pod in pods),
            pods=tuple(self._pod_view(pod) for pod in pods if pod.seen.phase is ReplicaPhase.READY),
            held=0.0 if reading is None else reading.held,
            outstanding=0.0 if reading is None else reading.outstanding,
            arrived_total=0.0 if reading is None else reading.arrived_total,
            gateway_answered=is_answered,
        )

    def _pod_view(self, pod: SimulatedPod) -> PodView:
        ready_since = (pod.seen.ready_at or EPOCH_SECONDS) - EPOCH_SECONDS
        reading, is_answered = self.monitor.pod(pod.seen.uid)
        if reading is None:
            return PodView(
                name=pod.seen.name,
                variant=pod.seen.variant,
                ready_since_seconds=ready_since,
                read_at_seconds=None,
                answered=is_answered,
            )
        return PodView(
            name=pod.seen.name,
            variant=pod.seen.variant,
            ready_since_seconds=ready_since,
            read_at_seconds=reading.read_at_seconds,
            answered=is_answered,
            waiting=reading.waiting,
            running=reading.running,
            kv_cache_usage=reading.kv_cache_usage,
            finished_total=reading.finished_total,
            prompt_tokens_total=reading.prompt_tokens_total,
            generated_tokens_total=reading.generated_tokens_total,
        )


def _numbers_by_hand(setting: WorldSetting) -> WorldSetting:
    """Return the setting in which somebody else than the planner says how many replicas there are."""
    models = tuple(replace(model, deployment=replace(model.deployment, mode=Mode.MANUAL)) for model in setting.models)
    changes = tuple(
        replace(change, fields=tuple(field for field in change.fields if field[0] not in ("mode", "replicas")))
        for change in setting.changes
    )
    return replace(setting, models=models, changes=changes)

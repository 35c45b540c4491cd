"""The one loop: sense, plan, act, tell.

Changes in the cluster only pull a trigger; the loop runs when the triggers have been quiet for 100 ms, at the latest one second after
the first, and on a tick every two seconds, which also reads the signals. Actions are sent side by side and not waited for: what is
on its way is an input of the next plan. Only the Lease holder plans; a standby keeps its caches warm and reads nothing. The plan is
made in a thread, one at a time, while watches, probes and the Lease go on: what is done and told with it is what it was made from.

A plan that fails is a bug of ours: it is logged with its traceback, counted, and the next pass tries again from the same state; the
probe turns red when plans fail for a minute. Nothing is acted upon that was not planned. Where one deployment alone makes it fail, that
one is logged and counted alike, and keeps what it has; the others are planned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.catalog import Catalog
from fleetpack.cluster.actuation import ActionResult, Actuator, Surroundings
from fleetpack.cluster.caches import Caches
from fleetpack.cluster.expectations import Expectations
from fleetpack.cluster.secrets import SecretReader
from fleetpack.cluster.sensing import signal_targets
from fleetpack.cluster.snapshot import Interpreter, Understood
from fleetpack.cluster.telling import Teller
from fleetpack.core.decision import Action, Outcome
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.isolation import AssessmentError, without_failed
from fleetpack.core.planner import plan
from fleetpack.core.state import State
from fleetpack.signals import SignalReader

_logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
IDLE_SECONDS = 0.1
LATEST_SECONDS = 1.0
FAILING_SECONDS = 60.0
CLOCK_TOLERANCE_SECONDS = 60.0
"""A clock that is set back further is a fresh start; less is waited for, which costs no more than a fresh start."""


class Trigger:
    """Set by any change; waited for with a quiet time and an upper bound."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._last = 0.0

    def pull(self) -> None:
        """Say that something has changed."""
        self._last = time.monotonic()
        self._event.set()

    async def wait(self, deadline: float) -> None:
        """Return when changes have settled, or at `deadline` (monotonic seconds)."""
        try:
            await asyncio.wait_for(self._event.wait(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return
        latest = min(deadline, time.monotonic() + LATEST_SECONDS)
        while (now := time.monotonic()) < latest and now - self._last < IDLE_SECONDS:  # noqa: ASYNC110 (a quiet time has no event)
            await asyncio.sleep(min(IDLE_SECONDS - (now - self._last), latest - now))
        self._event.clear()


class Observer:
    """Sees each pass: metrics, the recorder and the demo hang on here. This one looks away."""

    def ticked(self, late_seconds: float) -> None:
        """Called when a tick begins, so much later than it was due."""

    def planned(self, inputs: Inputs, state: State, found: Plan, seconds: float) -> None:
        """Called after each plan; `state` is the one that the plan was made from."""

    def acted(self, result: ActionResult) -> None:
        """Called after each action."""

    def failed(self, error: Exception) -> None:
        """Called when a pass has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Our own resources as a plan knew them: by what it decided of a spec, no later one is acted upon or said to be observed."""

    deployments: dict[str, InferenceDeployment]
    pools: dict[str, AcceleratorPool]


@dataclass(slots=True, kw_only=True)
class ControlLoop:
    """Plans the whole fleet for as long as `is_leading` says so."""

    catalog: Catalog
    caches: Caches
    trigger: Trigger
    reader: SignalReader
    secrets: SecretReader
    actuator: Actuator
    teller: Teller
    is_leading: Callable[[], bool]
    clock: Callable[[], float]
    observer: Observer = field(default_factory=Observer)
    last_pass_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the last pass that ended well, or of the last look by a standby."""
    _state: State = field(default_factory=State)
    _expectations: Expectations = field(default_factory=Expectations)
    _interpreter: Interpreter = field(init=False)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="plan"))
    """Of its own: in asyncio's threads host names of signals are looked up, and a slow name server would hold up the plan."""
    _acting: set[asyncio.Task[None]] = field(default_factory=set)
    _telling: asyncio.Task[None] | None = None
    _led: bool = False

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(catalog=self.catalog)

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until `stopping`; then wait for the writes that are on their way."""
        await self.caches.wait_synced()
        tick = time.monotonic()
        while not stopping.is_set():
            if (now := time.monotonic()) >= tick:
                self.observer.ticked(now - tick)
                tick = now + TICK_SECONDS
            try:
                await self._pass()
                self.last_pass_at = time.monotonic()
            except Exception as error:
                _logger.exception("planning failed; tried again with the next pass")
                self.observer.failed(error)
            await self.trigger.wait(tick)
        pending = [*self._acting, *([self._telling] if self._telling else [])]
        if pending:
            await asyncio.wait(pending, timeout=5.0)

    async def _pass(self) -> None:
        if not self.is_leading():
            self._led = False
            return
        if not self._led:
            # Whatever was remembered is of another time; the caches and status say what there is.
            self._state, self._expectations, self._led = State(), Expectations(), True
            self.teller.forget()
        elif self.clock() < self._state.last_now - CLOCK_TOLERANCE_SECONDS:
            # The planner's time never runs backwards: until the clock caught up, nothing would age and nothing be measured.
            _logger.warning(
                "the clock was set back by %.0f s; what was remembered is forgotten",
                self._state.last_now - self.clock(),
            )
            self._state, self._expectations = State(), Expectations()
        understood = self._interpreter.understand(self.caches.rows())
        resources = dict(self.caches.deployments.objects)
        credentials = await self.secrets.refresh(resources.values())
        samples = await self.reader.read(signal_targets(resources, understood.snapshot, credentials), self.clock())
        now, cache_age_seconds = self.clock(), self.caches.age_seconds()
        understood = self._interpreter.understand(self.caches.rows())
        seen = Seen(deployments=dict(self.caches.deployments.objects), pools=dict(self.caches.pools.objects))
        inputs = Inputs(
            now=now,
            deployments=understood.deployments,
            snapshot=understood.snapshot,
            samples=samples,
            issued=self._expectations.take(understood.snapshot, understood.deployments, now - cache_age_seconds),
            cache_age_seconds=cache_age_seconds,
        )
        found = await self._plan(inputs)
        if not self.is_leading():
            # The Lease was lost meanwhile; whoever has it plans anew.
            return
        seen = self._still_there(seen)
        self._act(found, understood, seen)
        self._tell(found, seen)

    async def _plan(self, inputs: Inputs) -> Plan:
        """Plan and remember; where some deployments cannot be assessed, around them."""
        started, run_apart = time.perf_counter(), asyncio.get_running_loop().run_in_executor
        # At a thousand nodes half a second. plan() is a function of values that nobody changes, and the next pass waits for this one.
        try:
            found, state = await run_apart(self._thread, plan, inputs, self._state)
        except AssessmentError as error:
            for key, cause in error.failures.items():
                _logger.error("%s cannot be assessed; its replicas stay as they are", key, exc_info=cause)
            self.observer.failed(error)
            inputs, self._state = without_failed(inputs, self._state, error.failures)
            found, state = await run_apart(self._thread, plan, inputs, self._state)
        self.observer.planned(inputs, self._state, found, time.perf_counter() - started)
        self._state = state
        return found

    def _still_there(self, seen: Seen) -> Seen:
        """Leave out what was deleted while the plan was made, and what bears its name since."""
        uids = {resource.metadata.uid for resource in self.caches.deployments.objects.values()}
        uids |= {pool.metadata.uid for pool in self.caches.pools.objects.values()}
        return Seen(
            deployments={key: own for key, own in seen.deployments.items() if own.metadata.uid in uids},
            pools={key: own for key, own in seen.pools.items() if own.metadata.uid in uids},
        )

    def _act(self, found: Plan, understood: Understood, seen: Seen) -> None:
        """Send all actions side by side; their outcomes come back as expectations."""
        if not found.actions:
            return
        around = Surroundings(
            deployments=seen.deployments,
            pools=seen.pools,
            node_types={node.name: node.instance_type for node in understood.snapshot.nodes},
            instance_types={
                name: offering.instance_type
                for pool in understood.pools
                for name, offering in pool.instance_types.items()
            },
        )
        for action in found.actions:
            ticket = self._expectations.issue(action, self.clock())
            task = asyncio.create_task(self._apply(ticket, action, around, self._expectations))
            self._acting.add(task)
            task.add_done_callback(self._acting.discard)

    async def _apply(self, ticket: int, action: Action, around: Surroundings, expectations: Expectations) -> None:
        result = await self.actuator.apply(action, around)
        expectations.settle(ticket, result.outcome, result.detail, self.clock())
        self.observer.acted(result)
        if result.outcome is not Outcome.DONE:
            _logger.warning("%s: %s: %s", type(action).__name__, result.outcome, result.detail)
            self.trigger.pull()

    def _tell(self, found: Plan, seen: Seen) -> None:
        """Write status and events in the background; while that is going on, the next plan's status replaces this one's."""
        self.teller.note(found.decisions, seen.deployments)
        if self._telling is not None and not self._telling.done():
            return
        self._telling = asyncio.create_task(self._tell_safely(found, seen))

    async def _tell_safely(self, found: Plan, seen: Seen) -> None:
        try:
            await self.teller.tell(found, seen.deployments, seen.pools)
        except Exception as error:
            _logger.exception("telling failed; tried again with the next pass")
            self.observer.failed(error)

    def progressing(self) -> tuple[bool, str]:
        """Probe: whether a pass has ended well within the last minute."""
        seconds = time.monotonic() - self.last_pass_at
        return seconds < FAILING_SECONDS, f"last pass {seconds:.1f} s ago"

"""What one replica of a variant can do, learnt online from what it did; the user's priors are the start.

Capacity is measured only while a replica is saturated (requests waiting at both ends of an interval): then its completions per
second are its capacity, and its running requests are its concurrency. The sums fade, so that a change of the model or the load
is followed within minutes. A cold start runs from the creation of the Pod to Ready.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from fleetpack.core.deployments import Deployment, LearnedProfile, Variant
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.observation import PodFlow
from fleetpack.core.state import DeploymentState, Learning

FADE_SECONDS = 600.0
"""Saturated time after which an old measurement weighs half: long enough for some hundred requests, short enough to follow a day."""
ENOUGH_SATURATED_SECONDS = 20.0
ENOUGH_FINISHED = 20.0
"""With fewer completions than this the rate is off by more than a fifth (Poisson: 1/sqrt(n)), so the prior holds."""
BATCH_SLOWDOWN = 2.0
"""How much longer a request takes in a full batch than alone, as a share; it grows linearly with the batch, as a decode step does."""
STARTUPS_REMEMBERED = 5
UNKNOWN_STARTUP_SECONDS = 300.0
"""Where neither the user nor a measurement says: pulling and loading takes 5 to 15 minutes in AWS's own samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProfile:
    """What one replica can do; None where neither a measurement nor a prior says."""

    requests_per_second: float | None
    concurrency: float | None
    startup_seconds: float
    measured: bool
    """Whether the rate was measured, not only promised."""
    startup_measured: bool = False


def with_estimate(profile: ServiceProfile, state: DeploymentState, ready_replicas: int) -> ServiceProfile:
    """Return the profile with a capacity estimated from partial load, where nothing better is known.

    By Little's law a request takes `running / rate` seconds at the batch of today, and `BATCH_SLOWDOWN` says how much longer in a full
    one. While load rises completions lag behind arrivals; the mean of both is the rate in the middle of a request's time.
    """
    known = profile.requests_per_second is not None or not profile.concurrency
    if known or len(state.flows) < 2 or not ready_replicas:
        return profile
    arrivals = sum(flow.arrivals for flow in state.flows[1:])
    finished = sum(flow.finished for flow in state.flows[1:])
    running = sum(flow.running for flow in state.flows[1:]) / (len(state.flows) - 1)
    seconds = state.flows[-1].at - state.flows[0].at
    if finished < ENOUGH_FINISHED or running <= 0.0 or seconds <= 0.0:
        return profile
    assert profile.concurrency is not None
    rate = (arrivals + finished) / 2.0 / seconds
    batch_share = min(1.0, running / (profile.concurrency * ready_replicas))
    slowdown = (1.0 + BATCH_SLOWDOWN) / (1.0 + BATCH_SLOWDOWN * batch_share)
    return replace(profile, requests_per_second=profile.concurrency * rate / running / slowdown)


def learn(state: DeploymentState, flows: tuple[PodFlow, ...], replicas: tuple[Replica, ...]) -> DeploymentState:
    """Add what was seen in this pass to the sums."""
    learning = {entry.variant: entry for entry in state.learning}
    for flow in flows:
        if flow.saturated and flow.seconds > 0:
            entry = learning.get(flow.variant, Learning(variant=flow.variant))
            fade = 0.5 ** (flow.seconds / FADE_SECONDS)
            learning[flow.variant] = replace(
                entry,
                saturated_seconds=entry.saturated_seconds * fade + flow.seconds,
                saturated_finished=entry.saturated_finished * fade + flow.finished,
                saturated_running_seconds=entry.saturated_running_seconds * fade + flow.running * flow.seconds,
            )
    counted = set(state.started_uids)
    if state.desired is None:
        # A process did not see those start that it finds in its first pass: they show when they last became Ready, perhaps hours later.
        counted.update(replica.uid for replica in replicas)
    for replica in replicas:
        if replica.phase is ReplicaPhase.READY and replica.ready_at is not None and replica.uid not in counted:
            entry = learning.get(replica.variant, Learning(variant=replica.variant))
            seconds = (*entry.startups_seconds, max(0.0, replica.ready_at - replica.created_at))
            learning[replica.variant] = replace(entry, startups_seconds=seconds[-STARTUPS_REMEMBERED:])
    # One that became unready is not starting anew when it is ready again.
    present = tuple(
        sorted(
            replica.uid
            for replica in replicas
            if replica.uid and (replica.ready_at is not None or replica.uid in counted)
        )
    )
    ordered = tuple(entry for _, entry in sorted(learning.items()))
    return replace(state, learning=ordered, started_uids=present)


def service_profile(deployment: Deployment, variant: Variant, state: DeploymentState) -> ServiceProfile:
    """Return what one replica of `variant` can do: measured now, else measured earlier, else the user's prior."""
    entry = next((entry for entry in state.learning if entry.variant == variant.name), Learning(variant=variant.name))
    earlier = next(
        (known for known in deployment.learned if known.variant == variant.name), LearnedProfile(variant=variant.name)
    )
    enough = entry.saturated_seconds >= ENOUGH_SATURATED_SECONDS and entry.saturated_finished >= ENOUGH_FINISHED
    rate = entry.saturated_finished / entry.saturated_seconds if enough else earlier.requests_per_second
    concurrency = entry.saturated_running_seconds / entry.saturated_seconds if enough else earlier.concurrency
    startup = statistics.median(entry.startups_seconds) if entry.startups_seconds else earlier.startup_seconds
    return ServiceProfile(
        requests_per_second=rate if rate is not None else variant.prior_requests_per_second,
        concurrency=concurrency if concurrency is not None else variant.prior_concurrency,
        startup_seconds=next(
            known for known in (startup, variant.prior_startup_seconds, UNKNOWN_STARTUP_SECONDS) if known is not None
        ),
        measured=rate is not None,
        startup_measured=startup is not None,
    )

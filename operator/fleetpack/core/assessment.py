"""Steps 1 to 6 for one deployment: from samples to the number of replicas that is wanted and paid for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fleetpack.core import stabilization
from fleetpack.core.absent import NoData
from fleetpack.core.cost import Allotment, allocate_budget, keep_cost_target, usd_per_replica_hour
from fleetpack.core.demand import Demand, estimate_demand
from fleetpack.core.deployments import Deployment, Mode
from fleetpack.core.fleet import Replica, ReplicaPhase
from fleetpack.core.fleet_index import FleetIndex
from fleetpack.core.forecast import follow_lead, forecast, supply_of
from fleetpack.core.inflight import CREATE_BACK_OFF_SECONDS, back_off_seconds
from fleetpack.core.latency import Latency, known_latency, with_ready_replicas
from fleetpack.core.misses import Serving, let_miss
from fleetpack.core.observation import Observation, build_observation
from fleetpack.core.profiles import UNKNOWN_STARTUP_SECONDS, ServiceProfile, learn, service_profile, with_estimate
from fleetpack.core.rollout import Standing, standing
from fleetpack.core.samples import Sample
from fleetpack.core.sizing import Recommendation, size
from fleetpack.core.stabilization import DesiredReplicas
from fleetpack.core.state import DeploymentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Concession:
    """What a deployment leaves to more important ones, as long as they wait for it."""

    replicas: int
    """How many it may have meanwhile."""
    victims: tuple[Replica, ...]
    """Those that go in this pass."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What one pass found out about one deployment."""

    deployment: Deployment
    replicas: tuple[Replica, ...]
    standing: Standing
    observation: Observation
    demand: Demand | NoData
    desired: DesiredReplicas
    allotment: Allotment
    profiles: tuple[tuple[str, ServiceProfile], ...]
    """By variant, in the order of preference."""
    latency: Latency | None = None
    """None: there is no latency target."""
    needed: int
    """How many of the desired replicas the demand asks for; the rest is kept because giving it up may cost more."""
    concession: Concession | None = None
    """None: nobody more important waits for its room."""

    @property
    def wanted(self) -> int:
        """How many replicas there should be, as far as the deployment's own money and those more important let it."""
        return self.allotment.replicas if self.concession is None else self.concession.replicas


def assess(
    deployment: Deployment,
    fleet: FleetIndex,
    samples: tuple[Sample, ...],
    state: DeploymentState,
    now: float,
) -> tuple[Assessment, DeploymentState]:
    """Observe, estimate, forecast, size, stabilise and budget one deployment."""
    replicas = fleet.replicas.get(deployment.key, ())
    observation, state = build_observation(deployment, replicas, samples, state, now)
    state = learn(state, observation.pod_flows, replicas)
    state = _count_failures(state, replicas, now)
    profiles = tuple((variant.name, service_profile(deployment, variant, state)) for variant in deployment.variants)
    profile = with_estimate(_typical(profiles, replicas), state, observation.ready_replicas)
    demand = estimate_demand(observation, state, deployment.target_queue_depth, now)
    latency = None
    if deployment.latency_target is not None:
        state = with_ready_replicas(state, observation.ready_replicas, now)
        latency = known_latency(deployment.latency_target, state, observation.ttft_seconds, now)
    recommendation: Recommendation | NoData
    if isinstance(demand, NoData):
        recommendation = demand
    else:
        supply = supply_of(replicas, profile, state, now)
        expected, state = forecast(demand, profile, supply, state, now)
        recommendation = size(expected, profile, deployment.target_queue_depth, latency)
        if deployment.target_usd_per_million_requests is not None:
            usd_per_hour = usd_per_replica_hour(deployment, replicas, fleet)
            capacity = profile.requests_per_second
            recommendation = keep_cost_target(deployment, recommendation, demand, capacity, usd_per_hour)
        wanted = state.desired if state.desired is not None else deployment.replicas
        serving = Serving(target=deployment.latency_target, profile=profile, supply=supply, wanted=wanted)
        recommendation = let_miss(recommendation, expected, serving, state, now)
    before = state.desired
    automatic, state = stabilization.stabilize(deployment, recommendation, demand, profile, state, now)
    # In other modes nobody starts what Auto would want, so how long that takes to come says nothing.
    auto = deployment.mode is Mode.AUTO
    state = follow_lead(state, before, observation.ready_replicas, now) if auto else replace(state, raised=())
    desired = stabilization.obey(deployment, automatic)
    assessment = Assessment(
        deployment=deployment,
        replicas=replicas,
        standing=standing(deployment, replicas, now, fleet.departures(replicas)),
        observation=observation,
        demand=demand,
        desired=desired,
        allotment=allocate_budget(deployment, desired.replicas, replicas, fleet),
        profiles=profiles,
        latency=latency,
        needed=_needed(deployment, recommendation, desired),
    )
    return assessment, state


def _needed(deployment: Deployment, recommendation: Recommendation | NoData, desired: DesiredReplicas) -> int:
    """Return how many of the desired replicas are no mere reserve; all of them where nobody knows or somebody ordered them."""
    if isinstance(recommendation, NoData) or deployment.mode is not Mode.AUTO:
        return desired.replicas
    return min(desired.replicas, max(recommendation.replicas, deployment.minimum_replicas))


def _typical(profiles: tuple[tuple[str, ServiceProfile], ...], replicas: tuple[Replica, ...]) -> ServiceProfile:
    """Return what the typical replica can do: the mean over those that serve, else the first variant."""
    by_name = dict(profiles)
    serving = [by_name[r.variant] for r in replicas if r.phase is ReplicaPhase.READY and r.variant in by_name]
    if not serving:
        return (
            profiles[0][1]
            if profiles
            else ServiceProfile(
                requests_per_second=None, concurrency=None, startup_seconds=UNKNOWN_STARTUP_SECONDS, measured=False
            )
        )
    rates = [profile.requests_per_second for profile in serving if profile.requests_per_second is not None]
    concurrencies = [profile.concurrency for profile in serving if profile.concurrency is not None]
    return ServiceProfile(
        requests_per_second=sum(rates) / len(rates) if len(rates) == len(serving) else None,
        concurrency=sum(concurrencies) / len(concurrencies) if len(concurrencies) == len(serving) else None,
        startup_seconds=max(profile.startup_seconds for profile in serving),
        measured=all(profile.measured for profile in serving),
    )


def _count_failures(state: DeploymentState, replicas: tuple[Replica, ...], now: float) -> DeploymentState:
    """Each try that ends in failed Pods lengthens the wait before the next; a Pod that became ready since clears it.

    Pods that fail while the wait lasts belong to the try that began it: ten that crash together are one reason to wait, not ten.
    """
    failed = tuple(sorted(replica.uid for replica in replicas if replica.phase is ReplicaPhase.FAILED and replica.uid))
    fresh = [uid for uid in failed if uid not in state.failed_uids]
    if fresh and now >= state.retry_at:
        failures = state.failures + 1
        retry_at = now + back_off_seconds(CREATE_BACK_OFF_SECONDS, failures)
        # The API server took these Pods, so what it said of an earlier one no longer holds.
        return replace(state, failures=failures, retry_at=retry_at, refusal="", failed_uids=failed)
    recovered = state.failures and any((replica.ready_at or 0.0) > state.retry_at for replica in replicas)
    if recovered:
        return replace(state, failures=0, retry_at=0.0, refusal="", failed_uids=failed)
    return replace(state, failed_uids=failed)

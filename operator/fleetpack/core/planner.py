"""The seam: `plan(inputs, state) -> (plan, state)`. Read this page first.

Called alike by the operator, the simulator and `fleetpack plan`. It does no input or output and has no clock: the same inputs
and state give the same plan, everywhere. Each numbered step is one function of values; what a step cannot know is `NoData` with a
reason, and leads to holding, never to guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fleetpack.api.conditions import Reason
from fleetpack.core import explanation, inflight
from fleetpack.core.assessment import Assessment, assess
from fleetpack.core.decision import Action, Decision
from fleetpack.core.deployments import Mode
from fleetpack.core.fleet_index import FleetIndex, index_fleet
from fleetpack.core.inputs import Inputs, Plan
from fleetpack.core.isolation import AssessmentError
from fleetpack.core.packing.consolidation import removable_nodes
from fleetpack.core.packing.fit import rooms
from fleetpack.core.packing.pack import Placement, pack
from fleetpack.core.placing import (
    budgets,
    empty_since,
    launch_context,
    node_actions,
    placement_requests,
    refused_places,
    shares_of,
)
from fleetpack.core.reconciliation import reconcile
from fleetpack.core.rollout import UNBOUND_SECONDS
from fleetpack.core.samples import Sample
from fleetpack.core.state import DeploymentState, State
from fleetpack.core.yielding import concede

STALE_CACHE_SECONDS = 30.0
"""A picture of the cluster older than this may miss a deletion, so nothing is done by it."""


def plan(inputs: Inputs, state: State) -> tuple[Plan, State]:
    """Decide how many replicas each model gets and on which cores, and say why."""
    now = max(inputs.now, state.last_now)
    state = inflight.learn_from_failures(replace(state, last_now=now), inputs.issued, now)
    snapshot = inflight.project(inflight.without_lost_launches(inputs.snapshot, now), inputs.issued, inputs.deployments)
    inputs = replace(inputs, deployments=inflight.project_scales(inputs.deployments, inputs.issued))
    fleet = index_fleet(snapshot, now, state.taken_names)
    # 1-6: observe, demand, forecast, size, stabilise, budget: each deployment by itself
    assessments, state = _assess_all(inputs, fleet, state, now)
    if inputs.cache_age_seconds > STALE_CACHE_SECONDS:
        return explanation.held(assessments, fleet, Reason.CACHE_STALE, inputs.cache_age_seconds), state
    # 7: pack what is missing onto the fleet, the important first; on a full fleet the others give way to them
    state = inflight.set_aside(state, refused_places(assessments), now, UNBOUND_SECONDS)
    requests = placement_requests(assessments, state, now)
    fleet_rooms = rooms(snapshot)
    placement = pack(requests, fleet_rooms, snapshot.pools, budgets(assessments), launch_context(snapshot, state, now))
    assessments, placement, state = concede(assessments, placement, fleet, state, now)
    # 8: decide: what can be placed becomes actions, what cannot is fed back into the number of replicas
    shares = shares_of(placement)
    actions, decisions = _decide(assessments, shares, fleet, state, now)
    state = replace(state, empty_since=empty_since(snapshot, state, placement, now))
    removals = removable_nodes(fleet_rooms, snapshot.pools, dict(state.empty_since), now, placement.assigned)
    node_steps, node_decisions = node_actions(placement, removals, snapshot)
    # 10: tell
    return Plan(
        actions=(*actions, *node_steps),
        decisions=(*decisions, *node_decisions),
        deployments=explanation.deployment_reports(assessments, shares, decisions, fleet),
        pools=explanation.pool_reports(snapshot, fleet_rooms, state, now),
    ), state


def _assess_all(inputs: Inputs, fleet: FleetIndex, state: State, now: float) -> tuple[tuple[Assessment, ...], State]:
    """Assess every deployment; the state of those that are gone is forgotten. Raises `AssessmentError` for all that fail."""
    remembered = {entry.deployment: entry for entry in state.deployments}
    samples: dict[str, list[Sample]] = {}
    for sample in inputs.samples:
        samples.setdefault(sample.deployment, []).append(sample)
    assessments: list[Assessment] = []
    states: list[DeploymentState] = []
    failures: dict[str, Exception] = {}
    for deployment in sorted(inputs.deployments, key=lambda deployment: deployment.key):
        before = remembered.get(deployment.key, DeploymentState(deployment=deployment.key))
        try:
            found, after = assess(deployment, fleet, tuple(samples.get(deployment.key, ())), before, now)
        except Exception as error:  # a bug of ours, met by one deployment: whoever calls can go on without it
            failures[deployment.key] = error
            continue
        assessments.append(found)
        states.append(after)
    if failures:
        raise AssessmentError(failures)
    return tuple(assessments), replace(state, deployments=tuple(states))


def _decide(
    assessments: tuple[Assessment, ...], shares: Mapping[str, Placement], fleet: FleetIndex, state: State, now: float
) -> tuple[tuple[Action, ...], tuple[Decision, ...]]:
    """Reconcile each deployment with its share of the placement; deletions before creations, so that room comes free."""
    actions: list[Action] = []
    decisions: list[Decision] = []
    remembered = {entry.deployment: entry for entry in state.deployments}
    for found in assessments:
        share = shares.get(found.deployment.key, explanation.NO_PLACEMENT)
        untouched = found.deployment.mode is Mode.PAUSED or found.deployment.deleting
        if not untouched:
            actions.extend(reconcile(found, share, fleet, now))
        decisions.append(explanation.decide(found, share, remembered[found.deployment.key], now))
    return tuple(sorted(actions, key=explanation.action_order)), tuple(decisions)

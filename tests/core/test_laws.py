"""Laws of the core's parts: what must hold for all numbers, not only for the examples somebody thought of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from builders import NOW, a_deployment, a_node, a_pool, a_replica, some_inputs
from fleetpack.core.absent import NoData
from fleetpack.core.cores import format_cores, parse_cores
from fleetpack.core.cost import allocate_budget, replica_usd_per_hour, spent_usd_per_hour
from fleetpack.core.decision import CreateReplica, DeleteReplica, DrainReplica, IssuedAction, LaunchNode, Outcome
from fleetpack.core.demand import Demand
from fleetpack.core.deployments import Disruption
from fleetpack.core.fleet import FleetSnapshot, ReplicaPhase
from fleetpack.core.fleet_index import index_fleet
from fleetpack.core.forecast import Supply, forecast
from fleetpack.core.inflight import back_off_seconds, project
from fleetpack.core.profiles import ServiceProfile
from fleetpack.core.rollout import RoomFound, Weights, missing_replicas, removals, standing
from fleetpack.core.sizing import Recommendation, size
from fleetpack.core.stabilization import stabilize
from fleetpack.core.state import DeploymentState
from fleetpack.core.templates import merge_template, pod_requests

counts = st.floats(min_value=0.0, max_value=10_000.0, allow_nan=False)
rates = st.floats(min_value=0.0, max_value=5_000.0, allow_nan=False)
capacities = st.floats(min_value=0.01, max_value=500.0, allow_nan=False)
depths = st.floats(min_value=0.1, max_value=100.0, allow_nan=False)
known_profiles = st.builds(
    ServiceProfile,
    requests_per_second=capacities,
    concurrency=st.one_of(st.none(), capacities),
    startup_seconds=st.floats(min_value=0.0, max_value=900.0),
    measured=st.booleans(),
)
profiles = st.one_of(known_profiles, st.builds(lambda known: replace(known, requests_per_second=None), known_profiles))
demands = st.builds(
    Demand,
    arrival_rate_per_second=rates,
    rate_deviation_per_second=st.floats(min_value=0.0, max_value=50.0),
    waiting=counts,
    running=counts,
    ready_replicas=st.integers(min_value=0, max_value=100),
    complete=st.just(True),
    rate_known=st.just(True),
)


def sized(demand: Demand, profile: ServiceProfile, depth: float) -> Recommendation:
    supply = Supply(ready=demand.ready_replicas)
    expected, _ = forecast(demand, profile, supply, DeploymentState(deployment="default/chat"), NOW)
    return size(expected, profile, depth)


# --- sizing


@given(demand=demands, profile=profiles, depth=depths)
def test_should_never_keep_fewer_than_needed_and_need_none_only_when_idle(
    demand: Demand, profile: ServiceProfile, depth: float
) -> None:
    found = sized(demand, profile, depth)

    assert 0 <= found.replicas <= found.keep_replicas
    assert (found.replicas == 0) == demand.idle
    assert all(math.isfinite(factor.value) for factor in found.factors)


@given(demand=demands, profile=known_profiles, depth=depths, more=counts)
def test_should_never_need_fewer_when_more_wait_or_come(
    demand: Demand, profile: ServiceProfile, depth: float, more: float
) -> None:
    before = sized(demand, profile, depth)
    with_more_waiting = sized(replace(demand, waiting=demand.waiting + more), profile, depth)
    with_more_coming = sized(
        replace(demand, arrival_rate_per_second=demand.arrival_rate_per_second + more), profile, depth
    )

    assert with_more_waiting.replicas >= before.replicas
    assert with_more_coming.replicas >= before.replicas
    assert with_more_waiting.keep_replicas >= before.keep_replicas
    assert with_more_coming.keep_replicas >= before.keep_replicas


@given(demand=demands, profile=known_profiles, depth=depths, others=st.integers(min_value=0, max_value=100))
def test_should_size_what_nobody_waits_for_without_regard_to_what_exists(
    demand: Demand, profile: ServiceProfile, depth: float, others: int
) -> None:
    calm = replace(demand, waiting=0.0)

    found, among_others = sized(calm, profile, depth), sized(replace(calm, ready_replicas=others), profile, depth)

    assert (found.replicas, found.keep_replicas) == (among_others.replicas, among_others.keep_replicas)


# --- stabilization

bounds = st.tuples(st.integers(0, 5), st.integers(1, 20)).filter(lambda pair: pair[0] <= pair[1])
steps = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 30), st.integers(0, 10))), min_size=1, max_size=60)


@given(limits=bounds, history=steps, profile=known_profiles)
def test_should_stay_within_bounds_and_hold_without_numbers(
    limits: tuple[int, int], history: list[tuple[int, int] | None], profile: ServiceProfile
) -> None:
    deployment = a_deployment(minimum_replicas=limits[0], maximum_replicas=limits[1], replicas=limits[0])
    state = DeploymentState(deployment=deployment.key, observing_since=NOW)
    for tick, step in enumerate(history):
        before = state.desired
        recommendation, demand = _told(step)
        found, state = stabilize(deployment, recommendation, demand, profile, state, NOW + 2 * tick)

        assert limits[0] <= found.replicas <= limits[1]
        if step is None and before is not None:
            assert (found.replicas, found.holding) == (before, True)
        if step is not None:
            assert found.replicas >= min(step[0], limits[1])


@given(history=steps, profile=known_profiles)
def test_should_never_go_down_before_a_whole_window_was_seen(
    history: list[tuple[int, int] | None], profile: ServiceProfile
) -> None:
    deployment = a_deployment(minimum_replicas=0, maximum_replicas=40, replicas=5)
    state = DeploymentState(deployment=deployment.key, observing_since=NOW)
    sizes = [5]
    for tick, step in enumerate(history):
        if 2 * tick >= 30:
            break
        recommendation, demand = _told(step)
        found, state = stabilize(deployment, recommendation, demand, profile, state, NOW + 2 * tick)
        sizes.append(found.replicas)

    assert sizes == sorted(sizes)


def _told(step: tuple[int, int] | None) -> tuple[Recommendation | NoData, Demand | NoData]:
    if step is None:
        silence = NoData(reason="NoFreshSignal", message="silent")
        return silence, silence
    needed, spare = step
    demand = Demand(
        arrival_rate_per_second=float(needed),
        waiting=0.0,
        running=float(needed),
        ready_replicas=1,
        complete=True,
        rate_known=True,
    )
    kept = needed + spare
    return Recommendation(replicas=needed, keep_replicas=kept, bound_by="OnTarget", factors=()), demand


# --- rollout


@given(
    replicas=st.integers(1, 8),
    room=st.integers(0, 9),
    maximum_unavailable=st.integers(1, 3),
    starts=st.booleans(),
)
def test_should_roll_a_template_within_its_budget_and_to_the_end(
    replicas: int, room: int, maximum_unavailable: int, starts: bool
) -> None:
    deployment = a_deployment(
        replicas=replicas, disruption=Disruption(maximum_unavailable=maximum_unavailable, drain_seconds=0.0)
    )
    fleet = {f"old-{index}": _one(f"old-{index}", "old") for index in range(replicas)}
    free, made, fewest = room, 0, replicas
    for _ in range(6 * replicas + 6):
        now = standing(deployment, tuple(fleet.values()), NOW, {})
        missing = missing_replicas(deployment, now, replicas)
        placed = min(missing, free)
        found = RoomFound(hopeless=missing - placed, attainable=len(fleet) + placed)
        gone = [replica for replica, _ in removals(deployment, now, replicas, found, Weights(work={}, usd_per_hour={}))]
        for replica in gone:
            del fleet[replica.name]
        for _ in range(placed):
            made += 1
            fleet[f"new-{made}"] = _one(f"new-{made}", "hash-1", phase=ReplicaPhase.STARTING)
        free += len(gone) - placed
        fewest = min(fewest, sum(one.phase is ReplicaPhase.READY for one in fleet.values()))
        if starts:
            fleet = {name: replace(one, phase=ReplicaPhase.READY) for name, one in fleet.items()}

    # A new replica is Ready one step after its creation, so at no time may more than the budget be missing.
    assert fewest >= replicas - maximum_unavailable
    if starts:
        assert sorted(one.template_hash for one in fleet.values()) == ["hash-1"] * replicas


@given(
    replicas=st.integers(1, 8),
    maximum_unavailable=st.integers(1, 4),
    answers=st.lists(st.sampled_from(["late", "refused", "done"]), min_size=1, max_size=40),
)
def test_should_never_surge_above_the_budget_when_removals_are_late_or_refused(
    replicas: int, maximum_unavailable: int, answers: list[str]
) -> None:
    deployment = a_deployment(
        replicas=replicas, disruption=Disruption(maximum_unavailable=maximum_unavailable, drain_seconds=0.0)
    )
    fleet = {f"old-{index}": _one(f"old-{index}", "old") for index in range(replicas)}
    on_their_way: dict[str, Outcome] = {}
    most, made = replicas, 0
    for step in range(4 * replicas + 4):
        seen = {
            name: _given_up(one, on_their_way[name]) if name in on_their_way else one for name, one in fleet.items()
        }
        now = standing(deployment, tuple(seen.values()), NOW, {})
        missing = missing_replicas(deployment, now, replicas)
        gone = removals(deployment, now, replicas, RoomFound(), Weights(work={}, usd_per_hour={}))
        on_their_way |= {replica.name: Outcome.PENDING for replica, _ in gone}
        for _ in range(missing):
            made += 1
            fleet[f"new-{made}"] = _one(f"new-{made}", "hash-1")
        most = max(most, len(fleet))
        for name in tuple(on_their_way):
            answer = answers[(step + len(name) + made) % len(answers)]
            if answer != "late":
                del on_their_way[name]
            if answer == "done":
                del fleet[name]

    assert most <= replicas + min(replicas, maximum_unavailable)


def _given_up(replica: Any, outcome: Outcome) -> Any:
    action = DeleteReplica(
        deployment=replica.deployment,
        name=replica.name,
        uid=replica.uid,
        resource_version=replica.resource_version,
        reason="TemplateChanged",
    )
    issued = (IssuedAction(action=action, issued_at=NOW, outcome=outcome),)
    [projected] = project(FleetSnapshot(replicas=(replica,)), issued, ()).replicas
    return projected


def _one(name: str, template_hash: str, **changes: Any) -> Any:
    return replace(a_replica(), name=name, uid=name, template_hash=template_hash, **changes)


@given(
    phases=st.lists(st.sampled_from(list(ReplicaPhase)), max_size=8),
    wanted=st.integers(0, 8),
)
def test_should_give_up_what_never_served_before_what_serves(phases: list[ReplicaPhase], wanted: int) -> None:
    replicas = tuple(_one(f"r-{index}", "hash-1", phase=phase) for index, phase in enumerate(phases))
    now = standing(a_deployment(), replicas, NOW, {})
    victims = [one for one, _ in removals(a_deployment(), now, wanted, RoomFound(), Weights(work={}, usd_per_hour={}))]

    ready_left = now.ready - sum(one.phase is ReplicaPhase.READY for one in victims)
    assert len(victims) <= max(0, now.live - wanted)
    assert ready_left >= min(wanted, now.ready)


# --- cost


@given(
    ceiling=st.floats(min_value=0.0, max_value=60.0),
    wanted=st.integers(0, 12),
    phases=st.lists(st.sampled_from(list(ReplicaPhase)), max_size=3),
)
def test_should_never_allot_more_than_wanted_nor_beyond_the_ceiling(
    ceiling: float, wanted: int, phases: list[ReplicaPhase]
) -> None:
    deployment = a_deployment(maximum_usd_per_hour=ceiling)
    replicas = tuple(_one(f"r-{index}", "hash-1", phase=phase) for index, phase in enumerate(phases))
    snapshot = FleetSnapshot(nodes=(a_node(),), replicas=replicas, pools=(a_pool(),))
    found = allocate_budget(deployment, wanted, replicas, index_fleet(snapshot, NOW))
    each = replica_usd_per_hour(a_node(), 8)
    spent = spent_usd_per_hour(replicas, {"node-a": a_node()})

    assert 0 <= found.replicas <= wanted
    assert found.addable_usd_per_hour is not None
    assert 0 <= found.addable_usd_per_hour <= max(0.0, ceiling - spent) + 1e-9
    assert found.replicas * each <= ceiling + 1e-6
    assert (found.replicas < wanted) == bool(found.reason)


# --- actions on their way


@given(outcome=st.sampled_from(list(Outcome)))
def test_should_hold_cores_for_whatever_may_have_happened(outcome: Outcome) -> None:
    action = CreateReplica(
        deployment="default/chat",
        variant="tp8",
        name="chat-tp8-7",
        node="node-a",
        cores=0xFF,
        cores_count=8,
        template_hash="hash-1",
        usd_per_hour=None,
        reason="x",
    )
    issued = (IssuedAction(action=action, issued_at=NOW, outcome=outcome),)
    snapshot = some_inputs().snapshot
    found = project(snapshot, issued, (a_deployment(),))

    surely_not = outcome in (Outcome.FAILED, Outcome.NOT_SENT)
    assert [replica.cores for replica in found.replicas] == ([] if surely_not else [0xFF])
    assert [replica.outcome_unknown for replica in found.replicas] == (
        [] if surely_not else [outcome in (Outcome.UNKNOWN, Outcome.NAME_TAKEN)]
    )
    assert project(found, issued, (a_deployment(),)) == found


def test_should_project_launches_drains_and_deletions() -> None:
    first, second = a_replica(0), a_replica(1, "8-15")
    common = {"deployment": "default/chat", "resource_version": "1", "reason": "x"}
    actions = (
        DrainReplica(name=first.name, uid=first.uid, **common),
        DeleteReplica(name=second.name, uid=second.uid, **common),
        LaunchNode(pool="inferentia2", name="new", instance_type="inf2.24xlarge", price_usd_per_hour=1.0, reason="x"),
    )
    issued = tuple(IssuedAction(action=action, issued_at=NOW, outcome=Outcome.DONE) for action in actions)
    found = project(some_inputs(replicas=(first, second)).snapshot, issued, ())

    assert [replica.phase for replica in found.replicas] == [ReplicaPhase.DRAINING, ReplicaPhase.TERMINATING]
    assert [(node.name, node.booting) for node in found.nodes] == [("new", True), ("node-a", False)]


@given(first=st.floats(min_value=0.1, max_value=60.0), refusals=st.integers(1, 10_000))
def test_should_back_off_longer_each_time_up_to_ten_minutes(first: float, refusals: int) -> None:
    assert first <= back_off_seconds(first, refusals) <= back_off_seconds(first, refusals + 1) <= 600.0


# --- cores and templates


@given(mask=st.integers(min_value=0, max_value=(1 << 256) - 1))
def test_should_read_back_the_cores_that_it_wrote(mask: int) -> None:
    assert parse_cores(format_cores(mask)) == mask


@given(text=st.text(alphabet="0123456789-, x", max_size=12))
def test_should_read_a_list_of_cores_or_refuse_it_with_its_text(text: str) -> None:
    mask = -1
    refusal = repr(text)
    try:
        mask = parse_cores(text)
    except ValueError as error:
        refusal = str(error)

    assert repr(text) in refusal
    assert mask == -1 or parse_cores(format_cores(mask)) == mask


names = st.sampled_from(["a", "b", "c"])
containers = st.lists(
    st.fixed_dictionaries({"name": names}, optional={"image": names, "args": st.lists(names, max_size=2)}),
    max_size=3,
    unique_by=lambda container: container["name"],
)
templates = st.fixed_dictionaries(
    {}, optional={"spec": st.fixed_dictionaries({}, optional={"containers": containers, "nodeName": names})}
)


@given(base=templates, changes=templates)
def test_should_merge_templates_by_name_once_and_for_all(base: dict[str, Any], changes: dict[str, Any]) -> None:
    merged = merge_template(base, changes)

    assert merge_template(base, {}) == base
    assert merge_template(base, base) == base
    assert merge_template(merged, changes) == merged
    present = {one["name"] for template in (base, changes) for one in template.get("spec", {}).get("containers", [])}
    assert {one["name"] for one in merged.get("spec", {}).get("containers", [])} == present


@given(millicores=st.lists(st.integers(0, 5000), min_size=1, max_size=4), once=st.integers(0, 20_000))
def test_should_count_requests_as_the_scheduler_does(millicores: list[int], once: int) -> None:
    def container(name: str, cpu: int) -> dict[str, Any]:
        return {"name": name, "resources": {"requests": {"cpu": f"{cpu}m"}}}

    template = {
        "spec": {
            "containers": [container(str(index), cpu) for index, cpu in enumerate(millicores)],
            "initContainers": [container("once", once)],
        }
    }

    assert pod_requests(template).cpu_millicores == max(sum(millicores), once)


@settings(max_examples=30)
@given(fraction=st.floats(0.0, 1.0), replicas=st.integers(0, 50))
def test_should_round_a_share_of_replicas_up_but_never_beyond_all(fraction: float, replicas: int) -> None:
    assume(fraction == 0.0 or fraction > 1e-9)
    allowed = Disruption(maximum_unavailable_fraction=fraction).allowed(replicas)

    assert fraction * replicas <= allowed <= replicas

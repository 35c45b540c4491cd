"""Every baseline plays a small world to its end."""

from __future__ import annotations

import pytest

from fleetpack.core.deployments import Mode
from fleetpack_simulator.policies import POLICIES, PolicyError, build_policy, targets_of
from fleetpack_simulator.world import SpecChange, simulate
from fleetpack_simulator.world.traffic import RequestState
from worlds import ENGINE, model, requests, world


@pytest.mark.parametrize("name", ["static-3", *POLICIES])
def test_should_end_every_request_and_break_no_rule(name: str) -> None:
    setting = world(model(requests(6.0, 200.0, start_seconds=20.0, output_tokens=200)), nodes=1, duration_seconds=240.0)
    result = simulate(setting, policy=build_policy(name, setting))
    assert (result.violations, set(result.log.state)) == ([], {RequestState.COMPLETED})


@pytest.mark.parametrize("name", ["keda", "knative", "aibrix-apa", "wva-v1", "wva-v2"])
def test_should_grow_under_three_replicas_worth_of_load(name: str) -> None:
    setting = world(model(requests(9.0, 280.0, start_seconds=20.0, output_tokens=200)), nodes=1, duration_seconds=320.0)
    result = simulate(setting, policy=build_policy(name, setting))
    assert max(point.ready for point in result.series["default/chat"]) >= 3


def test_should_leave_the_number_to_the_policy_when_somebody_edits_the_mode_or_the_replicas() -> None:
    edits = (("mode", Mode.PAUSED), ("replicas", 1), ("maximum_replicas", 2))
    setting = world(model(), nodes=1, changes=(SpecChange(at_seconds=20.0, deployment="default/chat", fields=edits),))
    result = simulate(setting, policy=build_policy("static-3", setting))
    wanted = [point.desired for point in result.series["default/chat"]]
    # The bounds are still the user's.
    assert (wanted[5], wanted[-1], result.violations) == (3, 2, [])


def test_should_refuse_a_policy_that_it_does_not_know() -> None:
    with pytest.raises(PolicyError, match="'magic' is not known; there are static-N"):
        build_policy("magic", world(model()))


def test_should_aim_at_seventy_percent_of_a_replicas_best() -> None:
    # Four slots on static shapes: three of them are the fewest that give 70 % of four.
    found = targets_of(ENGINE, requests(1.0, 10.0))
    assert (found.ongoing_requests, found.maximum_ongoing_requests) == (3.0, 4)

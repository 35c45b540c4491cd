"""The bound stops after a number of steps, whatever the clock says."""

from __future__ import annotations

import pytest

from fleetpack_simulator.policies.bound import BoundError, clairvoyant_bound, problem_of, solver
from worlds import model, requests, world


def test_should_say_that_nothing_is_proven_when_its_steps_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(world(model(requests(3.0, 60.0))), "default/chat", share=0.5, end_seconds=240.0)
    usd = clairvoyant_bound(problem, whole_replicas=False).usd
    monkeypatch.setattr(solver, "_MAXIMUM_ITERATIONS", 3)
    with pytest.raises(BoundError, match="stopped with Iteration limit reached and has proven nothing"):
        clairvoyant_bound(problem, whole_replicas=False)
    assert usd > 0.0

from __future__ import annotations

import pytest

from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.telling import Teller
from fleetpack.core.decision import Decision


def a_decision(reason: str, before: int = 1, after: int = 1) -> Decision:
    return Decision(subject="team/chat", kind="replicas", before=before, after=after, reason=reason, message="")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        # An obstacle that stays is told once.
        (
            [(0, "NoFeasiblePlacement", 1, 1), (2, "NoFeasiblePlacement", 1, 1), (900, "NoFeasiblePlacement", 1, 1)],
            [1, 0, 0],
        ),
        # Another obstacle is told at once, also right after a number has moved.
        ([(0, "Placed", 0, 1), (1, "InvalidTemplate", 0, 0), (2, "InvalidTemplate", 0, 0)], [1, 1, 0]),
        # One that comes and goes is told every half minute at most.
        (
            [
                (0, "NoFreshSignal", 1, 1),
                (2, "OnTarget", 1, 1),
                (4, "NoFreshSignal", 1, 1),
                (40, "NoFreshSignal", 1, 1),
            ],
            [1, 0, 0, 1],
        ),
        # Quiet reasons are told only when they move a number.
        ([(0, "OnTarget", 1, 1), (2, "HoldingStable", 1, 1), (4, "OnTarget", 1, 2)], [0, 0, 1]),
    ],
)
async def test_should_tell_what_is_news(story: list[tuple[float, str, int, int]], expected: list[int]) -> None:
    async with KubernetesClient.from_url("http://127.0.0.1:9") as client:
        teller = Teller(client, lambda: 0.0, "test")

        told = [int(teller._is_news(a_decision(reason, before, after), at)) for at, reason, before, after in story]

    assert told == expected

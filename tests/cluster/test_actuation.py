"""What became of a write, as the planner is told."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from fleetpack.catalog import load_catalog
from fleetpack.cluster.actuation import Actuator, Surroundings
from fleetpack.cluster.errors import AlreadyExists, DeliveryUnknown, KubernetesError
from fleetpack.core.decision import CreateReplica, Outcome
from raw_objects import CREATED_SECONDS, a_resource

CREATION = CreateReplica(
    deployment="team/chat",
    variant="tp8",
    name="chat-tp8-0",
    node="node-a",
    cores=0xFF00,
    cores_count=8,
    template_hash="h",
    usd_per_hour=None,
    reason="QueueAboveTarget",
)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (AlreadyExists("create", "/api/v1/namespaces/team/pods", "already exists", status=409), Outcome.NAME_TAKEN),
        (DeliveryUnknown("create", "/api/v1/namespaces/team/pods", "no answer"), Outcome.UNKNOWN),
    ],
)
async def test_should_tell_a_name_that_is_taken_from_an_answer_that_is_lost(
    error: KubernetesError, outcome: Outcome
) -> None:
    actuator = Actuator(Mock(create=AsyncMock(side_effect=error)), lambda: CREATED_SECONDS)
    around = Surroundings(
        deployments={"team/chat": a_resource()},
        pools={},
        node_types={"node-a": load_catalog().instance_types["inf2.48xlarge"]},
        instance_types={},
    )

    result = await actuator.apply(CREATION, around)

    assert (result.action, result.outcome) == (CREATION, outcome)

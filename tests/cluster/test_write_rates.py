"""Who waits for whom when much is to be written at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.lease import LeaseElector
from fleetpack.core.inputs import Plan
from fleetpack.main import _Operator
from fleetpack.settings import Settings
from fleetpack.telemetry.metrics import FleetMetrics
from raw_objects import a_resource
from report_builders import a_report

RESOURCES = 500


def numbered(number: int) -> InferenceDeployment:
    resource = a_resource()
    names = {"name": f"chat-{number}", "uid": f"uid-{number}"}
    return resource.model_copy(update={"metadata": resource.metadata.model_copy(update=names)})


async def test_should_send_an_action_at_once_while_a_whole_fleet_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(self: KubernetesClient, call: object, timeout_seconds: float) -> dict[str, object]:
        return {"metadata": {"uid": "theirs"}}

    # Nothing goes over the wire: what is waited for is the buckets.
    monkeypatch.setattr(KubernetesClient, "_send", send)
    monkeypatch.setattr(LeaseElector, "may_write", lambda self, now_seconds: True)
    deployments = {f"team/chat-{number}": numbered(number) for number in range(RESOURCES)}
    plan = Plan(deployments=tuple(a_report(deployment=key) for key in deployments))
    async with KubernetesClient.from_url("http://127.0.0.1:9") as client:
        operator = _Operator(Settings(), client, FleetMetrics())
        telling = asyncio.create_task(operator.teller.tell(plan, deployments, {}))
        # What the bucket gives at once is gone then.
        await asyncio.sleep(0.5)
        assert not telling.done()

        async with asyncio.timeout(0.5):
            await operator.writer.create("/api/v1/namespaces/team/pods", {})

        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling

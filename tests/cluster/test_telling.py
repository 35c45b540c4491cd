from __future__ import annotations

from typing import cast

import pytest

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import Json, KubernetesClient
from fleetpack.cluster.errors import AlreadyExists, DeliveryUnknown, Forbidden, Invalid, KubernetesError
from fleetpack.cluster.telling import UNPOSTED_SECONDS, Teller
from fleetpack.core.decision import Decision
from fleetpack.core.inputs import Plan
from raw_objects import a_resource
from report_builders import NOW, a_report


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


class Written:
    """Takes every patch, and remembers it."""

    def __init__(self) -> None:
        self.patched: list[str] = []

    async def patch(self, path: str, body: Json, **options: object) -> Json:
        self.patched.append(path)
        return body


def another_resource() -> InferenceDeployment:
    metadata = a_resource().metadata.model_copy(update={"name": "mail", "uid": "uid-mail"})
    return a_resource().model_copy(update={"metadata": metadata})


async def test_should_tell_of_the_others_when_one_cannot_be_told_of(caplog: pytest.LogCaptureFixture) -> None:
    written = Written()
    teller = Teller(cast(KubernetesClient, written), lambda: NOW, "test")
    impossible, well = a_report(replicas=-1), a_report(deployment="team/mail")

    for _ in range(2):
        await teller.tell(
            Plan(deployments=(impossible, well)), {"team/chat": a_resource(), "team/mail": another_resource()}, {}
        )

    status = "/apis/fleetpack.dev/v1alpha1/namespaces/team/inferencedeployments/mail/status"
    budget = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/mail"
    assert sorted(written.patched) == [status, budget]
    assert [record.getMessage() for record in caplog.records] == [
        "team/chat: its status cannot be made, and is left as it is; a bug of ours"
    ]


class Mailbox:
    """Takes events, or answers with what it is told to."""

    def __init__(self, *answers: KubernetesError | None) -> None:
        self.answers = list(answers)
        self.posted: list[Json] = []

    async def create(self, path: str, body: Json) -> Json:
        assert path == "/apis/events.k8s.io/v1/namespaces/team/events"
        self.posted.append(body)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return body


def refused(kind: type[KubernetesError]) -> KubernetesError:
    return kind("create", "/events", "as told")


@pytest.mark.parametrize(
    ("answers", "seconds", "posts"),
    [
        pytest.param([None], 2.0, 1, id="taken at once"),
        pytest.param([refused(DeliveryUnknown), refused(AlreadyExists)], 2.0, 2, id="taken, and the answer lost"),
        pytest.param([refused(Forbidden), refused(Forbidden), None], 2.0, 3, id="refused for a while"),
        pytest.param([refused(Invalid)], 2.0, 1, id="never to be taken"),
        pytest.param([refused(Forbidden)] * 9, UNPOSTED_SECONDS, 2, id="no news any more"),
    ],
)
async def test_should_keep_an_event_until_it_is_taken(
    answers: list[KubernetesError | None], seconds: float, posts: int
) -> None:
    now, mailbox, deployments = 1000.0, Mailbox(*answers), {"team/chat": a_resource()}
    teller = Teller(cast(KubernetesClient, mailbox), lambda: now, "test")
    moved, settled = a_decision("QueueAboveTarget", 1, 3), a_decision("OnTarget", 3, 3)

    # The number moves in the first plan alone, and that one's status may never be written: the next plan's replaces it.
    teller.note([moved], deployments)
    for _ in range(5):
        teller.note([settled], deployments)
        await teller.tell(Plan(decisions=(settled,)), deployments, {})
        now += seconds

    assert len(mailbox.posted) == posts
    assert {(event["reason"], event["metadata"]["name"]) for event in mailbox.posted} == {
        ("QueueAboveTarget", "chat.1000000000.1")
    }

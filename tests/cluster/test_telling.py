from __future__ import annotations

from typing import cast

import pytest

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import Json, KubernetesClient
from fleetpack.cluster.errors import AlreadyExists, DeliveryUnknown, Forbidden, Invalid, KubernetesError, NotFound
from fleetpack.cluster.telling import LOOK_AGAIN_SECONDS, UNPOSTED_SECONDS, Teller
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


class Objects:
    """Holds what is applied to it, by path, and remembers each read and write."""

    def __init__(self) -> None:
        self.stored: dict[str, Json] = {}
        self.read: list[str] = []
        self.patched: list[str] = []

    async def get(self, path: str, **options: object) -> Json:
        self.read.append(path)
        if path not in self.stored:
            raise NotFound("get", path, "not there")
        return self.stored[path]

    async def patch(self, path: str, body: Json, **options: object) -> Json:
        self.patched.append(path)
        self.stored[path] = body
        return body


SERVICE = "/api/v1/namespaces/team/services/chat"
BUDGET = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/chat"
STATUS = "/apis/fleetpack.dev/v1alpha1/namespaces/team/inferencedeployments/chat/status"


class Served:
    """One deployment with a Service, told of again and again as time goes by."""

    def __init__(self) -> None:
        self.now = NOW
        self.objects = Objects()
        self.teller = Teller(cast(KubernetesClient, self.objects), lambda: self.now, "test")
        self.resource = a_resource(service={"port": 8000})

    async def tell(self, **changes: object) -> list[str]:
        """Tell of it once; returns what was written beside the status."""
        self.objects.patched.clear()
        await self.teller.tell(Plan(deployments=(a_report(**changes),)), {"team/chat": self.resource}, {})
        return sorted(path for path in self.objects.patched if path != STATUS)


async def test_should_make_what_accompanies_a_deployment_once_and_anew_when_its_form_changes() -> None:
    served = Served()

    assert await served.tell() == [SERVICE, BUDGET]
    assert await served.tell() == []
    assert await served.tell(desired_replicas=3) == [BUDGET]


async def test_should_make_good_within_minutes_what_somebody_has_deleted_or_changed() -> None:
    served = Served()
    await served.tell()

    del served.objects.stored[SERVICE]
    served.objects.stored[BUDGET] = {**served.objects.stored[BUDGET], "spec": {"minAvailable": 0}}

    assert await served.tell() == []
    served.now += 1.2 * LOOK_AGAIN_SECONDS
    assert await served.tell() == [SERVICE, BUDGET]


async def test_should_only_read_what_is_as_it_should_be() -> None:
    served = Served()
    await served.tell()
    # As an API server gives it: with more than was asked for.
    service = served.objects.stored[SERVICE]
    ports = [{**service["spec"]["ports"][0], "nodePort": 30_001}]
    served.objects.stored[SERVICE] = {**service, "spec": {**service["spec"], "ports": ports, "clusterIP": "10.0.0.7"}}
    served.objects.read.clear()

    for _ in range(60):
        served.now += 0.1 * LOOK_AGAIN_SECONDS
        assert await served.tell() == []

    # In six times the time between two looks, which is spread by a fifth.
    assert 5 * 2 <= len(served.objects.read) <= 8 * 2


async def test_should_take_away_what_somebody_has_added_to_a_selector() -> None:
    served = Served()
    await served.tell()
    service = served.objects.stored[SERVICE]
    selector = {**service["spec"]["selector"], "version": "2"}
    served.objects.stored[SERVICE] = {**service, "spec": {**service["spec"], "selector": selector}}

    served.now += 1.2 * LOOK_AGAIN_SECONDS

    assert await served.tell() == [SERVICE]


async def test_should_look_at_everything_anew_with_a_new_lease() -> None:
    served = Served()
    await served.tell()
    # Meanwhile another process has led.
    served.objects.stored[BUDGET] = {**served.objects.stored[BUDGET], "spec": {"minAvailable": 0}}

    served.teller.forget()

    assert await served.tell() == [BUDGET]


def another_resource() -> InferenceDeployment:
    metadata = a_resource().metadata.model_copy(update={"name": "mail", "uid": "uid-mail"})
    return a_resource().model_copy(update={"metadata": metadata})


async def test_should_tell_of_the_others_when_one_cannot_be_told_of(caplog: pytest.LogCaptureFixture) -> None:
    objects = Objects()
    teller = Teller(cast(KubernetesClient, objects), lambda: NOW, "test")
    impossible, well = a_report(replicas=-1), a_report(deployment="team/mail")

    for _ in range(2):
        await teller.tell(
            Plan(deployments=(impossible, well)), {"team/chat": a_resource(), "team/mail": another_resource()}, {}
        )

    status = "/apis/fleetpack.dev/v1alpha1/namespaces/team/inferencedeployments/mail/status"
    budget = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/mail"
    assert sorted(objects.patched) == [status, budget]
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

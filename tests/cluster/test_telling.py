from __future__ import annotations

from typing import cast

import pytest

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import Json, KubernetesClient
from fleetpack.cluster.companions import LOOK_AGAIN_SECONDS, REFUSED_SECONDS, TAKEN_SECONDS
from fleetpack.cluster.errors import AlreadyExists, DeliveryUnknown, Forbidden, Invalid, KubernetesError, NotFound
from fleetpack.cluster.telling import UNPOSTED_SECONDS, Teller
from fleetpack.core.decision import Decision
from fleetpack.core.inputs import Plan
from fleetpack.core.reports import Condition
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
        self.refused: tuple[str, ...] = ()

    async def get(self, path: str, **options: object) -> Json:
        self.read.append(path)
        if path not in self.stored:
            raise NotFound("get", path, "not there")
        return self.stored[path]

    async def patch(self, path: str, body: Json, *, force: bool = False, **options: object) -> Json:
        self.patched.append(path)
        if path in self.refused:
            raise Invalid("patch", path, "as told")
        uid = f"uid of {path}"
        assert path.endswith("/status") or force is (path in self.stored), "written without a look"
        assert path.endswith("/status") or body["metadata"].get("uid", uid) == uid
        self.stored[path] = {**body, "metadata": {**body["metadata"], "uid": uid}}
        return body


SERVICE = "/api/v1/namespaces/team/services/chat"
BUDGET = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/chat"
ACCEPTED = Condition(type="Accepted", status=True, reason="Accepted", message="as written")
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

    def told(self) -> tuple[str, str, str, str | None]:
        """Return what status says of being accepted, and the address."""
        status = self.objects.stored[STATUS]["status"]
        (accepted,) = [own for own in status["conditions"] if own["type"] == "Accepted"]
        return accepted["status"], accepted["reason"], accepted["message"], status.get("url")


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


FOREIGN_SERVICE = {"metadata": {"name": "chat", "uid": "theirs"}, "spec": {"selector": {"app": "llama"}}}


async def test_should_leave_a_service_of_somebody_else_alone_and_say_what_to_do() -> None:
    served = Served()
    served.objects.stored[SERVICE] = FOREIGN_SERVICE

    writes = [await served.tell(conditions=(ACCEPTED,))]
    for _ in range(9):
        served.now += TAKEN_SECONDS
        writes.append(await served.tell(conditions=(ACCEPTED,)))

    assert writes == [[BUDGET], *[[]] * 9]
    assert served.objects.stored[SERVICE] == FOREIGN_SERVICE
    assert served.told() == (
        "False",
        "NameTaken",
        "Service chat is somebody else's, and is left alone: choose another spec.service.name, or delete that Service",
        None,
    )


async def test_should_make_the_service_when_its_name_is_free() -> None:
    served = Served()
    served.objects.stored[SERVICE] = FOREIGN_SERVICE
    await served.tell(conditions=(ACCEPTED,))

    del served.objects.stored[SERVICE]
    served.now += TAKEN_SECONDS

    assert await served.tell(conditions=(ACCEPTED,)) == [SERVICE]
    assert served.told() == ("True", "Accepted", "as written", "http://chat.team.svc:8000")


async def test_should_leave_alone_what_belongs_to_a_former_deployment_of_the_name() -> None:
    served = Served()
    former = {"kind": "InferenceDeployment", "name": "chat", "uid": "uid-former", "controller": True}
    served.objects.stored[BUDGET] = {"metadata": {"name": "chat", "uid": "old", "ownerReferences": [former]}}

    assert await served.tell(conditions=(ACCEPTED,)) == [SERVICE]
    assert served.told()[:2] == ("False", "NameTaken")
    assert "a former InferenceDeployment chat" in served.told()[2]


async def test_should_say_what_else_is_wrong_with_a_spec_first() -> None:
    served = Served()
    served.objects.stored[SERVICE] = FOREIGN_SERVICE
    invalid = Condition(type="Accepted", status=False, reason="NoPool", message="no pool")

    await served.tell(conditions=(invalid,))

    assert served.told() == ("False", "NoPool", "no pool", None)


async def test_should_not_send_what_was_called_wrong_with_each_plan() -> None:
    served = Served()
    served.objects.refused = (BUDGET,)

    writes = []
    for _ in range(3):
        writes.append(await served.tell())
        served.now += REFUSED_SECONDS / 2

    assert writes == [[SERVICE, BUDGET], [], [BUDGET]]


@pytest.mark.parametrize("younger_first", [False, True])
async def test_should_give_one_service_that_two_ask_for_to_the_older(younger_first: bool) -> None:
    objects = Objects()
    teller = Teller(cast(KubernetesClient, objects), lambda: NOW, "test")
    service = {"port": 8000, "name": "front"}
    older, younger = dated(a_resource(service=service), 1), dated(another_resource(service=service), 2)
    reports = [a_report(deployment="team/chat"), a_report(deployment="team/mail")]

    await teller.tell(
        Plan(deployments=tuple(reversed(reports) if younger_first else reports)),
        {"team/chat": older, "team/mail": younger},
        {},
    )

    front = objects.stored["/api/v1/namespaces/team/services/front"]
    (told,) = [
        own
        for own in objects.stored[STATUS.replace("chat", "mail")]["status"]["conditions"]
        if own["type"] == "Accepted"
    ]
    assert front["spec"]["selector"]["fleetpack.dev/deployment"] == "chat"
    assert told["reason"] == "NameTaken"
    assert "InferenceDeployment chat" in told["message"]


def dated(resource: InferenceDeployment, second: int) -> InferenceDeployment:
    metadata = resource.metadata.model_copy(update={"creation_timestamp": f"2026-11-24T12:00:0{second}Z"})
    return resource.model_copy(update={"metadata": metadata})


def another_resource(**spec: object) -> InferenceDeployment:
    resource = a_resource(**spec)
    metadata = resource.metadata.model_copy(update={"name": "mail", "uid": "uid-mail"})
    return resource.model_copy(update={"metadata": metadata})


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
    # What accompanies it does not need its status.
    assert sorted(objects.patched) == [status, BUDGET, budget]
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

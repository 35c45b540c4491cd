"""One leader at a time: the decision as a table, the fence as arithmetic, the election on the real server with faults."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventually import eventually
from fault_proxy import CutAnswer, FaultProxy, Match, RefuseRequest, SlowAnswer
from fleetpack.cluster.api_client import KubernetesClient, resource_path
from fleetpack.cluster.errors import WriteFenced
from fleetpack.cluster.lease import (
    LeaseAction,
    LeaseElector,
    LeaseRecord,
    LeaseSettings,
    Observed,
    next_lease_action,
    observe,
    parse_lease,
    unique_identity,
)

cluster_test = pytest.mark.cluster


def lease(holder: str, *, version: str = "1", duration_seconds: float = 15.0) -> LeaseRecord:
    return LeaseRecord(
        holder=holder,
        duration_seconds=duration_seconds,
        acquire_time="",
        # In the future of every clock here: what the holder's clock says must not matter.
        renew_time="2999-01-01T00:00:00.000000Z",
        transitions=0,
        resource_version=version,
    )


def seen(record: LeaseRecord, at_seconds: float) -> Observed:
    return Observed(record=record, at_seconds=at_seconds)


# ----- the decision, pure


@pytest.mark.parametrize(
    ("record", "observed", "now_seconds", "action"),
    [
        (None, None, 0.0, LeaseAction.CREATE),
        (lease("me"), None, 0.0, LeaseAction.RENEW),
        (lease(""), None, 0.0, LeaseAction.TAKE),
        (lease("other"), None, 1000.0, LeaseAction.WAIT),
        (lease("other"), seen(lease("other"), 100.0), 114.9, LeaseAction.WAIT),
        (lease("other"), seen(lease("other"), 100.0), 115.0, LeaseAction.TAKE),
        (lease("other", version="2"), seen(lease("other"), 100.0), 200.0, LeaseAction.WAIT),
        (
            lease("other", duration_seconds=60.0),
            seen(lease("other", duration_seconds=60.0), 100.0),
            120.0,
            LeaseAction.WAIT,
        ),
    ],
)
def test_should_take_a_lease_only_when_it_is_free_ours_or_seen_unchanged_for_its_duration(
    record: LeaseRecord | None, observed: Observed | None, now_seconds: float, action: LeaseAction
) -> None:
    assert next_lease_action(record, "me", observed, now_seconds) is action


def test_should_remember_since_when_a_lease_is_as_it_is() -> None:
    first = observe(lease("other"), None, 10.0)
    same = observe(lease("other"), first, 12.0)
    renewed = observe(lease("other", version="2"), same, 14.0)
    assert (first, same, renewed) == (
        seen(lease("other"), 10.0),
        seen(lease("other"), 10.0),
        seen(lease("other", version="2"), 14.0),
    )
    assert observe(None, renewed, 16.0) is None


def test_should_read_a_lease_with_nothing_in_it() -> None:
    raw = {"metadata": {"resourceVersion": "5"}, "spec": {"holderIdentity": None}}
    assert parse_lease(raw) == LeaseRecord(
        holder="", duration_seconds=0.0, acquire_time="", renew_time="", transitions=0, resource_version="5"
    )


@pytest.mark.parametrize("times", [(10.0, 10.0, 2.0, 4.0), (15.0, 5.0, 2.0, 4.0), (15.0, 6.0, 2.0, 4.0)])
def test_should_refuse_times_that_leave_room_for_two_leaders(times: tuple[float, float, float, float]) -> None:
    duration, deadline, retry, write = times
    with pytest.raises(ValueError, match="a Lease needs lease_duration_seconds > renew_deadline_seconds >"):
        LeaseSettings(
            namespace="n",
            name="l",
            identity="me",
            lease_duration_seconds=duration,
            renew_deadline_seconds=deadline,
            retry_period_seconds=retry,
            write_timeout_seconds=write,
        )


def test_should_name_each_process_differently() -> None:
    assert unique_identity() != unique_identity()


@given(
    delays=st.lists(st.floats(min_value=0.0, max_value=4.0), min_size=1, max_size=30),
    first_look_seconds=st.floats(min_value=0.0, max_value=60.0),
)
def test_should_never_let_an_old_write_meet_a_new_leader(delays: list[float], first_look_seconds: float) -> None:
    """The holder renews, each renewal stored `delay` after it was sent, and falls silent; a candidate looks every 2 s."""
    sent_at = [2.0 * index for index in range(len(delays))]
    stored_at = [sent + delay for sent, delay in zip(sent_at, delays, strict=True)]
    observed: Observed | None = None
    now_seconds = first_look_seconds
    while True:
        version = sum(stored <= now_seconds for stored in stored_at)
        record = lease("other", version=str(version))
        if next_lease_action(record, "me", observed, now_seconds) is LeaseAction.TAKE:
            break
        observed = observe(record, observed, now_seconds)
        now_seconds += 2.0
    # Only renewals whose answer came count for the holder; at best that is all of them.
    last_write_may_start_seconds = sent_at[-1] + 10.0 - 4.0
    assert now_seconds > last_write_may_start_seconds + 4.0


# ----- on the real server, with times a fifth as long


def settings(namespace: str, identity: str, **changes: Any) -> LeaseSettings:
    defaults: dict[str, Any] = {
        "namespace": namespace,
        "name": "operator",
        "identity": identity,
        "lease_duration_seconds": 3.0,
        "renew_deadline_seconds": 2.0,
        "retry_period_seconds": 0.3,
        "write_timeout_seconds": 0.8,
        "jitter": random.Random(identity),
    }
    return LeaseSettings(**{**defaults, **changes})


class Candidate:
    def __init__(self, client: KubernetesClient, namespace: str, identity: str, **changes: Any) -> None:
        self.log: list[str] = []
        self.elector = LeaseElector(
            client,
            settings(namespace, identity, **changes),
            on_started_leading=lambda: self.log.append("started"),
            on_stopped_leading=lambda: self.log.append("stopped"),
        )

    def may_write(self) -> bool:
        return self.elector.may_write(time.monotonic())


@contextlib.asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(candidate.elector.run()) for candidate in candidates]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_lease(client: KubernetesClient, namespace: str) -> dict[str, Any]:
    raw = await client.get(resource_path("coordination.k8s.io/v1", "leases", namespace, "operator"))
    spec: dict[str, Any] = raw["spec"]
    return spec


@cluster_test
async def test_should_lead_keep_leading_and_hand_over_on_stop(direct: KubernetesClient, namespace: str) -> None:
    first, second = Candidate(direct, namespace, "first"), Candidate(direct, namespace, "second")
    async with running(first):
        await eventually(first.may_write)
        async with running(second):
            await asyncio.sleep(3.5)
            assert (first.log, second.log) == (["started"], [])
            assert (second.elector.holder, second.may_write()) == ("first", False)
            await first.elector.stop()
            assert not first.may_write()
            assert (await read_lease(direct, namespace))["holderIdentity"] in ("", "second")
            await eventually(second.may_write, within_seconds=1.5, what="the take-over of a Lease that was given back")
    assert (first.log, second.log) == (["started", "stopped"], ["started", "stopped"])
    spec = await read_lease(direct, namespace)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("second", 3, 1)


@cluster_test
async def test_should_elect_one_of_many_that_start_together(direct: KubernetesClient, namespace: str) -> None:
    candidates = [Candidate(direct, namespace, f"candidate-{number}") for number in range(6)]
    async with running(*candidates):
        await eventually(lambda: any(candidate.may_write() for candidate in candidates))
        await asyncio.sleep(1.0)
        assert sorted(candidate.log for candidate in candidates) == [[], [], [], [], [], ["started"]]


@cluster_test
async def test_should_fence_itself_before_a_successor_can_begin(
    direct: KubernetesClient, client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    cut_off, successor = Candidate(client, namespace, "cut-off"), Candidate(direct, namespace, "successor")
    writer = client.with_writes(fence=cut_off.elector.may_write)
    async with running(cut_off):
        await eventually(cut_off.may_write)
        async with running(successor):
            proxy.inject(RefuseRequest(Match(path="/leases"), 500, "InternalError"))
            cut_off_at_seconds = time.monotonic()
            await eventually(lambda: not cut_off.may_write(), within_seconds=2.0)
            assert cut_off.elector.is_leading, "the fence closes before the deadline"
            with pytest.raises(WriteFenced):
                await writer.create(resource_path("v1", "configmaps", namespace), {})
            await eventually(lambda: cut_off.log == ["started", "stopped"], within_seconds=2.0)
            assert time.monotonic() - cut_off_at_seconds < 2.6
            assert not successor.may_write()
            await eventually(successor.may_write, within_seconds=4.0)
            assert time.monotonic() - cut_off_at_seconds > 2.5
            proxy.heal()
            await asyncio.sleep(0.8)
            assert (cut_off.elector.holder, cut_off.may_write()) == ("successor", False)


@cluster_test
async def test_should_notice_the_deadline_although_an_answer_is_slow(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    candidate = Candidate(client, namespace, "slow", write_timeout_seconds=1.5)
    async with running(candidate):
        await eventually(candidate.may_write)
        proxy.inject(SlowAnswer(Match(path="/leases"), seconds=60.0))
        slow_at_seconds = time.monotonic()
        await eventually(lambda: candidate.log == ["started", "stopped"], within_seconds=4.0)
        assert time.monotonic() - slow_at_seconds < 2.6


@cluster_test
async def test_should_stop_when_somebody_else_is_written_into_the_lease(
    direct: KubernetesClient, namespace: str
) -> None:
    candidate = Candidate(direct, namespace, "robbed")
    path = resource_path("coordination.k8s.io/v1", "leases", namespace, "operator")
    async with running(candidate):
        await eventually(candidate.may_write)
        await direct.patch(path, {"spec": {"holderIdentity": "robber"}})
        await eventually(lambda: candidate.log == ["started", "stopped"], within_seconds=1.0)
        assert not candidate.may_write()
        await eventually(candidate.may_write, within_seconds=5.0, what="taking the Lease back when it ran out")


@cluster_test
async def test_should_make_a_lease_anew_that_was_deleted_and_not_go_on_as_if_nothing_was(
    direct: KubernetesClient, namespace: str
) -> None:
    candidate = Candidate(direct, namespace, "holder")
    async with running(candidate):
        await eventually(candidate.may_write)
        await direct.delete(resource_path("coordination.k8s.io/v1", "leases", namespace, "operator"))
        await eventually(lambda: candidate.log == ["started", "stopped", "started"], within_seconds=1.0)


@cluster_test
async def test_should_go_on_leading_when_the_outcome_of_a_renewal_was_unknown(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    candidate = Candidate(client, namespace, "holder")
    async with running(candidate):
        await eventually(candidate.may_write)
        proxy.inject(CutAnswer(Match(verb="update", path="/leases"), deliver_first=True), times=2)
        await asyncio.sleep(1.5)
        assert (candidate.log, candidate.may_write()) == (["started"], True)


@cluster_test
async def test_should_lead_at_once_when_the_lease_already_bears_its_name(
    direct: KubernetesClient, namespace: str
) -> None:
    before = Candidate(direct, namespace, "same")
    async with running(before):
        await eventually(before.may_write)
    after = Candidate(direct, namespace, "same")
    async with running(after):
        await eventually(after.may_write, within_seconds=1.0)
        assert (await read_lease(direct, namespace))["leaseTransitions"] == 0


@cluster_test
async def test_should_write_nothing_but_the_lease_and_only_when_leading(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    leader, standby = Candidate(client, namespace, "leader"), Candidate(client, namespace, "standby")
    async with running(leader):
        await eventually(leader.may_write)
        async with running(standby):
            await asyncio.sleep(1.0)
    path = resource_path("coordination.k8s.io/v1", "leases", namespace, "operator")
    writes = {(record.verb, record.path) for record in proxy.requests if record.is_write}
    assert writes == {("create", path.removesuffix("/operator")), ("update", path)}
    assert all(b"standby" not in record.body for record in proxy.requests)

"""One leader at a time: the decision as a table, the fence as arithmetic, times in virtual time, the election on the real server.

What depends on times is tested with the times that are used, on a clock that no busy machine can disturb; what the server does with a
Lease is tested on the real one, with limits that tell a failure from a wait for ever and nothing else.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventually import eventually
from fault_proxy import CutAnswer, FaultProxy, Match
from fleetpack.cluster.api_client import KubernetesClient, resource_path
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
from lease_book import LeaseBook, LeaseClient
from virtual_time import in_virtual_time

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


# ----- candidates, of either server


class Candidate:
    def __init__(self, client: KubernetesClient | LeaseClient, namespace: str, identity: str, **changes: Any) -> None:
        self.log: list[str] = []
        self.settings = LeaseSettings(
            namespace=namespace,
            name="operator",
            identity=identity,
            jitter=random.Random(identity),
            monotonic=asyncio.get_running_loop().time,
            **changes,
        )
        self.elector = LeaseElector(
            client,  # type: ignore[arg-type]  # The book's client has what an elector calls.
            self.settings,
            on_started_leading=lambda: self.log.append("started"),
            on_stopped_leading=lambda: self.log.append("stopped"),
        )

    def may_write(self) -> bool:
        return self.elector.may_write(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(candidate.elector.run()) for candidate in candidates]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ----- with the times that are used, in virtual time


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_should_keep_leading_while_another_waits_and_hand_over_at_its_next_try() -> None:
    book = LeaseBook()
    first, second = Candidate(LeaseClient(book), "n", "first"), Candidate(LeaseClient(book), "n", "second")
    async with running(first):
        await eventually(first.may_write)
        async with running(second):
            await asyncio.sleep(300.0)
            assert (first.log, second.log) == (["started"], [])
            assert (second.elector.holder, second.may_write()) == ("first", False)
            await first.elector.stop()
            given_back_at = now()
            await eventually(second.may_write)
            # Candidates try every two seconds, and spread by half of that.
            assert now() - given_back_at < 3.1
    assert (first.log, second.log) == (["started", "stopped"], ["started", "stopped"])


@in_virtual_time
async def test_should_fence_itself_before_a_successor_can_begin() -> None:
    book = LeaseBook()
    cut = LeaseClient(book)
    cut_off, successor = Candidate(cut, "n", "cut-off"), Candidate(LeaseClient(book), "n", "successor")
    async with running(cut_off):
        await eventually(cut_off.may_write)
        async with running(successor):
            await asyncio.sleep(20.0)
            stored, stored_at = book.versions, now()
            while book.versions == stored:
                stored_at = now()
                await asyncio.sleep(0.001)
            cut.refuses = True
            await eventually(lambda: not cut_off.may_write())
            fenced_after = now() - stored_at
            assert cut_off.elector.is_leading, "the fence closes before the deadline"
            await eventually(lambda: cut_off.log == ["started", "stopped"])
            stopped_after = now() - stored_at
            assert not successor.may_write()
            await eventually(successor.may_write)
            began_after = now() - stored_at
            cut.refuses = False
            await asyncio.sleep(5.0)
            assert (cut_off.elector.holder, cut_off.may_write()) == ("successor", False)
    # Sent a moment before it was stored: the fence is a write's time-out before the deadline, and a successor waits the whole time.
    assert fenced_after == pytest.approx(10.0 - 4.0, abs=0.05)
    assert stopped_after == pytest.approx(10.0, abs=0.05)
    assert 15.0 <= began_after <= 15.0 + 2 * 3.0 + 0.1


@in_virtual_time
async def test_should_notice_the_deadline_although_an_answer_is_slow() -> None:
    client = LeaseClient(LeaseBook())
    candidate = Candidate(client, "n", "slow")
    async with running(candidate):
        await eventually(candidate.may_write)
        client.answer_seconds = 60.0
        slow_at = now()
        await eventually(lambda: candidate.log == ["started", "stopped"])
        assert now() - slow_at == pytest.approx(10.0, abs=0.05)


@in_virtual_time
async def test_should_go_on_leading_when_the_outcomes_of_renewals_were_unknown() -> None:
    client = LeaseClient(LeaseBook())
    candidate = Candidate(client, "n", "holder")
    async with running(candidate):
        await eventually(candidate.may_write)
        client.lost_answers = 2
        await asyncio.sleep(20.0)
        assert (client.lost_answers, candidate.log, candidate.may_write()) == (0, ["started"], True)


# ----- on the real server, trying more often


async def read_lease(client: KubernetesClient, namespace: str) -> dict[str, Any]:
    raw = await client.get(resource_path("coordination.k8s.io/v1", "leases", namespace, "operator"))
    spec: dict[str, Any] = raw["spec"]
    return spec


OFTEN = {"retry_period_seconds": 0.3}


@cluster_test
async def test_should_lead_and_hand_over_on_stop(direct: KubernetesClient, namespace: str) -> None:
    first, second = Candidate(direct, namespace, "first", **OFTEN), Candidate(direct, namespace, "second", **OFTEN)
    async with running(first):
        await eventually(first.may_write)
        async with running(second):
            await eventually(lambda: second.elector.holder == "first", what="the second seeing the first")
            assert (first.log, second.log, second.may_write()) == (["started"], [], False)
            await first.elector.stop()
            assert not first.may_write()
            assert (await read_lease(direct, namespace))["holderIdentity"] in ("", "second")
            await eventually(second.may_write, what="the take-over of a Lease that was given back")
    assert (first.log, second.log) == (["started", "stopped"], ["started", "stopped"])
    spec = await read_lease(direct, namespace)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("second", 15, 1)


@cluster_test
async def test_should_elect_one_of_many_that_start_together(direct: KubernetesClient, namespace: str) -> None:
    candidates = [Candidate(direct, namespace, f"candidate-{number}", **OFTEN) for number in range(6)]
    async with running(*candidates):
        await eventually(lambda: any(candidate.may_write() for candidate in candidates))
        await eventually(lambda: all(candidate.elector.holder for candidate in candidates), what="a Lease seen by all")
        await asyncio.sleep(1.0)
        assert sorted(candidate.log for candidate in candidates) == [[], [], [], [], [], ["started"]]


@cluster_test
async def test_should_stop_when_somebody_else_is_written_into_the_lease(
    direct: KubernetesClient, namespace: str
) -> None:
    candidate = Candidate(direct, namespace, "robbed", **OFTEN)
    path = resource_path("coordination.k8s.io/v1", "leases", namespace, "operator")
    async with running(candidate):
        await eventually(candidate.may_write)
        await direct.patch(path, {"spec": {"holderIdentity": "robber", "leaseDurationSeconds": 2}})
        await eventually(lambda: candidate.log[:2] == ["started", "stopped"], what="the end of leading")
        await eventually(candidate.may_write, what="taking the Lease back when it ran out")
    assert (await read_lease(direct, namespace))["leaseTransitions"] == 1


@cluster_test
async def test_should_make_a_lease_anew_that_was_deleted_and_not_go_on_as_if_nothing_was(
    direct: KubernetesClient, namespace: str
) -> None:
    candidate = Candidate(direct, namespace, "holder", **OFTEN)
    async with running(candidate):
        await eventually(candidate.may_write)
        await direct.delete(resource_path("coordination.k8s.io/v1", "leases", namespace, "operator"))
        await eventually(lambda: candidate.log == ["started", "stopped", "started"], what="a Lease made anew")


@cluster_test
async def test_should_go_on_leading_when_the_outcome_of_a_renewal_was_unknown(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    candidate = Candidate(client, namespace, "holder", **OFTEN)
    async with running(candidate):
        await eventually(candidate.may_write)
        proxy.inject(CutAnswer(Match(verb="update", path="/leases"), deliver_first=True), times=2)
        await eventually(lambda: renewals(proxy) >= 4, what="renewals after the two without an answer")
        assert (candidate.log, candidate.may_write()) == (["started"], True)


def renewals(proxy: FaultProxy) -> int:
    return sum(record.verb == "update" for record in proxy.requests)


@cluster_test
async def test_should_lead_at_once_when_the_lease_already_bears_its_name(
    direct: KubernetesClient, namespace: str
) -> None:
    before = Candidate(direct, namespace, "same", **OFTEN)
    async with running(before):
        await eventually(before.may_write)
    after = Candidate(direct, namespace, "same", **OFTEN)
    async with running(after):
        await eventually(after.may_write)
        # Not taken over from anybody, so not waited for either.
        assert (await read_lease(direct, namespace))["leaseTransitions"] == 0


@cluster_test
async def test_should_write_nothing_but_the_lease_and_only_when_leading(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    leader, standby = Candidate(client, namespace, "leader", **OFTEN), Candidate(client, namespace, "standby", **OFTEN)
    async with running(leader):
        await eventually(leader.may_write)
        async with running(standby):
            await eventually(lambda: standby.elector.holder == "leader", what="the standby seeing the leader")
            seen = renewals(proxy)
            await eventually(lambda: renewals(proxy) >= seen + 3, what="renewals beside a standby")
    path = resource_path("coordination.k8s.io/v1", "leases", namespace, "operator")
    writes = {(record.verb, record.path) for record in proxy.requests if record.is_write}
    assert writes == {("create", path.removesuffix("/operator")), ("update", path)}
    assert all(b"standby" not in record.body for record in proxy.requests)

"""The cache follows the server: through pages, 410s, lost events, broken and hanging streams, and objects it cannot read."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventually import WAIT_LIMIT_SECONDS, eventually
from fault_proxy import CutStream, DelayEvents, DropEvents, ErrorEvent, FaultProxy, Match, RefuseRequest
from fleetpack.cluster.api_client import Json, KubernetesClient, Selector, WatchEvent, resource_path
from fleetpack.cluster.errors import Forbidden, KubernetesError, ServerError
from fleetpack.cluster.reflector import (
    Key,
    PartlyReadableError,
    ProjectedStore,
    Reflector,
    ReflectorSettings,
    Unreadable,
)
from virtual_time import in_virtual_time

cluster_test = pytest.mark.cluster


def x_of(raw: Json) -> str | None:
    """The projection of these tests: the value of x; -1 cannot be read, 0 is of no interest."""
    value = raw["data"]["x"]
    if value == "-1":
        raise ValueError("x is -1")
    return value if value != "0" else None


def raw_object(name: str, x: str, *, uid: str = "u1", version: str = "1") -> Json:
    metadata = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": version}
    return {"metadata": metadata, "data": {"x": x}}


class Deletions:
    """Remembers what was reported as deleted."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, key: Key, last: str) -> None:
        self.seen.append((key[1], last))


# ----- the store, without a server


def test_should_tell_a_change_only_when_the_projection_differs() -> None:
    store = ProjectedStore(x_of)
    versions = [raw_object("a", "1", version="1"), raw_object("a", "1", version="2"), raw_object("a", "2", version="3")]
    assert [store.put(raw) for raw in versions] == [True, False, True]
    assert store.objects == {("n", "a"): "2"}


def test_should_report_the_state_in_which_an_object_was_deleted() -> None:
    deletions = Deletions()
    store = ProjectedStore(x_of, deletions)
    store.put(raw_object("a", "1"))
    assert store.remove(raw_object("a", "2", version="9"))
    assert (dict(store.objects), deletions.seen) == ({}, [("a", "2")])


def test_should_see_a_deletion_and_a_new_object_when_a_name_comes_back() -> None:
    deletions = Deletions()
    store = ProjectedStore(x_of, deletions)
    store.put(raw_object("a", "1", uid="old"))
    assert store.put(raw_object("a", "1", uid="new"))
    assert not store.remove(raw_object("a", "1", uid="old")), "the old one's deletion comes late"
    assert (dict(store.objects), deletions.seen) == ({("n", "a"): "1"}, [("a", "1")])


def test_should_keep_what_it_last_read_of_an_object_that_it_no_longer_can() -> None:
    store = ProjectedStore(x_of)
    store.put(raw_object("a", "1"))
    assert store.put(raw_object("a", "-1", version="2"))
    assert not store.put(raw_object("a", "-1", version="3")), "the same trouble again is no news"
    assert store.objects == {("n", "a"): "1"}
    unreadable = Unreadable(uid="u1", resource_version="3", error="ValueError: x is -1")
    assert store.unreadable == {("n", "a"): unreadable}
    assert store.put(raw_object("a", "1", version="4")), "being readable again is"
    assert store.unreadable == {}


def test_should_go_by_what_it_can_read_until_it_has_read_the_whole() -> None:
    def project(raw: dict[str, Any]) -> Any:
        if raw["x"] < 0:
            raise PartlyReadableError("x is negative", ("part", raw["x"]))
        return raw["x"]

    store = ProjectedStore(project)
    seen = []
    for x in (-1, -2, -2, 3, -4):
        changed = store.put({"metadata": {"name": "a", "namespace": "n", "uid": "u1"}, "x": x})
        seen.append((changed, store.objects["n", "a"], len(store.unreadable)))

    assert seen == [
        (True, ("part", -1), 1),
        (True, ("part", -2), 1),
        (False, ("part", -2), 1),
        (True, 3, 0),
        (True, 3, 1),
    ]


def test_should_not_mistake_the_former_bearer_of_a_name_for_an_unreadable_object() -> None:
    deletions = Deletions()
    store = ProjectedStore(x_of, deletions)
    store.put(raw_object("a", "1", uid="old"))
    store.put(raw_object("a", "-1", uid="new"))
    assert (dict(store.objects), deletions.seen) == ({}, [("a", "1")])
    assert store.remove(raw_object("a", "-1", uid="new"))
    assert (dict(store.unreadable), deletions.seen) == ({}, [("a", "1")])


def test_should_drop_an_object_that_is_no_longer_of_interest() -> None:
    deletions = Deletions()
    store = ProjectedStore(x_of, deletions)
    store.put(raw_object("a", "1"))
    assert store.put(raw_object("a", "0"))
    assert (dict(store.objects), deletions.seen) == ({}, [("a", "1")])


def test_should_survive_a_deletion_callback_that_fails() -> None:
    def fail(key: Key, last: str) -> None:
        raise RuntimeError("not ours")

    store = ProjectedStore(x_of, fail)
    store.put(raw_object("a", "1"))
    assert store.remove(raw_object("a", "1"))
    assert store.objects == {}


OBJECTS = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.sampled_from(["-1", "0", "1", "2"]), st.sampled_from("uvw"))
)


@given(states=st.lists(OBJECTS, max_size=6))
def test_should_equal_the_last_list_and_account_for_all_that_went(states: list[dict[str, tuple[str, str]]]) -> None:
    deletions = Deletions()
    store = ProjectedStore(x_of, deletions)
    expected: dict[str, tuple[str, str]] = {}
    gone: list[tuple[str, str]] = []
    for state in states:
        for name, (x, uid) in sorted(state.items()):
            store.put(raw_object(name, x, uid=uid))
            if name in expected and (expected[name][1] != uid or x == "0"):
                gone.append((name, expected.pop(name)[0]))
            if x not in ("-1", "0"):
                expected[name] = (x, uid)
        store.retain({("n", name): uid for name, (_, uid) in state.items()})
        gone += [(name, expected.pop(name)[0]) for name in sorted(set(expected) - set(state))]
        assert {key[1]: value for key, value in store.objects.items()} == {name: x for name, (x, _) in expected.items()}
        assert {name for _, name in store.unreadable} == {name for name, (x, _) in state.items() if x == "-1"}
    assert sorted(deletions.seen) == sorted(gone)


# ----- what it says of an outage, in virtual time


class Unwilling:
    """A server that fails as it is told to."""

    def __init__(self) -> None:
        self.list_error: KubernetesError | None = None
        self.watch_error: KubernetesError | None = None

    async def list(self, path: str, **_: Any) -> Json:
        if self.list_error is not None:
            raise self.list_error
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    @contextlib.asynccontextmanager
    async def watch(self, path: str, version: str, **_: Any) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        if self.watch_error is not None:
            raise self.watch_error

        async def events() -> AsyncIterator[WatchEvent]:
            await asyncio.sleep(20.0)
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": version}})

        yield events()


@in_virtual_time
async def test_should_log_each_cause_of_an_outage_and_repeat_it_once_a_minute() -> None:
    server = Unwilling()
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fleetpack.cluster.reflector")
    reflector = Reflector(
        cast(KubernetesClient, server),
        "/api/v1/pods",
        x_of,
        settings=ReflectorSettings(monotonic=asyncio.get_running_loop().time),
    )

    async def told_within(seconds: float) -> list[str]:
        messages.clear()
        await asyncio.sleep(seconds)
        return messages.copy()

    logger.addHandler(handler)
    task = asyncio.create_task(reflector.run())
    try:
        well = await told_within(60.0)
        server.list_error = ServerError("list", "/api/v1/pods", "out of order", status=500)
        server.watch_error = ServerError("watch", "/api/v1/pods", "out of order", status=500)
        both = await told_within(50.0)
        server.list_error, server.watch_error = None, Forbidden("watch", "/api/v1/pods", "no right", status=403)
        refused = await told_within(50.0)
        lasting = await told_within(60.0)
        server.watch_error = None
        well_again = await told_within(60.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        logger.removeHandler(handler)

    said = "watching /api/v1/pods: {} /api/v1/pods (HTTP {}): {}; trying again"
    assert (well, well_again) == ([], [])
    assert both == [said.format("watch", 500, "out of order"), said.format("list", 500, "out of order")]
    assert refused == lasting == [said.format("watch", 403, "no right")]


# ----- against the real server


class Cache:
    """A reflector that runs, with what it told."""

    def __init__(self, client: KubernetesClient, path: str, **settings: Any) -> None:
        self.changes = 0
        self.deletions = Deletions()
        self.reflector = Reflector(
            client,
            path,
            x_of,
            on_change=self._count,
            on_deleted=self.deletions,
            settings=ReflectorSettings(
                selector=Selector(labels="test"),
                first_back_off_seconds=0.05,
                maximum_back_off_seconds=0.2,
                jitter=random.Random(7),
                **settings,
            ),
        )

    def _count(self) -> None:
        self.changes += 1

    def names(self) -> dict[str, str]:
        return {name: x for (_, name), x in self.reflector.store.items()}

    async def holds(self, **expected: str) -> None:
        await eventually(lambda: self.names() == expected, what=f"a cache of {expected}, not {self.names()},")


class World:
    """The objects of one namespace, changed behind the cache's back."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self.client = client
        self.path = resource_path("v1", "configmaps", namespace)

    async def put(self, **objects: str) -> None:
        for name, x in objects.items():
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "labels": {"test": "1"}},
                "data": {"x": x},
            }
            await self.client.create(self.path, body)

    async def change(self, **objects: str) -> None:
        for name, x in objects.items():
            await self.client.patch(f"{self.path}/{name}", {"data": {"x": x}})

    async def delete(self, *names: str) -> None:
        for name in names:
            await self.client.delete(f"{self.path}/{name}")


@pytest.fixture
def world(direct: KubernetesClient, namespace: str) -> World:
    return World(direct, namespace)


@contextlib.asynccontextmanager
async def running(client: KubernetesClient, world: World, **settings: Any) -> AsyncIterator[Cache]:
    cache = Cache(client, world.path, **settings)
    task = asyncio.create_task(cache.reflector.run())
    try:
        await asyncio.wait_for(cache.reflector.synced.wait(), WAIT_LIMIT_SECONDS)
        yield cache
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@cluster_test
async def test_should_be_synced_when_every_page_is_there(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    await world.put(a="1", b="2", c="3", d="0", e="5")
    async with running(client, world, list_page_limit=2) as cache:
        assert cache.names() == {"a": "1", "b": "2", "c": "3", "e": "5"}
        assert cache.changes == 1
    assert [record.verb for record in proxy.requests[:3]] == ["list", "list", "list"]


@cluster_test
async def test_should_follow_what_happens(client: KubernetesClient, world: World) -> None:
    await world.put(a="1", b="2")
    async with running(client, world) as cache:
        await world.put(c="3")
        await world.change(a="9")
        await world.delete("b")
        await cache.holds(a="9", c="3")
        assert cache.deletions.seen == [("b", "2")]
        changes = cache.changes
        await world.client.patch(f"{world.path}/a", {"metadata": {"annotations": {"heart": "beat"}}})
        await world.put(last="1")
        await cache.holds(a="9", c="3", last="1")
        assert (cache.changes, cache.reflector.counts.lists) == (changes + 1, 1)


@cluster_test
async def test_should_report_what_was_deleted_in_the_gap_of_a_410(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    await world.put(a="1", b="2", c="3", d="4")
    async with running(client, world, watch_timeout_seconds=1) as cache:
        proxy.inject(RefuseRequest(Match(verb="watch"), 410, "Expired"))
        proxy.inject(RefuseRequest(Match(verb="list"), 500, "InternalError"))
        await eventually(lambda: cache.reflector.counts.failures > 3, what="the gap")
        await world.delete("a", "c", "d")
        await world.put(d="40", e="5")
        assert cache.names() == {"a": "1", "b": "2", "c": "3", "d": "4"}, "nobody can have told it"
        proxy.heal()
        await cache.holds(b="2", d="40", e="5")
        await eventually(lambda: cache.reflector.counts.lists == 2, what="the second list")
        # `d` was deleted and made anew: another object of the same name.
        assert sorted(cache.deletions.seen) == [("a", "1"), ("c", "3"), ("d", "4")]
        await world.delete("b")
        await cache.holds(d="40", e="5")


@cluster_test
@pytest.mark.parametrize(("code", "reason"), [(410, "Expired"), (500, "InternalError"), (403, "Forbidden")])
async def test_should_list_again_after_an_error_in_the_stream(
    client: KubernetesClient, world: World, proxy: FaultProxy, code: int, reason: str
) -> None:
    await world.put(a="1")
    proxy.inject(ErrorEvent(Match(verb="watch"), code, reason), times=2)
    async with running(client, world) as cache:
        await eventually(lambda: cache.reflector.counts.lists == 3, what="a list after each error")
        await world.put(b="2")
        await cache.holds(a="1", b="2")
        assert cache.reflector.counts.expired == (2 if code == 410 else 0)
        assert cache.reflector.last_error is None


@cluster_test
async def test_should_go_on_where_a_broken_stream_stopped(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    for in_the_middle in (False, True):
        proxy.inject(CutStream(Match(verb="watch"), after_events=1, in_the_middle=in_the_middle), times=2)
    async with running(client, world) as cache:
        await world.put(a="1", b="2", c="3", d="4", e="5", f="6")
        await world.delete("a", "b", "c")
        await cache.holds(d="4", e="5", f="6")
        assert (cache.reflector.counts.lists, cache.reflector.counts.failures) == (1, 4)
        assert cache.deletions.seen == [("a", "1"), ("b", "2"), ("c", "3")]


@cluster_test
async def test_should_find_lost_deletions_at_the_next_periodic_list(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    await world.put(a="1", b="2")
    proxy.inject(DropEvents(Match(verb="watch"), types=("DELETED",)))
    async with running(client, world, watch_timeout_seconds=1, relist_period_seconds=2.0) as cache:
        await world.delete("a")
        await world.put(marker="1")
        await cache.holds(b="2", marker="1")
        assert cache.deletions.seen == [("a", "1")]
        # It was there until then: no event told of its end.
        assert cache.reflector.counts.deletions_found_by_list == 1


@cluster_test
async def test_should_leave_a_stream_that_hangs(client: KubernetesClient, world: World, proxy: FaultProxy) -> None:
    proxy.inject(DelayEvents(Match(verb="watch"), seconds=60.0), times=1)
    async with running(client, world, watch_inactivity_seconds=1.0) as cache:
        await world.put(a="1")
        await cache.holds(a="1")
        assert cache.reflector.counts.lists == 1
        # On a busy machine another second may pass in silence.
        assert cache.reflector.counts.failures >= 1


@cluster_test
async def test_should_let_one_unreadable_object_harm_only_itself(client: KubernetesClient, world: World) -> None:
    await world.put(a="-1", b="2", c="3")
    async with running(client, world) as cache:
        assert cache.names() == {"b": "2", "c": "3"}
        await world.change(b="-1")
        await world.change(c="30")
        await cache.holds(b="2", c="30")
        assert {name: entry.error for (_, name), entry in cache.reflector.unreadable.items()} == {
            "a": "ValueError: x is -1",
            "b": "ValueError: x is -1",
        }
        await world.change(a="1", b="20")
        await cache.holds(a="1", b="20", c="30")
        assert cache.reflector.unreadable == {}
        assert cache.reflector.counts.unreadable == 2


@cluster_test
async def test_should_stay_young_while_nothing_happens(client: KubernetesClient, world: World) -> None:
    async with running(client, world, watch_timeout_seconds=1) as cache:
        signs_of_life = set()

        def age_began() -> int:
            now_seconds = time.monotonic()
            signs_of_life.add(round(now_seconds - (cache.reflector.age_seconds(now_seconds) or 0.0), 2))
            return len(signs_of_life)

        # The list, and each of the watches that the server ends every second.
        await eventually(lambda: age_began() >= 5, what="five signs of life")
        assert (cache.reflector.counts.failures, cache.changes) == (0, 1)


@cluster_test
async def test_should_age_while_the_server_is_away_and_recover(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    await world.put(a="1")
    async with running(client, world) as cache:
        reflector = cache.reflector
        await eventually(lambda: reflector.counts.watches == 1)
        await proxy.stop()
        await world.put(b="2")
        await asyncio.sleep(1.0)
        assert (reflector.age_seconds(time.monotonic()) or 0.0) > 0.9
        await eventually(lambda: reflector.last_error is not None, what="an error")
        assert reflector.synced.is_set()
        assert cache.names() == {"a": "1"}
        back_at_seconds = time.monotonic()
        await proxy.start()
        await cache.holds(a="1", b="2")
        now_seconds = time.monotonic()
        assert (reflector.age_seconds(now_seconds) or 0.0) <= now_seconds - back_at_seconds
        assert reflector.counts.lists == 1, "a short absence costs no list"


@cluster_test
async def test_should_have_no_age_before_the_first_list(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    proxy.inject(RefuseRequest(Match(verb="list"), 500, "InternalError"))
    cache = Cache(client, world.path)
    task = asyncio.create_task(cache.reflector.run())
    await eventually(lambda: cache.reflector.counts.failures == 3)
    assert (cache.reflector.synced.is_set(), cache.reflector.age_seconds(time.monotonic())) == (False, None)
    proxy.heal()
    await asyncio.wait_for(cache.reflector.synced.wait(), WAIT_LIMIT_SECONDS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@cluster_test
async def test_should_come_back_when_the_server_said(client: KubernetesClient, world: World, proxy: FaultProxy) -> None:
    proxy.inject(RefuseRequest(Match(verb="list"), 429, "TooManyRequests", retry_after_seconds=1), times=1)
    started_at_seconds = time.monotonic()
    async with running(client, world):
        assert time.monotonic() - started_at_seconds >= 1.0


@cluster_test
async def test_should_not_hammer_a_server_that_ends_every_watch_at_once(
    client: KubernetesClient, world: World, proxy: FaultProxy
) -> None:
    proxy.inject(CutStream(Match(verb="watch"), after_events=0))
    async with running(client, world):
        started_at_seconds = time.monotonic()
        await eventually(lambda: sum(record.verb == "watch" for record in proxy.requests) >= 9, what="nine watches")
    # Pauses of at least half of 50, 100 and then 200 ms between them; eight, or seven where one watch was before we looked.
    assert time.monotonic() - started_at_seconds >= 0.05 + 6 * 0.1 - 0.01


@cluster_test
async def test_should_outlive_a_change_callback_that_fails(client: KubernetesClient, world: World) -> None:
    def fail() -> None:
        raise RuntimeError("not ours")

    reflector = Reflector(
        client, world.path, x_of, on_change=fail, settings=ReflectorSettings(selector=Selector(labels="test"))
    )
    task = asyncio.create_task(reflector.run())
    await asyncio.wait_for(reflector.synced.wait(), WAIT_LIMIT_SECONDS)
    await world.put(a="1")
    await eventually(lambda: list(reflector.store.values()) == ["1"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@cluster_test
@pytest.mark.parametrize("seed", range(3))
async def test_should_end_equal_to_the_server_whatever_goes_wrong_on_the_way(
    client: KubernetesClient, world: World, proxy: FaultProxy, seed: int
) -> None:
    chance = random.Random(seed)
    watch = Match(verb="watch")
    faults: list[Callable[[], Any]] = [
        lambda: CutStream(watch, after_events=chance.randrange(4), in_the_middle=chance.random() < 0.5),
        lambda: ErrorEvent(watch, after_events=chance.randrange(4)),
        lambda: RefuseRequest(Match(verb="list"), 500, "InternalError"),
        lambda: RefuseRequest(watch, 429, "TooManyRequests"),
    ]
    # Each request takes the first fault that is for its kind, so they come one after the other.
    for _ in range(12):
        proxy.inject(chance.choice(faults)(), times=1)
    truth: dict[str, str] = {}
    async with running(client, world, watch_timeout_seconds=1, list_page_limit=3) as cache:
        for step in range(600):
            # Faults come with requests and events: on a busy machine they take more steps.
            if step >= 60 and cache.reflector.counts.failures >= 4:
                break
            await asyncio.sleep(0.01)
            name = chance.choice("abcdefgh")
            if name not in truth:
                truth[name] = f"{step + 1}"
                await world.put(**{name: truth[name]})
            elif chance.random() < 0.5:
                truth[name] = f"{step + 1}"
                await world.change(**{name: truth[name]})
            else:
                del truth[name]
                await world.delete(name)
        proxy.heal()
        await cache.holds(**truth)
        assert cache.reflector.counts.failures >= 4

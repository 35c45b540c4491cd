"""Many reads at once: budget, time limits, intervals, slow and vanished targets; in virtual time, so that no busy machine is slow."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetpack.core.samples import Sample
from fleetpack.signals import HttpTarget, PodTarget, PrometheusTarget, SignalReader, Target, open_signal_reader
from fleetpack.signals.reader import CONCURRENT_READS
from scripted_server import always, http_answer, never, scripted_server
from signal_targets import NOW, OWN_PAGE, http_target, pod_target, prometheus_target, sample
from virtual_time import in_virtual_time


@dataclass
class FakeSource:
    """Answers each target after the delay that the test chose for its Pod; counts reads at the same time."""

    delays_seconds: dict[str, float] = field(default_factory=dict)
    defect: Exception | None = None
    reads: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    clock: Callable[[], float] = lambda: NOW

    async def read(self, target: Target) -> Sample:
        uid = target.key[2]
        self.reads.append(uid)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.delays_seconds.get(uid, 0.0))
            if self.defect:
                raise self.defect
            return answer(target, self.clock())
        finally:
            self.under_way -= 1


def answer(target: Target, observed_at: float = NOW) -> Sample:
    return sample(signal=target.signal, pod_uid=target.key[2], observed_at=observed_at, waiting=1.0)


def pods(count: int) -> list[Target]:
    return [pod_target(pod_uid=f"uid-{number:03}") for number in range(count)]


def make_reader(source: FakeSource) -> SignalReader:
    return SignalReader(pods=source, prometheus=source, http=source, clock=source.clock, budget_seconds=0.1)


@in_virtual_time
async def test_should_read_each_kind_from_its_own_source():
    sources: dict[type[PodTarget | PrometheusTarget | HttpTarget], FakeSource] = {
        PodTarget: FakeSource(),
        PrometheusTarget: FakeSource(),
        HttpTarget: FakeSource(),
    }
    reader = SignalReader(
        pods=sources[PodTarget], prometheus=sources[PrometheusTarget], http=sources[HttpTarget], clock=lambda: NOW
    )
    targets: tuple[Target, ...] = (prometheus_target(), http_target(), pod_target())

    found = await reader.read(targets, NOW)

    assert found == (answer(prometheus_target()), answer(pod_target()), answer(http_target()))
    assert [len(source.reads) for source in sources.values()] == [1, 1, 1]


@in_virtual_time
async def test_should_read_again_only_after_the_interval():
    reader = make_reader(FakeSource())
    seconds = (0.0, 0.5, 1.7, 1.9, 3.6, 3.8)
    counts = [len(await reader.read(pods(1), NOW + later)) for later in seconds]

    # 1.9 s is close enough to an interval of 2 s: a tick may come a little early.
    assert counts == [1, 0, 0, 1, 0, 1]


@in_virtual_time
async def test_should_go_on_when_the_clock_was_set_back():
    reader = make_reader(FakeSource())
    await reader.read(pods(1), NOW)

    assert len(await reader.read(pods(1), NOW - 3600)) == 1


@in_virtual_time
async def test_should_return_what_is_in_and_bring_the_slow_one_later():
    time = [NOW]
    source = FakeSource(delays_seconds={"uid-001": 0.2}, clock=lambda: time[0])
    reader = make_reader(source)
    first = await reader.read(pods(3), NOW)
    time[0] = NOW + 0.2
    await asyncio.sleep(0.2)
    time[0] = NOW + 1.0

    second = await reader.read(pods(3), NOW + 1.0)

    assert [found.pod_uid for found in first] == ["uid-000", "uid-002"]
    assert second == (answer(pods(3)[1], NOW + 0.2),)
    assert source.reads == ["uid-000", "uid-001", "uid-002"]


@in_virtual_time
async def test_should_end_a_read_at_its_own_time_limit():
    reader = make_reader(FakeSource(delays_seconds={"": 5.0}))

    found = await reader.read([prometheus_target(timeout_seconds=0.05)], NOW)

    assert found == (sample(signal="broker", error="no complete answer within 0.05 s"),)


SILENT_AT_FIRST = pod_target(pod_uid="uid-000", timeout_seconds=0.15)
TOO_LATE = sample(pod_uid="uid-000", error="no complete answer within 0.15 s")


@in_virtual_time
async def test_should_not_wait_for_a_target_that_was_slow_last_time():
    source = FakeSource(delays_seconds={"uid-000": 5.0})
    reader = make_reader(source)
    await reader.read([SILENT_AT_FIRST], NOW)
    await asyncio.sleep(0.1)
    started = asyncio.get_running_loop().time()

    found = await reader.read([SILENT_AT_FIRST], NOW + 2)

    assert (found, source.reads) == ((TOO_LATE,), ["uid-000"])
    assert asyncio.get_running_loop().time() == started
    await asyncio.sleep(0)
    assert source.reads == ["uid-000", "uid-000"]


@in_virtual_time
async def test_should_wait_again_for_a_target_that_has_become_quick():
    source = FakeSource(delays_seconds={"uid-000": 5.0})
    reader = make_reader(source)
    await reader.read([SILENT_AT_FIRST], NOW)
    await asyncio.sleep(0.1)
    source.delays_seconds.clear()

    found = []
    for seconds in (2, 3, 4):
        found += [await reader.read([SILENT_AT_FIRST], NOW + seconds)]
        await asyncio.sleep(0.01)

    assert found == [(TOO_LATE,), (answer(SILENT_AT_FIRST),), (answer(SILENT_AT_FIRST),)]


@in_virtual_time
async def test_should_read_the_living_past_a_lost_node_of_silent_pods():
    silent = {f"uid-{number:03}": 5.0 for number in range(CONCURRENT_READS + 20)}
    reader = make_reader(FakeSource(delays_seconds=silent))
    targets = [pod_target(pod_uid=f"uid-{number:03}", timeout_seconds=0.15) for number in range(200)]
    await reader.read(targets, NOW)
    await asyncio.sleep(0.3)
    await reader.read(targets, NOW + 1)

    found = await reader.read(targets, NOW + 4)

    living = {target.key[2] for target in targets} - silent.keys()
    assert {each.pod_uid for each in found if not each.error} == living


@in_virtual_time
async def test_should_bound_the_reads_under_way():
    source = FakeSource(delays_seconds={target.key[2]: 0.002 for target in pods(300)})
    reader = make_reader(source)

    found = await reader.read(pods(300), NOW)

    assert (len(found), source.most_under_way) == (300, CONCURRENT_READS)


@in_virtual_time
async def test_should_give_up_reads_of_targets_that_are_gone():
    source = FakeSource(delays_seconds={"uid-000": 5.0})
    reader = make_reader(source)
    await reader.read(pods(1), NOW)

    found = await reader.read([], NOW + 1)

    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (found, source.under_way) == ((), 0)


@in_virtual_time
async def test_should_start_anew_when_a_target_changes():
    source = FakeSource(delays_seconds={"uid-000": 5.0})
    reader = make_reader(source)
    await reader.read(pods(1), NOW)
    source.delays_seconds.clear()
    moved = pod_target(pod_uid="uid-000", address="127.0.0.2")

    assert await reader.read([moved], NOW + 0.2) == (answer(moved),)


@in_virtual_time
async def test_should_turn_a_defect_into_a_failed_read():
    reader = make_reader(FakeSource(defect=KeyError("surprise")))

    found = await reader.read([prometheus_target()], NOW)

    assert found == (sample(signal="broker", error="unexpected KeyError: 'surprise'"),)


@in_virtual_time
async def test_should_keep_reads_going_when_the_caller_is_cancelled():
    source = FakeSource(delays_seconds={"uid-000": 0.05})
    reader = make_reader(source)
    tick = asyncio.create_task(reader.read(pods(1), NOW))
    await asyncio.sleep(0.01)
    tick.cancel()
    await asyncio.gather(tick, return_exceptions=True)

    assert len(await reader.read(pods(1), NOW + 0.1)) == 1
    assert source.reads == ["uid-000"]


async def test_should_read_real_servers_whole_dead_and_silent_side_by_side():
    async with (
        scripted_server(always(http_answer(OWN_PAGE))) as good,
        scripted_server(never) as silent,
        scripted_server(always(http_answer(OWN_PAGE, length=9999))) as half,
        open_signal_reader(lambda: NOW, budget_seconds=60.0) as reader,
    ):
        found = await reader.read(
            [
                pod_target(pod_uid="good", port=good, timeout_seconds=60.0),
                pod_target(pod_uid="half", port=half, timeout_seconds=0.1),
                pod_target(pod_uid="silent", port=silent, timeout_seconds=0.1),
            ],
            NOW,
        )

    too_late = "no complete answer within 0.1 s"
    assert found == (
        sample(pod_uid="good", waiting=3.0, running=2.0, finished_total=40.0),
        sample(pod_uid="half", error=too_late),
        sample(pod_uid="silent", error=too_late),
    )


async def test_should_read_real_documents_and_queries():
    answer_of_prometheus = (
        '{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"6"]}]}}'
    )
    async with (
        scripted_server(always(http_answer(answer_of_prometheus))) as prometheus,
        scripted_server(always(http_answer('{"queues": [{"messages": 9}]}'))) as broker,
        open_signal_reader(lambda: NOW, budget_seconds=60.0) as reader,
    ):
        found = await reader.read(
            [
                prometheus_target(url=f"http://127.0.0.1:{prometheus}"),
                http_target(url=f"http://127.0.0.1:{broker}/"),
            ],
            NOW,
        )

    assert found == (sample(signal="broker", waiting=6.0), sample(signal="inbox", waiting=9.0))

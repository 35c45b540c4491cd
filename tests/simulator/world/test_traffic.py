"""Requests on their way through gateways and engines."""

from __future__ import annotations

import pytest

from fleetpack_simulator.engine import Completion, EngineReplica, EngineRequest, FirstToken
from fleetpack_simulator.workload import Request
from fleetpack_simulator.world.traffic import RequestLog, RequestState, Traffic
from worlds import ENGINE, requests

FOREVER = 1e9


def traffic(*loads: tuple[Request, ...]) -> Traffic:
    return Traffic(RequestLog([(0.0, load) for load in loads]), len(loads))


def test_should_give_each_request_the_times_that_its_engine_alone_would() -> None:
    load = requests(3.0, 40.0)
    own = traffic(load)
    own.open(own.start("a", 0, ENGINE), 0.0)
    own.serve_until(FOREVER, inclusive=True)

    alone = EngineReplica(ENGINE)
    for index, one in enumerate(load):
        alone.submit(
            EngineRequest(request_id=index, prompt_tokens=one.prompt_tokens, output_tokens=one.output_tokens),
            one.arrival_seconds,
        )
    events = alone.advance(1e6)
    first = {event.request_id: event.at_seconds for event in events if isinstance(event, FirstToken)}
    finished = {event.request_id: event.finished_seconds for event in events if isinstance(event, Completion)}
    assert dict(enumerate(own.log.first_token_seconds)) == first
    assert dict(enumerate(own.log.finished_seconds)) == finished


def test_should_send_a_request_to_the_replica_with_the_fewest_outstanding() -> None:
    own = traffic(requests(1000.0, 0.006))
    replicas = [own.start(name, 0, ENGINE) for name in ("a", "b", "c")]
    for replica in replicas:
        own.open(replica, 0.0)
    own.serve_until(0.0055, inclusive=True)
    assert [sorted(replica.inside) for replica in replicas] == [[0, 3], [1, 4], [2, 5]]


def test_should_hold_requests_while_there_is_no_replica_and_give_them_out_to_the_first() -> None:
    own = traffic(requests(1.0, 5.0))
    own.serve_until(10.0, inclusive=True)
    held = list(own.gateways[0].held)
    own.open(own.start("a", 0, ENGINE), 10.0)
    own.serve_until(FOREVER, inclusive=True)
    assert (held, own.all_ended, min(own.log.first_token_seconds) > 10.0) == ([0, 1, 2, 3, 4], True, True)


def test_should_give_a_closed_replica_nothing_new_and_let_it_finish() -> None:
    own = traffic(requests(10.0, 1.0))
    closing, other = own.start("a", 0, ENGINE), own.start("b", 0, ENGINE)
    own.open(closing, 0.0)
    own.serve_until(0.25, inclusive=True)
    own.open(other, 0.25)
    own.close(closing)
    own.serve_until(FOREVER, inclusive=True)
    assert (closing.engine.counters().finished, other.engine.counters().finished) == (3, 7)


def test_should_retry_what_had_not_begun_and_fail_what_streamed_when_a_replica_dies() -> None:
    # Four run in the batch and stream, two wait behind them.
    own = traffic(requests(1000.0, 0.006, output_tokens=800))
    dying = own.start("a", 0, ENGINE)
    own.open(dying, 0.0)
    own.serve_until(2.0, inclusive=True)
    own.kill(dying, 2.0)
    own.open(own.start("b", 0, ENGINE), 3.0)
    own.serve_until(FOREVER, inclusive=True)
    states = [RequestState(state) for state in own.log.state]
    assert states == [RequestState.FAILED] * 4 + [RequestState.COMPLETED] * 2
    assert (own.retries, own.gateways[0].outstanding, own.ended_twice) == (2, 0, [])


def test_should_refuse_a_request_that_no_window_holds() -> None:
    own = traffic(requests(1.0, 1.0, prompt_tokens=5000))
    own.open(own.start("a", 0, ENGINE), 0.0)
    own.serve_until(FOREVER, inclusive=True)
    assert (list(own.log.state), own.all_ended) == ([RequestState.REFUSED], True)


def test_should_keep_models_apart() -> None:
    own = traffic(requests(1.0, 3.0), requests(1.0, 2.0))
    first, second = own.start("a", 0, ENGINE), own.start("b", 1, ENGINE)
    own.open(first, 0.0)
    own.open(second, 0.0)
    own.serve_until(FOREVER, inclusive=True)
    assert (first.engine.counters().finished, second.engine.counters().finished) == (3, 2)


@pytest.mark.parametrize(("inclusive", "arrived"), [(False, 2), (True, 3)])
def test_should_stop_before_or_after_what_happens_at_the_instant(inclusive: bool, arrived: int) -> None:
    own = traffic(requests(1.0, 5.0))
    own.serve_until(2.0, inclusive=inclusive)
    assert own.arrived == arrived

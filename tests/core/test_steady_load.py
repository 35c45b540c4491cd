"""Under a constant load with the noise of chance, a fleet stays as it is."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from builders import NOW, a_deployment, a_node, a_replica, a_sample, a_variant, some_inputs
from fleetpack.core.decision import CreateReplica, SetScale
from fleetpack.core.fleet import Replica
from fleetpack.core.planner import plan
from fleetpack.core.state import State

STEP_SECONDS = 0.25
WARM_UP_SECONDS = 120.0
MEASURED_SECONDS = 600.0


def poisson(drawn: random.Random, mean: float) -> int:
    """Draw a number of arrivals (Knuth's product of uniform numbers; means here are small)."""
    limit, count, product = math.exp(-mean), 0, drawn.random()
    while product > limit:
        count += 1
        product *= drawn.random()
    return count


class Server:
    """One replica: requests in `slots`, each served for an exponential time."""

    def __init__(self, replica: Replica, ready_at: float) -> None:
        self.replica, self.ready_at = replica, ready_at
        self.waiting = self.running = self.finished = 0

    def serve(self, drawn: random.Random, slots: int, rate: float) -> None:
        done = sum(drawn.random() < 1 - math.exp(-STEP_SECONDS * rate / slots) for _ in range(self.running))
        started = min(self.waiting, slots - self.running + done)
        self.running += started - done
        self.waiting -= started
        self.finished += done


def changes(seed: int, load: float, rate: float, slots: int) -> int:
    """How often `spec.replicas` is written after the warm-up; what the plan creates serves 10 s later, nothing is drained."""
    drawn = random.Random(seed)
    variant = a_variant(cores=4, prior_requests_per_second=rate, prior_concurrency=slots)
    deployment = a_deployment(variants=(variant,), maximum_replicas=12)
    servers = [Server(a_replica(0, "0-3"), 0.0)]
    state, clock, found = State(), 0.0, 0
    while clock < WARM_UP_SECONDS + MEASURED_SECONDS:
        for _ in range(8):
            clock += STEP_SECONDS
            ready = [server for server in servers if server.ready_at <= clock]
            for _ in range(poisson(drawn, load * STEP_SECONDS)):
                min(ready, key=lambda server: server.waiting + server.running).waiting += 1
            for server in ready:
                server.serve(drawn, slots, rate)
        ready = [server for server in servers if server.ready_at <= clock]
        samples = tuple(
            a_sample(
                server.replica,
                at=NOW + clock,
                waiting=float(server.waiting),
                running=float(server.running),
                finished_total=float(server.finished),
            )
            for server in ready
        )
        plan_now, state = plan(
            some_inputs(
                now=NOW + clock,
                deployments=(deployment,),
                nodes=(a_node(), a_node("node-b")),
                replicas=tuple(server.replica for server in servers),
                samples=samples,
            ),
            state,
        )
        for action in plan_now.actions:
            if isinstance(action, SetScale):
                deployment = replace(deployment, replicas=action.replicas)
                found += clock > WARM_UP_SECONDS
            elif isinstance(action, CreateReplica):
                made = replace(
                    a_replica(), name=action.name, uid=action.name, node=action.node, cores=action.cores, cores_count=4
                )
                servers.append(Server(made, clock + 10.0))
    return found


@pytest.mark.parametrize(("rate", "slots"), [(0.5, 8), (2.0, 16), (8.0, 32)])
def test_should_write_next_to_nothing_under_a_constant_load(rate: float, slots: int) -> None:
    counts = [changes(seed, load=rate * (0.4 + 0.6 * seed), rate=rate, slots=slots) for seed in range(8)]

    assert sorted(counts)[len(counts) // 2] == 0, counts
    assert max(counts) <= 2, counts

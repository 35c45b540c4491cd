"""How long requests wait for a place, by the queueing model M/M/c.

A replica serves c requests at once and completes m per second when it is full. A Service spreads requests at random, so each of n
replicas sees Poisson arrivals of its own at the rate a/n: a queue with c servers of the rate m/c each. An arrival waits with the
probability C(c, load) that Erlang's second formula gives, and longer than t with C * exp(-(m - a/n) t) (Gross, Shortle, Thompson
and Harris, Fundamentals of Queueing Theory, section 2.3). Services that vary less than exponentially wait less, so the model
errs towards too many replicas.

Boundary: formulas of numbers; nothing here knows what a deployment is. An overloaded queue waits for ever: `math.inf`.
"""

from __future__ import annotations

import math


def waiting_probability(servers: int, load: float) -> float:
    """Return the share of arrivals that find all servers busy (Erlang C); `load` is arrivals times service time."""
    if load >= servers:
        return 1.0
    if load <= 0:
        return 0.0
    blocked = 1.0
    # Erlang B by its recursion, which neither over- nor underflows; C follows from B.
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


def wait_seconds(arrivals_per_second: float, capacity_per_second: float, servers: int, fraction: float) -> float:
    """Return the wait that `fraction` of the arrivals at one replica do not exceed."""
    spare = capacity_per_second - arrivals_per_second
    if spare <= 0:
        return math.inf
    waiting = waiting_probability(servers, servers * arrivals_per_second / capacity_per_second)
    beyond = 1.0 - fraction
    return math.log(waiting / beyond) / spare if waiting > beyond else 0.0


def replicas_for_wait(
    arrivals_per_second: float,
    capacity_per_second: float,
    servers: int,
    *,
    fraction: float,
    wait_at_most_seconds: float,
) -> int:
    """Return the least number of replicas at which `fraction` of the arrivals wait no longer than allowed; 0 without arrivals."""
    if arrivals_per_second <= 0:
        return 0

    def enough(replicas: int) -> bool:
        wait = wait_seconds(arrivals_per_second / replicas, capacity_per_second, servers, fraction)
        return wait <= wait_at_most_seconds

    # More replicas never wait longer, and at a vanishing load nobody waits: doubling ends.
    high = max(1, math.floor(arrivals_per_second / capacity_per_second) + 1)
    low = high - 1
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

"""Loads: requests with arrival times, read from traces or drawn by seeded generators.

A load is nothing but when requests arrive and how many tokens they bring and want; who serves them and how is not said here.
Nothing imports Kubernetes or the planner. A file that is no trace is refused with `TraceError`, which names file, line and field.
"""

from fleetpack_simulator.workload.generators import GENERATOR_OPTIONS, GENERATORS, GeneratorOptions, generate
from fleetpack_simulator.workload.requests import Request, compress, within
from fleetpack_simulator.workload.traces import TraceError, read_trace

__all__ = [
    "GENERATORS",
    "GENERATOR_OPTIONS",
    "GeneratorOptions",
    "Request",
    "TraceError",
    "compress",
    "generate",
    "read_trace",
    "within",
]

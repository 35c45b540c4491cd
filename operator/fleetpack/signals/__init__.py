"""Where the numbers come from: metric sources behind one small protocol.

A target says what to read, a source reads it once, `SignalReader` reads many at once without letting a slow one hold up the
rest. What comes out are raw samples (`core.samples`), each with the time at which its answer was complete. Windows, rates,
staleness and learning are not here: they belong to the core, so that the simulator cannot differ from production.

A read never raises for anything that the other side does: refused connections, time-outs, wrong status codes, pages without
the number all become a sample with its reason in `error` and no number in it. Zero is never made up.
"""

from fleetpack.signals.reader import SignalReader, Source, open_signal_reader
from fleetpack.signals.targets import (
    BasicCredentials,
    BearerToken,
    Credentials,
    HttpTarget,
    Measure,
    MetricNames,
    PodTarget,
    PrometheusTarget,
    Target,
)

__all__ = [
    "BasicCredentials",
    "BearerToken",
    "Credentials",
    "HttpTarget",
    "Measure",
    "MetricNames",
    "PodTarget",
    "PrometheusTarget",
    "SignalReader",
    "Source",
    "Target",
    "open_signal_reader",
]

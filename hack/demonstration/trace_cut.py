"""One load's stretch of a trace, small enough to be handed to a Pod.

Traces as they are published have tens of megabytes; a ConfigMap takes one. What a load of the demo replays of it is two minutes.
Failure: a stretch with too many requests is a RuntimeError that says what to change; a file that is no trace, the reader's own error.
"""

import gzip
from pathlib import Path

from demonstration.site import LoadPlan
from fleetpack_simulator.workload import Request, read_trace, within

LARGEST_BYTES = 2**20
"""What a ConfigMap may hold (MaxSecretSize in Kubernetes' pkg/apis/core/types.go, which its validation applies to both)."""


def cut_trace(trace: Path, plan: LoadPlan) -> bytes:
    """Return what the plan replays of a trace, arrivals counted from the start of the stretch, as compressed CSV."""
    requests = stretch(read_trace(trace), plan)
    rows = (f"{one.arrival_seconds:.6f},{one.prompt_tokens},{one.output_tokens}\n" for one in requests)
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(rows)
    # Without a time in it, the same trace gives the same bytes.
    content = gzip.compress(text.encode(), mtime=0)
    if len(content) > LARGEST_BYTES:
        raise RuntimeError(
            f"{trace}: {len(requests)} requests in {plan.duration_seconds:.0f} s are {len(content)} bytes, and a ConfigMap takes "
            f"{LARGEST_BYTES}: replay less (LOAD_SECONDS=n), or leave CLUSTER=kind off"
        )
    return content


def stretch(requests: tuple[Request, ...], plan: LoadPlan) -> tuple[Request, ...]:
    """Return the plan's stretch; a trace that ends earlier gives its last seconds."""
    length_seconds = plan.duration_seconds * plan.speed
    last_seconds = requests[-1].arrival_seconds
    start_seconds = max(0.0, min(plan.start_seconds, last_seconds - length_seconds))
    return within(requests, start_seconds, length_seconds)

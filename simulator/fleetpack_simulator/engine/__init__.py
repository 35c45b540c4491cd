"""How one replica serves: prefill, decode, batch, KV cache, admission. This is the simulator's truth, in virtual time.

Nothing here has a clock, does input or output, or draws random numbers, and nothing imports the planner: what the planner
believes about a replica and how the replica behaves must be able to disagree. The same engine drives the real-time server and
the simulated fleet. A model that does not fit its cores, or a request that does not fit the window, is refused with a
`ProfileError` or a `RequestError` that names the way out.
"""

from fleetpack_simulator.engine.coefficients import Coefficients, coefficients_for
from fleetpack_simulator.engine.performance import (
    decode_step_seconds,
    prefill_seconds,
    step_costs,
)
from fleetpack_simulator.engine.profile import EngineProfile, ProfileError
from fleetpack_simulator.engine.replica import (
    Completion,
    EngineCounters,
    EngineEvent,
    EngineReplica,
    EngineRequest,
    FinishReason,
    FirstToken,
    RequestError,
)
from fleetpack_simulator.engine.shapes import Hardware, ModelShape, Topology

__all__ = [
    "Coefficients",
    "Completion",
    "EngineCounters",
    "EngineEvent",
    "EngineProfile",
    "EngineReplica",
    "EngineRequest",
    "FinishReason",
    "FirstToken",
    "Hardware",
    "ModelShape",
    "ProfileError",
    "RequestError",
    "Topology",
    "coefficients_for",
    "decode_step_seconds",
    "prefill_seconds",
    "step_costs",
]

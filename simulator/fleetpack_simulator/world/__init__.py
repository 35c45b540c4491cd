"""The world that the planner acts on: nodes, Pods, requests, metrics and an API server, in virtual time.

Everything happens in one total order of events (time, kind, sequence number), drawn from one seed, so the same setting gives the
same bytes whatever the hash seed. The world is the truth: it uses core's value types, and the planner through one seam
(`operator.py`), and none of the planner's beliefs about queues, capacity or demand. Rules that nobody may break are checked after
every step with a table of machines that shares no code with core or catalog. A broken rule is a `Violation` in the result, never
an exception; a setting that cannot be simulated is refused with `ValueError` before time begins.
"""

from fleetpack_simulator.world.faults import Fault, FaultKind
from fleetpack_simulator.world.policy import ModelView, PodView, Policy, PolicyView
from fleetpack_simulator.world.setting import BootBehaviour, Delays, ModelSetting, SpecChange, WorldSetting
from fleetpack_simulator.world.simulation import Progress, RunResult, simulate

__all__ = [
    "BootBehaviour",
    "Delays",
    "Fault",
    "FaultKind",
    "ModelSetting",
    "ModelView",
    "PodView",
    "Policy",
    "PolicyView",
    "Progress",
    "RunResult",
    "SpecChange",
    "WorldSetting",
    "simulate",
]

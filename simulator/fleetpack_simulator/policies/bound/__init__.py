"""The clairvoyant bound: what the best policy of all, which knows the future, would have had to pay at least.

`clairvoyant_bound` solves a `BoundProblem`; its proof and its relaxations stand in `solver`. It is a lower bound, not a policy:
a policy at twice the bound may still be the best that there is.
"""

from fleetpack_simulator.policies.bound.problem import (
    BoundError,
    BoundProblem,
    Effort,
    VariantCost,
    Work,
    engine_work,
    problem_of,
)
from fleetpack_simulator.policies.bound.solver import Bound, clairvoyant_bound, default_slot_seconds

__all__ = [
    "Bound",
    "BoundError",
    "BoundProblem",
    "Effort",
    "VariantCost",
    "Work",
    "clairvoyant_bound",
    "default_slot_seconds",
    "engine_work",
    "problem_of",
]

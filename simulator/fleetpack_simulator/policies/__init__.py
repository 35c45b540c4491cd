"""The peers' policies as baselines, and the least cost that any policy could have had (`bound`).

Each does what its original's documentation or source says, with the original's defaults and cadence; sources stand in each module,
differences in docs/policies.md. All get the same engines, the same delays, and a target computed from the profile in one way
(`targets`). They decide numbers; fleetpack's planner places replicas for all. A name that is not known is refused with `PolicyError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from fleetpack_simulator.policies.aibrix import aibrix
from fleetpack_simulator.policies.controllers import PerModelPolicy
from fleetpack_simulator.policies.dynamo import dynamo, dynamo_latency
from fleetpack_simulator.policies.knative import knative
from fleetpack_simulator.policies.kubeai import kubeai
from fleetpack_simulator.policies.kubernetes import hpa, keda
from fleetpack_simulator.policies.llm_d import wva_v1, wva_v2
from fleetpack_simulator.policies.ray_serve import ray_serve
from fleetpack_simulator.policies.static import StaticPolicy
from fleetpack_simulator.policies.targets import ReplicaTargets, targets_by_deployment, targets_of
from fleetpack_simulator.world.policy import Policy
from fleetpack_simulator.world.setting import WorldSetting

POLICIES: Mapping[str, Callable[[Mapping[str, ReplicaTargets]], PerModelPolicy]] = {
    "hpa": hpa,
    "keda": keda,
    "knative": knative,
    "aibrix-apa": aibrix,
    "wva-v1": wva_v1,
    "wva-v2": wva_v2,
    "kubeai": kubeai,
    "ray-serve": ray_serve,
    "dynamo-load": dynamo,
    "dynamo-latency": dynamo_latency,
}
"""By name; `static-N` for any N beside them."""


class PolicyError(ValueError):
    """No policy has that name."""


def build_policy(name: str, setting: WorldSetting) -> Policy:
    """Return a new policy of that name, with targets for the models of a world; a policy has memory, so each run needs its own."""
    fixed = re.fullmatch(r"static-(\d+)", name)
    if fixed is not None:
        return StaticPolicy(int(fixed[1]))
    if name not in POLICIES:
        raise PolicyError(f"policy {name!r} is not known; there are static-N (any N), {', '.join(POLICIES)}")
    return POLICIES[name](targets_by_deployment(setting))


__all__ = [
    "POLICIES",
    "Policy",
    "PolicyError",
    "ReplicaTargets",
    "StaticPolicy",
    "build_policy",
    "targets_by_deployment",
    "targets_of",
]

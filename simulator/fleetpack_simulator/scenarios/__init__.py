"""Scenarios: YAML files that hold ordinary manifests, loads, faults and a seed; what comes of them; and worlds drawn at random.

A file is read into one `WorldSetting`; the world plays it; a summary says what users, and whoever pays, would have seen. A file that
cannot be played is refused with `ScenarioError`, which names file, field and value.
"""

from fleetpack_simulator.scenarios.loading import Scenario, load_scenario
from fleetpack_simulator.scenarios.manifests import ScenarioError
from fleetpack_simulator.scenarios.summary import ModelSummary, RunSummary, summarize
from fleetpack_simulator.scenarios.swarm import SwarmOutcome, draw_setting, play_seed

__all__ = [
    "ModelSummary",
    "RunSummary",
    "Scenario",
    "ScenarioError",
    "SwarmOutcome",
    "draw_setting",
    "load_scenario",
    "play_seed",
    "summarize",
]

"""An independent judge of what the operator did: was every placement legal, every core held once, every ceiling kept?

It sees only what the API server saw, Pods, Nodes and our two resources as plain JSON, each with the time it was seen: from live
watches (`Recorder`), from lists (`Recorder.relist`), or from an audit log (`recorder_from_audit_log`). From these it works out
anew, at each change, what every Pod held and cost.

Boundary: it imports nothing of the operator, its core or its catalog, and has its own table of machines and its own rules:
a belief that both shared would be tested by nobody. A contract of the import linter holds it to that.

What it cannot know it says: an unknown machine or an unreadable placement is a violation of its own kind, never a pass.
"""

from fleetpack_simulator.checking.audit import recorder_from_audit_log
from fleetpack_simulator.checking.recorder import Recorder
from fleetpack_simulator.checking.report import CheckReport, DeploymentCost, Violation, ViolationKind

__all__ = ["CheckReport", "DeploymentCost", "Recorder", "Violation", "ViolationKind", "recorder_from_audit_log"]

"""What a plan reports of one deployment that is well, with whatever a test changes of it."""

from __future__ import annotations

from fleetpack.core.absent import Measurement
from fleetpack.core.decision import Decision
from fleetpack.core.deployments import LearnedProfile
from fleetpack.core.reports import Condition, DeploymentReport, VariantReport

NOW = 1_795_521_600.0
DECISION = Decision(subject="team/chat", kind="replicas", before=2, after=2, reason="OnTarget", message="2 needed")


def a_report(**changes: object) -> DeploymentReport:
    """Return the report of `team/chat`: two replicas, all of them ready."""
    values: dict[str, object] = {
        "deployment": "team/chat",
        "mode": "Auto",
        "desired_replicas": 2,
        "automatic_replicas": 2,
        "replicas": 2,
        "ready_replicas": 2,
        "queue_depth": Measurement(value=3.2, age_seconds=1.0),
        "running": Measurement(value=10.0, age_seconds=1.0),
        "arrival_rate_per_second": Measurement(value=2.0, age_seconds=1.0),
        "usd_per_hour": 8.6542,
        "variants": (VariantReport(name="tp8", replicas=2, ready=2, measured=LearnedProfile(variant="tp8")),),
        "placements": (),
        "unplaced": (),
        "conditions": (Condition(type="Ready", status=True, reason="AllReplicasReady", message="all"),),
        "decision": DECISION,
    }
    return DeploymentReport(**{**values, **changes})  # type: ignore[arg-type]

"""The resource types of the group `fleetpack.dev`: what users write, what the operator reports, and the words both
use.

Everything here is a value: models parsed from manifests, units, conditions and reasons, and the generator of the
CRDs. Nothing does input or output. Reading is lenient towards fields that a newer CRD may have and strict about
everything else; a manifest that cannot be read raises `pydantic.ValidationError`, whose message names the field.
"""

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.conditions import ConditionType, Reason
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.api.meta import GROUP, VERSION, Condition, ConditionStatus
from fleetpack.api.values import Duration, IntOrPercent, Money, Quantity, Rate

__all__ = [
    "GROUP",
    "VERSION",
    "AcceleratorPool",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "Duration",
    "InferenceDeployment",
    "IntOrPercent",
    "Money",
    "Quantity",
    "Rate",
    "Reason",
]

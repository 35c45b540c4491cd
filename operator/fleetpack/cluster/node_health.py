"""What a node says of its silicon: the annotation of our device plugin, and the condition of the Neuron node problem detector.

The annotation names cores and is exact; the condition names device files in its message, or none, and then the whole node is meant.
Boundary: words to numbers; what to do about it is decided elsewhere. An annotation that cannot be read is a `ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HEALTH_CONDITION = "NeuronHealth"
"""Node condition of the Neuron node problem detector (aws-neuron-sdk, deploy/infrastructure/problem-detector.rst)."""
ERROR_REASON_PREFIX = "NeuronHasError"
"""Its reasons for permanent errors all begin so; the good one is `NeuronHasNoError`."""

_DEVICE_FILE = re.compile(r"/dev/neuron(\d+)\b")


def devices_out_by_condition(conditions: Iterable[Mapping[str, Any]]) -> tuple[int, ...] | None:
    """Return the devices that the conditions take out, ascending; empty: the node as a whole; None: there is no error.

    The reason decides and not the status: it says plainly whether there is an error, whatever the polarity of the condition.
    """
    for condition in conditions:
        is_error = str(condition.get("reason", "")).startswith(ERROR_REASON_PREFIX)
        if condition.get("type") == HEALTH_CONDITION and is_error:
            numbers = {int(number) for number in _DEVICE_FILE.findall(str(condition.get("message", "")))}
            return tuple(sorted(numbers))
    return None

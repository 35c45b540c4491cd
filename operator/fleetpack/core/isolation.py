"""One deployment that cannot be assessed must not stop the others.

An exception while a deployment is assessed is a bug of ours that some number brought to light. `plan` does not hide it: it raises
`AssessmentError`, which names every deployment that failed and why. Whoever runs a fleet plans again with what `without_failed`
returns: there they have a problem instead of numbers, and so keep what they have, while all the others are planned as ever.
Boundary: it changes nothing but the entries of those that failed. It does no input or output and cannot fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fleetpack.api.conditions import Reason
from fleetpack.core.fleet import Problem
from fleetpack.core.inputs import Inputs
from fleetpack.core.state import State


class AssessmentError(Exception):
    """Deployments that could not be assessed, by key, with what was raised for each."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        super().__init__(
            ", ".join(f"{key}: {type(error).__name__}: {error}" for key, error in sorted(failures.items()))
        )
        self.failures = dict(failures)


def without_failed(inputs: Inputs, state: State, failures: Mapping[str, Exception]) -> tuple[Inputs, State]:
    """Return inputs and state in which those that failed have a problem, and neither numbers nor memories.

    What is remembered may be what failed; a process that has just begun remembers nothing either.
    """
    return replace(
        inputs,
        deployments=tuple(
            replace(
                deployment,
                problems=(
                    *deployment.problems,
                    Problem(
                        reason=Reason.ASSESSMENT_FAILED,
                        message=f"the assessment failed: {type(failures[deployment.key]).__name__}; see the operator's log",
                    ),
                ),
            )
            if deployment.key in failures
            else deployment
            for deployment in inputs.deployments
        ),
        samples=tuple(sample for sample in inputs.samples if sample.deployment not in failures),
    ), replace(state, deployments=tuple(entry for entry in state.deployments if entry.deployment not in failures))

"""An audit log tells the same story as the watches: with response objects, and from request bodies alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleetpack_simulator.checking import ViolationKind, recorder_from_audit_log
from seen_objects import Json, deployment, node, replica, resource_of


def line(second: float, verb: str, own: Json, request: Any = None, **more: Any) -> str:
    """One event; `own` says whom it is about, and `request` is what was sent (default: the object itself)."""
    metadata = own["metadata"]
    reference = {
        "resource": more.get("resource", resource_of(own)),
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "subresource": more.get("subresource", ""),
    }
    event = {
        "stage": more.get("stage", "ResponseComplete"),
        "verb": verb,
        "requestURI": "/api/v1/" + more.get("query", ""),
        "objectRef": reference,
        "responseStatus": {"code": more.get("code", 200)},
        "requestObject": own if request is None else request,
        "stageTimestamp": f"2026-01-01T00:{int(second // 60):02d}:{second % 60:09.6f}Z",
    }
    if more.get("response"):
        event["responseObject"] = more["response"]
    return json.dumps(event)


def kinds(*lines: str) -> list[ViolationKind]:
    return [violation.kind for violation in recorder_from_audit_log(lines).report().violations]


def written(own: Json) -> Json:
    """As a client writes it: the server has not yet given it a uid."""
    return {**own, "metadata": {key: value for key, value in own["metadata"].items() if key != "uid"}}


POD, NEXT = replica("chat-0", "0-3"), replica("chat-1", "0-3")
NODE = line(0, "create", node())


def test_should_read_a_legal_story_from_request_bodies() -> None:
    report = recorder_from_audit_log(
        [
            NODE,
            line(1, "create", POD, written(POD)),
            line(2, "create", POD, {"target": {"name": "a"}}, subresource="binding"),
            line(3, "patch", POD, {"status": {"phase": "Running"}}, subresource="status"),
            line(4, "delete", POD, {"gracePeriodSeconds": 30}),
            line(5, "delete", POD, {"gracePeriodSeconds": 0}),
            line(6, "create", NEXT, written(NEXT)),
        ]
    ).report()
    assert (report.violations, report.pods_seen, report.placements_checked) == ((), 2, 2)
    assert report.usd_spent == pytest.approx(6.49063 * 4 / 12 * 4 / 3600)


def test_should_know_that_a_bound_pod_outlives_its_first_delete() -> None:
    bound = replica("chat-0", "0-3", bound=True)
    story = [NODE, line(1, "create", bound, written(bound)), line(2, "delete", bound, {})]
    assert kinds(*story, line(3, "create", NEXT, written(NEXT))) == [ViolationKind.DOUBLE_BOOKED]


def test_should_know_that_an_unbound_pod_is_gone_at_once() -> None:
    story = [NODE, line(1, "create", POD, written(POD)), line(2, "delete", POD, {})]
    assert kinds(*story, line(3, "create", NEXT, written(NEXT))) == []


def test_should_see_a_double_booking_in_response_objects() -> None:
    first, second = ({**own, "metadata": {**own["metadata"], "resourceVersion": "7"}} for own in (POD, NEXT))
    assert kinds(
        NODE, line(1, "create", POD, written(POD), response=first), line(2, "create", NEXT, {}, response=second)
    ) == [ViolationKind.DOUBLE_BOOKED]


def test_should_see_a_double_booking_that_ends_before_the_log_does() -> None:
    old = {**replica("chat-0", "0-3", bound=True)}
    old["metadata"]["resourceVersion"], new = "7", {**NEXT, "metadata": {**NEXT["metadata"], "resourceVersion": "8"}}
    assert kinds(
        NODE,
        line(1, "create", old, response=old),
        line(2, "create", NEXT, response=new),
        line(3, "delete", old, {"gracePeriodSeconds": 0}, response=old),
    ) == [ViolationKind.DOUBLE_BOOKED]


def test_should_follow_patches_of_both_kinds() -> None:
    merge = {"metadata": {"annotations": {"fleetpack.dev/allocated-cores": "1-2"}}}
    operation = {"op": "add", "path": "/metadata/annotations/fleetpack.dev~1allocated-cores", "value": "1-2"}
    pod = replica("chat-0", "0-1")
    for patch in (merge, [operation]):
        story = [NODE, line(1, "create", pod, written(pod)), line(2, "patch", pod, patch)]
        assert kinds(*story) == [ViolationKind.ILLEGAL_CORES]


def test_should_see_a_ceiling_that_is_set_by_an_update() -> None:
    story = [line(0, "create", deployment()), NODE, line(1, "update", deployment("1.00"))]
    assert kinds(*story, line(9, "create", POD, written(POD))) == [ViolationKind.CEILING_CROSSED]


@pytest.mark.parametrize(
    "more",
    [{"code": 409}, {"query": "pods?dryRun=All"}, {"stage": "RequestReceived"}, {"resource": "endpoints"}],
    ids=["refused", "dry run", "not yet answered", "another resource"],
)
def test_should_pass_over_what_changed_nothing(more: dict[str, Any]) -> None:
    story = [NODE, line(1, "create", POD, written(POD)), line(2, "create", NEXT, written(NEXT), **more)]
    assert kinds(*story) == []


def test_should_name_the_line_that_is_no_json() -> None:
    with pytest.raises(ValueError, match="audit log, line 2: no JSON"):
        recorder_from_audit_log([NODE, "{"])

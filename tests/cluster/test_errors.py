"""Each failed answer is one leaf of the tree, and says what, where and why."""

import pytest

from fleetpack.cluster.errors import (
    AlreadyExists,
    Answer,
    Conflict,
    ConnectionLost,
    DeliveryUnknown,
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    ServerError,
    TooManyRequests,
    WriteFenced,
    error_from_answer,
)


@pytest.mark.parametrize(
    ("status", "reason", "leaf"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Forbidden),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (405, "MethodNotAllowed", Invalid),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Expired),
        (410, "Gone", Expired),
        (413, "RequestEntityTooLarge", Invalid),
        (415, "UnsupportedMediaType", Invalid),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ServerError),
        (503, "ServiceUnavailable", ServerError),
        (504, "Timeout", ServerError),
    ],
)
def test_should_tell_failures_apart_by_cause(status: int, reason: str, leaf: type[KubernetesError]) -> None:
    error = error_from_answer("patch", "/api/v1/pods", Answer(status=status, body={"reason": reason}))
    assert (type(error), error.status, error.reason) == (leaf, status, reason)


def test_should_name_verb_object_status_reason_and_message() -> None:
    answer = Answer(status=404, body={"reason": "NotFound", "message": 'pods "a" not found'})
    error = error_from_answer("get", "/api/v1/namespaces/n/pods/a", answer)
    assert str(error) == 'get /api/v1/namespaces/n/pods/a (HTTP 404 NotFound): pods "a" not found'


def test_should_show_the_text_of_an_answer_that_is_no_status_object() -> None:
    error = error_from_answer("get", "/nope", Answer(status=404, body={}, text="404 page not found"))
    assert str(error) == "get /nope (HTTP 404): 404 page not found"


def test_should_take_the_wait_from_the_header_first_and_else_from_the_body() -> None:
    body = {"details": {"retryAfterSeconds": 7}}
    errors = [
        error_from_answer("list", "/a", Answer(status=429, body=body, retry_after_seconds=2.0)),
        error_from_answer("list", "/a", Answer(status=429, body=body)),
        error_from_answer("list", "/a", Answer(status=429, body={})),
    ]
    assert [error.retry_after_seconds for error in errors if isinstance(error, TooManyRequests)] == [2.0, 7, None]


def test_should_say_which_failures_may_have_stored_the_write() -> None:
    leaves = KubernetesError.__subclasses__()
    assert {leaf for leaf in leaves if leaf.may_have_been_applied} == {ServerError, DeliveryUnknown}
    assert {ConnectionLost, WriteFenced, TooManyRequests} < set(leaves)

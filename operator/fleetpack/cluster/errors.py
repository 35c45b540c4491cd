"""What can go wrong between us and the API server, as a tree by cause.

    KubernetesError
    |-- NotFound            404        the object, its namespace or its type is not there
    |-- AlreadyExists       409        create: the name is taken
    |-- Conflict            409        resourceVersion, UID or field ownership differ from what the write was based on
    |-- Forbidden           401, 403   who we are, or what we may do (RBAC, quota, admission)
    |-- Invalid             400, 422 and every other 4xx: this request will never be accepted as it stands
    |-- TooManyRequests     429        refused by the server's flow control or a disruption budget; says when to come back
    |-- Expired             410        the resourceVersion or continue token is too old: list again
    |-- ServerError         5xx        the server failed; a write may have been stored all the same
    |-- ConnectionLost                 the request certainly did not reach the server, or it was a read
    |-- DeliveryUnknown                a write was sent and no answer came: it may have been stored
    `-- WriteFenced                    a write that we did not start, because we may not be the leader when it ends

Callers branch on the class; `may_have_been_applied` answers the one question that matters after a failed write. Nothing here
knows HTTP libraries. Messages name the verb, the object, the status, the server's reason, and its message.
"""

# ruff: noqa: N818  The leaves are named by cause; the root says that they are errors.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class KubernetesError(Exception):
    """Root of the tree: one request, or one refused intention, failed."""

    may_have_been_applied: bool = False
    """True when the write behind this error may have been stored by the server."""

    def __init__(self, verb: str, path: str, message: str, *, status: int | None = None, reason: str = "") -> None:
        self.verb = verb
        self.path = path
        self.message = message
        self.status = status
        self.reason = reason
        answered = f" (HTTP {status}{' ' + reason if reason else ''})" if status is not None else ""
        super().__init__(f"{verb} {path}{answered}: {message}")


class NotFound(KubernetesError):
    """The object, its namespace or its type does not exist."""


class AlreadyExists(KubernetesError):
    """The name is taken: the cache was behind, or somebody else uses the name."""


class Conflict(KubernetesError):
    """The object is no longer the one the write was based on; read it again."""


class Forbidden(KubernetesError):
    """The server does not let this user do it; RBAC, quota or admission says why in the message."""


class Invalid(KubernetesError):
    """The request is wrong as it stands; sending it again cannot help."""


class Expired(KubernetesError):
    """The resourceVersion or the continue token is too old; a new list is the way out."""


class TooManyRequests(KubernetesError):
    """The server refused for now; nothing was stored."""

    def __init__(
        self,
        verb: str,
        path: str,
        message: str,
        *,
        reason: str = "TooManyRequests",
        retry_after_seconds: float | None = None,
    ) -> None:
        self.retry_after_seconds = retry_after_seconds
        """The server's Retry-After; None when it gave none."""
        wait = f"; retry after {retry_after_seconds:g} s" if retry_after_seconds is not None else ""
        super().__init__(verb, path, message + wait, status=429, reason=reason)


class ServerError(KubernetesError):
    """The server failed. An etcd time-out is among these, so a write may have been stored."""

    may_have_been_applied = True


class ConnectionLost(KubernetesError):
    """No connection, or it broke during a read: nothing was stored."""


class DeliveryUnknown(KubernetesError):
    """A write left us and no answer came back; only a fresh read can tell what became of it."""

    may_have_been_applied = True


class WriteFenced(KubernetesError):
    """A write was not started, because the right to write may end before the write does."""


class ConfigurationError(Exception):
    """No usable kubeconfig and no service account: outside the tree, because no request was ever made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A failed answer of the API server, as the error mapping needs it."""

    status: int
    body: Mapping[str, Any]
    """The decoded `Status` object; empty when the body was none."""
    text: str = ""
    retry_after_seconds: float | None = None


def error_from_answer(verb: str, path: str, answer: Answer) -> KubernetesError:
    """Return the leaf of the tree for an answer that is not a success."""
    reason = str(answer.body.get("reason") or "")
    message = str(answer.body.get("message") or answer.text[:500] or "no message from the server")
    if answer.status == 429:
        retry_after_seconds = answer.retry_after_seconds
        if retry_after_seconds is None:
            retry_after_seconds = (answer.body.get("details") or {}).get("retryAfterSeconds")
        return TooManyRequests(
            verb, path, message, reason=reason or "TooManyRequests", retry_after_seconds=retry_after_seconds
        )
    return _leaf(answer.status, reason)(verb, path, message, status=answer.status, reason=reason)


def _leaf(status: int, reason: str) -> type[KubernetesError]:
    # A conflict and a taken name are both 409; only the reason tells them apart.
    if status == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    by_status: dict[int, type[KubernetesError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 410: Expired}
    return by_status.get(status) or (Invalid if 400 <= status < 500 else ServerError)

"""What a role grants against what a program asks for, right by right.

Concept: a `Right` is one verb on one resource of one API group, the smallest thing that can be taken out of a role. `rights_of` takes
roles apart, `asked` the requests that came by a proxy. `withhold_once` lets the proxy refuse the first request of each right, so
that the program must say so and go on when the right is there again. `Trial` gives users of a real API server all rights but one,
and sends them what the program sent.
Boundary: makes users and roles under names of its own and removes them; what is replayed is a dry run. Asserts nothing. Failure: roles
that the API server has not taken over in time fail the test.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from cluster_fixtures import wait_for
from control_plane.api_client import ApiClient, ApiError
from fault_proxy import FaultProxy, Match, RefuseRequest, RequestRecord

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_METHODS = {"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}


def rights_of(manifests: Iterable[dict[str, Any]]) -> set[Right]:
    """Return every single right in the roles among these manifests."""
    return {
        (group, resource, verb)
        for manifest in manifests
        if manifest["kind"] in ("ClusterRole", "Role")
        for rule in manifest["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def right_of(record: RequestRecord) -> Right | None:
    """Return the right that a request needs; None: discovery and versions are nobody's to grant."""
    parts = record.path.strip("/").split("/")
    core, rest = parts[0] == "api", parts[2:] if parts[0] == "api" else parts[3:]
    if parts[0] not in ("api", "apis") or not rest:
        return None
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    resource = rest[0] if len(rest) < 3 else f"{rest[0]}/{rest[2]}"
    return ("" if core else parts[1], resource, record.verb)


def first_of_each(records: Iterable[RequestRecord]) -> dict[Right, RequestRecord]:
    """Return the first request that needed each right."""
    found: dict[Right, RequestRecord] = {}
    for record in records:
        if (right := right_of(record)) is not None:
            found.setdefault(right, record)
    return found


@dataclass(frozen=True, slots=True)
class Needs(Match):
    """Requests that need one right."""

    right: Right | None = None

    def __call__(self, record: RequestRecord) -> bool:
        """Say whether the rule is for this request."""
        return right_of(record) == self.right


def withhold_once(proxy: FaultProxy, rights: Iterable[Right]) -> None:
    """Refuse the next request of each right, and no other."""
    for right in rights:
        proxy.inject(RefuseRequest(Needs(right=right), 403, "Forbidden"), times=1)


def refused(records: Iterable[RequestRecord]) -> set[Right | None]:
    """Return the rights of which a request was refused."""
    return {right_of(record) for record in records if record.status == 403}


def refused_and_granted_later(records: Iterable[RequestRecord]) -> set[Right]:
    """Return the rights of which a request was refused and a later one went through; who may not look hears of no object at all."""
    before: set[Right | None] = set()
    found: set[Right] = set()
    for record in records:
        right = right_of(record)
        if record.status == 403:
            before.add(right)
        elif right is not None and right in before and record.status is not None:
            nothing_there = record.verb == "get" and record.status == 404
            found |= {right} if record.status < 300 or nothing_there else set()
    return found


class Impostor(ApiClient):
    """The administrator in another user's place."""

    def put_on(self, user: str) -> None:
        """Be this user from now on."""
        self._headers["Impersonate-User"] = user


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Users of a real API server, each with all of some rights but one."""

    rights: tuple[Right, ...]
    name: str
    impostor: Impostor

    def answer(self, record: RequestRecord, without: Right) -> str:
        """Send a request as the user who lacks a right, without effect; return what the server says against it, or `granted`."""
        self.impostor.put_on(_user(self.name, self.rights.index(without)))
        query = dict(record.query) | ({"dryRun": "All"} if record.verb in _METHODS else {})
        if record.verb == "watch":
            # One that is granted would last.
            query["timeoutSeconds"] = "1"
        path = record.path + ("?" + urlencode(query) if query else "")
        body = json.loads(record.body) if record.body else None
        try:
            self.impostor.request_text(
                _METHODS.get(record.verb, "GET"), path, body, content_type=record.content_type or None
            )
        except ApiError as error:
            return f"{error.code} {error.message}"
        return "granted"


@contextlib.contextmanager
def trial(admin: ApiClient, impostor: Impostor, rights: set[Right], name: str) -> Iterator[Trial]:
    """Make the users and wait until the API server knows what each of them may do."""
    found = Trial(rights=tuple(sorted(rights)), name=name, impostor=impostor)
    try:
        for number, right in enumerate(found.rights):
            _grant(admin, _user(name, number), rights - {right})
        for number, right in enumerate(found.rights):
            impostor.put_on(_user(name, number))
            wait_for(
                lambda right=right: rights & _rights_now(impostor) == rights - {right},  # type: ignore[misc]
                what=f"a user with all rights but {right}",
            )
        yield found
    finally:
        for number in range(len(found.rights)):
            for kind in ("clusterrolebindings", "clusterroles"):
                with contextlib.suppress(ApiError):
                    admin.delete(f"{RBAC}/{kind}/{_user(name, number)}")


def wait_until_allowed(client: ApiClient, manifests: Iterable[dict[str, Any]]) -> None:
    """Wait until the user of a connection has every right of the roles among these manifests, but of those made for people.

    The API server takes roles and bindings up a moment after it has stored them.
    """
    for role in [own for own in manifests if own and own["kind"] in ("ClusterRole", "Role")]:
        if any("/aggregate-to-" in label for label in role["metadata"].get("labels", {})):
            continue
        namespace = role["metadata"].get("namespace", "")
        for right in sorted(rights_of([role])):
            wait_for(partial(is_allowed, client, right, namespace), what=f"{role['metadata']['name']}'s right {right}")


def is_allowed(client: ApiClient, right: Right, namespace: str = "") -> bool:
    """Say whether the user of a connection may do something, in a namespace or everywhere."""
    group, resource, verb = right
    full, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": full, "subresource": subresource, "verb": verb, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    allowed = client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"]
    return bool(allowed)


def missing_right_message(right: Right) -> str:
    """Return how the API server says which right is missing."""
    group, resource, verb = right
    return f'cannot {verb} resource "{resource}" in API group "{group}"'


def _grant(admin: ApiClient, user: str, rights: set[Right]) -> None:
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]} for group, resource, verb in sorted(rights)
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}}
    admin.apply(f"{RBAC}/clusterroles/{user}", {**role, "rules": rules})
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}
    binding = {**role, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]}
    admin.apply(f"{RBAC}/clusterrolebindings/{user}", binding)


def _rights_now(impostor: Impostor) -> set[Right]:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "default"},
    }
    rules = impostor.create(REVIEWS, body)["status"]["resourceRules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for verb in rule["verbs"]
    }


def _user(name: str, number: int) -> str:
    return f"{name}-without-{number}"

"""Who may do what in a new cluster: certificates and kubeconfigs of its programs, and the role that kwok needs.

Concept: every program has its own identity, so that RBAC holds for each and the audit log tells them apart.
Boundary: files in the state folder and one role; people and service accounts are added later by name.
Failure: names that cannot be file names are refused.
"""

import re

from control_plane.api_client import ApiClient, JsonObject
from control_plane.certificates import (
    KeyPair,
    create_authority,
    create_signing_key,
    issue_client,
    issue_server,
)
from control_plane.command_lines import SERVICE_ADDRESS, Layout
from control_plane.errors import ControlPlaneError
from control_plane.kubeconfigs import certificate_user, token_user, write_kubeconfig

SERVER_HOSTS = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    SERVICE_ADDRESS,
)
# Users that the API server's own bootstrap roles are bound to, except kwok, whose role is below.
PROGRAM_USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kwok": ("kwok", ()),
}
TOKEN_SECONDS = 24 * 3600


def write_identities(layout: Layout) -> None:
    """Write all keys, certificates and kubeconfigs of a new cluster."""
    layout.certificates.mkdir(parents=True, exist_ok=True)
    authority = create_authority("fleetpack-cluster")
    authority.write(layout.certificates, "authority")
    # A second authority: what may speak to etcd must not follow from being a user of the API server.
    etcd_authority = create_authority("fleetpack-etcd")
    etcd_authority.write(layout.certificates, "etcd-authority")
    issue_server(etcd_authority, "etcd", ("localhost", "127.0.0.1")).write(layout.certificates, "etcd")
    issue_server(authority, "kube-apiserver", SERVER_HOSTS).write(layout.certificates, "kube-apiserver")
    create_signing_key().write(layout.certificates, "service-accounts")
    for name, (user, groups) in PROGRAM_USERS.items():
        _write_certificate_kubeconfig(layout, name, issue_client(authority, user, groups))


def mint_user(layout: Layout, user: str, groups: tuple[str, ...]) -> str:
    """Write a kubeconfig for a user with a client certificate, and return its path."""
    name = _file_name(user)
    if name in PROGRAM_USERS:
        raise ControlPlaneError(f"user {user!r} is one of the cluster's own: choose another name")
    authority = KeyPair.read(layout.certificates, "authority")
    return _write_certificate_kubeconfig(layout, f"user-{name}", issue_client(authority, user, groups))


def mint_service_account(client: ApiClient, layout: Layout, *, namespace: str, name: str) -> str:
    """Write a kubeconfig with a bound token of an existing service account, valid for 24 hours, and return its path."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    token: str = client.create(path, request)["status"]["token"]
    file = layout.kubeconfig(f"service-account-{_file_name(namespace)}-{_file_name(name)}")
    authority = layout.certificates.joinpath("authority.crt").read_bytes()
    context = f"{layout.folder.name}-{namespace}-{name}"
    write_kubeconfig(file, server=layout.server, authority=authority, user=token_user(token), context=context)
    return str(file)


def apply_kwok_role(client: ApiClient) -> None:
    """Give kwok what its stages need, and no more."""
    metadata = {"name": "kwok"}
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": metadata,
        "rules": [
            _rule("", ["nodes"], ["get", "list", "watch", "patch", "update"]),
            _rule("", ["nodes/status"], ["patch", "update"]),
            _rule("", ["pods"], ["get", "list", "watch", "patch", "update", "delete"]),
            _rule("", ["pods/status"], ["patch", "update"]),
            _rule("coordination.k8s.io", ["leases"], ["get", "list", "watch", "create", "patch", "update", "delete"]),
            _rule("", ["events"], ["create", "patch", "update"]),
        ],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "kwok"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "kwok"}],
    }
    client.apply(f"/apis/{group}/v1/clusterroles/kwok", role)
    client.apply(f"/apis/{group}/v1/clusterrolebindings/kwok", binding)


def _rule(group: str, resources: list[str], verbs: list[str]) -> JsonObject:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _write_certificate_kubeconfig(layout: Layout, name: str, client: KeyPair) -> str:
    file = layout.kubeconfig(name)
    authority = layout.certificates.joinpath("authority.crt").read_bytes()
    write_kubeconfig(
        file,
        server=layout.server,
        authority=authority,
        user=certificate_user(client),
        context=f"{layout.folder.name}-{name}",
    )
    return str(file)


def _file_name(name: str) -> str:
    """Return the name with what a file name cannot hold replaced (users may be called `system:...`)."""
    if not name or name.startswith("."):
        raise ControlPlaneError(f"{name!r} is no name of a user or service account")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)

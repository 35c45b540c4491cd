"""Kubeconfig files: how a client reaches the API server, and as whom.

Concept: self-contained files (certificates inside), one per identity. Boundary: writing only.
Failure: none of its own.
"""

import base64
import json
from pathlib import Path

from control_plane.certificates import KeyPair, write_private


def certificate_user(client: KeyPair) -> dict[str, str]:
    """Return the `user` part for a client certificate."""
    return {
        "client-certificate-data": base64.b64encode(client.certificate).decode(),
        "client-key-data": base64.b64encode(client.key).decode(),
    }


def token_user(token: str) -> dict[str, str]:
    """Return the `user` part for a bearer token."""
    return {"token": token}


def write_kubeconfig(path: Path, *, server: str, authority: bytes, user: dict[str, str], context: str) -> None:
    """Write a kubeconfig with one cluster, one user and one context; JSON is YAML, and kubectl reads it."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(content, indent=1).encode())

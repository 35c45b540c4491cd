"""Opens an HTTP session to the API server that a kubeconfig names; just what the simulator's own programs need.

Client certificates, bearer tokens and the certificate authority, inline or as files, are understood; exec plugins and auth
providers are not, and are refused with a `KubeconfigError` that says so. The session belongs to the caller, who closes it.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """Where the API server is and how to show who one is."""

    server: str
    tls: ssl.SSLContext | None
    headers: tuple[tuple[str, str], ...]

    def session(self) -> aiohttp.ClientSession:
        """Return a new session; paths are relative to the server."""
        connector = aiohttp.TCPConnector(ssl=self.tls if self.tls is not None else True)
        # A watch has no end, so only connecting and each single read have a time limit.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=330)
        return aiohttp.ClientSession(self.server, connector=connector, headers=dict(self.headers), timeout=timeout)


def read_kubeconfig(path: Path) -> ApiAccess:
    """Read the current context of a kubeconfig file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KubeconfigError(f"kubeconfig {path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise KubeconfigError(f"kubeconfig {path}: holds no mapping")
    context = _named(path, content, "contexts", "context", content.get("current-context"))
    cluster = _named(path, content, "clusters", "cluster", context.get("cluster"))
    user = _named(path, content, "users", "user", context.get("user"))
    server = cluster.get("server")
    if not isinstance(server, str):
        raise KubeconfigError(f"kubeconfig {path}: the cluster {context.get('cluster')!r} has no server")
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise KubeconfigError(
                f"kubeconfig {path}: users.{unsupported} is not understood; use a token or a client certificate"
            )
    headers: tuple[tuple[str, str], ...] = ()
    if token := _token(path, user):
        headers = (("Authorization", f"Bearer {token}"),)
    tls = _tls(path, cluster, user) if server.startswith("https:") else None
    return ApiAccess(server=server.rstrip("/") + "/", tls=tls, headers=headers)


def _named(path: Path, content: dict[str, Any], list_field: str, field: str, name: object) -> dict[str, Any]:
    for entry in content.get(list_field) or ():
        if entry.get("name") == name:
            found = entry.get(field)
            return found if isinstance(found, dict) else {}
    raise KubeconfigError(f"kubeconfig {path}: {list_field} has no entry named {name!r}")


def _token(path: Path, user: dict[str, Any]) -> str | None:
    if "token" in user:
        return str(user["token"])
    if "tokenFile" in user:
        return Path(path.parent, user["tokenFile"]).read_text(encoding="utf-8").strip()
    return None


def _tls(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authority := _bytes(path, cluster, "certificate-authority"):
        context = ssl.create_default_context(cadata=authority.decode())
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _bytes(path, user, "client-certificate"), _bytes(path, user, "client-key")
    if certificate and key:
        # ssl takes client certificates from files only.
        with tempfile.TemporaryDirectory() as folder:
            certificate_file, key_file = Path(folder, "certificate"), Path(folder, "key")
            certificate_file.write_bytes(certificate)
            key_file.touch(mode=0o600)
            key_file.write_bytes(key)
            context.load_cert_chain(certificate_file, key_file)
    return context


def _bytes(path: Path, section: dict[str, Any], field: str) -> bytes | None:
    if f"{field}-data" in section:
        return base64.b64decode(section[f"{field}-data"])
    if field in section:
        return Path(path.parent, section[field]).read_bytes()
    return None

"""A very small synchronous client of the API server, for setting up and for tests.

Concept: one HTTPS connection, JSON in and out, an exception that carries the server's own Status.
Boundary: no watches, no retries, no typed objects; the operator has its own client. Reads only kubeconfigs that hold
their credentials inside, as ours do.
Failure: `ApiError` with code, reason and message; a connection that cannot be made is an `OSError`.
"""

import base64
import http.client
import json
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

JsonObject = dict[str, Any]

IDLE_LIMIT_SECONDS = 30.0

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, code: int, status: JsonObject) -> None:
        self.code = code
        self.status = status
        self.reason: str = status.get("reason", "")
        self.message: str = status.get("message", "")
        super().__init__(f"{code} {self.reason}: {self.message}")


class ApiClient:
    """One identity's connection to one API server; not safe for several threads at once."""

    def __init__(self, kubeconfig: Path, *, timeout_seconds: float = 60.0) -> None:
        content = yaml.safe_load(kubeconfig.read_text())
        cluster = content["clusters"][0]["cluster"]
        user = content["users"][0]["user"]
        address = urlsplit(cluster["server"])
        assert address.hostname is not None, f"{kubeconfig}: the server has no host"
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self._used_at_seconds = time.monotonic()
        self._headers = {"Accept": "application/json", "User-Agent": "fleetpack-hack"}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"
        else:
            _load_client_certificate(context, user)
        self._connection = http.client.HTTPSConnection(
            address.hostname, address.port, context=context, timeout=timeout_seconds
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request_text(
        self, method: str, path: str, body: JsonObject | list[Any] | None = None, *, content_type: str | None = None
    ) -> str:
        """Send one request and return the answer's text."""
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type or "application/json"
        # The API server closes a connection that nobody has used for 90 s; one that was used lately is not closed under our hands.
        if time.monotonic() - self._used_at_seconds > IDLE_LIMIT_SECONDS:
            self._connection.close()
        try:
            self._connection.request(method, path, body=data, headers=headers)
            response = self._connection.getresponse()
            text = response.read().decode()
            self._used_at_seconds = time.monotonic()
        except (OSError, http.client.HTTPException):
            # A connection that broke in the middle cannot be used again; the next request opens a new one.
            self._connection.close()
            raise
        if response.status >= 400:
            raise ApiError(response.status, _status(text))
        return text

    def request(
        self, method: str, path: str, body: JsonObject | list[Any] | None = None, *, content_type: str | None = None
    ) -> JsonObject:
        """Send one request and return the answer's object."""
        answer: JsonObject = json.loads(self.request_text(method, path, body, content_type=content_type))
        return answer

    def get(self, path: str) -> JsonObject:
        """GET an object or a list."""
        return self.request("GET", path)

    def create(self, path: str, body: JsonObject) -> JsonObject:
        """POST a new object to its collection."""
        return self.request("POST", path, body)

    def patch(self, path: str, body: JsonObject, *, content_type: str = MERGE_PATCH) -> JsonObject:
        """PATCH an object (a merge patch unless told otherwise)."""
        return self.request("PATCH", path, body, content_type=content_type)

    def apply(self, path: str, body: JsonObject) -> JsonObject:
        """Create or update an object by server-side apply; `path` is the object's own."""
        query = "?fieldManager=fleetpack-hack&force=true"
        return self.request("PATCH", path + query, body, content_type=SERVER_SIDE_APPLY)

    def delete(self, path: str, body: JsonObject | None = None) -> JsonObject:
        """DELETE an object or a collection."""
        return self.request("DELETE", path, body)


def _load_client_certificate(context: ssl.SSLContext, user: JsonObject) -> None:
    # The ssl module reads client certificates from files only.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        file.flush()
        context.load_cert_chain(file.name)


def _status(text: str) -> JsonObject:
    try:
        status = json.loads(text)
    except ValueError:
        return {"message": text.strip()}
    return status if isinstance(status, dict) else {"message": text.strip()}

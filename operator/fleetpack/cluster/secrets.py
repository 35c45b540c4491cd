"""Credentials of signal sources, read from the Secrets that specs name, and kept for a minute.

A Secret holds `token`, or `username` and `password`. The operator reads exactly the Secrets that are named, and only where the chart
was told to allow it. What cannot be read leaves its source without credentials, the source then says so, and the model holds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Iterable, Mapping

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import Json, KubernetesClient, resource_path
from fleetpack.cluster.errors import KubernetesError
from fleetpack.signals import BasicCredentials, BearerToken, Credentials

_logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0

SecretKey = tuple[str, str]
"""Namespace and name."""


class SecretReader:
    """The credentials that are known at the moment."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._read_at: dict[SecretKey, float] = {}
        self._credentials: dict[SecretKey, Credentials] = {}

    async def refresh(self, resources: Iterable[InferenceDeployment]) -> Mapping[SecretKey, Credentials]:
        """Read what is new or a minute old, and return everything that is known."""
        wanted = set(named_secrets(resources))
        now = time.monotonic()
        due = [key for key in wanted if now - self._read_at.get(key, -KEPT_SECONDS) >= KEPT_SECONDS]
        await asyncio.gather(*(self._read(key, now) for key in sorted(due)))
        for key in [key for key in self._read_at if key not in wanted]:
            del self._read_at[key]
            self._credentials.pop(key, None)
        return self._credentials

    async def _read(self, key: SecretKey, now: float) -> None:
        self._read_at[key] = now
        try:
            secret = await self._client.get(resource_path("v1", "secrets", *key), timeout_seconds=2.0)
            self._credentials[key] = credentials_in(secret)
        except (KubernetesError, ValueError) as error:
            self._credentials.pop(key, None)
            _logger.warning("Secret %s/%s of a signal cannot be used: %s", *key, error)


def named_secrets(resources: Iterable[InferenceDeployment]) -> Iterable[SecretKey]:
    """Yield every Secret that a signal names."""
    for resource in resources:
        for signal in resource.spec.scaling.signals:
            if signal.authentication is not None:
                yield resource.metadata.namespace, signal.authentication.secret_ref.name


def credentials_in(secret: Json) -> Credentials:
    """Return what a Secret holds; raises `ValueError` that names the keys it should have."""
    data = secret.get("data") or {}
    try:
        values = {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("a value is no base64 of a text") from error
    if "token" in values:
        return BearerToken(token=values["token"].strip())
    if "username" in values and "password" in values:
        return BasicCredentials(username=values["username"], password=values["password"])
    raise ValueError(
        f"it must have the key token, or username and password; it has {', '.join(sorted(values)) or 'none'}"
    )

"""The objects beside a deployment's Pods, its Service and its disruption budget: made, looked after, and never taken from anybody.

An object is ours while the InferenceDeployment is its controller, by UID: only then is it written. A name that somebody else has taken
stays theirs, and what stands in the way is told in words (`Companions.obstacles`); replicas have nothing to do with it. Where two
deployments of a namespace ask for one Service, the older one gets it.

Each object is read before it is written, and again every few minutes; one that is as it should be costs no write. What fails raises and
is tried again with the next plan; what the API server calls wrong, a minute later.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.cluster.api_client import KubernetesClient, PatchType
from fleetpack.cluster.errors import Invalid, NotFound
from fleetpack.cluster.rendering import Manifest, covers, service_name

LOOK_AGAIN_SECONDS = 300.0
"""A Service or budget that somebody has deleted or changed is made good after about this long; one that is well costs one read."""

TAKEN_SECONDS = 5.0
"""A name that is taken may be free soon: its owner may be a former deployment of the same name, which Kubernetes is about to remove."""

REFUSED_SECONDS = 60.0
"""What is called wrong once will be called so again, unless somebody does something."""

LOOK_TIMEOUT_SECONDS = 4.0
"""As for a write (`api_client.WRITE_TIMEOUT_SECONDS`): the next plan's status waits for whoever is slow."""

LOOKS_AT_ONCE = 16
"""A process that takes over looks at everything: not all of it at once, and so that actions get their turn between the writes."""

_COLLECTIONS = {
    "Service": "/api/v1/namespaces/{namespace}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
}
_WAYS_OUT = {
    "Service": "choose another spec.service.name, or delete that Service",
    "PodDisruptionBudget": "delete that budget, or give this InferenceDeployment another name: it has no budget of ours",
}

Claims = Mapping[tuple[str, str], InferenceDeployment]
"""Who gets the Service of a namespace and name."""


def claims_of(resources: Iterable[InferenceDeployment]) -> Claims:
    """Return who gets which Service: the oldest that asks for it."""
    claims: dict[tuple[str, str], InferenceDeployment] = {}
    for resource in sorted(resources, key=lambda own: (own.metadata.creation_timestamp or "", own.key)):
        if resource.spec.service is not None and resource.metadata.deletion_timestamp is None:
            claims.setdefault((resource.metadata.namespace, service_name(resource)), resource)
    return claims


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was found at the last look, or made of it, and for how long that is good enough."""

    manifest: Manifest
    at: float
    good_for_seconds: float
    obstacle: str = ""


class Companions:
    """Keeps what is known of each such object, by the UID of its deployment and its kind."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._looks: dict[tuple[str, str], _Look] = {}
        self._few_at_once = asyncio.Semaphore(LOOKS_AT_ONCE)

    def forget(self) -> None:
        """Look at everything anew."""
        self._looks.clear()

    def keep(self, uids: frozenset[str]) -> None:
        """Drop what is known of deployments that are gone."""
        self._looks = {key: look for key, look in self._looks.items() if key[0] in uids}

    def obstacles(self, resource: InferenceDeployment) -> dict[str, str]:
        """Return the kinds of which a deployment has no object, because somebody else has its name, with words about it."""
        uid = resource.metadata.uid
        return {kind: look.obstacle for (owner, kind), look in self._looks.items() if owner == uid and look.obstacle}

    async def ensure(self, resource: InferenceDeployment, manifest: Manifest, claims: Claims, now: float) -> None:
        """Give an object its form, unless it has it or is somebody else's."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        key = (resource.metadata.uid, kind)
        last = self._looks.get(key)
        if last is not None and last.manifest == manifest and 0 <= now - last.at < last.good_for_seconds:
            return
        path = f"{_COLLECTIONS[kind].format(namespace=metadata['namespace'])}/{metadata['name']}"
        async with self._few_at_once:
            stored = await self._get(path)
            obstacle = _obstacle(resource, manifest, stored, claims)
            if not obstacle and not covers(stored, manifest):
                try:
                    await self._apply(path, manifest, stored)
                except Invalid:
                    self._looks[key] = _Look(manifest=manifest, at=now, good_for_seconds=REFUSED_SECONDS)
                    raise
        good_for_seconds = TAKEN_SECONDS if obstacle else _spread(key) * LOOK_AGAIN_SECONDS
        self._looks[key] = _Look(manifest=manifest, at=now, good_for_seconds=good_for_seconds, obstacle=obstacle)

    def drop(self, resource: InferenceDeployment, kind: str) -> None:
        """Forget an object that is no longer asked for."""
        self._looks.pop((resource.metadata.uid, kind), None)

    async def _get(self, path: str) -> Manifest:
        """Return what is there; empty where nothing is."""
        try:
            return await self._client.get(path, timeout_seconds=LOOK_TIMEOUT_SECONDS)
        except NotFound:
            return {}

    async def _apply(self, path: str, manifest: Manifest, stored: Manifest) -> None:
        """Write the object that was looked at, or make the one that was not there; nothing that has come in between."""
        if stored:
            manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": stored["metadata"]["uid"]}}
        await self._client.patch(path, manifest, content_type=PatchType.APPLY, force=bool(stored))


def _obstacle(resource: InferenceDeployment, manifest: Manifest, stored: Manifest, claims: Claims) -> str:
    """Return what stands in the way of writing an object; empty: nothing."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if stored:
        controller = next(
            (own for own in stored["metadata"].get("ownerReferences") or () if own.get("controller")), None
        )
        if controller is not None and controller["uid"] == resource.metadata.uid:
            return ""
        if controller is None:
            return f"{kind} {name} is somebody else's, and is left alone: {_WAYS_OUT[kind]}"
        owner = f"{controller['kind']} {controller['name']}"
        if owner == f"{resource.kind} {resource.metadata.name}":
            return f"{kind} {name} belongs to a former {owner}; it is made anew when Kubernetes has removed it, or you have"
        return f"{kind} {name} belongs to {owner}, and is left alone: {_WAYS_OUT[kind]}"
    first = claims.get((resource.metadata.namespace, name)) if kind == "Service" else None
    if first is not None and first.metadata.uid != resource.metadata.uid:
        return (
            f"{kind} {name} is asked for by {first.kind} {first.metadata.name} too, which is older: {_WAYS_OUT[kind]}"
        )
    return ""


def _spread(key: tuple[str, str]) -> float:
    """Return 0.8 to 1.2: what was looked at at once when a process took over is not looked at at once for ever."""
    return 0.8 + 0.4 * (zlib.crc32("/".join(key).encode()) % 1000) / 1000

"""kopf: our own resources and the life of the process. Handlers remember and trigger; they decide nothing.

No index, timer, daemon or change handler is used, so kopf writes nothing to the cluster: no finalizer, no annotation
(designs/0001-one-plan.md has the measured reasons).
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf

from fleetpack.cluster import names
from fleetpack.cluster.api_client import KubernetesClient
from fleetpack.cluster.caches import Caches


class EndlessBackoffs:
    """Seconds between the tries of one request, for as long as it takes; each request begins anew.

    Where they come to an end kopf gives up, and the process with it: an API server that is away for a minute would end all operators at
    once, into a crash loop that outlasts the outage. What our own caches know, and for how long, the probes say.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0, 4.0, 8.0), itertools.repeat(15.0))


def make_registry(
    client: KubernetesClient,
    caches: Caches,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> kopf.OperatorRegistry:
    """Return the handlers of one operator."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**unused: Any) -> kopf.ConnectionInfo:
        configuration = client.configuration
        credential = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization") or ""
        scheme, _, token = str(credential).rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            scheme=scheme or ("Bearer" if token else None),
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    @kopf.on.startup(registry=registry)
    async def started(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        await start()

    @kopf.on.cleanup(registry=registry)
    async def stopping(**_: Any) -> None:
        await stop()

    @kopf.on.event(names.GROUP, names.VERSION, "inferencedeployments", registry=registry)
    async def deployment_seen(type: str | None, body: kopf.Body, **_: Any) -> None:
        caches.deployments.observe(type, dict(body))

    @kopf.on.event(names.GROUP, names.VERSION, "acceleratorpools", registry=registry)
    async def pool_seen(type: str | None, body: kopf.Body, **_: Any) -> None:
        caches.pools.observe(type, dict(body))

    return registry


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what a fleet of thousands needs; each value has its reason in designs/0001-one-plan.md."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    # The server refuses fractions of a second here.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 2.0
    settings.process.ultimate_exiting_timeout = 25
    # Never used; if anything ever adds one, it is recognisable as ours.
    settings.persistence.finalizer = f"{names.GROUP}/finalizer"

"""One number from a Prometheus API by an instant query (prometheus.io/docs/prometheus/latest/querying/api).

The query must come down to one series: none is "no data" and never zero (an exporter that is gone looks the same as an empty
queue), several would have to be added up or averaged, which only their author can say.

Boundary: the number is as old as the answer for us. Prometheus itself looks back up to five minutes for a sample; a query that
must not do so says it (`... and time() - timestamp(...) < 30`). What goes wrong becomes the sample's `error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from fleetpack.core.samples import Sample
from fleetpack.signals.answers import ReadError, describe, failed, number_read, shown_url
from fleetpack.signals.documents import fetch_document
from fleetpack.signals.targets import PrometheusTarget


class PrometheusSource:
    """Reads `PrometheusTarget`s."""

    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock

    async def read(self, target: PrometheusTarget) -> Sample:
        """Ask one query once."""
        try:
            base = httpx.URL(target.url)
            url = base.copy_with(path=base.path.rstrip("/") + "/api/v1/query").copy_add_param("query", target.query)
            status, document = await fetch_document(self._client, url, target.credentials)
            observed_at = self._clock()
            return number_read(target, observed_at, _one_number(status, document))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ReadError) as error:
            return failed(target, self._clock(), f"query at {shown_url(target.url)}: {describe(error)}")


def _one_number(status: int, document: Any) -> float:
    answer = document if isinstance(document, dict) else {}
    if status != 200 or answer.get("status") != "success":
        detail = f"{answer.get('errorType', '')}: {answer['error']}" if "error" in answer else ""
        raise ReadError(f"answered {status} {detail}".rstrip())
    data = answer.get("data")
    data = data if isinstance(data, dict) else {}
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar":
        return _value(result)
    if kind != "vector" or not isinstance(result, list):
        raise ReadError(
            f"answered a {kind}; an instant query must give one number (a scalar or a vector of one series)"
        )
    if not result:
        raise ReadError("no data: the query gives no series; where none means zero, say so in it (`or vector(0)`)")
    if len(result) > 1:
        raise ReadError(f"the query gives {len(result)} series; bring them down to one, as with sum(...)")
    return _value(result[0].get("value") if isinstance(result[0], dict) else None)


def _value(pair: Any) -> float:
    """Read `[time, "number"]`."""
    try:
        _, text = pair
        return float(text)
    except (TypeError, ValueError):
        raise ReadError(f"answered {str(pair)[:60]!r} where [time, number] belongs") from None

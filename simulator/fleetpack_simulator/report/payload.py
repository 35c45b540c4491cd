"""A comparison as plain values: what `--json` writes, and what the page is drawn from. The page holds these very bytes.

Names are camelCase with their units last. Numbers of a row are `{median, lowest, highest}` over seeds, null where there is none. Series
are `[least, mean, most]` per stretch of time, of the first seed. Nothing here depends on the machine: how long a run took is told
on the terminal only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from fleetpack_simulator.report.comparison import Comparison, Row
from fleetpack_simulator.report.downsampling import BUCKETS
from fleetpack_simulator.report.records import RunRecord


def payload_of(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values."""
    setting = comparison.scenario.setting
    summaries = comparison.records[0].summary.models
    return {
        "kind": "comparison",
        "scenario": comparison.scenario.name,
        "durationSeconds": setting.duration_seconds,
        "seeds": sorted({record.seed for record in comparison.records}),
        "policies": list(dict.fromkeys(record.policy for record in comparison.records)),
        "buckets": BUCKETS,
        "models": [
            {
                "deployment": model.deployment,
                "requests": model.requests,
                "objectiveTTFTSeconds": model.objective_ttft_seconds,
                "objectivePercentile": model.objective_percentile,
                "projected": list(model.projected),
                "estimated": list(model.estimated),
            }
            for model in summaries
        ],
        "rows": [_row(row) for row in comparison.rows],
        "runs": [_run(record) for record in comparison.records],
        "load": comparison.load,
        "details": {record.policy: record.detail for record in comparison.records if record.detail is not None},
    }


def as_text(payload: dict[str, Any]) -> str:
    """Return JSON, the same bytes for the same values, without anything that could end a script element."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(row: Row) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "deployment": row.deployment,
        "objectiveKept": row.objective_kept,
        "values": {name: None if spread is None else asdict(spread) for name, spread in row.values.items()},
    }


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "policy": record.policy,
        "seed": record.seed,
        "summary": record.summary.as_json(),
        "bounds": [
            {"deployment": bound.deployment, "usd": bound.usd, "reason": bound.reason} for bound in record.bounds
        ],
    }

"""Rows as a Markdown document has them."""

from __future__ import annotations

from fleetpack_simulator.report.comparison import METRICS, TOTAL, Row, Spread
from fleetpack_simulator.report.tables import markdown_table


def row(deployment: str = TOTAL, **values: tuple[float, float, float]) -> Row:
    """Return a row with 1 for every number that is not given as (median, lowest, highest)."""
    given = {name: Spread(median=middle, lowest=low, highest=high) for name, (middle, low, high) in values.items()}
    rest: dict[str, Spread | None] = {name: Spread(median=1.0, lowest=1.0, highest=1.0) for name in METRICS}
    return Row(policy="keda", deployment=deployment, objective_kept=None, values=rest | given)


def test_should_write_medians_and_the_range_over_seeds_of_share_and_money_only() -> None:
    one = row(inObjective=(0.955, 0.9497, 0.958), usdPerHour=(18.9, 18.7, 19.4), ttftP95Seconds=(2.0, 1.0, 3.0))
    heading, rule, line = markdown_table([one]).splitlines()
    assert heading.startswith("| policy | in objective | TTFT s p50 / p95 / p99 |")
    assert heading.endswith("| replica-hours | scale actions | oscil-lations |")
    assert rule.count("|") == heading.count("|") == line.count("|")
    assert line == (
        "| keda | 95.5 % (94.97–95.8) | 1.00 / 2.00 / 1.00 | 1.00 / 1.00 / 1.00 | 18.90 (18.70–19.40) | 1.00 "
        "| 1.00 | 1.00 | 1.00 | 1.00 | 1 | 1 |"
    )


def test_should_name_the_model_of_a_row_that_is_not_the_total() -> None:
    assert markdown_table([row(deployment="llama-8b")]).splitlines()[2].startswith("| llama-8b | 100 % |")

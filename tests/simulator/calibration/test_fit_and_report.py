"""The fit recovers what it should, the shipped coefficients are the fit's, and the errors stay where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fleetpack_simulator.calibration import prediction
from fleetpack_simulator.calibration.command import coefficients_yaml
from fleetpack_simulator.calibration.fitting import CHIPS, fit
from fleetpack_simulator.calibration.prediction import predict
from fleetpack_simulator.calibration.report import CalibrationReport, calibrate, markdown_tables
from fleetpack_simulator.calibration.rows import Figure, Load, Row, RowSet, packaged_rows, rows_of
from fleetpack_simulator.cli import main
from fleetpack_simulator.engine import Coefficients, coefficients_for, performance
from fleetpack_simulator.settings import hardware_of

# What the fit reached on 2026-11-28 (6.0 % and 23.6 %), with a little room. For rows left out the target itself: 10 % and 25 %
# (reached: 8.1 % and 23.2 % by model family, 8.4 % and 24.4 % by instance type).
MEDIAN_BUDGET, P90_BUDGET = 0.065, 0.25
LEFT_OUT_MEDIAN_BUDGET, LEFT_OUT_P90_BUDGET = 0.1, 0.25


@pytest.fixture(scope="module")
def report() -> CalibrationReport:
    rows = packaged_rows()
    return calibrate(rows, rows)


def test_should_stay_within_the_errors_that_were_reached(report: CalibrationReport) -> None:
    assert report.total.median_abs_error <= MEDIAN_BUDGET
    assert report.total.p90_abs_error <= P90_BUDGET


def test_should_stay_within_the_errors_that_were_reached_for_rows_left_out(report: CalibrationReport) -> None:
    assert [one.by for one in report.left_out] == ["model family", "instance type"]
    for one in report.left_out:
        assert one.total.figures == report.total.figures
        assert one.total.median_abs_error <= LEFT_OUT_MEDIAN_BUDGET
        assert one.total.p90_abs_error <= LEFT_OUT_P90_BUDGET


def test_should_ship_the_coefficients_that_the_fit_gives() -> None:
    fitted = yaml.safe_load(coefficients_yaml(fit(packaged_rows().rows)))["chips"]

    for chip in CHIPS:
        shipped = coefficients_for(hardware_of(chip))
        assert fitted[chip] == pytest.approx({name: getattr(shipped, name) for name in Coefficients.names()}, rel=0.01)


def test_should_name_every_fitted_number_in_the_docs_and_no_more_than_eight_per_chip() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "fidelity.md").read_text(encoding="utf-8")
    table = page.split("| fitted number |")[1].split("\n\n")[0]

    named = tuple(line.split("`")[1] for line in table.splitlines() if line.startswith("| `"))

    assert named == Coefficients.names()
    assert len(named) <= 8


def test_should_say_in_the_docs_which_constants_were_chosen_and_how_large_they_are() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "fidelity.md").read_text(encoding="utf-8")
    table = page.split("| constant |")[1].split("\n\n")[0]

    told = {line.split("`")[1]: line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| `")}

    known = vars(prediction) | vars(performance)
    assert {name: float(Fraction(value)) for name, value in told.items()} == {name: known[name] for name in told}


def test_should_show_in_the_docs_what_it_prints(report: CalibrationReport) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "fidelity.md").read_text(encoding="utf-8")

    assert markdown_tables(report) in page, (
        "put the output of `fleetpack-sim calibrate --markdown` into docs/fidelity.md"
    )


def test_should_have_at_most_eight_numbers_per_chip() -> None:
    assert len(Coefficients.names()) <= 8


def test_should_keep_every_share_below_the_data_sheet() -> None:
    for chip in CHIPS:
        shipped = coefficients_for(hardware_of(chip))
        assert 0 < shipped.weight_bandwidth_share < 1
        assert 0 < shipped.flops_share < 1


def test_should_recover_the_coefficients_that_made_up_rows_come_from() -> None:
    truth = Coefficients(
        weight_bandwidth_share=0.6,
        flops_share=0.3,
        layer_seconds=4e-5,
        collective_seconds=8e-5,
        position_seconds=4e-9,
        sequence_seconds=8e-6,
        prefill_sequence_seconds=2e-4,
        output_gb_per_second=5.0,
        projected=False,
    )
    made_up = [
        _measured_by(row, truth) for row in packaged_rows().rows if row.accelerator in ("inferentia2", "trainium")
    ]

    fitted = fit(made_up)["inferentia2"]

    expected = {name: getattr(truth, name) for name in Coefficients.names()}
    assert {name: getattr(fitted, name) for name in Coefficients.names()} == pytest.approx(expected, rel=0.03)


def _measured_by(row: Row, truth: Coefficients) -> Row:
    predicted = predict(row, truth)
    return replace(row, figures=tuple((figure, predicted[figure]) for figure, _ in row.figures if figure in predicted))


def test_should_not_look_at_the_figures_that_it_predicts() -> None:
    row = packaged_rows().rows[0]
    numbers = coefficients_for(hardware_of(row.accelerator))

    assert predict(row, numbers) == predict(replace(row, figures=((Figure.TTFT, 99.0),)), numbers)


def test_should_predict_a_server_under_load_from_a_run_of_the_engine() -> None:
    common = {"model": "Llama-3.1-8B", "instance": "inf2.48xlarge", "tp": 8, "batch": 32, "max_users": 32}
    rows = rows_of(
        [
            {**common, "prompt_tokens": 1500, "output_tokens": 250, "mode": mode, "itl_ms": 1.0}
            for mode in ("synchronous", "throughput")
        ],
        name="test",
    ).rows
    assert [row.work.load for row in rows] == [Load.SINGLE, Load.CLOSED]  # type: ignore[union-attr]  # both are decoders

    single, loaded = (predict(row, coefficients_for(hardware_of("inferentia2"))) for row in rows)

    # Prefills of others hold up decoding, so a token takes longer under load, and all users together get more of them.
    assert loaded[Figure.TPOT] > 1.5 * single[Figure.TPOT]
    assert loaded[Figure.OUTPUT_TOKENS] > 8 * single[Figure.OUTPUT_TOKENS]
    assert loaded[Figure.TTFT] > 2 * single[Figure.TTFT]


def test_should_keep_one_request_less_under_way_than_users_as_the_client_does() -> None:
    """guidellm 0.1 waits while the requests under way and the next one reach its limit, at a rate and without one."""
    common = {"model": "Qwen3-32B", "instance": "trn2.3xlarge", "tp": 4, "batch": 2, "max_users": 2}
    rows = rows_of(
        [
            {**common, "prompt_tokens": 1500, "output_tokens": 250, "mode": mode, "itl_ms": 1.0}
            for mode in ("synchronous", "throughput", "asynchronous@5 req/sec")
        ],
        name="test",
    ).rows

    single, closed, at_rate = (predict(row, coefficients_for(hardware_of("trainium2"))) for row in rows)

    assert closed[Figure.TPOT] == pytest.approx(single[Figure.TPOT], rel=0.01)
    assert at_rate[Figure.TTFT] == pytest.approx(single[Figure.TTFT], rel=0.01)


def test_should_send_no_faster_than_the_client_makes_prompts() -> None:
    """Four replicas on trn1.32xlarge: 128 users get no more than the client's 7 requests per second, and first tokens seen late."""
    common = {
        "model": "Llama-3.1-8B",
        "instance": "trn1.32xlarge",
        "layout": "DP4 x TP8",
        "batch": 32,
        "max_users": 128,
    }
    rows = rows_of(
        [
            {**common, "prompt_tokens": 1500, "output_tokens": 250, "mode": mode, "itl_ms": 1.0}
            for mode in ("throughput", "asynchronous@7 req/sec")
        ],
        name="test",
    ).rows

    closed, at_rate = (predict(row, coefficients_for(hardware_of("trainium"))) for row in rows)

    assert closed[Figure.REQUESTS] < 7.2
    assert closed[Figure.LATENCY] == pytest.approx(at_rate[Figure.LATENCY], rel=0.05)
    assert closed[Figure.TTFT] > at_rate[Figure.TTFT] + 1
    assert closed[Figure.TPOT] < at_rate[Figure.TPOT]


def test_should_tell_how_many_fits_are_done() -> None:
    rows = rows_of([{"model": "Llama-3.1-8B", "instance": "inf2.48xlarge", "tp": 8, "tpot_ms": 9.0}], name="test")
    heard: list[tuple[int, int]] = []

    calibrate(rows, RowSet(rows=packaged_rows().rows[:4], skipped=()), lambda done, of: heard.append((done, of)))

    assert heard == [(1, 2), (2, 2)]


def test_should_list_a_row_whose_model_does_not_fit_and_predict_the_others() -> None:
    row = {"model": "mine", "instance": "inf2.xlarge", "tp": 2, "tpot_ms": 7.0}
    rows = rows_of([{**row, "parameters_billions": 900}, {**row, "parameters_billions": 3}], name="test")

    report = calibrate(rows, RowSet(rows=packaged_rows().rows[:4], skipped=()))

    assert [one.row.number for one in report.comparisons] == [2]
    assert "do not fit 2 cores of inferentia2" in report.skipped[0].reason


def test_should_mark_what_was_never_measured() -> None:
    rows = rows_of([{"model": "Llama-3.1-8B", "instance": "p5.48xlarge", "tp": 1, "tpot_ms": 7.0}], name="test")

    (comparison,) = calibrate(rows, RowSet(rows=packaged_rows().rows[:4], skipped=())).comparisons

    assert comparison.projected


def test_should_print_its_report_as_json() -> None:
    outcome = CliRunner().invoke(main, ["calibrate", "--json"])

    answer = json.loads(outcome.output)
    errors = sorted(abs(row["error"]) for row in answer["rows"] if row["counted"])
    assert answer["median_abs_error"] == errors[(len(errors) + 1) // 2 - 1]
    assert answer["p90_abs_error"] in errors
    assert set(answer["left_out"]) == {"model family", "instance type"}


def test_should_print_a_table_for_people() -> None:
    outcome = CliRunner().invoke(main, ["calibrate"])

    assert outcome.exit_code == 0
    for words in ("measured", "predicted", "leave one model family out", "leave one instance type out", "projected"):
        assert words in outcome.output


def test_should_refuse_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("[]")

    outcome = CliRunner().invoke(main, ["calibrate", "--rows", str(path)])

    assert outcome.exit_code == 2
    assert "no rows" in outcome.output

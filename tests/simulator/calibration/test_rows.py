"""What the reader makes of rows as their publishers print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetpack_simulator.calibration.rows import (
    DecoderWork,
    Figure,
    FixedShapeWork,
    Load,
    RowsError,
    packaged_rows,
    read_rows,
    rows_of,
)


def test_should_read_an_offline_batch_of_a_decoder() -> None:
    (row,) = rows_of(
        [
            {
                "model": "Llama-3-8B",
                "instance": "inf2.48xlarge",
                "tp": 24,
                "batch": 8,
                "seq": 4096,
                "input_len": 128,
                "output_len": 3968,
                "weights": "int8",
                "tok_s": 859.09,
                "ttft_p50_ms": 66.02,
                "tpot_p50_ms": 10.45,
            }
        ],
        name="test",
    ).rows

    assert (row.family, row.accelerator) == ("llama-3", "inferentia2")
    assert row.work == DecoderWork(
        cores=24,
        replicas=1,
        batch=8,
        window_tokens=4096,
        prompt_tokens=128,
        output_tokens=3968,
        weight_bits=8,
        load=Load.BATCH,
        users=8,
    )
    assert dict(row.figures) == pytest.approx(
        {Figure.TTFT: 0.06602, Figure.TPOT: 0.01045, Figure.OUTPUT_TOKENS: 859.09}
    )


def test_should_read_layout_and_rate_of_a_run_against_a_server() -> None:
    (row,) = rows_of(
        [
            {
                "model": "meta-llama_Meta-Llama-3.1-8B-Instruct",
                "instance": "trn1.32xlarge (inferred: 4x8 cores)",
                "layout": "DP4 x TP8",
                "batch": 32,
                "max_users": 128,
                "prompt_tokens": 1500,
                "output_tokens": 250,
                "mode": "asynchronous@6.68 req/sec",
                "itl_ms": 52.19,
            }
        ],
        name="test",
    ).rows

    assert isinstance(row.work, DecoderWork)
    assert (row.instance_type, row.work.cores, row.work.replicas) == ("trn1.32xlarge", 8, 4)
    assert (row.work.load, row.work.rate_per_second) == (Load.OPEN, 6.68)


def test_should_make_a_row_of_each_batch_that_was_read_from_a_plot() -> None:
    rows = rows_of(
        [
            {
                "model": "Llama-3.1-8B",
                "instance": "inf2.48xlarge",
                "tp": 8,
                "itl_ms": {1: 11, 4: 12.5},
                "ttft_s": {1: 0.3},
            }
        ],
        name="test",
    ).rows

    assert [(row.work.batch, dict(row.figures)) for row in rows] == [
        (1, {Figure.TTFT: 0.3, Figure.TPOT: 0.011}),
        (4, {Figure.TPOT: 0.0125}),
    ]


def test_should_read_an_encoder_as_a_server_of_fixed_shapes() -> None:
    (row,) = rows_of(
        [
            {
                "model": "bert-base-uncased",
                "instance": "inf2.xlarge",
                "batch": 8,
                "seq": 128,
                "p50_ms": 5.974,
                "inf_s": 2674.2,
            }
        ],
        name="test",
    ).rows

    assert row.work == FixedShapeWork(batch=8, tokens=128, passes=None)


def test_should_take_an_unknown_model_from_its_row() -> None:
    (row,) = rows_of(
        [
            {
                "model": "mine/Unheard-Of",
                "instance": "inf2.48xlarge",
                "tp": 24,
                "ttft_p50_ms": 1.0,
                "parameters_billions": 9,
                "layers": 40,
                "kv_heads": 4,
            }
        ],
        name="test",
    ).rows

    assert isinstance(row.work, DecoderWork)
    assert row.work.shape is not None
    assert (row.family, row.work.shape.parameters_billions) == ("unheard", 9)
    assert (row.work.shape.layers, row.work.shape.kv_heads, row.work.shape.hidden_size) == (40, 4, 4096)


def test_should_say_why_a_row_is_not_predicted() -> None:
    known = {"model": "Llama-3-8B", "instance": "inf2.48xlarge", "tp": 24, "ttft_p50_ms": 1.0}

    skipped = rows_of(
        [
            known,
            {**known, "instance": "x9.large"},
            {**known, "model": "Unheard-Of"},
            {**known, "model": None},
            {**known, "batch": "many"},
            {**known, "spec_decode": {"ttft_ms": 1.0}},
        ],
        name="test",
    ).skipped

    assert [one.reason for one in skipped] == [
        "instance 'x9.large' is not in the catalog",
        "model 'Unheard-Of' is not a published decoder that is known here, and its name has no size; "
        "give it parameters_billions, and layers, hidden_size, kv_heads if you can",
        "it names no model",
        "a field that cannot be read: invalid literal for int() with base 10: 'many'",
        "speculative decoding is not modelled",
    ]


@pytest.mark.parametrize("text", ["", "7", "calibration: {}", "[1, 2]", "a: ["])
def test_should_refuse_a_file_without_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(text)

    with pytest.raises(RowsError, match=r"rows\.yaml"):
        read_rows(path)


@pytest.mark.parametrize("name", ["published", "held_out"])
def test_should_bring_its_rows_along_each_with_a_source(name: str) -> None:
    rows = packaged_rows(name).rows

    assert len(rows) >= 19
    assert all(row.source for row in rows)

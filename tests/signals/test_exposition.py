"""Pages of engines, and the numbers that are read from them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fleetpack.signals import MetricNames
from fleetpack.signals.exposition import PageError, PageNumbers, read_page

OWN_NAMES = MetricNames(waiting="app_waiting", running="app_running", finished=("app_done",), ttft="app_ttft_seconds")


def page(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def numbers(
    waiting: float | None = None,
    running: float | None = None,
    finished_total: float | None = None,
    ttft_buckets: tuple[tuple[float, float], ...] = (),
) -> PageNumbers:
    return PageNumbers(waiting=waiting, running=running, finished_total=finished_total, ttft_buckets=ttft_buckets)


def test_should_read_the_page_of_a_vllm_server():
    model = 'model_name="meta-llama/Llama-3.1-8B-Instruct"'
    text = page(
        "# HELP vllm:num_requests_running Number of requests currently running on GPU.",
        "# TYPE vllm:num_requests_running gauge",
        f'vllm:num_requests_running{{engine="0",{model}}} 12.0',
        "# TYPE vllm:num_requests_waiting gauge",
        f'vllm:num_requests_waiting{{engine="0",{model}}} 3.0',
        f'vllm:num_requests_waiting_by_reason{{engine="0",{model},reason="capacity"}} 900.0',
        "# TYPE vllm:request_success_total counter",
        f'vllm:request_success_total{{engine="0",finished_reason="stop",{model}}} 100.0',
        f'vllm:request_success_total{{engine="0",finished_reason="length",{model}}} 20.0',
        f'vllm:request_success_total{{engine="0",finished_reason="abort",{model}}} 3.0',
        f'vllm:request_success_created{{engine="0",finished_reason="stop",{model}}} 1.7e+09',
        "# TYPE vllm:time_to_first_token_seconds histogram",
        f"vllm:time_to_first_token_seconds_sum{{{model}}} 44.5",
        f'vllm:time_to_first_token_seconds_bucket{{le="0.1",{model}}} 30.0',
        f'vllm:time_to_first_token_seconds_bucket{{le="1.0",{model}}} 110.0',
        f'vllm:time_to_first_token_seconds_bucket{{le="+Inf",{model}}} 123.0',
        f"vllm:time_to_first_token_seconds_count{{{model}}} 123.0",
    )

    found = read_page(text, MetricNames.VLLM)

    assert found == numbers(3.0, 12.0, 123.0, ((0.1, 30.0), (1.0, 110.0), (math.inf, 123.0)))


def test_should_read_the_page_of_a_tgi_server():
    text = page(
        "# TYPE tgi_queue_size gauge",
        "tgi_queue_size 7",
        "# TYPE tgi_batch_current_size gauge",
        "tgi_batch_current_size 16",
        "tgi_request_count 500",
        "tgi_request_success 440",
        'tgi_request_failure{err="overloaded"} 30',
        'tgi_request_failure{err="validation"} 7',
    )

    assert read_page(text, MetricNames.TGI) == numbers(7.0, 16.0, 477.0)


def test_should_read_the_page_of_a_triton_server_in_seconds():
    text = page(
        'nv_inference_pending_request_count{model="a",version="1"} 2.000000',
        'nv_inference_pending_request_count{model="b",version="1"} 3.000000',
        'nv_inference_request_success{model="a",version="1"} 90.000000',
        'nv_inference_request_failure{model="a",reason="OTHER",version="1"} 10.000000',
        'nv_inference_first_response_histogram_ms_bucket{model="a",le="100"} 4',
        'nv_inference_first_response_histogram_ms_bucket{model="a",le="5000"} 5',
        'nv_inference_first_response_histogram_ms_bucket{model="a",le="+Inf"} 5',
    )

    assert read_page(text, MetricNames.TRITON) == numbers(5.0, None, 100.0, ((0.1, 4.0), (5.0, 5.0), (math.inf, 5.0)))


def test_should_add_up_the_engines_of_one_server():
    text = page(
        'app_waiting{engine="0"} 3',
        'app_waiting{engine="1"} 4',
        'app_running{engine="0"} 1',
        'app_running{engine="1"} 2',
        'app_ttft_seconds_bucket{engine="0",le="1"} 5',
        'app_ttft_seconds_bucket{engine="1",le="1.0"} 6',
    )

    assert read_page(text, OWN_NAMES) == numbers(7.0, 3.0, None, ((1.0, 11.0),))


@pytest.mark.parametrize(
    "line",
    [
        "app_waiting 30",
        "app_waiting 3e1",
        "app_waiting  3.0E+01   1395066363000",
        "app_waiting\t30\t-1",
        "app_waiting{} 30",
        "app_waiting { } 30",
        'app_waiting{path="C:\\\\dir} 99 \\"x\\"",le="7"} 30',
        'app_waiting{a="1",} 30 1520879607.789',
        'app_waiting{a="#"} 30 # {trace_id="KOO5S4vxi0o"} 0.67 1520879607.789',
        "app_waiting 30\r",
    ],
)
def test_should_understand_every_way_to_write_a_sample(line: str):
    assert read_page(page(line), MetricNames(waiting="app_waiting")) == numbers(30.0)


def test_should_find_a_counter_under_its_other_spelling():
    text = page("app_done_total 4", "app_done_created 1.7e9", "other 1")

    assert read_page(text, MetricNames(finished=("app_done",))) == numbers(finished_total=4.0)
    assert read_page(page("app_done 4"), MetricNames(finished=("app_done_total",))) == numbers(finished_total=4.0)


def test_should_not_count_two_spellings_of_one_counter_twice():
    text = page("app_done_total 4", "app_done 4")

    assert read_page(text, MetricNames(finished=("app_done_total",))) == numbers(finished_total=4.0)


def test_should_know_no_counter_before_the_first_request():
    text = page("app_waiting 0", "app_running 0")

    assert read_page(text, OWN_NAMES) == numbers(0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (page("app_running 1"), "the page has no app_waiting"),
        ("", "the page has no app_waiting"),
        ("<!doctype html><html></html>", "the page has no app_waiting"),
        (page("app_waiting NaN"), "app_waiting is NaN; it must be a number from 0 to 1e+12"),
        (page("app_waiting -1"), "app_waiting is -1; it must be a number from 0 to 1e+12"),
        (page("app_waiting 1e308"), "app_waiting is 1e308; it must be a number from 0 to 1e+12"),
        (page('app_waiting{m="a"} 1e12', 'app_waiting{m="b"} 1'), "app_waiting adds up to more than 1e+12"),
        (page("app_waiting +Inf"), "app_waiting is +Inf; it must be a number from 0 to 1e+12"),
        (page("app_waiting many"), "app_waiting is 'many', which is no number"),
        (page('app_waiting{a="1" 3'), "the line 'app_waiting{a=\"1\" 3' is no sample"),
        (page("app_waiting"), "the line 'app_waiting' is no sample"),
        (page("app_waiting 1_000"), "the line 'app_waiting 1_000' is no sample"),
        (page("app_running 1") + "app_waiting 12", "the page is cut off in 'app_waiting 12'"),
        (
            page("app_ttft_seconds_bucket 3"),
            "app_ttft_seconds_bucket has a bucket without a readable le label: ''",
        ),
        (
            page('app_ttft_seconds_bucket{le="soon"} 3'),
            "app_ttft_seconds_bucket has a bucket without a readable le label: 'le=\"soon\"'",
        ),
        (
            page(
                "app_waiting 1",
                "app_running 1",
                'app_ttft_seconds_bucket{le="1"} 3',
                'app_ttft_seconds_bucket{le="2"} 2',
            ),
            "app_ttft_seconds_bucket falls at le=2: from 3 to 2, yet buckets are cumulative",
        ),
    ],
)
def test_should_say_what_is_wrong_with_a_page(text: str, message: str):
    with pytest.raises(PageError) as raised:
        read_page(text, OWN_NAMES)

    assert str(raised.value) == message


LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["}", '"', "\\", ',le="5"', ' le="', "\n", "# {", "app_waiting 5"]
)


@given(
    gauges=st.dictionaries(LABEL_VALUES, st.floats(0, 1e9), min_size=1, max_size=4),
    counts=st.dictionaries(LABEL_VALUES, st.integers(1, 10**6), min_size=1, max_size=4),
    observations=st.lists(st.floats(0, 100), min_size=1, max_size=20),
    label=LABEL_VALUES,
)
def test_should_read_whatever_the_official_client_writes(
    gauges: dict[str, float], counts: dict[str, int], observations: list[float], label: str
):
    registry = CollectorRegistry()
    waiting = Gauge("app_waiting", "Waiting.", ["model"], registry=registry)
    running = Gauge("app_running", "Running.", registry=registry)
    done = Counter("app_done", "Done.", ["reason"], registry=registry)
    ttft = Histogram("app_ttft_seconds", "First token.", ["a"], buckets=(1.0, 10.0), registry=registry)
    for value, number in gauges.items():
        waiting.labels(value).set(number)
    for value, count in counts.items():
        done.labels(value).inc(count)
    for seconds in observations:
        ttft.labels(label).observe(seconds)
    running.set(2)

    found = read_page(generate_latest(registry).decode(), OWN_NAMES)

    assert found == numbers(
        pytest.approx(sum(gauges.values())),
        2.0,
        float(sum(counts.values())),
        tuple((bound, float(sum(seconds <= bound for seconds in observations))) for bound in (1.0, 10.0, math.inf)),
    )

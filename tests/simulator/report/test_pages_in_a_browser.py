"""The pages as a person has them: opened from a file in a real browser without a network, drawn, and touched with the mouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from browser import Browser, Tab, started_browser
from browser_program import NoBrowserError, find_browser
from fleetpack_simulator.cli import main
from scenario_files import MANIFESTS, write

SCENARIO = (
    "duration: 6m\nstartup: {chat: 20s, code: 20s}\nloads: {"
    "chat: {generator: spike, at: 1m, options: {ratePerSecond: 2, peakRatePerSecond: 16, atSeconds: 60, widthSeconds: 60}}, "
    "code: {generator: constant, at: 1m, options: {ratePerSecond: 1}}}"
)
SECOND = MANIFESTS.split("---")[2].replace("{name: chat}", "{name: code}")
POLICIES = ("fleetpack", "hpa", "static-2", "static-3")
# What a person who opens the page first sees: three policies' lines, the others behind their chips.
SHOWN_AT_FIRST = 3
# The run of six minutes, in 300 stretches.
STRETCH_SECONDS = 362 / 300
CHARTS = "[...document.querySelectorAll('.chart')]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    try:
        program = find_browser()
    except NoBrowserError as nothing:
        pytest.skip(str(nothing))
    with started_browser(program) as one:
        yield one


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four policies, two seeds and two models; its JSON lies beside it."""
    folder = tmp_path_factory.mktemp("compared")
    page = folder / "page.html"
    scenario = write(folder, SCENARIO, f"{MANIFESTS}---{SECOND}")
    options = ["--policies", ",".join(POLICIES), "--seeds", "2", "--jobs", "1", "--html", str(page)]
    answer = CliRunner().invoke(
        main, ["compare", "--scenario", str(scenario), *options, "--json", str(folder / "page.json")]
    )
    assert page.exists(), answer.output
    return page


@pytest.fixture(scope="module")
def payload(compared: Path) -> Any:
    """What the comparison's page was drawn from."""
    return json.loads(compared.with_suffix(".json").read_text())


@pytest.fixture
def comparison(browser: Browser, compared: Path) -> Tab:
    """The comparison, freshly opened."""
    return browser.open(compared)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run."""
    folder = tmp_path_factory.mktemp("played")
    page = folder / "page.html"
    answer = CliRunner().invoke(
        main, ["run", str(write(folder, SCENARIO, f"{MANIFESTS}---{SECOND}")), "--html", str(page)]
    )
    assert page.exists(), answer.output
    return page


@pytest.fixture(scope="module")
def accelerators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the buyer's question."""
    page = tmp_path_factory.mktemp("accelerators") / "page.html"
    trace = page.with_name("load.csv")
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at / 2},400,80\n" for at in range(60)))
    options = ["--model", "meta-llama/Llama-3.2-1B-Instruct", "--trace", str(trace), "--jobs", "1"]
    answer = CliRunner().invoke(main, ["accelerators", *options, "--html", str(page)])
    assert page.exists(), answer.output
    return page


@pytest.mark.parametrize("kind", ["compared", "played", "accelerators"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_should_open_without_an_error_and_without_asking_for_anything(
    browser: Browser, request: pytest.FixtureRequest, kind: str, width: int, scheme: str
) -> None:
    page: Path = request.getfixturevalue(kind)

    tab = browser.open(page, width=width, scheme=scheme)

    drawn = tab.evaluate("document.querySelectorAll('svg, canvas').length")
    wider = tab.evaluate("document.documentElement.scrollWidth")
    assert (tab.problems, tab.fetched, wider, drawn > 0) == ([], [page.as_uri()], width, True)


def lines_of(tab: Tab, chart: int) -> dict[str, list[float]]:
    """Return the values of each line of a chart by its colour, read off the drawing: heights between the axis's own marks."""
    svg = f"{CHARTS}[{chart}].querySelector('svg')"
    lines: list[tuple[str, list[list[float]]]] = tab.evaluate(
        f"[...{svg}.querySelectorAll('polyline')].map((line) => [line.getAttribute('stroke'), "
        "[...line.points].map((point) => [point.x, point.y])])"
    )
    marks: list[tuple[float, str]] = tab.evaluate(
        f"[...{svg}.querySelectorAll('line.grid')].map((mark) => [mark.y1.baseVal.value, mark.nextSibling.textContent])"
    )
    wide = tab.evaluate(f"{svg}.viewBox.baseVal.width")
    (zero_y, zero), (top_y, top) = marks[0], marks[-1]
    assert zero == "0"
    assert all(0 <= x <= wide for _, points in lines for x, _ in points)
    scale = float(top.replace(",", "")) / (zero_y - top_y)
    return {color: [(zero_y - y) * scale for _, y in points] for color, points in lines}


def colors_of(tab: Tab) -> dict[str, str]:
    """Return the colour that each policy's chip has."""
    chips = tab.evaluate(
        "[...document.querySelectorAll('.chip')].map((chip) => [chip.textContent, chip.style.getPropertyValue('--chip')])"
    )
    return dict(chips)


def test_should_draw_the_lines_of_every_policy_that_is_shown(comparison: Tab, payload: Any) -> None:
    colors = colors_of(comparison)

    titles = comparison.evaluate(f"{CHARTS}.map((chart) => chart.querySelector('h3').firstChild.textContent)")
    drawn = [lines_of(comparison, chart) for chart in range(len(titles))]

    model = payload["models"][0]["deployment"]
    first = POLICIES[:SHOWN_AT_FIRST]
    assert (titles, len(set(colors.values()))) == (["Load", "Replicas", "Queue", "Cost"], len(POLICIES))
    assert len(drawn[0]) == 1
    assert [list(lines) for lines in drawn[1:]] == 3 * [[colors[name] for name in first]]
    for field, lines in zip(("ready", "waiting", "usdPerHour"), drawn[1:], strict=True):
        for name in first:
            means = [one for one in payload["details"][name]["series"][model][field][1] if one is not None]
            # A tenth of a pixel is what the drawing is rounded to.
            assert lines[colors[name]] == pytest.approx(
                means, abs=0.002 * max(max(lines[one]) for one in lines) + 1e-9
            ), field


def test_should_show_and_hide_a_policy_by_its_chip(comparison: Tab) -> None:
    colors = colors_of(comparison)
    chip = "[...document.querySelectorAll('.chip')].find((one) => one.textContent === '{}')"

    comparison.click(chip.format("static-3"))
    comparison.click(chip.format("fleetpack"))

    pressed = comparison.evaluate(
        "[...document.querySelectorAll('.chip')].map((one) => one.getAttribute('aria-pressed'))"
    )
    assert (pressed, list(lines_of(comparison, 1))) == (
        ["false", "true", "true", "true"],
        [colors[name] for name in POLICIES[1:]],
    )


def number_of(series: Any, index: int) -> str:
    """Return a mean with its least and most, as the page writes them."""
    least, mean, most = (f"{values[index]:.3g}" for values in series)
    return f"{mean} ({least} to {most})"


def test_should_say_the_very_numbers_of_the_run_under_the_mouse(comparison: Tab, payload: Any) -> None:
    picture = f"{CHARTS}[1].querySelector('svg')"

    comparison.hover(picture, across=0.5)

    told = comparison.evaluate(
        "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    )
    model = payload["models"][0]["deployment"]
    when, *lines = told.splitlines()
    found = dict(line.split(": ") for line in lines)
    # The time in the first line says which stretch it is: they are a little over a second long.
    minutes, seconds = when.split(" ")[0].split(":")
    at_seconds = int(minutes) * 60 + int(seconds)
    near = range(round(at_seconds / STRETCH_SECONDS) - 3, round(at_seconds / STRETCH_SECONDS) + 4)
    for name in POLICIES[:SHOWN_AT_FIRST]:
        series = payload["details"][name]["series"][model]["ready"]
        assert found[name] in {number_of(series, index) for index in near if series[1][index] is not None}, told
    comparison.move_to(1, 1)
    assert comparison.evaluate("document.getElementById('tip').hidden")


def test_should_draw_each_policy_with_its_bound_in_cost_against_objective(comparison: Tab, payload: Any) -> None:
    points = {
        row["policy"]: row["values"]
        for row in payload["rows"]
        if row["deployment"] == "total" and row["values"]["usdPerHour"]
    }
    picture = "document.querySelector('svg[aria-label^=\"USD per hour against\"]')"
    colors = colors_of(comparison)

    dots = comparison.evaluate(
        f"Object.fromEntries([...{picture}.querySelectorAll('circle[fill^=\"#\"]')].map((dot) => [dot.getAttribute('fill'), "
        "[dot.cx.baseVal.value, dot.cy.baseVal.value]]))"
    )
    comparison.hover(f"{picture}.querySelector('circle[fill=\"{colors['fleetpack']}\"]')")
    told = comparison.evaluate("document.getElementById('tip').textContent")

    by_cost = sorted(points, key=lambda name: points[name]["usdPerHour"]["median"])
    by_share = sorted(points, key=lambda name: points[name]["inObjective"]["median"])
    # Higher is dearer (y grows downwards), further right is better.
    assert sorted(points, key=lambda name: -dots[colors[name]][1]) == by_cost
    assert sorted(points, key=lambda name: dots[colors[name]][0]) == by_share
    assert told.splitlines()[0] == "fleetpack"
    assert f"{points['fleetpack']['usdPerHour']['median']:.3g} USD per hour" in told


def test_should_show_whose_core_it_is_under_the_mouse_and_another_policys_map(comparison: Tab, payload: Any) -> None:
    canvas = "document.querySelector('canvas')"
    colored = (
        f"(() => {{ const one = {canvas}, data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data; "
        "const seen = new Set(); for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) "
        "seen.add(`${data[at]} ${data[at + 1]} ${data[at + 2]}`); return seen.size; })()"
    )
    last_placed = max(payload["details"]["fleetpack"]["placements"], key=lambda one: one[4])

    # The two models and what is idle at least.
    assert comparison.evaluate(colored) >= 3
    comparison.hover(canvas, across=0.6, down=0.03)
    told = comparison.evaluate("document.getElementById('tip').textContent")
    comparison.choose("document.querySelectorAll('select')[1]", "static-2")

    assert "core 0" in told
    assert any(one[0] in told for one in payload["details"]["fleetpack"]["placements"]), (told, last_placed)
    assert (
        comparison.evaluate(f"{canvas}.getAttribute('aria-label')")
        == "Which model had which cores when, under static-2"
    )


def test_should_find_decisions_by_words_and_by_reason(comparison: Tab, payload: Any) -> None:
    every = payload["details"]["fleetpack"]["decisions"]
    rows = "document.querySelectorAll('ol.decisions li')"
    reason = every[0][5]

    comparison.type_into("document.querySelector('input[type=search]')", "default/code")
    by_words = comparison.evaluate(f"[...{rows}].map((one) => one.textContent)")
    comparison.evaluate(
        "(() => { const one = document.querySelector('input[type=search]'); one.value = ''; one.dispatchEvent(new Event('input')); })()"
    )
    comparison.choose("document.querySelectorAll('select')[3]", reason)
    by_reason = comparison.evaluate(f"[...{rows}].map((one) => one.querySelector('b').textContent)")

    of_code = [one for one in every if "default/code" in f"{one[1]} {one[2]} {one[5]} {one[6]}"]
    assert (len(by_words), all("default/code" in text for text in by_words)) == (len(of_code), True)
    assert by_reason == [reason] * sum(one[5] == reason for one in every)


def test_should_sort_the_table_by_a_heading(comparison: Tab, payload: Any) -> None:
    totals = {
        row["policy"]: row["values"]["usdPerHour"]["median"] for row in payload["rows"] if row["deployment"] == "total"
    }
    names = "[...document.querySelectorAll('tbody tr:not(.model) td:first-child')].map((one) => one.textContent)"
    heading = "[...document.querySelectorAll('th')].find((one) => one.textContent === 'USD/h')"

    comparison.click(heading)
    dearest_first = comparison.evaluate(names)
    comparison.click(heading)

    assert dearest_first == sorted(totals, key=lambda name: -totals[name])
    assert comparison.evaluate(names) == dearest_first[::-1]


def test_should_change_between_light_and_dark(comparison: Tab) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = comparison.evaluate(background)

    comparison.click("document.getElementById('theme')")

    dark = comparison.evaluate(background)
    assert (light, dark, comparison.problems) == ("rgb(247, 246, 242)", "rgb(21, 21, 20)", [])


def test_should_draw_one_run_as_it_draws_several(browser: Browser, played: Path) -> None:
    tab = browser.open(played)

    drawn = [len(lines_of(tab, chart)) for chart in range(4)]

    assert drawn == [1, 1, 1, 1]
    assert tab.evaluate("document.querySelector('canvas').getAttribute('aria-label')").endswith("under fleetpack")


def test_should_draw_a_bar_for_each_accelerator_that_has_a_price(browser: Browser, accelerators: Path) -> None:
    tab = browser.open(accelerators)

    bars = tab.evaluate("[...document.querySelectorAll('svg rect')].map((bar) => bar.width.baseVal.value)")
    known = tab.evaluate(
        "new Set(data.answers.filter((one) => one.usdPerMillionOutputTokens !== null).map((one) => one.accelerator)).size"
    )

    # The cheapest first.
    assert (len(bars), bars) == (known, sorted(bars))

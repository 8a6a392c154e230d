"""The report in a browser: what is seen, searched, pointed at and clicked, without a complaint of axe-core."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from parity.report.render import render
from parity.tests.browser import DESKTOP, PHONE, browser, find, tab
from parity.tests.test_report import BAD, SOURCE, explained, run

expect.set_options(timeout=60_000)  # of a loaded machine


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = find()
    if not executable:
        pytest.skip("no Chromium or Chrome is installed: the page's structure is tested, its looks are not")
    with browser(executable) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A green report, but for a hole, and a red one, with its stage's page and all in one file."""
    holed = run()
    holed.coverage[0].leaves_compared, holed.coverage[0].uncovered = 3, ["transformer_blocks.0.a_long_name.to_out.0"]
    found = {}
    for name, results in (("holed", holed), ("red", explained())):
        folder = tmp_path_factory.mktemp(name)
        results.write(folder / "results.json")
        found[name] = render(folder / "results.json", single_file=name == "red")[0]
        found[f"{name} stage"] = folder / "report" / "transformer.html"
    found["red single"] = found["red"].with_name("report-single.html")
    return found


@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [("red", DESKTOP, True), ("red stage", PHONE, False)],
)
def test_nothing_overflows_nothing_complains_and_axe_finds_nothing(
    chromium: Browser, pages: dict[str, Path], name: str, size: tuple[int, int], dark: bool
) -> None:
    with tab(chromium, size, dark) as page:
        page.goto(pages[name].as_uri())
        page.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true; })")
        if "stage" in name:
            page.wait_for_selector(".charts canvas")
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window == size[0]
        assert page.complaints == []  # type: ignore[attr-defined]
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert not found, [(v["id"], v["nodes"][0]["html"]) for v in found]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_failure_and_its_cause_are_seen_without_scrolling_and_its_row_is_a_click_away(
    chromium: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    with tab(chromium, size) as page:
        page.goto(pages["red"].as_uri())
        bottom = page.evaluate("document.querySelector('#causes + ol').getBoundingClientRect().bottom")
        assert 0 < bottom <= size[1]
        assert page.evaluate("document.getElementById('first-divergence').getBoundingClientRect().top") > 0
        page.click("#first-divergence .place a")
        chosen = page.locator("tr.chosen")
        expect(chosen).to_contain_text("diverged")
        assert chosen.locator("td").first.inner_text() == BAD
        expect(page.locator("tr.more-of")).to_contain_text(SOURCE)
        expect(page.locator("tr.more-of")).to_contain_text(f"parity bisect transformer tiny-2.0 base A {BAD}")


def test_taps_are_searched_and_filtered(chromium: Browser, pages: dict[str, Path]) -> None:
    with tab(chromium) as page:
        page.goto(pages["red stage"].as_uri())
        count = page.locator(".explorer .count")
        expect(count).to_have_text("2 of 16 tensors")  # what does not pass comes first
        page.select_option("[name=verdict]", "")
        page.fill("[name=q]", "BLOCKS.2 ff")
        expect(count).to_have_text("2 of 16 tensors")
        page.select_option("[name=lane]", "C")
        expect(count).to_have_text("1 of 16 tensors")
        assert page.locator(".taps tbody td").first.inner_text() == "transformer_blocks.2.ff"
        page.goto(pages["holed"].as_uri())
        page.fill(".finder input", "blocks.1.attn1")
        page.click(".finder li a")
        expect(count).to_have_text("2 of 16 tensors")
        page.click('a[href="#cell-transformer-tiny-2.0"]')
        expect(page.locator("#cell-transformer-tiny-2\\.0 table").first).to_be_visible()


def test_a_chart_tells_what_is_pointed_at_zooms_and_leads_to_the_row(chromium: Browser, pages: dict[str, Path]) -> None:
    with tab(chromium) as page:
        page.goto(pages["red stage"].as_uri())
        over = page.locator(".charts .u-over").first
        box = over.bounding_box()
        assert box
        place = {"x": box["width"] * 3 / 7, "y": box["height"] / 2}  # the fourth of eight taps
        over.hover(position=place)
        tip = page.locator(".charts .tip").first
        numbers = rf"{re.escape(BAD)}\s+isolated: ratio \S+ \(diverged\), rel L2 \S+, torch's \S+"
        assert re.match(numbers, tip.inner_text())
        assert re.search(r"std ours \S+, reference \S+", tip.inner_text())
        over.click(position=place)
        expect(page.locator("tr.chosen td").first).to_have_text(BAD)
        page.mouse.move(box["x"] + 5, box["y"] + 20)
        over.drag_to(over, source_position={"x": 5, "y": 20}, target_position={"x": place["x"] + 9, "y": 20})
        over.hover(position={"x": box["width"] - 2, "y": 20})
        assert BAD in tip.inner_text(), "zoomed in, it is the last"


def test_without_a_script_the_numbers_are_there(chromium: Browser, pages: dict[str, Path]) -> None:
    with tab(chromium, script=False) as page:
        page.goto(pages["red stage"].as_uri())
        expect(page.locator("#cell-transformer-tiny-2\\.0 table").first).to_contain_text(BAD)
        expect(page.locator("noscript img")).to_be_visible()
        assert not page.locator(".choices").is_visible()


def test_one_file_holds_all_pages(chromium: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "mail.html"
    alone.write_bytes(pages["red single"].read_bytes())
    with tab(chromium, PHONE) as page:
        page.goto(alone.as_uri())
        page.click("#first-divergence .place a")
        assert page.locator("tr.chosen td").first.inner_text() == BAD
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.complaints == []  # type: ignore[attr-defined]

"""The page of the committed results of the demo in a browser: headless Chromium, driven by Playwright.

`.ci/run` installs Debian's Chromium; without it, these tests are skipped.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from faked import DEMO, ROOT

from cm import config
from cm.config.layout import Layout
from cm.report import page as report_page

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds, for a machine that does other work
WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}
VISIBLE = (
    "[...document.querySelectorAll('.card')].filter(card => card.checkVisibility()).map(card => card.dataset.name)"
)
COLUMN = "(table, index) => [...table.tBodies[0].rows].map(row => row.cells[index].textContent.trim())"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install the package chromium, as .ci/run does")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra dev")


@pytest.fixture(scope="module")
def suite():
    return config.load_suite(DEMO)


@pytest.fixture(scope="module")
def address(suite, tmp_path_factory) -> str:
    """The address of the page of the committed tables and figures of the demo."""
    folder = tmp_path_factory.mktemp("page")
    layout = Layout(str(folder / "results"), str(ROOT / "reports/demo"))
    report_page.write_page(suite, Path("config/suites/demo.yaml"), layout, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """A function that opens the page in a window; afterwards, no error and no request to anywhere else was seen."""
    problems, requests = [], []

    def open_page(viewport=WIDE, scheme="light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert not problems
    assert [url for url in requests if not url.startswith("data:")] == [address]


def test_every_artefact_is_on_the_page_and_every_figure_is_drawn(opened, suite):
    page = opened()
    assert set(suite.all_artefacts) <= set(page.evaluate(VISIBLE))
    sizes = page.evaluate("[...document.images].map(one => [one.complete, one.naturalWidth, one.naturalHeight])")
    links = page.evaluate("[...document.querySelectorAll('a[download]')].map(one => one.href.slice(0, 5))")
    assert set(links) == {"data:"}
    assert len(sizes) == len(list((ROOT / "reports/demo/figures").glob("*.svg")))
    assert all(complete and width > 100 and height > 100 for complete, width, height in sizes)


def read_number(cell: str) -> float:
    """The number at the beginning of a cell: of `81.9 ± 1.2` and `81.9 [81.2, 82.7]`, 81.9."""
    return float(cell.split()[0].replace(",", ""))


@pytest.mark.parametrize(
    ("heading", "key"),
    [
        ("FD, digits, classifier features", read_number),
        ("KID, digits, classifier features", read_number),
        ("recall, digits, classifier features", read_number),
        ("NFE", read_number),
        ("Method", lambda text: re.sub(r"\W+", " ", text).strip().casefold()),
    ],
)
def test_a_click_on_a_heading_sorts(opened, heading, key):
    table = opened().locator("#artefact-table1 table")
    headings = table.locator("th").all_text_contents()
    column = [text.strip() for text in headings].index(heading)
    original = table.evaluate(COLUMN, column)
    button = table.locator("th").nth(column).get_by_role("button")
    button.click()
    up = table.evaluate(COLUMN, column)
    known = [text for text in up if text != "\u2013"]
    keys = [key(text) for text in known]
    assert len(set(keys)) > 1 and keys == sorted(keys) and sorted(up) == sorted(original)
    assert set(up[len(known) :]) <= {"\u2013"}, "what is missing comes last"
    button.click()
    down = table.evaluate(COLUMN, column)
    assert down[0] == known[-1] and set(down[len(known) :]) <= {"\u2013"}
    assert table.locator("th").nth(column).get_attribute("aria-sort") == "descending"
    button.click()
    assert table.evaluate(COLUMN, column) == original


def test_the_search_finds_cd(opened, suite):
    page = opened()
    everything = page.evaluate(VISIBLE)
    page.get_by_role("searchbox").fill("CD")
    found = page.evaluate(VISIBLE)
    assert {"table1", "fig3a", "ablation_N"} <= set(found)
    assert "fig5" not in found and "samplers" not in found
    assert page.get_by_role("status").text_content() == f"{len(found)} of {len(everything)}"
    page.get_by_role("searchbox").fill("no such word")
    assert page.evaluate(VISIBLE) == []
    assert page.get_by_text("No table or figure contains these words.").is_visible()
    page.get_by_role("searchbox").fill("")
    assert page.evaluate(VISIBLE) == everything


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_only_tables_are_wider_than_the_window(opened, viewport, scheme):
    page = opened(viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(
        "(() => { const box = document.querySelector('#artefact-runs .scroll');"
        " return box.scrollWidth > box.clientWidth; })()"
    )
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
    assert dark == (scheme == "dark")
    panel = "getComputedStyle(document.querySelector('.panel')).backgroundColor"
    assert page.evaluate(panel) == "rgb(255, 255, 255)", "figures are black on white"

"""The report in a browser: headless Chromium, at two widths, light and dark.

A probe written into the page by the test hands what it finds to the frame around the page, which leaves it in an
attribute; `--dump-dom` brings it back. The frame is there because a window has no less than 500 pixels.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scored import LONG, STUDY, make_scores

from ray_unlearn.evaluation.scores import Estimate
from ray_unlearn.report.leaderboard import Entry, leaderboard_page
from ray_unlearn.report.page import html_page
from ray_unlearn.wording import MISSING

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")

LIGHT, DARK = 1, 0
"""Blink's numbers for `prefers-color-scheme`."""

PROBE = """
const folded = document.documentElement.scrollHeight;
const closed = document.querySelectorAll("details.fold:not([open])").length;
for (const one of document.querySelectorAll("details.fold")) one.open = true;
const dots = [...document.querySelectorAll(".dot")].filter((row) => row.children.length === 3).map((row) => {
  const [who, bar, value] = row.children;
  const box = (one) => one.getBoundingClientRect();
  return box(who).right <= box(bar).left + 1 && box(bar).right <= box(value).left + 1 && box(value).right <= innerWidth;
});
const shown = [...document.querySelectorAll("svg.picture")].filter((svg) => svg.getClientRects().length);
const cut = shown.flatMap((svg) => {
  const edge = svg.closest("figure").getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < edge.left - 1 || box.right > Math.min(edge.right + 16, innerWidth) + 1;
  }).map((text) => text.textContent);
});
// A word of a heading that has two boxes is broken within; names of populations may be.
const broken = [...document.querySelectorAll("#standing thead span, #attacked thead span")].flatMap((span) => {
  const text = span.firstChild;
  return [...text.data.matchAll(/\\S+/g)].filter((word) => {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return range.getClientRects().length > 1;
  }).map((word) => word[0]);
});
const clipped = [...document.querySelectorAll("caption")].filter((one) => {
  const range = document.createRange();
  range.selectNodeContents(one);
  return range.getBoundingClientRect().right > innerWidth && one.getBoundingClientRect().width > 1;
}).map((one) => one.textContent);
const frames = [...document.querySelectorAll(".frame")];
const style = getComputedStyle(document.body);
const label = document.querySelector("svg.picture text");
const column = (name, place) =>
  [...document.querySelectorAll(`#${name} tbody tr`)].map((row) => row.cells[place].querySelector("span").textContent);
const sorted = (name, place) => {
  const button = document.querySelectorAll(`#${name} thead button`)[place];
  button.click();
  return [column(name, place), button.closest("th").getAttribute("aria-sort"),
          document.querySelectorAll(`#${name} thead th:not([aria-sort=none])`).length];
};
const found = {
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  frames: frames.filter((one) => one.scrollWidth > one.clientWidth).length,
  shadows: [...new Set(frames.map((one) => getComputedStyle(one).backgroundAttachment))],
  cut, broken, clipped, folded, closed,
  apart: dots.length > 0 && dots.every((one) => one),
  paper: style.backgroundColor,
  ink: style.color,
  label: getComputedStyle(label).fill,
  labelFont: getComputedStyle(label).fontFamily === style.fontFamily,
  loaded: performance.getEntriesByType("resource").length,
  sorts: {score: sorted("ranking", 3), again: sorted("ranking", 3), names: sorted("ranking", 1),
          missing: sorted("attacks", 2), missingAgain: sorted("attacks", 2)},
};
parent.postMessage(JSON.stringify(found), "*");
"""

BOARD_PROBE = """
const frame = document.querySelector("#standing .frame");
const place = document.querySelector("#standing tbody td:nth-of-type(2)").getBoundingClientRect();
const edge = frame.getBoundingClientRect().right;
const found = {whole: frame.scrollWidth <= frame.clientWidth, place: place.right <= edge};
parent.postMessage(JSON.stringify(found), "*");
"""

FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<script>addEventListener("message", (said) => { document.documentElement.dataset.found = said.data; });</script>
<iframe src="report.html" style="border: 0; height: 900px; width: WIDTHpx"></iframe>"""


def chromium(folder: Path, page: Path, scheme: int, *action: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium without a network on a file of this machine."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--window-size=1300,900", f"--blink-settings=preferredColorScheme={scheme}"]
    flags += ["--enable-logging=stderr", *action, page.as_uri()]
    return subprocess.run([str(CHROMIUM), *flags], capture_output=True, text=True, timeout=60, check=True)


def digest(script: str) -> str:
    """Return what a page's policy allows a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@pytest.fixture(scope="module")
def page() -> str:
    """Return a page whose first population lacks an attack: sorting must move it to the end."""
    scores = make_scores()
    first = scores.populations[LONG]
    measures = {**first.measures, "u_lira_auc": Estimate(value=None, n=64, missing="too few runs")}
    changed = first.model_copy(update={"measures": measures})
    return html_page(scores.model_copy(update={"populations": {**scores.populations, LONG: changed}}), STUDY)


@pytest.fixture
def probed(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """Return a function: page, width, scheme -> what the probe found, and the console's lines."""

    def probe(page: str, width: int, scheme: int, script: str = PROBE) -> tuple[dict[str, Any], list[str]]:
        probing = page.replace("</body>", f"<script>{script}</script></body>")
        probing = probing.replace("script-src ", f"script-src 'sha256-{digest(script)}' ")
        (tmp_path / "report.html").write_text(probing, encoding="utf-8")
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        done = chromium(tmp_path, frame, scheme, "--virtual-time-budget=4000", "--dump-dom")
        found = re.search(r'data-found="([^"]*)"', done.stdout)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert found, [*console, done.stdout[:300]]
        return json.loads(html.unescape(found[1])), console

    return probe


@pytest.mark.parametrize(("width", "scheme"), [(1280, LIGHT), (400, DARK)])
def test_the_page_fits_and_sorts(probed: Callable[..., Any], page: str, width: int, scheme: int) -> None:
    """No scrolling sideways but in tables, no label cut off, nothing loaded, nothing on the console; tables sort."""
    found, console = probed(page, width, scheme)
    assert console == []
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["cut"] == found["broken"] == found["clipped"] == []
    assert found["shadows"] == ["local, local, scroll, scroll"]
    assert found["loaded"] == 0
    assert found["labelFont"]
    assert found["frames"] == 0 if width == 1280 else found["frames"] >= 7
    assert found["apart"]
    assert found["closed"] == (0 if width == 1280 else 5)
    dark = scheme == DARK
    assert (brightness(found["paper"]) < 60) == dark
    assert (brightness(found["ink"]) > 180) == dark
    assert (brightness(found["label"]) > 130) == dark
    sorts = found["sorts"]
    assert sorts["score"] == [["0.199", "0.185", "0.109", "0.069", "0.000"], "descending", 1]
    assert sorts["again"] == [["0.000", "0.069", "0.109", "0.185", "0.199"], "ascending", 1]
    assert sorts["names"][0][0] == "finetune"
    assert sorts["names"][1:] == ["ascending", 1]
    assert sorts["missing"][0] == ["0.629", "0.588", MISSING, MISSING]
    assert sorts["missingAgain"][0] == ["0.588", "0.629", MISSING, MISSING]


def test_a_phone_page_of_twelve_methods_is_under_six_screens(probed: Callable[..., Any]) -> None:
    """Verdict, picture and ranking are there at once; the sections below are folded until they are asked for."""
    twelve = make_scores({f"method-{number}": (f"method-{number}", 0.01 + 0.015 * number) for number in range(12)})
    found, _ = probed(html_page(twelve, STUDY), 390, LIGHT)
    assert found["folded"] < 6 * 844


def test_a_leaderboard_of_three_studies_fits(probed: Callable[..., Any]) -> None:
    """A window of 1,000 pixels shows all three studies; a phone shows one with its places, and scrolls to others."""
    board = [Entry(make_scores(study=f"reference-{name}")) for name in ("digits", "cifar10", "faces")]
    page = leaderboard_page(board)
    assert probed(page, 1000, LIGHT, BOARD_PROBE) == ({"whole": True, "place": True}, [])
    assert probed(page, 390, LIGHT, BOARD_PROBE) == ({"whole": False, "place": True}, [])


def brightness(colour: str) -> float:
    """Return 0..255 of an `rgb(...)`."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_the_probe_can_fail(probed: Callable[..., Any], page: str) -> None:
    """A page that is too wide, cuts a label, breaks a word, loads and complains is found out."""
    spoilt = page.replace("</main>", '<div style="width:3000px">wide</div><img src="https://example.org/x.png" alt="">')
    spoilt = spoilt.replace("overflow-wrap: normal", "overflow-wrap: anywhere").replace("calc(100vw - 2rem)", "auto")
    spoilt = spoilt.replace("<caption>Accuracy before", "<caption>" + 6 * "Accuracy before ")
    spoilt = spoilt.replace("KLOM (retrained", "KLOM(retrained" * 3)
    spoilt = spoilt.replace('class="picture"', 'class="picture" style="margin-left:-60px"', 1)
    found, console = probed(spoilt, 400, LIGHT)
    assert found["scroll"] >= 3000
    assert found["cut"]
    assert found["broken"]
    assert found["clipped"]
    assert any("Content Security Policy" in line for line in console)


def test_large_letters_break_no_word(probed: Callable[..., Any], page: str) -> None:
    """Headings break between words where a word is as wide as a column, too."""
    found, _ = probed(page.replace("</style>", "thead button span { font-size: 2rem; }</style>"), 1280, LIGHT)
    assert found["broken"] == []


def test_a_script_that_is_not_the_pages_own_does_not_run(tmp_path: Path, page: str) -> None:
    """An element and a handler that found their way into the page do not run; under a looser policy they do."""
    mark = "document.documentElement.dataset.ran = 1"
    spoilt = page.replace("</main>", f'<script>{mark}</script><img src="data:," onerror="{mark}" alt=""></main>')
    loose = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", spoilt)
    ran = []
    for text in (spoilt, loose):
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        done = chromium(tmp_path, tmp_path / "report.html", LIGHT, "--virtual-time-budget=2000", "--dump-dom")
        ran.append('data-ran="1"' in done.stdout)
    assert ran == [False, True]


def test_dark_is_dark_on_the_screen(tmp_path: Path, page: str) -> None:
    """The screenshot's corner has the dark paper's colour, and most of the first screen with it."""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "dark.png"
    chromium(tmp_path, tmp_path / "report.html", DARK, f"--screenshot={shot}")
    with Image.open(shot) as image:
        grey = image.convert("L")
    assert grey.size == (1300, 900)
    assert grey.getpixel((3, 3)) < 40
    counts = grey.histogram()
    assert sum(counts[:60]) / sum(counts) > 0.85
    assert sum(counts[180:]) > 1000

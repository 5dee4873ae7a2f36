"""The page in a browser: no error, nothing clipped, usable by keyboard, and with words for what is drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run

from icycle.report import write_page

Open = Callable[..., Any]  # a new page, with playwright's settings

WIDTHS = (375, 1440)
_CLIPPED = """() => [...document.querySelectorAll('.figure')].flatMap(figure => {
    const frame = figure.getBoundingClientRect();
    return [...figure.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return box.width > 0 && (box.left < frame.left - 1 || box.right > frame.right + 1 ||
            box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
    }).map(text => `${figure.id}: ${text.textContent}`);
})"""
_WIDER = """() => [...document.querySelectorAll('body *')].filter(each =>
    !each.closest('.scroll, pre, .figure, .skip') && each.getBoundingClientRect().right > innerWidth + 1
).map(each => each.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def open_page() -> Iterator[Open]:
    chromium = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield partial(_patient, opened)
        opened.close()


def _patient(browser: Any, **settings: Any) -> Any:
    """A page that waits for a machine that is busy."""
    page = browser.new_page(**settings)
    page.set_default_timeout(150_000)
    return page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = {
        "one-cycle": [make_run(root / "one-cycle", latency=True)],
        "ice": [make_run(root / "ice", "ice", steps=True, groups=27)],
        "dense": [make_run(root / "a-rather-long-name-of-a-run-without-any-place-to-break-it-1", "dense")],
        "several": [make_run(root / f"s{seed}", seed=seed, accuracy=97.0 + seed) for seed in range(3)],
    }
    runs["several"] += runs["dense"] + runs["ice"]
    return {name: write_page(folders, root / f"{name}.html") for name, folders in runs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-cycle", "ice", "dense", "several"])
def test_a_page_is_whole(open_page: Open, pages: dict[str, Path], name: str) -> None:
    for width, scheme in zip(WIDTHS, ("dark", "light"), strict=True):
        page = open_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, said=said: said.append(request.url) if "http" in request.url else None)
        page.goto(pages[name].as_uri())
        page.wait_for_function("[...document.querySelectorAll('.figure')].every(f => f.querySelector('.main-svg'))")
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(_WIDER) == []
        assert page.evaluate(_CLIPPED) == []
        page.close()


@pytest.mark.slow
def test_a_page_can_be_used_without_seeing_or_pointing(open_page: Open, pages: dict[str, Path]) -> None:
    page = open_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.goto(pages["ice"].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the figures"
    figures = page.locator(".figure")
    for number in range(figures.count()):
        figure = figures.nth(number)
        assert figure.get_attribute("role") == "img" and figure.get_attribute("tabindex") == "0"
        for kind in ("aria-labelledby", "aria-describedby"):
            assert page.locator(f"#{figure.get_attribute(kind)}").inner_text()
    summary = page.locator("#steps-section summary")
    summary.focus()
    page.keyboard.press("Enter")
    rows = page.locator("#steps-section tbody tr")
    assert rows.count() == 27 and rows.first.is_visible()
    assert page.locator("h1").count() == page.locator("main").count() == 1
    headings = page.eval_on_selector_all("h1, h2", "all => all.map(each => each.tagName)")
    assert headings[0] == "H1" and set(headings[1:]) == {"H2"}
    page.close()


@pytest.mark.slow
def test_hovering_tells_a_group_s_name_counts_and_members(open_page: Open, pages: dict[str, Path]) -> None:
    page = open_page(viewport={"width": 1440, "height": 900})
    page.goto(pages["one-cycle"].as_uri())
    bar = page.locator("#channels .bars .point").first
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator("#channels .hoverlayer .hovertext")
    label.first.wait_for()
    told = label.first.text_content()
    assert "layers.0.conv" in told and "30 of 64 kept" in told and "layers.0.conv.weight" in told
    page.close()

"""The documentation as a site: built strictly, with every key of a recipe, and readable on a phone and on a desk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from icycle.recipes import load_recipe

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert f'href="{page.stem}/"' in menu, page.name


def test_the_page_on_recipes_has_every_key_with_its_default(site: Path) -> None:
    page = (site / "recipes" / "index.html").read_text()
    rows = dict(re.findall(r"<tr>\s*<td><code>(.*?)</code></td>\s*<td>.*?</td>\s*<td>(.*?)</td>", page))
    for name in ("digits", "digits-ice"):
        recipe = load_recipe(name)
        for section in ("data", "model", "train", "method"):
            wanted = {f"{section}.{key}" for key in getattr(recipe, section).model_dump(warnings="none")}
            missing = {key for key in wanted if not any(row == key or row.startswith(f"{key}.") for row in rows)}
            assert missing == set()
    assert rows["train.epochs"] == "<code>12</code>"
    assert rows["model.name"] == "must be given"
    assert rows["train.channels_last"] == "<code>true</code>"


def test_the_reference_has_the_public_names(site: Path) -> None:
    page = (site / "reference" / "index.html").read_text()
    for name in ("trace", "select", "prune", "OneCycle", "ice", "save", "load"):
        assert f"icycle.{name}" in page


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site is served: browsers refuse its search to files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("width", [375, 1440])
def test_pages_fit_on_a_phone_and_on_a_desk(address: str, width: int) -> None:
    chromium = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in ("", "recipes/", "concepts/", "reference/"):
            page.goto(f"{address}/{name}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.locator("h1").first.is_visible()
            if name == "concepts/":
                page.wait_for_function("document.querySelector('article img').naturalWidth > 0")
        assert faults == []
        browser.close()

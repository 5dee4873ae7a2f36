"""The page of a run: from a folder alone, valid figures, nothing loaded, nothing clipped, no error in a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from icycle.errors import RecipeError
from icycle.report import _figures as figures
from icycle.report import write_page
from icycle.report._runs import read_run_record

WIDTHS = (375, 1440)


def network(scale: float) -> dict[str, Any]:
    latency = {"median": 10 * scale, "lower": 9.9 * scale, "upper": 10.1 * scale, "runs": 40}
    costs = {name: int(1e6 * scale) for name in ("macs", "params", "file_bytes")}
    return {**costs, "latency": {"1": latency, "64": {**latency, "lower": 1.0}}}


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the folder of a finished run."""

    def write(name: str = "digits-1", method: str = "one-cycle", accuracy: float = 98.5, steps: bool = False) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        removal = {"epoch": 1.5, "macs_before": 1000, "macs_after": 500, "accuracy_before": 90, "accuracy_after": 89}
        report = {
            "recipe": "digits",
            "method": method,
            "dense": network(1.0),
            "pruned": network(0.5),
            "removals": [removal],
            "validation_accuracy": 98.0,
            "test_accuracy": accuracy,
            "metric": "accuracy",
            "seconds": {"train": 100.0, "rest": 2.5},
            "environment": {"device": "cpu", "torch": "2"},
            "details": {"why the removal came": "stable", "share": 0.123456, "curve": [[0, 1]]},
            "groups": [
                {"name": f"layers.{i}", "size": 64, "kept": 30 + i, "members": [f"l{i}.weight"]} for i in range(9)
            ],
        }
        (folder / "report.json").write_text(json.dumps(report))
        records = [{"kind": "search", "epoch": e / 4, "indicator": e / 12 if e else None} for e in range(8)]
        records += [{"kind": "epoch", "epoch": e, "validation_accuracy": 80.0 + e} for e in range(1, 5)]
        if steps:
            decision = {"fire": True, "accuracy": 88.0, "drop": 1.25, "share": 0.5}
            silent = {"fire": False, "accuracy": None, "drop": None, "share": 0.0}
            for number, (decided, tuned) in enumerate(((decision, 1.0), (silent, 0.0)), 1):
                shared = {"number": number, "kept": {"a": 3}, "macs_kept": 0.5}
                records.append({"kind": "step", "decision": decided, "fine_tuned": tuned, **shared})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "<script>alert(1)</script>"}))
        return folder

    return write


def test_every_figure_is_one_to_plotly(run_folder: Callable[..., Path]) -> None:
    from plotly.graph_objects import Figure

    run = read_run_record(run_folder(steps=True))
    drawn = [
        make(run) for make in (figures.course, figures.steps, figures.channels, figures.latency, figures.time_spent)
    ]
    for figure in [*drawn, figures.pareto([run, run])]:
        assert figure is not None
        Figure(figure)  # raises on a key or a value that plotly does not know


def test_what_a_run_lacks_is_not_drawn(run_folder: Callable[..., Path]) -> None:
    folder = run_folder()
    (folder / "metrics.jsonl").write_text("")
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "groups": []}))
    run = read_run_record(folder)
    assert figures.course(run) is None and figures.steps(run) is None and figures.channels(run) is None
    page = write_page([folder], folder / "report.html").read_text()
    assert 'id="latency"' in page and 'id="course"' not in page


def test_the_page_tells_the_facts_and_loads_nothing(run_folder: Callable[..., Path]) -> None:
    page = write_page([run_folder()], run_folder("other").parent / "page.html").read_text()
    own = page.replace(page[page.index("<script>") : page.index('<script type="application/json"')], "")
    assert "98.50 %" in own and "50.0%" in own and "1 min 42 s" in own
    assert "no clear change" in own, "the quartiles at batch 64 overlap"
    assert "<script>alert" not in own, "a recipe is text"
    assert "http://" not in own and "https://" not in own and "src=" not in own


def test_several_runs_are_compared(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    folders = [run_folder("a", accuracy=97.0), run_folder("b", "dense", accuracy=99.25)]
    page = write_page(folders, tmp_path / "comparison.html").read_text()
    assert 'id="pareto"' in page and "99.25 %" in page and "dense" in page


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="resume"):
        write_page([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(run_folder: Callable[..., Path], scheme: str) -> None:
    chromium = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("needs chromium")
    page_file = write_page([run_folder(steps=True)], run_folder("other").parent / "page.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, said=said: said.append(request.url) if "http" in request.url else None)
            page.goto(page_file.as_uri())
            page.wait_for_selector("#time .main-svg")
            assert said == []
            assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is clipped"
            drawn = page.evaluate(
                "[...document.querySelectorAll('.figure')].map(f => f.querySelector('.main-svg').clientWidth)"
            )
            assert len(drawn) == 5 and all(0 < one <= width for one in drawn)
        browser.close()

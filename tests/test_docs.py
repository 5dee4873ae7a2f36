"""The documentation's code runs, its commands are two, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_has_two_commands_that_set_themselves_up() -> None:
    commands = blocks(ROOT / "README.md", "console")
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)
    assert commands[0].endswith("icycle run digits\n")
    assert commands[1].endswith("pytest\n")


def test_the_readme_s_five_lines_run() -> None:
    scope: dict[str, object] = {}
    exec(blocks(ROOT / "README.md", "python")[0], scope)
    assert isinstance(scope["model"], torch.nn.Module)


def test_the_guide_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for code in blocks(ROOT / "docs" / "guide.md", "python"):
        exec(code, scope)
    assert scope["pruner"].removed  # type: ignore[attr-defined]
    model, fresh, (x, _) = scope["model"], scope["fresh"], scope["loader"][0]  # type: ignore[index]
    assert torch.equal(model(x), fresh(x))  # type: ignore[operator]


def test_the_page_on_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins with a file's name is that file; the last one uses them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    *files, last = blocks(ROOT / "docs" / "own.md", "python")
    for code in files:
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    scope: dict[str, Any] = {}
    exec(last, scope)
    for name in ("acme_data", "acme_net", "acme_task"):
        del sys.modules[name]  # other tests have modules of these names
    assert 0.4 < scope["report"].pruned.macs / scope["report"].dense.macs <= 0.55
    assert set(scope["report"].test_metrics) == {"balanced accuracy"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


NOT_RUN = "<!-- not run: "  # stands before a block, with the reason
IN_ORDER = ("guide.md", "own.md")  # pages of one session, which have tests of their own

RUNNER = """
import json, os, sys, tempfile
for place, code in json.load(sys.stdin):
    os.chdir(tempfile.mkdtemp())
    print(place, file=sys.stderr, flush=True)
    exec(compile(code, place, "exec"), {"__name__": "snippet"})
"""


def snippets(page: Path) -> list[tuple[str, str]]:
    """(page:line, code) of the Python blocks that are to run."""
    text = page.read_text()
    found = []
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        before = text[: block.start()].rstrip()
        if not before.rpartition("\n")[2].startswith(NOT_RUN):
            found.append((f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}", block[1]))
    return found


def test_every_other_snippet_runs_on_its_own() -> None:
    """In another process, since some register rules and operations; each in a namespace and a folder of its own."""
    everything = [each for page in PAGES[2:] if page.name not in IN_ORDER for each in snippets(page)]
    assert len(everything) >= 5
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(everything), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_few_snippets_are_left_out() -> None:
    assert sum(page.read_text().count(NOT_RUN) for page in PAGES) <= 3

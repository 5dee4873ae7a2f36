"""The documentation's code runs, its commands are commands, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from command import command
from icycle.cli import app
from icycle.recipes import RunFolder, load_recipe, run_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXCERPTS = {"CONTRIBUTING.md"}  # shows parts of files
NOT_RUN = "<!-- not run: "  # stands before a block, with the reason

RUNNER = """
import json, os, sys
for place, code, files in json.load(sys.stdin):
    folder = os.path.join(os.getcwd(), place.replace(":", "-"))
    os.mkdir(folder)
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    before, known = os.getcwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, folder)
    print(place, file=sys.stderr, flush=True)
    exec(compile(code, place, "exec"), {"__name__": "snippet"})
    sys.path[:] = [each for each in sys.path if each != folder]
    os.chdir(before)
    for name in set(sys.modules) - known:  # the next snippet has files of its own
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]
"""


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def files_of(page: Path) -> dict[str, str]:
    """The blocks that begin with a file's name: they are that file."""
    named = {re.match(r"# ([\w.]+\.(?:py|yaml))\n", code): code for code in blocks(page, "(?:python|yaml)")}
    return {name[1]: code for name, code in named.items() if name}


def snippets(page: Path) -> Iterator[tuple[str, str]]:
    """(page:line, code) of the Python blocks that are to run: all but files, and those that say why not."""
    text, files = page.read_text(), files_of(page).values()
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        before = text[: block.start()].rstrip().rpartition("\n")[2]
        if block[1] not in files and not before.startswith(NOT_RUN):
            yield f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}", block[1]


def test_the_readme_has_two_commands_that_set_themselves_up() -> None:
    commands = blocks(ROOT / "README.md", "console")
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)
    assert commands[0].endswith("icycle run digits\n")
    assert commands[1].endswith("pytest\n")


@pytest.mark.slow
def test_every_snippet_runs_on_its_own(tmp_path: Path) -> None:
    """In another process, since some register rules and operations; each in a namespace and a folder of its own, with
    the files that its page shows."""
    pages = [page for page in PAGES if page.name not in EXCERPTS]
    everything = [(place, code, files_of(page)) for page in pages for place, code in snippets(page)]
    assert len(everything) >= 18
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(everything),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_a_page_shows_is_used_on_it(page: Path) -> None:
    for name in files_of(page):
        assert len(re.findall(rf"\b{Path(name).stem}\b", page.read_text())) > 1, name


def test_few_snippets_are_left_out() -> None:
    assert sum(page.read_text().count(NOT_RUN) for page in PAGES) <= 3


@pytest.mark.slow
def test_the_quickstart_leads_from_two_files_to_an_exported_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but for a network and a training that are shorter, and a budget that no other process can spoil."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, code in files_of(ROOT / "docs" / "index.md").items():
        (tmp_path / name).write_text(code)
    (asked,) = (line for line in commands_of(ROOT / "docs" / "index.md") if line[0] == "inspect")
    assert command(monkeypatch, *asked) == 0
    assert "prunable groups" in capsys.readouterr().out
    assert load_recipe("mine.yaml").method.budget.build().latency == 0.5  # type: ignore[attr-defined]
    shorter = ["train.epochs=1", "model.options={width: 8}", "method.budget={macs: 0.5}"]
    report = run_recipe(load_recipe("mine.yaml", shorter), RunFolder(Path("runs/mine-1")))
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.05)
    (asked,) = (line for line in commands_of(ROOT / "docs" / "index.md") if line[0] == "export")
    assert command(monkeypatch, *asked) == 0
    assert "differs from torch by at most" in capsys.readouterr().out
    assert Path("runs/mine-1/export/model.onnx").is_file() and Path("runs/mine-1/export/README.md").is_file()
    for name in ("mynet", "mydata"):
        sys.modules.pop(name, None)


def commands_of(page: Path) -> Iterator[list[str]]:
    """The arguments of every `icycle` command in a page's blocks, indented ones too."""
    fenced = re.findall(r"^```(?:console|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    indented = [line.strip() for line in re.findall(r"^ {4,}\S.*(?:\\\n.*)*", page.read_text(), re.MULTILINE)]
    for text in "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines():
        for part in text.split("&&"):
            words = shlex.split(part, comments=True) if part.count("'") % 2 == part.count('"') % 2 == 0 else []
            if words and words[0].endswith("icycle") and len(words) > 1:
                yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_verbs_and_options_that_there_are(page: Path) -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands_of(page):
        while words[0] == "--import":
            words = words[2:]
        if not words[0].startswith("-"):
            verbs[words[0]].make_context(words[0], words[1:])  # raises on what it does not know


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_menu_and_in_the_readme() -> None:
    menu, readme = (ROOT / "mkdocs.yml").read_text(), (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in menu, page.name
        assert f"(docs/{page.name}" in readme, page.name

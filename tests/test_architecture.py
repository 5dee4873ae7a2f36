"""Who may import whom, and what an import costs; read from the source, so that no import has to happen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "icycle"

# a room imports only rooms that come before it
ROOMS = [
    "errors",
    "files",
    "runs",
    "registry",
    "reasons",
    "axes",
    "tracing",
    "structure",
    "probing",
    "saliency",
    "selection",
    "surgery",
    "compensation",
    "artifacts",
    "engine",
    "testing",
    "export",
    "latency",
    "training",
    "tasks",
    "zoo",
    "methods",
    "tuning",
    "report",
    "recipes",
    "compare",
    "cli",
    "__main__",
]
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(file: Path) -> str:
    """The room a file belongs to; "" for the package's own __init__."""
    first = file.relative_to(SOURCE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of everything imported at run time; what only a type checker sees does not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            if node.module == "icycle":
                yield from ((node.lineno, f"icycle.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        else:
            yield from imports(node)


def wrong_imports(file: Path, code: str) -> list[str]:
    """The imports of a file that point to a later room, into another room's private files, or from `axes` to torch."""
    room, wrong = room_of(file), []
    for line, module in imports(ast.parse(code)):
        parts = module.split(".")
        where = f"{file.relative_to(SOURCE)}:{line} imports {module}"
        if parts[0] == "torch" and room == "axes":
            wrong.append(where)
        if parts[0] != "icycle" or room == "" or len(parts) == 1:
            continue
        if parts[1] not in ROOMS or ROOMS.index(parts[1]) > ROOMS.index(room):
            wrong.append(where)
        elif parts[1] != room and any(part.startswith("_") for part in parts[2:]):
            wrong.append(f"{where}, which is private")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    assert wrong_imports(file, file.read_text()) == []


@pytest.mark.parametrize("room", ["axes", "tracing"])
def test_no_circles_inside_a_room(room: str) -> None:
    """Imports for a type checker alone count here: files that need each other's names are one thought in two places."""
    needs = {
        f"icycle.{room}." + ".".join(file.relative_to(SOURCE / room).with_suffix("").parts): {
            node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
        }
        for file in FILES
        if room_of(file) == room and file.name != "__init__.py"
    }
    while needs:
        free = [file for file, modules in needs.items() if not modules & needs.keys()]
        assert free, f"these import each other: {sorted(needs)}"
        for file in free:
            del needs[file]


def test_every_room_has_its_place() -> None:
    assert {room_of(file) for file in FILES} - {""} <= set(ROOMS)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("axes/_dims.py", "import torch"),
        ("axes/_dims.py", "def f():\n    from torch import nn"),
        ("structure/_build.py", "from icycle.surgery import prune"),
        ("tracing/_trace.py", "from icycle import saliency"),
        ("engine/_trace.py", "import icycle.cli"),
        ("surgery/_prune.py", "from icycle.structure._build import build"),
    ],
)
def test_wrong_imports_are_noticed(file: str, code: str) -> None:
    assert len(wrong_imports(SOURCE / file, code)) == 1


@pytest.mark.parametrize(
    "statement", ["import icycle", "import icycle; dir(icycle)", "import icycle.axes", "import icycle.cli"]
)
def test_what_does_not_need_torch_does_not_load_it(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_optional_packages_load_only_when_used() -> None:
    code = "import sys, icycle; icycle.trace; icycle.prune; icycle.OneCycle; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    optional = set("timm transformers lightning optuna matplotlib sklearn onnx onnxruntime openvino".split())
    assert {"torch", *optional}.intersection(run.stdout.split()) == {"torch"}


def test_public_names_are_there() -> None:
    import icycle

    for name in icycle.__all__:
        assert getattr(icycle, name) is not None
    assert set(icycle.__all__) <= set(dir(icycle))
    assert all(getattr(icycle, room).__name__ == f"icycle.{room}" for room in ("methods", "training", "reasons"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        icycle.nothing  # noqa: B018


def test_contributing_names_every_room() -> None:
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text()
    rooms = set(re.findall(r"[a-z_]+", text[text.index("## Where things are") : text.index("Only frozen values")]))
    assert [room for room in ROOMS if room != "__main__" and room not in rooms] == []


def test_every_room_is_there() -> None:
    assert [room for room in ROOMS if not ((SOURCE / room).is_dir() or (SOURCE / f"{room}.py").is_file())] == []

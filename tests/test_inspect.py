"""What `icycle inspect` and a printed structure say of a model, and of what is pinned in it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.reasons import Kind, Reason
from networks import IMAGE, Branches
from test_cli import command

CONSTANT = torch.randn(12)

NETWORK = """
import torch
from torch import nn


@torch.library.custom_op("icycle_inspect::tripled", mutates_args=())
def tripled(x: torch.Tensor) -> torch.Tensor:
    return x * 3


tripled.register_fake(lambda x: torch.empty_like(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 10)
        self.c, self.out = nn.Linear(10, 10), nn.Linear(10, 2)

    def forward(self, x):
        x = self.a(x).view(-1, 3, 4).flatten(1)
        x = tripled(self.b(x))
        x = tripled(x)
        return self.out(self.c(x).relu())


def make():
    return nn.Sequential(Block()), torch.randn(2, 6)


def make_only():
    return make()[0]


def make_nothing():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's own, in the current folder."""
    name = "inspected_network"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def record(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert command(monkeypatch, "inspect", *arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json_names_operation_module_line_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str
) -> None:
    found = record(monkeypatch, capsys, f"{own}:make")
    groups = {group["name"]: group for group in found["groups"]}
    line = NETWORK.splitlines().index("        x = self.a(x).view(-1, 3, 4).flatten(1)") + 1
    cause = groups["0.a"]["pinned_by"]
    assert cause["operation"] == "aten::view"
    assert cause["module"] == "0"
    assert cause["source"] == f"{own}.py:{line}"
    assert "the code says" in cause["cause"]
    assert "-1" in cause["advice"]
    unknown = groups["0.b"]["pinned_by"]
    assert unknown["operation"] == "icycle_inspect::tripled"
    assert "icycle.register_rule" in unknown["advice"]
    assert groups["0.c"]["prunable"]
    assert groups["0.c"]["pinned_by"] is None
    assert "by design" in groups["0.out"]["pinned_by"]["advice"]


def test_unknown_operations_are_listed_once_with_their_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str
) -> None:
    assert record(monkeypatch, capsys, f"{own}:make")["unknown_operations"] == {"icycle_inspect::tripled": 2}
    assert command(monkeypatch, "inspect", f"{own}:make") == 0
    assert capsys.readouterr().out.count("no rule for icycle_inspect::tripled, met 2 times") == 1


def test_shares_are_what_goes_with_all_but_one_channel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str
) -> None:
    found = record(monkeypatch, capsys, f"{own}:make")
    batch = 2
    macs, least = batch * (72 + 120 + 100 + 20), batch * (72 + 120 + 10 + 2)
    assert found["macs"] == macs
    assert found["prunable_share"]["macs"] == pytest.approx(1 - least / macs)
    params = (72 + 12) + (120 + 10) + (100 + 10) + (20 + 2)
    assert found["prunable_share"]["params"] == pytest.approx(1 - (params - 99 - 18) / params)


def test_the_tables_show_both_kinds_of_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert command(monkeypatch, "inspect", f"{own}:make") == 0
    shown = capsys.readouterr().out
    for words in ("0.c.weight[dim 0] out", "the code says 4", "aten::view", "inspected_network.py", "by design"):
        assert words in shown
    assert re.search(r"MACs and [\d,]+ parameters, of which \d+\.\d% and \d+\.\d% would go", shown)


def test_an_input_shape_takes_the_place_of_example_inputs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str
) -> None:
    assert record(monkeypatch, capsys, f"{own}:make_only", "--input", "6")["macs"] == 312
    assert record(monkeypatch, capsys, f"{own}:make", "--input", "6")["macs"] == 312


@pytest.mark.parametrize(
    ("factory", "words"), [("make_only", "--input"), ("make_nothing", "int"), ("missing", "AttributeError")]
)
def test_a_factory_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str, factory: str, words: str
) -> None:
    assert command(monkeypatch, "inspect", f"{own}:{factory}") == 2
    assert words in capsys.readouterr().err


def test_a_folder_is_no_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(monkeypatch, "inspect", str(tmp_path)) == 2
    assert "is a folder; give the model that is in it by its name" in " ".join(capsys.readouterr().err.split())


# ---- a structure as a table ----


def test_a_structure_prints_as_a_table() -> None:
    structure = icycle.trace(Branches(), IMAGE)
    lines = str(structure).splitlines()
    assert str(structure) == structure.table()
    assert lines[0].split() == ["group", "size", "removal", "parameters,", "or", "why", "it", "stays"]
    rows = lines[1 : 1 + len(structure.groups)]
    assert [row.split()[:2] for row in rows] == [[group.name, str(group.size)] for group in structure.groups]
    assert re.search(r"^hidden +12 +exact +hidden\.weight, hidden\.bias, head\.weight$", str(structure), re.MULTILINE)
    assert "an output of the model" in str(structure)
    assert f"{structure.macs():,} MACs and {structure.params():,} parameters" in lines[-1]


class Through(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "cause", "advice"),
    [
        (lambda x: x.view(-1, 3, 4).flatten(1), "the code says 3", "write -1"),
        (lambda x: torch.cat([x[:, :5], x[:, -7:]], 1), "the code", "x.shape"),
        (lambda x: x.softmax(-1), "every element takes part", "needs every channel"),
        (lambda x: x.sort(-1).values, "ordered by value", "needs every channel"),
        (lambda x: x.flip(1), "elements change places", "needs every channel"),
        (lambda x: x[:, torch.arange(12)], "chosen by index", "by their numbers"),
        (lambda x: torch.stack(x.unbind(1), 1), "taken apart element by element", "chunk"),
        (lambda x: x + CONSTANT, "a constant tensor", "register_buffer"),
        (lambda x: torch.from_numpy(x.detach().numpy()), "values are read", "not seen"),
    ],
)
def test_every_way_to_be_pinned_has_its_advice(function: Callable[[Tensor], Tensor], cause: str, advice: str) -> None:
    found = icycle.trace(Through(function), torch.randn(2, 6))["first"].pinned_by
    assert found is not None
    assert cause in found.cause
    assert advice in found.advice
    assert found.source.startswith("test_inspect.py:")


def test_what_was_not_used_says_so() -> None:
    model = Through(torch.relu)
    model.spare = nn.Linear(6, 12)
    assert icycle.trace(model, torch.randn(2, 6))["spare"].pinned_by == Reason(Kind.UNUSED, "spare.weight")


def test_the_code_that_traces_is_no_source_line() -> None:
    """In a model of torch's layers alone no line is the user's."""
    group = icycle.trace(nn.Sequential(nn.Linear(6, 12), nn.Softmax(1), nn.Linear(12, 2)), torch.randn(2, 6))["0"]
    assert group.reason == "every element takes part: aten::_softmax at 1"
    assert group.pinned_by == Reason(Kind.ALL_TAKE_PART, "", "aten::_softmax", "1")

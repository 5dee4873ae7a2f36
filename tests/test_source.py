"""Functions and the text they come from: compiled unchanged it is what runs, and what is compiled anew is at home."""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.tracing import edits_of
from icycle.tracing._source import source_of
from proof import prove, sizes

WIDTH, HEADS = 12, 3

MODULE = """
import math
import helpers_of_{name} as ops
from torch import nn

calls = 0
share = 1.0


def split(tensor, heads, width):
    return tensor.reshape(*tensor.shape[:2], heads, width // heads).transpose(1, 2)


TABLE = {{"split": split}}


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = {heads}
        self.q, self.proj = nn.Linear({width}, {width}), nn.Linear({width}, {width})
        self.fn = split

    def mix(self, x):
        return x.transpose(1, 2)


def decorated(function):
    return function


class Plain(Base):
    @decorated
    def forward(self, x):
        global calls
        calls += 1
        __private = x.shape[-1]
        split_ = split(self.q(x) * share, self.heads, __private)
        mixed = super().mix(split_)
        return self.proj(
            mixed.contiguous()
            .reshape(
                x.shape[0], x.shape[1], x.shape[2]
            )
        )


class Dotted(Base):
    def forward(self, x):
        return self.proj(self.mix(ops.split(self.q(x), self.heads, x.shape[2])).flatten(2))


class Attribute(Base):
    def forward(self, x):
        return self.proj(self.mix(self.fn(self.q(x), self.heads, x.shape[2])).flatten(2))


class Table(Base):
    def forward(self, x):
        return self.proj(self.mix(TABLE["split"](self.q(x), self.heads, x.shape[2])).flatten(2))


class Local(Base):
    def forward(self, x):
        chosen = split
        return self.proj(self.mix(chosen(self.q(x), self.heads, x.shape[2])).flatten(2))


class Parent(Base):
    def divide(self, x):
        return self.q(x).reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Super(Parent):
    def forward(self, x):
        return self.proj(self.mix(super().divide(x)).flatten(2))


class Bound(Parent):
    def forward(self, x):
        divide = self.divide
        return self.proj(self.mix(divide(x)).flatten(2))


class Both(Base):
    def forward(self, x):
        a = split(self.q(x), self.heads, x.shape[2])
        b = self.fn(self.proj(x), self.heads, x.shape[2])
        return self.mix(a * b).flatten(2) @ self.proj.weight
"""


@pytest.fixture
def module(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    name = f"written_{abs(hash(request.node.name))}"
    helpers = _import(tmp_path, f"helpers_of_{name}", MODULE.split("TABLE")[0].partition("\n\n\n")[2])
    made = _import(tmp_path, name, MODULE.format(name=name, width=WIDTH, heads=HEADS))
    yield made
    del sys.modules[helpers.__name__], sys.modules[name]


def _import(folder: Path, name: str, text: str) -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def network(kind: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(), nn.Linear(WIDTH, 4)).double().eval()


EXAMPLE = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def pruned(kind: type[nn.Module]) -> nn.Sequential:
    model = network(kind)
    structure = icycle.trace(model, EXAMPLE)
    return icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, 0))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["Plain", "Dotted"])
def test_heads_go_on_their_own(module: Any, kind: str) -> None:
    structure = prove(network(getattr(module, kind)), EXAMPLE)
    assert sizes(structure)["1.q"] == HEADS and structure.rewrites


@pytest.mark.parametrize("kind", ["Attribute", "Table", "Local", "Super", "Bound", "Both"])
def test_no_edit_where_a_copy_of_the_code_would_not_be_called(module: Any, kind: str) -> None:
    model = network(getattr(module, kind))
    structure = prove(model, EXAMPLE)
    assert not any(rewrite.edit.functions[-1] in ("split", "divide") for rewrite in structure.rewrites)
    assert kind == "Both" or structure.prunable
    assert all(group.exact for group in structure.prunable)


def test_an_attribute_that_hides_the_method_is_no_edit(module: Any) -> None:
    model = network(module.Plain)
    model[1].forward = model[1].forward
    structure = icycle.trace(model, EXAMPLE)
    assert not structure.rewrites


def test_globals_stay_live(module: Any) -> None:
    model = pruned(module.Plain)
    assert edits_of(model[1])
    module.calls = 0
    before = model(EXAMPLE)
    assert module.calls == 1
    module.share = 0.0
    assert not torch.equal(model(EXAMPLE), before)
    module.share = 1.0
    original, module.split = module.split, lambda *given: torch.zeros_like(given[0]).unsqueeze(1)
    assert torch.equal(model(EXAMPLE)[0, 0], model(EXAMPLE)[1, 1])  # nothing of the input is left
    module.split = original
    assert torch.equal(model(EXAMPLE), before)


def test_tracebacks_show_the_code_that_runs(module: Any) -> None:
    model = pruned(module.Plain)
    method = type(model[1]).forward
    lines = linecache.getlines(method.__code__.co_filename)
    assert any("x.shape[0], x.shape[1], -1" in line for line in lines)
    with pytest.raises(RuntimeError) as caught:
        model[1](EXAMPLE.float())
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert "split_ = (_icycle_0 if split is" in shown


def test_a_second_trace_sees_the_new_code_as_the_models(module: Any) -> None:
    model = pruned(module.Plain)
    structure = prove(model, EXAMPLE)
    assert structure.prunable


def test_a_file_that_has_changed_since_it_was_imported(module: Any) -> None:
    file = Path(module.__file__)
    assert source_of(module.Plain.forward.__code__) is not None
    for text in (file.read_text().replace("* share", "* 2.0"), "\n" + file.read_text(), "def split(:"):
        file.write_text(text)
        os.utime(file, (1, 1))
        assert source_of(module.Plain.forward.__code__) is None
        assert not icycle.trace(network(module.Plain), EXAMPLE).rewrites


def test_cells_of_a_function_within_a_function() -> None:
    scale = torch.ones((), dtype=torch.float64)

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = HEADS
            self.q, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            parts = [self.q(x).view(*x.shape[:2], self.heads, w // self.heads) * scale for w in x.shape[2:]]
            return self.proj(parts[0].flatten(2))

    structure = prove(network(Inner), EXAMPLE)
    assert not structure.rewrites or sizes(structure)["1.q"] == HEADS

    class Closed(Inner):
        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x).view(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads)
            return self.proj((q * scale).reshape(x.shape[0], x.shape[1], x.shape[2]))

    assert sizes(prove(network(Closed), EXAMPLE))["1.q"] == HEADS


def _forwards(package: str) -> Iterator[FunctionType]:
    """The `forward` of every module class in the loaded modules of a package."""
    seen: set[int] = set()
    for name, loaded in sorted(sys.modules.items()):
        if name.partition(".")[0] != package and not name.startswith(package + "."):
            continue
        for kind in list(vars(loaded).values()):
            forward = vars(kind).get("forward") if isinstance(kind, type) and issubclass(kind, nn.Module) else None
            if isinstance(forward, FunctionType) and forward.__module__ == name and id(forward) not in seen:
                seen.add(id(forward))
                yield forward


@pytest.mark.parametrize(("package", "least"), [("torch.nn", 120), ("torchvision.models", 60), ("timm", 500)])
def test_the_unchanged_text_of_whole_libraries_is_what_runs(package: str, least: int) -> None:
    pytest.importorskip(package)
    forwards = [forward for forward in _forwards(package) if not hasattr(forward, "__wrapped__")]
    odd = [forward.__qualname__ for forward in forwards if source_of(forward.__code__) is None]
    print(f"{package}: {len(forwards) - len(odd)} of {len(forwards)}")
    assert odd == []
    assert len(forwards) >= least

"""Saved models come back bit for bit, damage is noticed, and no pickle is involved."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import ArtifactError
from icycle.tracing import output_tensors
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot

SOURCE = Path(icycle.__file__).parent


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x.flatten(2).transpose(1, 2))[0])


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "branches": (Branches, IMAGE),
    "words": (Words, TOKENS),
    "recurrent": (Recurrent, IMAGE),
    "encoder": (lambda: nn.TransformerEncoderLayer(12, 4, 20, batch_first=True), torch.randn(2, 5, 12)),
    "channels last": (lambda: Branches().to(memory_format=torch.channels_last), IMAGE),  # type: ignore[call-overload]
    "half precision": (lambda: Branches().to(torch.bfloat16), IMAGE.bfloat16()),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 10)), nn.ReLU(), nn.Linear(10, 2)),
        torch.randn(2, 6),
    ),
}


def pruned(name: str) -> tuple[nn.Module, Tensor]:
    build, inputs = MODELS[name]
    model = build().eval()
    structure = icycle.trace(model, inputs)
    return icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5)), inputs


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_model_loads_to_the_same_bits(name: str, tmp_path: Path) -> None:
    model, inputs = pruned(name)
    icycle.save(model, tmp_path / "saved")
    torch.manual_seed(99)
    fresh = MODELS[name][0]().eval()
    assert icycle.load(tmp_path / "saved", fresh) is fresh
    with torch.no_grad():
        for expected, actual in zip(output_tensors(model(inputs)), output_tensors(fresh(inputs)), strict=True):
            assert torch.equal(expected, actual)
    for (key, one), (_, two) in zip(model.state_dict().items(), fresh.state_dict().items(), strict=True):
        assert torch.equal(one, two), key
        assert one.stride() == two.stride(), key


def test_non_persistent_buffers_and_ties_come_back(tmp_path: Path) -> None:
    model, _ = pruned("branches")
    fresh = icycle.load(icycle.save(model, tmp_path / "one"), Branches())
    assert torch.equal(fresh.get_buffer("hint"), model.get_buffer("hint"))
    words, _ = pruned("words")
    loaded = icycle.load(icycle.save(words, tmp_path / "two"), Words())
    assert isinstance(loaded, Words)
    assert loaded.out.weight is loaded.table.weight


class Positions(nn.Module):
    """Makes its non-persistent buffer, in which are channels that can go, as it runs."""

    def __init__(self, first: Tensor | None) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("places", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.places is None or len(self.places) != x.shape[1]:
            self.places = torch.rand(x.shape[1], self.inner.out_features)
        return self.out(torch.relu(self.inner(x) + self.places))


@pytest.mark.parametrize("first", [None, torch.zeros(1), torch.zeros(1, 16)], ids=["none", "empty", "short"])
def test_buffers_that_the_model_makes_as_it_runs_come_back(tmp_path: Path, first: Tensor | None) -> None:
    model, x = Positions(first), torch.randn(2, 5, 6)
    model(x)
    structure = icycle.trace(model, x)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    expected = model(x)
    assert torch.equal(icycle.load(icycle.save(model, tmp_path / "saved"), Positions(first))(x), expected)


def test_such_buffers_say_nothing_of_attributes(tmp_path: Path) -> None:
    (model, tokens), fresh = pruned("words"), Words()
    model.register_buffer("places", torch.arange(3), persistent=False)
    fresh.register_buffer("places", torch.zeros(1), persistent=False)
    icycle.load(icycle.save(model, tmp_path / "saved"), fresh)
    assert fresh.heads == model.heads < 4
    assert torch.equal(fresh.get_buffer("places"), torch.arange(3))
    assert torch.equal(fresh.eval()(tokens)["logits"], model(tokens)["logits"])


def test_a_loaded_model_is_traced_pruned_and_trained_on(tmp_path: Path) -> None:
    model, inputs = pruned("words")
    fresh = icycle.load(icycle.save(model, tmp_path / "saved"), Words())
    structure = icycle.trace(fresh, inputs)
    assert structure.fingerprint == icycle.trace(model, inputs).fingerprint
    icycle.prune(fresh, structure, icycle.SubNetwork.random(structure, 0.5))
    fresh.train()
    fresh(inputs)["logits"].sum().backward()


def test_modes_and_gradient_switches_of_the_fresh_model_stay(tmp_path: Path) -> None:
    model, _ = pruned("branches")
    fresh = Branches().train()
    fresh.stem.requires_grad_(False)
    icycle.load(icycle.save(model, tmp_path / "saved"), fresh)
    assert fresh.training
    assert not fresh.stem.weight.requires_grad
    assert fresh.mix.weight.requires_grad


def test_an_unpruned_model_can_be_saved_too(tmp_path: Path) -> None:
    model = Branches()
    fresh = icycle.load(icycle.save(model, tmp_path / "saved"), Branches())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


# ---- what is refused ----


def refused(folder: Path, match: str, model: nn.Module | None = None) -> None:
    """Loading raises, and the model is as it was."""
    fresh = Branches() if model is None else model
    before = snapshot(fresh)
    with pytest.raises(ArtifactError, match=match):
        icycle.load(folder, fresh)
    assert differences(before, snapshot(fresh)) == []


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return icycle.save(pruned("branches")[0], tmp_path / "saved")


def change(folder: Path, **values: Any) -> None:
    file = folder / "structure.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_flipped_byte_is_noticed(saved: Path, place: float) -> None:
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[int(place * len(data)) if place >= 0 else -1] ^= 1
    file.write_bytes(data)
    refused(saved, "damaged")


def test_a_cut_file_is_noticed(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(saved, "damaged")


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    refused(saved, "model.safetensors")
    refused(tmp_path / "nowhere", "nowhere")


def test_damaged_and_foreign_descriptions(saved: Path) -> None:
    file = saved / "structure.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    refused(saved, "damaged")
    file.write_text("[]")
    refused(saved, "does not")
    file.write_bytes(b"\xff\xfe\x00")
    refused(saved, "damaged")
    file.write_text(json.dumps({"format": "icycle model", "version": 3}))
    refused(saved, "missing")


def test_another_version_is_refused(saved: Path) -> None:
    change(saved, version=99)
    refused(saved, "version 3.*99")


def test_other_architectures_are_refused(saved: Path) -> None:
    refused(saved, "differs in", Words())
    refused(saved, "differs in", nn.Linear(2, 2))
    refused(saved, r"at least \[", Branches(2))


def test_a_pruned_model_is_not_what_to_load_into(tmp_path: Path) -> None:
    model, _ = pruned("branches")
    icycle.save(Branches(), tmp_path / "whole")
    refused(tmp_path / "whole", "at least", model)


def test_a_folder_that_holds_a_model_is_not_overwritten(saved: Path) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(ArtifactError, match="no model yet"):
        icycle.save(Branches(), saved)
    assert before == {file.name: file.read_bytes() for file in saved.iterdir()}


# ---- no pickle ----


def _uses_pickle(tree: ast.AST) -> list[str]:
    """torch.load (but for weights_only=True), torch.save, and any module that pickles, by import or by attribute."""
    modules = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    harmless = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _reads_weights_only(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            found += [node.module] if node.module.split(".")[0] in modules and names != {"UnpicklingError"} else []
            found += [
                f"torch.{name}" for name in names & {"load", "save"} if node.module in ("torch", "torch.serialization")
            ]
        elif id(node) in harmless:
            continue
        elif isinstance(node, ast.Attribute) and node.attr in ("load", "save", "load_state", "save_state"):
            owner = ast.unparse(node.value)
            found += [f"{owner}.{node.attr}"] if owner in ("torch", "accelerator", "self._accelerator") else []
        elif isinstance(node, ast.Call) and any(keyword.arg == "allow_pickle" for keyword in node.keywords):
            found += [
                ast.unparse(node)
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
            ]
    return found


def _reads_weights_only(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "torch.load" and any(
        keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords
    )


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_reads_or_writes_pickles(file: Path) -> None:
    assert _uses_pickle(ast.parse(file.read_text())) == []


def test_the_search_for_pickles_finds_them() -> None:
    code = "import pickle\nfrom torch import save\ntorch.load('x')\nnp.load('x', allow_pickle=True)"
    assert len(_uses_pickle(ast.parse(code))) == 4
    assert _uses_pickle(ast.parse("torch.load('x', weights_only=False)"))
    assert not _uses_pickle(ast.parse("torch.load('x', weights_only=True)"))


def test_saved_files_are_what_they_say(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["model.safetensors", "structure.json"]
    data = (saved / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {"stem.weight", "hint"} <= header.keys()


def test_saved_files_have_the_rights_of_any_new_one(saved: Path) -> None:
    (saved / "any").touch()
    assert len({file.stat().st_mode for file in saved.iterdir()}) == 1


def test_saving_does_not_change_the_model(tmp_path: Path) -> None:
    model, _ = pruned("words")
    before = snapshot(model)
    icycle.save(model, tmp_path / "saved")
    assert differences(before, snapshot(model)) == []
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()

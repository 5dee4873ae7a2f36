"""No artifact, damaged at random or made to deceive, changes a model or its code: an error, or the very same load."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.artifacts import _folder
from icycle.errors import ArtifactError
from networks import differences, snapshot

EXAMPLE = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
FILES = ("structure.json", "model.safetensors")


class Heads(nn.Module):
    """An edit (the last reshape), an attribute that follows, a flag, a number of rounds and a calculation that must not
    change, a buffer that is not there at first."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.turns, self.shape = 4, 1, (4, 3)
        self.rounds, self.kernel = 4, (4, 4)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.calls = 0
        self.register_buffer("cache", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 3).permute(2, 0, 3, 1, 4).unbind(0)
        a = torch.softmax(q @ k.transpose(-2, -1), dim=-1, dtype=None)
        x = self.out((a @ v).transpose(1, 2).reshape(b, n, c))
        for _ in range(self.rounds):
            x = x.neg()
        return torch.flatten(x, start_dim=1) if True else x


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Heads()
    structure = icycle.trace(model, EXAMPLE)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert model.heads == 2
    model.cache = torch.ones(7)
    return icycle.save(model, tmp_path / "saved")


def check(folder: Path, expected: nn.Module | None = None) -> bool:
    """True where loading raised and left the model alone; else the model must be `expected`."""
    model = Heads()
    before = snapshot(model)
    try:
        icycle.load(folder, model)
    except ArtifactError:
        assert differences(before, snapshot(model)) == []
        return True
    assert expected is not None
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert torch.equal(model(EXAMPLE), expected(EXAMPLE))
    return False


def test_only_what_the_removal_changed_is_written(saved: Path) -> None:
    content = json.loads((saved / "structure.json").read_text())
    assert content["attributes"] == {"": {"heads": 2}}
    assert list(content["edits"]) == [""]
    model = icycle.load(saved, Heads())
    assert (model.heads, model.calls, model.turns) == (2, 0, 1)


def test_a_model_that_has_run_and_counts_its_runs_is_loaded(tmp_path: Path) -> None:
    model = Heads()
    structure = icycle.trace(model, EXAMPLE)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    model.calls, model.seen_shape = 7, (2, 5)  # type: ignore[assignment]
    fresh = icycle.load(icycle.save(model, tmp_path / "a"), Heads())
    assert fresh.calls == 0
    again = icycle.load(icycle.save(copy.deepcopy(fresh), tmp_path / "b"), Heads())
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


def test_a_thousand_random_corruptions(saved: Path, tmp_path: Path) -> None:
    expected = icycle.load(saved, Heads())
    dice, content = random.Random(0), {name: (saved / name).read_bytes() for name in FILES}
    refused = 0
    for _ in range(1000):
        name = dice.choice(FILES)
        (saved / name).write_bytes(corrupted(content[name], dice))
        refused += check(saved, expected)
        (saved / name).write_bytes(content[name])
    assert refused > 950


def corrupted(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    stop = min(len(data), start + dice.choice((1, 1, 4, 50)))
    kind = dice.randrange(4)
    if kind == 0:
        return data[:start] + bytes(dice.randrange(256) for _ in range(stop - start)) + data[stop:]
    if kind == 1:
        return data[:start] + data[stop:]
    return data[:start] + data[start:stop] * dice.randint(2, 5) + data[stop:] if kind == 2 else data[:start]


def sealed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description and give it the checksum that it then has: an attacker can."""
    file = folder / "structure.json"
    content = json.loads(file.read_text())
    change(content)
    del content["checksum"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**content, "checksum": digest}))


VALUES: list[Any] = [True, 0, -1, 5, 2**70, 1.0, "2", None, [], [2], [[2]], {}, {"a": 1}, [None], [True]]
NAMES = ["turns", "training", "forward", "__class__", "_parameters", "missing", "_icycle_attributes", "calls"]
SPANS = [[0, 0, 0, 0], [-1, -1, -1, -1], [3, 0, 9, 9], [2, 8, 2, 20], [6, 8, 6, 100], [2**40, 0, 2**40, 1]]
FUNCTIONS: list[Any] = [
    [],
    ["missing"],
    ["__init__"],
    ["forward", "torch"],
    ["forward", "os.system"],
    ["__class__"],
    "forward",
]
NUMBERS: list[Any] = [0, -2, True, "1", None, 2**80, 1.5, [1]]


def crafted() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    for value in VALUES:
        yield f"heads={value!r}", lambda c, value=value: c["attributes"].update({"": {"heads": value}})
    for name in NAMES:
        for value in (3, [2, 3], [2, None], True):
            yield f"{name}={value}", lambda c, name=name, value=value: c["attributes"].update({"": {name: value}})
    for value in (1, 2, 3, 4):  # a positive number that is smaller, as the heads are
        yield f"rounds={value}", lambda c, value=value: c["attributes"].update({"": {"heads": 2, "rounds": value}})
        yield f"kernel={value}", lambda c, value=value: c["attributes"].update({"": {"heads": 2, "kernel": [value, 4]}})
    for value in (1, 3, 4):
        yield f"heads={value}", lambda c, value=value: c["attributes"].update({"": {"heads": value}})
    for value in ("", "{}", "[]", "x", '{"tensor": "float32", "shape": [2, 5, 13]}', '{"tensor": "eval", "shape": []}',
                  '{"tensor": "float32", "shape": [1099511627776]}', '{"constant": [1]}', None, 3):  # fmt: skip
        yield f"inputs={value}", lambda c, value=value: c.update(inputs=value)
    for path in ("nowhere", "../..", "/etc/passwd", "qkv.weight", "__class__"):
        yield f"attribute of {path}", lambda c, path=path: c["attributes"].update({path: {"heads": 2}})
        yield f"edit of {path}", lambda c, path=path: c["edits"].update({path: c["edits"][""]})
        yield f"layout of {path}", lambda c, path=path: c["channels_last"].append(path)
    for key, values in (("span", SPANS), ("functions", FUNCTIONS), ("number", NUMBERS)):
        for value in values:
            yield f"{key}={value}", lambda c, key=key, value=value: c["edits"][""][0].update({key: value})
    for value in ("dtype", "start_dim", "__class__", "scale", 3):
        yield f"keyword={value}", lambda c, value=value: c["edits"][""][0].update(keyword=value)
    for key in ("sha256", "edits", "attributes", "channels_last", "model", "format", "version"):
        yield f"{key} of another type", lambda c, key=key: c.update({key: 3.5})
        yield f"no {key}", lambda c, key=key: c.pop(key)
    yield "more", lambda c: c.update(hook="os.system")
    yield "a wrong digest", lambda c: c["edits"][""][0].update(digest="0" * 64)
    yield "a file elsewhere", lambda c: c.update(tensors="../other.safetensors")


@pytest.mark.parametrize(("name", "change"), list(crafted()), ids=[name for name, _ in crafted()])
def test_crafted_descriptions_are_refused(saved: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    sealed(saved, change)
    assert check(saved)


def test_every_expression_that_no_removal_edits_is_refused(saved: Path) -> None:
    """The flag `True`, the keyword arguments, the calls: whatever the span, only sizes and operands are replaced."""
    expected = icycle.load(saved, Heads())
    text = (saved / "structure.json").read_text()
    source, _ = __import__("inspect").getsourcelines(Heads.forward)
    refused = tried = 0
    for line, code in enumerate(source):
        for word in ("None", "True", "-1", "self.heads", "c", "x", "dim", "1"):
            column = code.find(word)
            if column < 0 or (word == "c" and "reshape(b, n, c)" in code):
                continue
            (saved / "structure.json").write_text(text)
            span = [line, column, line, column + len(word)]
            sealed(saved, lambda content, span=span: content["edits"][""][0].update(span=span))
            tried += 1
            if word != "self.heads":  # a size in a reshape: a removal may write -1 there
                refused += check(saved, expected)
    assert tried > 10
    assert refused >= tried - 1


def test_nested_oversized_and_repeated_content(saved: Path) -> None:
    file = saved / "structure.json"
    text = file.read_text()
    for content in ("[" * 200_000, '{"a":' * 100_000, text[:-1] + ', "version": 3}', " " * (33 * 2**20), "NaN", ""):
        file.write_text(content)
        assert check(saved)


def test_links_out_of_the_folder_and_what_is_no_file(saved: Path, tmp_path: Path) -> None:
    for name in FILES:
        elsewhere = tmp_path / f"other-{name}"
        (saved / name).rename(elsewhere)
        (saved / name).symlink_to(elsewhere)
        assert check(saved)
        (saved / name).unlink()
        os.mkfifo(saved / name)
        assert check(saved)
        (saved / name).unlink()
        elsewhere.rename(saved / name)
    assert not check(saved, icycle.load(saved, Heads()))


def test_numbers_of_another_kind_are_refused(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = saved / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor.to(torch.int32) for name, tensor in tensors.items()}, file)
    sealed(saved, lambda content: content.update(sha256=hashlib.sha256(file.read_bytes()).hexdigest()))
    assert check(saved)


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("place", ["save_file", "flush"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, existing: bool
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if existing:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "notes.txt").write_text("mine")
    monkeypatch.setattr(_folder, place, full)
    with pytest.raises(ArtifactError, match="No space left"):
        icycle.save(Heads(), tmp_path / "saved")
    assert [file.name for file in tmp_path.rglob("*")] == (["saved", "notes.txt"] if existing else [])
    monkeypatch.undo()
    icycle.load(icycle.save(Heads(), tmp_path / "saved"), Heads())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="nothing was left"):
        icycle.save(Heads(), tmp_path / "file" / "saved")

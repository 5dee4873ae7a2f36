"""A network of one's own with a checkpoint, an image folder, and the shortest recipe: as a new user would."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file, save_model

import icycle
from command import command
from icycle.errors import DataError, RecipeError
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.zoo import build_model, load_weights, model
from test_data import write_images

NET = """
    from torch import nn

    def build(num_classes, channels=16):
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

    def of_two():
        return build(2)

    def grey(num_classes):
        pool = nn.AdaptiveAvgPool2d(1)
        first, second = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), pool, nn.Flatten(), nn.Linear(16, num_classes))

    def of_one_size(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, num_classes))

    def broken():
        return 3
"""
RECIPE = """
    data: {folder: data}
    model: {name: "acme_net:build", weights: w.pt}
    train: {epochs: 2, batch_size: 8}
    method: {name: one-cycle, budget: {macs: 0.5}}
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "acme_net.py").write_text(dedent(NET))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("acme_net", None)


@pytest.mark.parametrize("classes", [2, 7])
def test_the_shortest_recipe_of_ones_own_prunes_to_half(acme: Path, classes: int) -> None:
    write_images(acme / "data" / "train", {"ant": 16, "bee": 16}, size=(12, 12))
    (acme / "own.yaml").write_text(dedent(RECIPE))
    torch.save(build_model("acme_net:build", num_classes=classes).state_dict(), "w.pt")
    folder = RunFolder(acme / "run")
    report = run_recipe(load_recipe("own.yaml", ["data.workers=0"]), folder)
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.05)
    told = next(
        record for record in map(json.loads, folder.metrics.read_text().splitlines()) if record["kind"] == "weights"
    )
    assert told["fresh"] == ([] if classes == 2 else ["8.weight", "8.bias"])
    loaded = icycle.load(folder.model, build_model("acme_net:build", num_classes=2))
    assert sum(parameter.numel() for parameter in loaded.parameters()) == report.pruned.params


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.name=acme_net:of_two"], r"for the 3 classes of 'data', but got \(1, 2\); let it take num_classes"),
        (
            ["model.name=acme_net:grey"],
            r"the inputs of 'data', float32\[1, 3, 12, 12\], but .* change data.size or data.ch",
        ),
        (["model.name=acme_net:of_one_size", "data.size=16"], r"float32\[1, 3, 16, 16\], but it gave RuntimeError"),
        (["model.name=acme_net.build"], "one of your own is written acme_net:build"),
        (["train.batch_size=64"], "train.batch_size to be no more than the 40 training examples of 'data', but got 64"),
        (["task.name=multi-label"], r"for multi-label, but got float32\[8, 3\] and int64\[8\]; change task.name"),
        (["method.budget=0.5"], r"method.budget: expected what it may cost, by name, such as \{macs: 0.5\}"),
    ],
)
def test_what_does_not_go_together_is_told_before_any_training(acme: Path, overrides: list[str], words: str) -> None:
    write_images(acme / "data" / "train", {"ant": 16, "bee": 16, "cat": 16}, size=(12, 12))
    (acme / "own.yaml").write_text(dedent(RECIPE))
    with pytest.raises((RecipeError, DataError), match=words):
        run_recipe(
            load_recipe("own.yaml", ["data.workers=0", "model.weights=null", *overrides]), RunFolder(acme / "run")
        )
    assert not (acme / "run").exists()


def test_an_image_that_cannot_be_read_ends_the_run_which_goes_on_once_it_is_replaced(
    acme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in {"train": 16, "test": 4}.items():
        write_images(acme / "data" / part, {"ant": count, "bee": count}, size=(12, 12))
    (acme / "own.yaml").write_text(dedent(RECIPE))
    broken = next((acme / "data" / "test" / "bee").iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    settings = ("--set", "data.workers=1", "--set", "model.weights=null", "--output", "run")
    assert command(monkeypatch, "run", "own.yaml", *settings) == 2
    said = capsys.readouterr().err
    assert f"Expected an image in data/test/bee/{broken.name}" in said
    assert "remove or replace it. Then go on: icycle run --resume run" in said
    assert "Traceback" not in said
    broken.write_bytes(whole)
    assert command(monkeypatch, "run", "--resume", "run") == 0


def test_grey_images_are_for_grey_networks_where_that_is_said(acme: Path) -> None:
    write_images(acme / "data" / "train", {"ant": 16, "bee": 16}, size=(12, 12))
    for path in (acme / "data").rglob("*.*g"):
        Image.open(path).convert("L").save(path)
    (acme / "own.yaml").write_text(dedent(RECIPE))
    changes = ["data.workers=0", "model.weights=null", "model.name=acme_net:grey", "data.channels=1"]
    report = run_recipe(load_recipe("own.yaml", changes), RunFolder(acme / "run"))
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped", "parallel", "compiled", "lightning", "artifact"])
def test_weights_are_read_from_what_people_have(acme: Path, kind: str) -> None:
    trained, fresh = (build_model("acme_net:build", num_classes=3) for _ in range(2))
    state, path = trained.state_dict(), acme / "w.pt"
    if kind == "safetensors":
        path = acme / "w.safetensors"
        save_file(state, path)
    elif kind == "artifact":
        path = acme / "saved"
        icycle.save(trained, path)
    else:
        prefixed = {
            prefix: {f"{prefix}.{key}": value for key, value in state.items()}
            for prefix in ("module", "_orig_mod", "model")
        }
        content = {
            "wrapped": {"epoch": 3, "state_dict": state},
            "parallel": prefixed["module"],
            "compiled": prefixed["_orig_mod"],
            "lightning": {"epoch": 3, "state_dict": prefixed["model"]},
        }
        torch.save(content.get(kind, state), path)
    assert load_weights(path, fresh) == []
    assert all(torch.equal(value, state[key]) for key, value in fresh.state_dict().items())


def test_of_tied_weights_one_is_enough(tmp_path: Path) -> None:
    def tied() -> torch.nn.Sequential:
        model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False))
        model[1].weight = model[0].weight
        return model

    trained, fresh = tied(), tied()
    save_model(trained, str(tmp_path / "tied.safetensors"))
    assert load_weights(tmp_path / "tied.safetensors", fresh) == []
    assert torch.equal(fresh[0].weight, trained[0].weight) and fresh[1].weight is fresh[0].weight


def test_weights_that_do_not_fit_are_told_by_key_and_change_nothing(acme: Path) -> None:
    state = build_model("acme_net:build", num_classes=3).state_dict()
    state["extra.weight"] = state.pop("0.weight")
    state["4.weight"] = torch.ones(5)
    state["3.weight"] = torch.ones(16, 2, 3, 3)
    save_file(state, "w.safetensors")
    network = build_model("acme_net:build", num_classes=3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(RecipeError) as caught:
        load_weights(Path("w.safetensors"), network)
    for words in ("1 missing: 0.weight", "1 unexpected: extra.weight", "2 of another shape: 3.weight, 4.weight"):
        assert words in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.pt", Path, "could run any code"),
        ("w.pt", {"a": 1}, "but got dict with a"),
        ("w.txt", {}, r"\.safetensors"),
        ("none.pt", None, "there is nothing"),
    ],
)
def test_a_file_that_holds_no_weights_is_a_clear_error(acme: Path, name: str, content: object, words: str) -> None:
    if content is not None:
        torch.save(content, name)
    with pytest.raises(RecipeError, match=words):
        load_weights(Path(name), build_model("acme_net:build", num_classes=3))


def test_options_reach_the_network_and_what_is_wrong_is_told(acme: Path) -> None:
    assert build_model("acme_net:build", num_classes=3, options={"channels": 5})[0].out_channels == 5  # type: ignore[index]
    for name, options, words in (
        ("acme_net:build", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("acme_net:broken", {}, "but got int"),
        ("acme_net:none", {}, "Expected 'none' in acme_net"),
        ("nohub/x", {}, "huggingface/<name>"),
    ):
        with pytest.raises(RecipeError, match=words):
            build_model(name, num_classes=3, options=options)
    with pytest.raises(RecipeError, match="no width"):
        build_model("acme_net:build", num_classes=3, width=8)


def test_a_registered_network_has_a_name() -> None:
    @model("registered-linear")
    def build(num_classes: int) -> torch.nn.Module:
        return torch.nn.Linear(4, num_classes)

    assert build_model("registered-linear", num_classes=3).out_features == 3


def test_a_hugging_face_network_is_made_of_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "image_size": 16, "patch_size": 8}
    (tmp_path / "config.json").write_text(json.dumps({**config, **sizes}))
    network = build_model(f"huggingface/{tmp_path}", num_classes=5, options={"intermediate_size": 24})
    assert network.classifier.out_features == 5
    with pytest.raises(RecipeError, match=r"config\.json"):
        build_model(f"huggingface/{tmp_path}/none", num_classes=5)

"""The papers' experiments: each recipe runs two steps, on tiny data in the format of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icycle.recipes import RunFolder, bundled_recipes, load_recipe, run_recipe
from test_data import write_images
from test_zoo import write_cifar

PAPERS = [name for name in bundled_recipes() if name.startswith(("one-cycle-", "ice-"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("cifar10", "cifar100", "imagenet", "tiny-imagenet")}
    labels = np.arange(20) % 10
    for part in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        write_cifar(made["cifar10"] / f"{part}.bin", labels, 1)
    for part in ("train", "test"):
        write_cifar(made["cifar100"] / f"{part}.bin", np.arange(100), 2)
    for part in ("train", "val"):
        write_images(made["imagenet"] / part, {"n01440764": 20, "n01443537": 20})
    write_images(made["tiny-imagenet"] / "train", {"n01": 20, "n02": 20}, size=(64, 64))
    write_images(made["tiny-imagenet"] / "val", {"images": 4}, size=(64, 64))
    rows = [f"{number}.{'jpg' if number % 2 else 'png'}\tn0{number % 2 + 1}\t0\t0\t9\t9\n" for number in range(4)]
    (made["tiny-imagenet"] / "val" / "val_annotations.txt").write_text("".join(rows))
    return made


def test_every_network_of_the_papers_has_its_recipe() -> None:
    networks = {(recipe.model.name, recipe.data.name) for recipe in map(load_recipe, PAPERS)}
    assert len(networks) == len(PAPERS) == 10


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_the_papers_runs_two_steps(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(name)
    settings = [f"data.folder={folders[str(recipe.data.name)]}", "train.epochs=2", "train.batch_size=16"]
    settings += ["data.subset=20", "data.validation=0.2", "data.workers=0"]
    if "/" not in recipe.model.name:  # 11 % of the MACs are out of reach of four channels
        settings.append(f"model.width={16 if recipe.model.name == 'vgg19-bn' else 4}")
    else:
        settings.append("data.size=32")
    if recipe.model.name == "torchvision/wide_resnet101_2":  # 127 million weights are too many for a test
        settings.append("model.name=torchvision/resnet18")
    if recipe.method.name == "ice-published":
        settings += ["method.steps=all", "method.freeze=0", "method.final_epochs=1", "train.epochs=1"]
        settings.append("method.data_share=1")  # a share of 20 images holds no batch
    report = run_recipe(load_recipe(name, settings), RunFolder(tmp_path / "run"))
    assert report.pruned.macs < report.dense.macs

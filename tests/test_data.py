"""Data of one's own: folders, Hugging Face files, shards, functions; small files in exactly those formats."""

from __future__ import annotations

import gc
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from PIL import Image

from icycle.errors import DataError, RecipeError
from icycle.recipes import load_recipe
from icycle.zoo import Augment, Batches, Data, DatasetLoader, Examples, TensorLoader, load_data


def picture(label: int, number: int, size: tuple[int, int]) -> Image.Image:
    """A square or oblong of one colour per class, with some noise."""
    dice = np.random.default_rng(1000 * label + number)
    pixels = dice.integers(0, 60, (size[1], size[0], 3)) + np.array([180 * (label == each) for each in range(3)])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_images(root: Path, counts: dict[str, int], size: tuple[int, int] = (40, 30)) -> None:
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(label, number, size).save(root / name / f"{number}.{'jpg' if number % 2 else 'png'}")


def labels_of(loader: Batches) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


# Folders


def test_a_folder_with_three_parts_is_read_as_it_is(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"ant": 6, "bee": 4})
    write_images(tmp_path / "val", {"ant": 2, "bee": 3})
    write_images(tmp_path / "test", {"bee": 2})  # a class without an image here
    data = load_data(folder=tmp_path, batch_size=5, size=16, workers=0)
    assert (data.classes, data.shape) == (2, (3, 16, 16))
    assert (data.train.examples, data.validation.examples) == (10, 5)
    assert labels_of(data.validation) == [0, 0, 1, 1, 1]
    assert labels_of(data.test.open()) == [1, 1]
    batch, _ = next(iter(data.train))
    assert batch.shape == (5, 3, 16, 16)
    assert batch.dtype == torch.float32


def test_parts_that_a_folder_lacks_are_carved_from_what_it_has(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 20, "bee": 20})
    one, other = (load_data(folder=tmp_path, batch_size=4, size=8, workers=0, seed=seed) for seed in (0, 1))
    assert [one.train.examples, one.validation.examples] == [33, 3]

    def files(loader: Batches) -> list[float]:
        return sorted(float(image.sum()) for images, _ in loader for image in images)

    assert files(one.test.open()) == files(other.test.open())  # whatever the seed
    assert files(one.validation) != files(other.validation)
    assert not set(files(one.validation)) & set(files(one.calibration))


def test_images_of_one_small_size_keep_it(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 8, "bee": 8}, size=(24, 24))
    assert load_data(folder=tmp_path, batch_size=4, validation=0.2, test=0.2, workers=0).shape == (3, 24, 24)


def test_a_grey_network_gets_grey_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 8, "bee": 8})
    data = load_data(folder=tmp_path, batch_size=4, size=8, channels=1, validation=0.2, test=0.2, workers=0)
    assert data.shape == (1, 8, 8)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than the machine has cores
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_epoch_and_example_alone(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, {"ant": 12, "bee": 12})
    augment = Augment(crop="resized", flip=True, policy="trivialaugment", erase=0.5)

    def passes(count: int, epoch: int) -> list[torch.Tensor]:
        data = load_data(folder=tmp_path, batch_size=4, size=8, augment=augment, workers=count)
        data.train.set_epoch(epoch)
        return [images for images, _ in data.train]

    torch.manual_seed(workers)  # the run's own random state has no say
    first, second = passes(workers, 3), passes(0, 3)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], passes(0, 4)[0])


def test_reading_leaves_the_run_s_random_state_alone(tmp_path: Path) -> None:
    write_images(tmp_path, {"ant": 12, "bee": 12})
    data = load_data(folder=tmp_path, batch_size=4, size=8, workers=0, augment=Augment(crop="resized", mixup=0.2))
    before = torch.get_rng_state()
    list(data.train)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("augment", [Augment(mixup=0.5), Augment(cutmix=1.0), Augment(mixup=0.5, cutmix=1.0)])
def test_mixed_labels_are_shares_of_classes(augment: Augment) -> None:
    data = load_data("digits", batch_size=32, augment=augment)
    batches = list(data.train)
    labels = torch.cat([labels for _, labels in batches])
    assert batches[0][0].shape == (32, 1, 8, 8)
    assert labels.shape == (32 * len(batches), 10)
    assert torch.allclose(labels.sum(dim=1), torch.ones(len(labels)))
    assert bool(((labels > 0) & (labels < 1)).any())


def test_images_in_memory_are_augmented_one_by_one_where_batches_will_not_do() -> None:
    data = load_data("digits", batch_size=32, augment=Augment(policy="randaugment"), size=16, channels=3)
    assert isinstance(data.train, DatasetLoader)
    assert data.shape == (3, 16, 16)
    assert isinstance(load_data("digits", batch_size=32).train, TensorLoader)


def mess_nothing(root: Path) -> None:
    return


def mess_flat(root: Path) -> None:
    root.mkdir()
    picture(0, 0, (8, 8)).save(root / "a.png")


def mess_no_images(root: Path) -> None:
    (root / "train" / "ant").mkdir(parents=True)
    (root / "train" / "ant" / "a.txt").write_text("no image")


def mess_no_train(root: Path) -> None:
    write_images(root / "val", {"ant": 1, "bee": 1})


def mess_another_class(root: Path) -> None:
    write_images(root / "train", {"ant": 4, "bee": 4})
    write_images(root / "val", {"ant": 1, "wasp": 1})


def mess_one_class(root: Path) -> None:
    write_images(root / "train", {"ant": 4})


def mess_an_empty_class(root: Path) -> None:
    write_images(root / "train", {"ant": 4, "bee": 4})
    (root / "train" / "cat").mkdir()


def mess_no_classes(root: Path) -> None:
    (root / "train").mkdir(parents=True)
    picture(0, 0, (8, 8)).save(root / "train" / "a.png")


def mess_an_empty_part(root: Path) -> None:
    write_images(root / "train", {"ant": 4, "bee": 4})
    (root / "val").mkdir()


@pytest.mark.parametrize(
    ("mess", "words"),
    [
        (mess_nothing, "there is no such folder"),
        (mess_flat, "found a.png"),
        (mess_no_images, "found none with an image; it holds ant/"),
        (mess_no_train, "val and no train/"),
        (mess_another_class, "the classes of the training part (ant, bee)"),
        (mess_another_class, "a folder wasp/, too"),
        (mess_one_class, "found one: ant/"),
        (mess_an_empty_class, "found none in cat/; remove what is no class"),
        (mess_no_classes, "found none with an image; it holds a.png"),
        (mess_an_empty_part, "found no image; it holds nothing; without val/, a share of train/ takes its place"),
    ],
)
def test_a_wrong_layout_says_what_was_expected_and_what_was_found(tmp_path: Path, mess: object, words: str) -> None:
    mess(tmp_path / "data")  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        load_data(folder=tmp_path / "data", batch_size=2)
    assert words in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("training", "validation", "testing")])
def test_parts_are_known_by_their_other_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (6, 3, 2), strict=True):
        write_images(tmp_path / name, {"ant": count, "bee": count})
    data = load_data(folder=tmp_path, batch_size=4, size=8, workers=0)
    assert (data.classes, data.train.examples, data.validation.examples) == (2, 12, 6)
    assert labels_of(data.test.open()) == [0, 0, 1, 1]


def test_what_other_systems_leave_in_folders_is_no_image(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"ant": 12, "bee": 12})
    for name in ("ant/._0.png", "ant/Thumbs.db", ".DS_Store"):
        (tmp_path / "train" / name).write_bytes(b"notes")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    data = load_data(folder=tmp_path, batch_size=4, size=8, workers=0, validation=0.25, test=0.25)
    assert data.classes == 2
    assert sum(len(labels) for _, labels in data.train) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, {"ant": 8, "bee": 8})
    for path in (tmp_path / "ant").glob("*.png"):
        path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match=r"^Expected an image in .*ant/\d\.png.* remove or replace it$"):
        list(load_data(folder=tmp_path, batch_size=4, size=8, validation=0.2, test=0.2, workers=workers).train)


# Known layouts


def tiny_imagenet(root: Path) -> None:
    for label, name in enumerate(("n01", "n02")):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(10):
            picture(label, number, (64, 64)).save(root / "train" / name / "images" / f"{name}_{number}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(6):
        picture(number % 2, number, (64, 64)).save(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\tn0{number % 2 + 1}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))


def test_tiny_imagenet_is_read_as_it_is_distributed(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    data = load_data("tiny-imagenet", folder=tmp_path, batch_size=4, validation=0.2, workers=0)
    assert (data.classes, data.shape, data.train.examples) == (2, (3, 64, 64), 16)
    assert labels_of(data.test.open()) == [0, 1] * 3
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations\.txt"):
        load_data("tiny-imagenet", folder=tmp_path, batch_size=4)


def test_imagenet_s_validation_set_is_the_test_set(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"n01440764": 20, "n01443537": 20})
    write_images(tmp_path / "val", {"n01440764": 3, "n01443537": 2})
    data = load_data("imagenet", folder=tmp_path, batch_size=4, workers=0)
    assert (data.shape, data.train.examples, data.validation.examples) == ((3, 224, 224), 36, 4)
    assert labels_of(data.test.open()) == [0, 0, 0, 1, 1]
    with pytest.raises(DataError, match=r"data\.folder"):
        load_data("imagenet", batch_size=4)
    with pytest.raises(DataError, match="there is no train/; found n01440764/, n01443537/"):
        load_data("imagenet", folder=tmp_path / "train", batch_size=4)


# Hugging Face


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_is_read_as_features_and_a_class(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("datasets").config.HF_DATASETS_CACHE = str(tmp_path / "cache")
    for part, count in (("train", 20), ("test", 6)):
        table = pandas.DataFrame({"a": np.arange(count) / 2, "b": np.arange(count), "label": np.arange(count) % 3})
        path = tmp_path / f"{part}.{kind}"
        if kind == "csv":
            table.to_csv(path, index=False)
        elif kind == "jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_parquet(path)
    data = load_data(huggingface=str(tmp_path), batch_size=4)
    assert (data.classes, data.shape) == (3, (2,))
    features, labels = next(iter(data.test.open()))
    assert torch.equal(features[:3], torch.tensor([[0, 0], [0.5, 1], [1, 2]]))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_images_of_a_hugging_face_data_set_are_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = {"img": [picture(n % 2, n, (20, 20)) for n in range(20)], "fine_label": [n % 2 for n in range(20)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    data = load_data(huggingface=str(tmp_path / "set"), batch_size=4, validation=0.2, test=0.2, workers=0)
    assert (data.classes, data.shape) == (2, (3, 20, 20))
    assert data.train.examples + data.validation.examples == 16
    images, _ = next(iter(data.validation))
    assert images.shape[1:] == (3, 20, 20)


def test_what_datasets_cannot_read_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"parquet.*found notes\.txt"):
        load_data(huggingface=str(tmp_path), batch_size=4)
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"hold a label, but they are a, b"):
        load_data(huggingface=str(tmp_path / "train.csv"), batch_size=4)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(DataError, match=r"icycle\[huggingface\]"):
        load_data(huggingface=str(tmp_path), batch_size=4)
    with pytest.raises(DataError, match=r"icycle\[webdataset\]"):
        load_data(webdataset={"train": "x.tar"}, batch_size=4)


# Shards; webdataset leaves its files to the garbage collector

streams = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def write_shard(path: Path, examples: int, first: int = 0, damaged: bool = False) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + examples):
            stream = io.BytesIO()
            picture(number % 2, number, (20, 20)).save(stream, "png")
            for suffix, content in (
                ("png", stream.getvalue()[: 50 if damaged else None]),
                ("cls", str(number % 2).encode()),
            ):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, str]:
    pytest.importorskip("webdataset")
    for number in range(2):
        write_shard(tmp_path / f"train-{number}.tar", 9, first=9 * number)
    write_shard(tmp_path / "val.tar", 4)
    write_shard(tmp_path / "test.tar", 3)
    return {
        "train": str(tmp_path / "train-{0..1}.tar"),
        "validation": str(tmp_path / "val.tar"),
        "test": str(tmp_path / "test.tar"),
    }


@streams
def test_shards_are_streamed_in_an_order_that_the_epoch_decides(shards: dict[str, str]) -> None:
    def batches(epoch: int) -> list[torch.Tensor]:
        data = load_data(webdataset=shards, batch_size=4, size=8)
        data.train.set_epoch(epoch)
        return [images for images, _ in data.train]

    data = load_data(webdataset=shards, batch_size=4, size=8)
    assert (data.classes, data.shape, data.train.examples, len(data.train)) == (2, (3, 8, 8), 18, 4)
    assert labels_of(data.validation) == [0, 1, 0, 1]
    assert labels_of(data.test.open()) == [0, 1, 0]
    first, again, other = batches(0), batches(0), batches(1)
    assert len(first) == 4
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    gc.collect()  # here, where it may warn


@streams
def test_an_image_in_a_shard_that_cannot_be_read_is_named(shards: dict[str, str], tmp_path: Path) -> None:
    write_shard(tmp_path / "train-1.tar", 9, first=9, damaged=True)
    data = load_data(webdataset=shards, batch_size=4, size=8)
    with pytest.raises(
        DataError, match=r"^Expected tar files .* but 00\d\d in \S*train-1\.tar cannot be read"
    ) as caught:
        list(data.train)
    assert "Traceback" not in str(caught.value)
    gc.collect()


def test_wrong_shards_are_clear_errors(shards: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train, validation and test"):
        load_data(webdataset={"train": shards["train"]}, batch_size=4)
    with pytest.raises(DataError, match=r"none\.tar"):
        load_data(webdataset={**shards, "test": str(tmp_path / "none.tar")}, batch_size=4)
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"bad\.tar"):
        load_data(webdataset={**shards, "train": str(tmp_path / "bad.tar")}, batch_size=4)


# Functions


OWN = """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    def data(count, labels=3):
        features = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
        return TensorDataset(features, torch.arange(count) % labels)

    def datasets(seed, extra=0):
        return data(40 + extra), data(9)

    def loaders(batch_size):
        parts = [DataLoader(data(count), batch_size) for count in (40, 8, 9)]
        return {"train": parts[0], "validation": parts[1], "test": parts[2], "classes": 3}

    def nothing():
        return 3

    def floats():
        return TensorDataset(torch.zeros(20, 4), torch.zeros(20)), TensorDataset(torch.zeros(20, 4), torch.zeros(20))

    def only_train(batch_size):
        return {"train": DataLoader(data(40), batch_size), "classes": 3}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_data.py").write_text(dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_data", None)


def test_a_function_returns_data_sets(own: None) -> None:
    data = load_data("own_data:datasets", batch_size=4, options={"extra": 10})
    assert (data.classes, data.shape) == (3, (4,))
    assert data.train.examples + data.validation.examples == 50
    assert labels_of(data.test.open()) == [0, 1, 2] * 3


def test_a_function_returns_loaders(own: None) -> None:
    data = load_data("own_data:loaders", batch_size=5)
    assert (data.classes, data.shape, data.train.examples, len(data.train)) == (3, (4,), 40, 8)
    assert data.validation.shuffled_once(4, 0) is data.validation


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_data:nothing", "a mapping with 'train'.*but got int"),
        ("own_data:floats", r"classes \(or labels, words, numbers to predict\).*set data\.classes"),
        ("own_data:only_train", "validation part"),
        ("own_data:missing", "Expected 'missing' in own_data"),
    ],
)
def test_a_function_that_returns_something_else_is_a_clear_error(own: None, name: str, words: str) -> None:
    with pytest.raises((DataError, RecipeError), match=words):
        load_data(name, batch_size=4)


# In a recipe


def test_a_recipe_names_one_source(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        json.dumps({"data": {"folder": "x"}, "model": {"name": "small-cnn"}, "method": {"name": "dense"}})
    )
    recipe = load_recipe(str(tmp_path / "own.yaml"), ["data.augment={crop: resized, mixup: 0.2}"])
    assert recipe.data.folder == Path("x")
    assert recipe.data.augment == Augment(crop="resized", mixup=0.2)
    for setting, words in (
        ("data.huggingface=y", "but got folder and huggingface"),
        ("data={augment: true}", "but got none of them"),
        ("data.augment={cropp: 3}", "data.augment.cropp: unknown key; did you mean 'crop'?"),
        ("data.size=0", "data.size: "),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(str(tmp_path / "own.yaml"), [setting])
        assert words in str(caught.value)


def test_a_vector_has_no_image_transforms() -> None:
    examples = Examples(torch.utils.data.TensorDataset(torch.eye(4), torch.arange(4)), torch.arange(4))
    (batch,) = DatasetLoader(examples, 4)
    assert torch.equal(batch[0], torch.eye(4))
    assert Data("x", 4, *[DatasetLoader(examples, 2)] * 3, None, torch.zeros(1, 4)).example(3).shape == (3, 4)  # type: ignore[arg-type]

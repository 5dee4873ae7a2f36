"""The zoo: models against the papers' figures, data against brute force, damaged files against clear errors."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icycle.errors import DataError, RecipeError
from icycle.zoo import (
    Augmentation,
    Images,
    SealedLoader,
    TensorLoader,
    build_model,
    dataset_names,
    example_shape,
    load_data,
    model_names,
    require_dataset,
    stratified_split,
)

# Models


OF_IMAGES = [name for name in model_names() if name not in ("mlp", "small-fcn", "tiny-transformer")]


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_model_takes_every_small_image(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, num_classes=7, in_channels=shape[0], width=8).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.27),
        ("resnet32", 0.46),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("densenet40", 0.18),
        ("densenet100", 0.769),
        ("vgg16-bn", 14.7),
        ("vgg19-bn", 20.0),
        ("mobilenet-v2", 2.24),
    ],
)
def test_parameters_are_the_papers(name: str, millions: float) -> None:
    count = sum(parameter.numel() for parameter in build_model(name, num_classes=10).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "mobilenet-v2", "densenet40", "small-cnn"])
def test_width_scales_a_model(name: str) -> None:
    counts = [
        sum(parameter.numel() for parameter in build_model(name, num_classes=10, width=width).parameters())
        for width in (8, 16, 32)
    ]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "torchvision/googlenet"])
def test_library_models_are_built_by_name(name: str) -> None:
    model = build_model(name, num_classes=5).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet65", "resnet56"), ("torchvision/resnet81", "resnet18"), ("timm/resnet81", "resnet18"), ("hub/x", "timm")],
)
def test_an_unknown_model_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RecipeError, match=near):
        build_model(name, num_classes=5)


def test_what_a_library_model_does_not_offer_is_an_error() -> None:
    with pytest.raises(RecipeError, match="width"):
        build_model("torchvision/resnet18", num_classes=5, width=8)
    with pytest.raises(RecipeError, match=r"data\.channels"):
        build_model("torchvision/resnet18", num_classes=5, in_channels=1)


@pytest.mark.parametrize("name", ["small-cnn", "resnet20", "torchvision/inception_v3", "timm/resnet18"])
def test_example_shapes_fit_their_models(name: str) -> None:
    shape = example_shape(name)
    model = build_model(name, num_classes=3, in_channels=shape[0]).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *shape)).shape == (1, 3)


# Splits and batches


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_a_split_holds_everything_once_and_keeps_every_class_its_share(
    labels: list[int], share: float, seed: int
) -> None:
    tensor = torch.tensor(labels)
    rest, taken = stratified_split(tensor, share=share, seed=seed)
    assert sorted([*rest.tolist(), *taken.tolist()]) == list(range(len(labels)))
    assert abs(len(taken) - share * len(labels)) < 1.001
    for label in set(labels):
        assert abs(int((tensor[taken] == label).sum()) - share * labels.count(label)) < 1.001


def test_another_seed_gives_another_split_of_the_same_size() -> None:
    labels = torch.arange(100) % 10
    first, again, other = (stratified_split(labels, share=0.3, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == len(other) == 30


def images(count: int = 23, channels: int = 2, size: int = 6) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count))


def loader(data: Images, **options: object) -> TensorLoader:
    channels = data.pixels.shape[1]
    return TensorLoader(data, 5, mean=torch.zeros(channels), std=torch.ones(channels), **options)  # type: ignore[arg-type]


def test_in_order_every_image_comes_once_as_it_is() -> None:
    data = images()
    batches = list(loader(data))
    assert len(batches) == len(loader(data)) == 5
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), data.pixels.float())
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)


def test_shuffled_no_image_comes_twice_and_all_batches_are_whole() -> None:
    batches = list(loader(images(), shuffle=True))
    labels = torch.cat([labels for _, labels in batches])
    assert [len(batch) for _, batch in batches] == [5, 5, 5, 5]
    assert len(labels.unique()) == 20


def test_augmented_images_are_shifted_and_mirrored_originals() -> None:
    data = images()
    padded = torch.nn.functional.pad(data.pixels, [1] * 4).float()
    seen = set()
    for pixels, labels in loader(data, shuffle=True, augmentation=Augmentation(crop=1, flip=True)):
        for image, label in zip(pixels, labels, strict=True):
            candidates = [
                (row, column, mirrored)
                for row in range(3)
                for column in range(3)
                for mirrored in (False, True)
                if torch.equal(
                    image.flip(-1) if mirrored else image, padded[label, :, row : row + 6, column : column + 6]
                )
            ]
            assert len(candidates) == 1
            seen.add(candidates[0])
    assert len(seen) > 8  # of 18


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    def labels(seed: int, epoch: int) -> list[int]:
        made = loader(images(), shuffle=True, augmentation=Augmentation(crop=1), seed=seed)
        made.set_epoch(epoch)
        return torch.cat([labels for _, labels in made]).tolist()

    assert labels(0, 3) == labels(0, 3)
    assert labels(0, 3) != labels(0, 4)
    assert labels(0, 3) != labels(1, 3)


def test_a_sealed_loader_opens_once() -> None:
    sealed = SealedLoader(loader(images()))
    assert len(list(sealed.open())) == 5
    with pytest.raises(DataError, match="once"):
        sealed.open()


# Data sets


def test_digits_are_split_without_overlap_and_normalised() -> None:
    data = load_data("digits", batch_size=32, validation=0.2, augment=False, seed=3)
    parts = [data.train.images, data.validation.images, data.test.open().images]
    assert sum(map(len, parts)) == 1797
    assert data.shape == (1, 8, 8)
    assert data.classes == 10
    pixels = torch.cat([pixels for pixels, _ in data.train])
    assert abs(float(pixels.mean())) < 0.05
    assert float(pixels.std()) == pytest.approx(1, abs=0.05)


def test_the_test_set_does_not_depend_on_the_seed_or_the_subset() -> None:
    first, second = (
        load_data("digits", batch_size=32, seed=seed, subset=subset).test.open().images
        for seed, subset in ((0, None), (1, 500))
    )
    assert torch.equal(first.pixels, second.pixels)


def test_a_subset_has_the_stated_size() -> None:
    data = load_data("digits", batch_size=32, subset=501, validation=0.1)
    assert len(data.train.images) + len(data.validation.images) == 501


def test_grey_images_may_be_repeated_into_three_channels() -> None:
    assert load_data("digits", batch_size=32, channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"subset": 10_000}, r"data\.subset"),
        ({"subset": 3}, r"data\.validation"),
        ({"folder": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_impossible_data_is_a_clear_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(**{"name": "digits", "batch_size": 32, **options})  # type: ignore[arg-type]


def test_every_data_set_has_a_name() -> None:
    images = {"digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet"}
    assert set(dataset_names()) >= images | {"diabetes", "shapes", "shapes-labels", "chain", "tags"}
    for name in dataset_names():
        require_dataset(name)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Fashion-MNIST in small: 60 training and 20 test images, in the real format."""
    dice = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", dice.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def test_fashion_mnist_is_read_from_a_folder(fashion: Path) -> None:
    data = load_data("fashion-mnist", batch_size=8, folder=fashion, validation=0.5)
    assert data.shape == (1, 28, 28)
    assert data.train.images.labels.bincount().tolist() == [3] * 10
    assert len(data.test.open().images) == 20


def damage_header(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[2] = 0x0D
    path.write_bytes(gzip.compress(bytes(content)))


def damage_length(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def damage_start(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\10"))


def damage_archive(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def not_an_archive(path: Path) -> None:
    path.write_bytes(b"not gzip at all")


@pytest.mark.parametrize("part", ["train-images-idx3", "t10k-labels-idx1"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_header, "magic number"),
        (damage_length, "sizes"),
        (damage_start, "fewer than its header"),
        (damage_archive, "unpacked"),
        (damage_checksum, "get the file again"),
        (not_an_archive, "unpacked"),
        (Path.unlink, "dataset-fashion-mnist"),
    ],
)
def test_a_damaged_file_is_named(fashion: Path, part: str, harm: object, words: str) -> None:
    harm(fashion / f"{part}-ubyte.gz")  # type: ignore[operator]
    with pytest.raises(DataError, match=words) as caught:
        load_data("fashion-mnist", batch_size=8, folder=fashion)
    assert part in str(caught.value)


def test_images_without_labels_are_an_error(fashion: Path) -> None:
    write_idx(fashion / "train-labels-idx1-ubyte.gz", np.zeros(59, np.uint8))
    with pytest.raises(DataError, match="60 and 59"):
        load_data("fashion-mnist", batch_size=8, folder=fashion)


def write_cifar(path: Path, labels: np.ndarray, label_bytes: int) -> np.ndarray:
    pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    columns = [np.zeros((len(labels), label_bytes - 1), np.uint8), labels[:, None].astype(np.uint8), pixels]
    path.write_bytes(np.concatenate(columns, axis=1).tobytes())
    return pixels.reshape(-1, 3, 32, 32)


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    labels = np.arange(20) % 10
    pixels = [write_cifar(tmp_path / f"data_batch_{number}.bin", labels, 1) for number in range(1, 6)]
    write_cifar(tmp_path / "test_batch.bin", labels, 1)
    data = load_data("cifar10", batch_size=8, folder=tmp_path, validation=0.1)
    assert data.shape == (3, 32, 32)
    assert len(data.train.images) == 90
    first = data.train.images.pixels[0].numpy()
    assert any(np.array_equal(first, image) for batch in pixels for image in batch)


def test_cifar100_takes_the_finer_label(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_cifar(tmp_path / f"{part}.bin", np.arange(100), 2)
    data = load_data("cifar100", batch_size=8, folder=tmp_path)
    assert data.classes == 100
    assert sorted(data.test.open().images.labels.tolist()) == list(range(100))


def test_a_cut_cifar_file_is_an_error(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_cifar(tmp_path / f"{part}.bin", np.arange(100), 2)
    (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train\.bin.*records"):
        load_data("cifar100", batch_size=8, folder=tmp_path)
    (tmp_path / "train.bin").unlink()
    with pytest.raises(DataError, match="binary version"):
        load_data("cifar100", batch_size=8, folder=tmp_path)

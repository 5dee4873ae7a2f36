"""What the built-in loop and the data pipeline cost.

    python bench/loop.py
    python bench/loop.py --kinds files  # under a minute; on a machine that does nothing else

- loop: images per second of ResNet-20 in the built-in loop, and in a hand-written one of nine lines, in turns in one
  process, on the same loader of images in memory.
- pipeline: that loader alone, against what the loop trains.
- readers: the readers of IDX and CIFAR files in icycle/zoo/_binary.py against torchvision's.
- files: JPEG files, decoded, cropped and flipped by worker processes, and how busy they keep the cores.

All others are timed by the processor time of one thread, in which what else the machine does counts for little.
"""

from __future__ import annotations

import argparse
import gzip
import pickle
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from _common import RESULTS, Record, Results, command, in_fresh_process, machine, provenance, table
from torch import nn

from icycle.training import SGD, Constant, Trainer, TrainSettings
from icycle.zoo import Augment, Augmentation, Images, TensorLoader, build_model, load_data

_BATCH = 128
_TURNS = 3
_STEPS = {16: 8, 64: 2}  # of a turn, by width
_FILES = 1200
_FILE_BATCH = 32
_SIDE = 256  # pixels of a JPEG file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "loop.jsonl", help="JSON lines")
    kinds = ("loop", "pipeline", "reader", "files")
    parser.add_argument("--kinds", nargs="*", choices=kinds, default=kinds, help="what to measure (default: all)")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    wanted: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        *((_loop, (width,)) for width in _STEPS),
        (_pipeline, ()),
        *((_reader, (name,)) for name in _READERS),
        *((_files, (workers,)) for workers in (0, 2)),
    ]
    print(tables([_done(results, measure, of) for measure, of in wanted if _kind(measure) in arguments.kinds]))


def _kind(measure: Callable[..., object]) -> str:
    return measure.__name__.strip("_")


def _done(results: Results, measure: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> Record:
    """The measurement, unless it is there already; in its own process."""
    key = {"kind": _kind(measure), "arguments": list(arguments)}
    record = results.find(**key)
    if record is None:
        record = {
            "version": 1,
            **key,
            **in_fresh_process(measure, *arguments),
            "machine": machine(),
            "command": command(),
        }
        results.append(record)
        print(record, flush=True)
    return record


# The loop, and the loader of images in memory


def _loader(batches: int) -> TensorLoader:
    """Images of CIFAR's size, in a new order with crops and flips each epoch."""
    generator = torch.Generator().manual_seed(0)
    count = batches * _BATCH
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.randint(10, (count,), generator=generator))
    mean, std = torch.full((3,), 125.0), torch.full((3,), 60.0)
    return TensorLoader(images, _BATCH, mean=mean, std=std, shuffle=True, augmentation=Augmentation(crop=4, flip=True))


def _network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet20", num_classes=10, width=width).to(memory_format=torch.channels_last)


def _plain(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Any]) -> None:
    """What one writes by hand."""
    model.train()
    for images, labels in loader:
        images = images.contiguous(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _loop(width: int) -> dict[str, Any]:
    """Images per second of each turn, the two loops one after the other; a first turn of each is not counted."""
    torch.set_num_threads(1)
    loader = _loader(_STEPS[width])
    settings = TrainSettings(batch_size=_BATCH, optimizer=SGD(nesterov=True), schedule=Constant())
    trainer = Trainer(_network(width), settings, len(loader))
    model = _network(width)
    optimizer = settings.optimizer.build(model.parameters())

    def built_in() -> None:
        trainer.train_for(loader, 1.0, lambda _: 0.1)

    def by_hand() -> None:
        _plain(model, optimizer, loader)

    rates: dict[str, list[float]] = {"icycle": [], "plain": []}
    for _ in range(_TURNS + 1):
        for name, turn in (("plain", by_hand), ("icycle", built_in)):
            rates[name].append(len(loader) * _BATCH / _seconds(turn))
    return {name: found[1:] for name, found in rates.items()}


def _pipeline() -> dict[str, Any]:
    """Images per second of the loader alone."""
    torch.set_num_threads(1)
    loader = _loader(100)
    return {"icycle": [loader.examples / _seconds(lambda: _read(loader)) for _ in range(_TURNS + 1)][1:]}


def _read(loader: Iterable[Any]) -> None:
    for images, _ in loader:
        images.contiguous(memory_format=torch.channels_last)


def _seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Of the processor, by default, on which nothing else that the machine does counts."""
    start = clock()
    call()
    return clock() - start


# Files


def _files(workers: int) -> dict[str, Any]:
    """Images per second of JPEG files through workers, and the share of all cores that were busy meanwhile."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        _write_files(Path(place) / "train")
        augment = Augment(crop="resized", flip=True)
        data = load_data(folder=Path(place), batch_size=_FILE_BATCH, size=224, augment=augment, workers=workers)
        rates, shares = [], []
        for _ in range(_TURNS + 1):  # after the first the workers have started, and the files are in the page cache
            busy, all_ = _processor_time()
            rates.append(len(data.train) * _FILE_BATCH / _seconds(lambda: _read(data.train), time.perf_counter))
            busy_after, all_after = _processor_time()
            shares.append((busy_after - busy) / (all_after - all_))
        return {"icycle": rates[1:], "busy": shares[1:]}


def _write_files(place: Path) -> None:
    """JPEG files of four classes, not smooth enough to be small, not noisy enough to be large."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(_FILES):
        folder = place / f"class-{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        small = draw.integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def _processor_time() -> tuple[int, int]:
    """Ticks that the machine's cores were busy, and all ticks, since it was started (Linux)."""
    ticks = [int(value) for value in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


# Readers

_COUNT = 50_000


def _reader(name: str) -> dict[str, Any]:
    """Seconds to read so many images, by icycle's reader and by torchvision's, in turns."""
    with tempfile.TemporaryDirectory() as place:
        own, other = _READERS[name](Path(place))
        taken = {
            "icycle": [_seconds(own) for _ in range(_TURNS)],
            "torchvision": [_seconds(other) for _ in range(_TURNS)],
        }
        return {"seconds": taken}


def _idx(place: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Fashion-MNIST's training images as they are distributed: gzipped, which torchvision unpacks to disk first."""
    from torchvision.datasets.mnist import read_image_file
    from torchvision.datasets.utils import extract_archive

    from icycle.zoo._binary import read_idx

    pixels = np.random.default_rng(0).integers(256, size=(_COUNT, 28, 28), dtype=np.uint8)
    packed = place / "images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *pixels.shape) + pixels.tobytes(), 6))

    def by_torchvision() -> None:
        extract_archive(str(packed), str(place))
        read_image_file(str(place / "images-idx3-ubyte"))

    return lambda: read_idx(packed, 3), by_torchvision


class _Python2(pickle._Pickler):
    """Pickles bytes as Python 2 did, which wrote CIFAR's files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch[bytes] = save_bytes


def _cifar(place: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """CIFAR-10's training images: records of bytes, against the pickled dictionaries that torchvision reads."""
    from icycle.zoo._binary import read_cifar

    pixels = np.random.default_rng(0).integers(256, size=(_COUNT, 3072), dtype=np.uint8)
    labels = np.arange(_COUNT, dtype=np.uint8) % 10
    (place / "batch.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
    with (place / "batch").open("wb") as file:
        _Python2(file, protocol=2).dump({"data": pixels, "labels": labels.tolist()})

    def by_torchvision() -> None:
        """What `torchvision.datasets.CIFAR10` does with a batch, but for the checksum."""
        entry = pickle.loads((place / "batch").read_bytes(), encoding="latin1")
        entry["data"].reshape(-1, 3, 32, 32).transpose((0, 2, 3, 1))

    return lambda: read_cifar(place / "batch.bin", 1), by_torchvision


_READERS = {"IDX, gzipped": _idx, "CIFAR": _cifar}


# Tables


def tables(records: Sequence[Record]) -> str:
    """Markdown: the loops, the pipelines, the readers; those that there are."""
    loops = [record for record in records if record["kind"] == "loop"]
    pipelines = [record for record in records if record["kind"] in ("pipeline", "files")]
    readers = [record for record in records if record["kind"] == "reader"]
    trained = max((statistics.median(record["icycle"]) for record in loops), default=0.0)
    rows: list[tuple[tuple[str, ...], list[list[str]]]] = [
        (
            ("ResNet-20, float32, batch 128", "by hand (images/s)", "icycle (images/s)", "share"),
            [_loop_row(record) for record in loops],
        ),
        (
            ("data alone", "images/s", "of what ResNet-20 of width 16 trains", "cores busy"),
            [_pipeline_row(record, trained) for record in pipelines],
        ),
        ((f"{_COUNT:,} images", "icycle (s)", "torchvision (s)"), [_reader_row(record) for record in readers]),
    ]
    return "\n\n".join([*(table(columns, found) for columns, found in rows if found), provenance(records)])


def _loop_row(record: Record) -> list[str]:
    plain, own = (statistics.median(record[name]) for name in ("plain", "icycle"))
    return [f"width {record['arguments'][0]}", f"{plain:.0f}", f"{own:.0f}", f"{own / plain:.1%}"]


def _pipeline_row(record: Record, trained: float) -> list[str]:
    rate = statistics.median(record["icycle"])
    if record["kind"] == "pipeline":
        share = f"{rate / trained:.1f} times" if trained else "-"
        return ["32x32, in memory, crop and flip", f"{rate:.0f}", share, "-"]
    name = f"{_SIDE}x{_SIDE} JPEG files to 224x224, {record['arguments'][0]} workers"
    return [name, f"{rate:.0f}", "-", f"{statistics.median(record['busy']):.0%}"]


def _reader_row(record: Record) -> list[str]:
    own, other = (statistics.median(record["seconds"][name]) for name in ("icycle", "torchvision"))
    return [record["arguments"][0], f"{own:.2f}", f"{other:.2f}"]


if __name__ == "__main__":
    main()

"""Data sets held in memory, and the batches made from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import pad

from icycle.errors import DataError
from icycle.training import rows_of
from icycle.zoo._loaders import Batches, Mix
from icycle.zoo._split import stratified_split

__all__ = ["Augmentation", "Images", "SealedLoader", "TensorLoader"]


@dataclass(frozen=True)
class Images:
    """Labelled images: `pixels` uint8 `(n, channels, height, width)`, `labels` int64 `(n,)`."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Images:
        """The examples at `index`, int64 `(m,)`."""
        return Images(self.pixels[index], self.labels[index])

    def split(self, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of two parts, the second with `share` of the images of every class."""
        return stratified_split(self.labels.cpu(), share=share, seed=seed)

    def to(self, device: str) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image without changing its class."""

    crop: int = 0  # pixels of zero padding that a random crop moves within
    flip: bool = False  # left to right, every other image


class TensorLoader(Batches):
    """Batches of normalised float32 images `(batch, channels, height, width)` and labels `(batch,)`.

    The order and the augmentation are functions of `seed` and the epoch (see `set_epoch`), so a resumed run sees the
    same batches. Batches are cut from one uint8 tensor by whole-batch operations: no worker processes, and a
    small part of a training step.

    Args:
        images: on the device where batches are wanted.
        mean, std: of a pixel, 0..255, per channel `(channels,)`.
        shuffle: a new order every epoch; an incomplete last batch is then left out, so that all steps weigh the same.
        mix: of a whole batch, e.g. mixup; it gets a seed of its own.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        mean: torch.Tensor,
        std: torch.Tensor,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        mix: Mix | None = None,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augmentation = augmentation or Augmentation()
        self._mix = mix
        self.seed = seed
        self.epoch = 0
        self._rows: Callable[[int], slice] = slice  # of a batch of so many images those that are read: all
        device = images.pixels.device
        self._shift = mean.view(-1, 1, 1).to(device)
        self._scale = (1.0 / std).view(-1, 1, 1).to(device)
        self._size = images.pixels.shape[2:]
        self._padded = pad(images.pixels, [self.augmentation.crop] * 4)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole if self.shuffle or rest == 0 else whole + 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = self._generator()
        for whole in self._index_batches(generator):
            rows = self._rows(len(whole))
            index = whole[rows]
            # what chance does is drawn for the whole batch, whichever rows of it are read
            offsets, flipped = self._offsets(len(whole), generator), self._flips(len(whole), generator)
            seed = 0 if self._mix is None else int(torch.randint(2**62, (), generator=generator))
            if len(index) == 0:
                continue
            pixels = self._flip(self._crop(index, offsets[:, rows]), flipped[rows])
            batch = self._normalise(pixels), self.images.labels[index]
            yield batch if self._mix is None else self._mix(batch, seed)

    @property
    def examples(self) -> int:
        return len(self.images)

    @property
    def repeats(self) -> bool:
        """True where an image looks the same in every pass, in whatever order they come."""
        return self.augmentation == Augmentation() and self._mix is None

    def share(self, share: float, seed: int) -> TensorLoader:
        return self.over(self.images.take(self.images.split(share, seed)[1].to(self.images.labels.device)))

    def shuffled_once(self, batch_size: int, seed: int) -> TensorLoader:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return self.over(self.images.take(order.to(self.images.labels.device)), batch_size=batch_size)

    def index_batches(self) -> Iterator[torch.Tensor]:
        """The indices, int64 `(batch,)`, of the images in each batch of the next pass."""
        for whole in self._index_batches(self._generator()):
            index = whole[self._rows(len(whole))]
            if len(index):
                yield index

    def part(self, rank: int, count: int, *, even: bool) -> TensorLoader:
        """The rows of every batch that are process `rank`'s of `count`; see `training.rows_of`."""
        other = copy.copy(self)
        other._rows = partial(rows_of, rank=rank, count=count, even=even)
        return other

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images at `index`, as they are, and their labels."""
        return self._normalise(self.images.pixels[index]), self.images.labels[index]

    def over(self, images: Images, *, batch_size: int | None = None) -> TensorLoader:
        """A loader like this one over other images of the data set, normalised alike."""
        other = copy.copy(self)
        other.images = images
        other.batch_size = batch_size or self.batch_size
        other._padded = pad(images.pixels, [self.augmentation.crop] * 4)
        return other

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    def _index_batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        count = len(self.images)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        for chosen in order[: len(self) * self.batch_size].split(self.batch_size):
            yield chosen.to(self._padded.device)

    def _offsets(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """How far each image is moved, int64 `(2, count)`, 0..2 crop."""
        if self.augmentation.crop == 0:
            return torch.zeros(2, count, dtype=torch.int64)
        return torch.randint(2 * self.augmentation.crop + 1, (2, count), generator=generator)

    def _flips(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Which images are flipped, bool `(count,)`."""
        if not self.augmentation.flip:
            return torch.zeros(count, dtype=torch.bool)
        return torch.rand(count, generator=generator) < 0.5

    def _crop(self, index: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """The images at `index`, each moved by up to `crop` pixels."""
        if self.augmentation.crop == 0:
            return self._padded[index]
        height, width = self._size
        # A view with every possible crop of every image: (n, channels, offsets, offsets, height, width).
        crops = self._padded.unfold(2, height, 1).unfold(3, width, 1)
        rows, columns = offsets.to(index.device)
        return crops[index, :, rows, columns]

    def _flip(self, pixels: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
        if not self.augmentation.flip:
            return pixels
        return torch.where(flipped.to(pixels.device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().sub_(self._shift).mul_(self._scale)


class SealedLoader:
    """A loader that can be opened once: the test set, read when everything is decided."""

    def __init__(self, loader: Batches) -> None:
        self._loader: Batches | None = loader

    @property
    def opened(self) -> bool:
        return self._loader is None

    def open(self) -> Batches:
        """The loader.

        Raises:
            DataError: it has been opened before.
        """
        if self._loader is None:
            raise DataError(
                "Expected to read the test set once, but it was read before; decide on the validation split"
            )
        loader, self._loader = self._loader, None
        return loader

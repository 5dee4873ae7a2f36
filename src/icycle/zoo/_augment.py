"""What may be done to a training image without changing its class, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torchvision.transforms import v2

from icycle.training import Batch, Settings

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augment", "Mixing", "evaluation_transform", "training_transform"]

# Of ImageNet's pixels, 0..1; what pretrained networks expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MARGIN = 0.875  # of the shorter side: what the centre crop keeps when an image is evaluated

Share = Annotated[float, Field(ge=0, le=1)]


class Augment(Settings):
    """Chance's part in a training image.

    crop: pixels of zero padding that a random crop moves within, or "resized": a random part, 8 % to all of the image,
        is scaled to its size. flip: left to right, every other image. policy: RandAugment or TrivialAugment.
    erase: the probability that a rectangle is blotted out. mixup, cutmix: the parameter alpha of mixing pairs of
        images; of both, one is drawn for each batch.
    """

    crop: Annotated[int, Field(ge=0)] | Literal["resized"] = 0
    flip: bool = False
    policy: Literal["randaugment", "trivialaugment"] | None = None
    erase: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0

    @property
    def simple(self) -> bool:
        """Nothing but crop and flip, which images in memory undergo as whole batches?"""
        return self.crop != "resized" and self.policy is None and self.erase == 0

    def mixing(self, classes: int) -> Mixing | None:
        """What mixes the images of a batch, or None."""
        return Mixing(self.mixup, self.cutmix, classes) if self.mixup or self.cutmix else None


class Mixing:
    """Mixup or cutmix of a batch; its labels become probabilities `(batch, classes)`."""

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        wanted: list[torch.nn.Module] = []
        if mixup:
            wanted.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            wanted.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self._transform = wanted[0] if len(wanted) == 1 else v2.RandomChoice(wanted)

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """The batch, mixed as `seed` says; the run's own random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return tuple(self._transform(*batch))


def training_transform(
    augment: Augment, size: int | None, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Any], Any]:
    """Of an example (image, target): `size` pixels a side, or as it comes; normalised by `mean` and `std` (0..1)."""
    steps: list[Any] = [v2.ToImage(), *_colours(channels)]
    if augment.crop == "resized":
        assert size is not None
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    elif size is not None:
        steps += [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    if augment.crop and augment.crop != "resized":
        steps.append(_PaddedCrop(int(augment.crop)))
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augment.policy is not None:
        steps.append(v2.RandAugment() if augment.policy == "randaugment" else v2.TrivialAugmentWide())
    steps += _normalised(mean, std)
    if augment.erase:
        steps.append(v2.RandomErasing(p=augment.erase))
    return v2.Compose(steps)


def evaluation_transform(
    size: int | None, channels: int, mean: Sequence[float], std: Sequence[float], *, margin: bool
) -> Callable[[Any], Any]:
    """The same without chance: resized, and cut to the middle; `margin` cuts an eighth off, as is usual for photos."""
    steps: list[Any] = [v2.ToImage(), *_colours(channels)]
    if size is not None:
        steps += [v2.Resize(round(size / _MARGIN) if margin else size, antialias=True), v2.CenterCrop(size)]
    return v2.Compose([*steps, *_normalised(mean, std)])


def _colours(channels: int) -> list[Any]:
    return [v2.Grayscale()] if channels == 1 else [v2.RGB()] if channels == 3 else []


def _normalised(mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]


class _PaddedCrop(v2.Transform):
    """A random crop of the image's own size, from the image with `padding` zeros on every side."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, *inputs: Any) -> Any:
        sample = inputs if len(inputs) > 1 else inputs[0]
        image = sample[0] if isinstance(sample, tuple | list) else sample
        return v2.RandomCrop(image.shape[-2:], padding=self.padding)(sample)

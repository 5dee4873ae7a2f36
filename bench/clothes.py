"""Tasks made of Fashion-MNIST that are small enough for many seeds, for the recipes in bench/recipes.

A recipe that imports it counts the seconds of its runs as those of the CPU, on one thread, so that a machine that does
other work besides tells the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn.functional import avg_pool2d

from icycle.training import StageClock
from icycle.zoo import Augment, Images, Place, Source, read_source

__all__ = ["clothes"]

StageClock.now = staticmethod(time.process_time)


def clothes(classes: Sequence[int] = tuple(range(10)), turns: int = 1) -> Source:
    """Images of these classes, 14 pixels a side; with 4 `turns` each class is four, one for each rotation."""
    train, test = (_turned(_only(part, classes), turns) for part in _small())
    flip = turns == 1  # for 4, a flipped image of one class could be one of another
    augmentation = Augment(crop=1, flip=flip)
    return Source(train, test, len(classes) * turns, augmentation, name="clothes", channels=1)


@lru_cache(1)
def _small() -> tuple[Images, Images]:
    read = read_source("fashion-mnist", Place())
    return _halved(read.train), _halved(read.test)


def _halved(images: Images) -> Images:
    pixels = avg_pool2d(images.pixels.float(), 2).round().to(torch.uint8)
    return Images(pixels, images.labels)


def _only(images: Images, classes: Sequence[int]) -> Images:
    """The images of these classes, which become 0, 1 and so on."""
    places = torch.full((10,), -1)
    places[list(classes)] = torch.arange(len(classes))
    labels = places[images.labels]
    return Images(images.pixels, labels).take((labels >= 0).nonzero().flatten())


def _turned(images: Images, turns: int) -> Images:
    """Image number i is turned by i quarters modulo `turns`, and its class is the old one and the rotation."""
    turn = torch.arange(len(images)) % turns
    pixels = images.pixels.clone()
    for quarters in range(1, turns):
        pixels[turn == quarters] = torch.rot90(images.pixels[turn == quarters], quarters, (2, 3))
    return Images(pixels, images.labels * turns + turn)

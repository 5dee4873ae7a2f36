"""Small data sets for tasks other than classification: one that comes with scikit-learn, and generated ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from icycle.zoo._loaders import Examples
from icycle.zoo._source import Source

__all__ = ["chain", "diabetes", "shapes", "shapes_labels", "tags"]

_COUNT, _SIZE, _TOKENS, _WORDS = 1200, 16, 24, 16


def diabetes(folder: Path | None) -> Source:
    """442 patients: ten measurements, and how far their diabetes has gone a year later; both standardised."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    inputs, targets = (torch.from_numpy(values).float() for values in (bunch.data, bunch.target))
    standard = [(values - values.mean(0)) / values.std(0) for values in (inputs, targets)]
    return _source("diabetes", standard[0], standard[1].unsqueeze(1), 1)


def shapes(folder: Path | None) -> Source:
    """Discs (1) and squares (2) on noise (0), 16x16 pixels, and the class of every pixel."""
    images, masks = _drawn()
    return _source("shapes", images, masks, 3)


def shapes_labels(folder: Path | None) -> Source:
    """The same images, and whether there is a disc, and a square."""
    images, masks = _drawn()
    return _source("shapes-labels", images, torch.stack([(masks == kind).flatten(1).any(1) for kind in (1, 2)], 1), 2)


def chain(folder: Path | None) -> Source:
    """Sentences of 24 words out of 16; each word has four that may follow it, of unequal probability."""
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(_WORDS, _WORDS)
    for row in table:
        row[torch.randperm(_WORDS, generator=generator)[:4]] = torch.tensor([0.6, 0.25, 0.1, 0.05])
    tokens = torch.randint(_WORDS, (_COUNT, 1), generator=generator)
    while tokens.shape[1] < _TOKENS:
        following = torch.multinomial(table[tokens[:, -1]], 1, generator=generator)
        tokens = torch.cat([tokens, following], dim=1)
    return _source("chain", tokens, tokens, _WORDS)


def tags(folder: Path | None) -> Source:
    """Sentences of 24 words out of 16; a word's tag says whether the word before it and the one after are larger."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(_WORDS, (_COUNT, _TOKENS), generator=generator)
    before, after = tokens.roll(1, 1) > tokens, tokens.roll(-1, 1) > tokens
    targets = 2 * before.long() + after.long()
    targets[:, [0, -1]] = -100  # they lack a neighbour
    return _source("tags", tokens, targets, 4)


def _drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 `(n, 1, 16, 16)` and masks int64 `(n, 16, 16)`; half of all images have a disc, half a square."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(_SIZE), torch.arange(_SIZE), indexing="ij")
    masks = torch.zeros(_COUNT, _SIZE, _SIZE, dtype=torch.int64)
    for kind in (1, 2):
        centres = torch.randint(4, _SIZE - 4, (_COUNT, 2, 1, 1), generator=generator)
        down, right = rows - centres[:, 0], columns - centres[:, 1]
        inside = down**2 + right**2 <= 10 if kind == 1 else (down.abs() <= 2) & (right.abs() <= 2)
        there = torch.rand(_COUNT, 1, 1, generator=generator) < 0.5
        masks[inside & there] = kind
    images = torch.randn(_COUNT, 1, _SIZE, _SIZE, generator=generator) / 2 + (masks > 0).unsqueeze(1)
    return images, masks


def _source(name: str, inputs: torch.Tensor, targets: torch.Tensor, classes: int) -> Source:
    return Source(Examples(TensorDataset(inputs, targets)), None, classes, name=name, images=False)

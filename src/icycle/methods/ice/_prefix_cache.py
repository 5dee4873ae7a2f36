"""Training on the stored outputs of a frozen prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from icycle.methods.ice._freeze import Frozen
from icycle.methods.ice._replay import Replay
from icycle.zoo import Batches, TensorLoader

__all__ = ["ReplayedLoader", "StoredPrefix"]


class StoredPrefix:
    """The outputs of a model's frozen prefix for all images of a loader, as long as neither changes.

    Args:
        loader: only images in memory are worth it: other loaders are left as they are.
        limit: bytes that they may take; 0 switches this off.
    """

    def __init__(self, loader: Batches, limit: int) -> None:
        self._loader = loader
        self._limit = limit if isinstance(loader, TensorLoader) else 0
        self._state: list[tuple[torch.Tensor, int]] = []
        self._outputs: torch.Tensor | None = None
        self._again = False  # what was stored is lost, and has to be stored anew

    def holds(self, model: torch.nn.Module, frozen: Frozen | None) -> bool:
        """Are the outputs of the prefix, as it is now, stored?"""
        return self._outputs is not None and frozen is not None and _same(_state(model, frozen), self._state)

    def held(self, model: torch.nn.Module, frozen: Frozen | None) -> None:
        """Say that the outputs of the prefix, as it is now, were stored by an earlier process: they will be again."""
        if frozen is not None:
            self._state, self._again = _state(model, frozen), True

    def replayed(
        self, model: torch.nn.Module, frozen: Frozen | None, forward: Callable[[torch.Tensor], Any], epochs: float
    ) -> ReplayedLoader | None:
        """A loader that feeds the stored outputs in; None where that cannot be done, or would take too much memory.

        `forward` runs the model on a batch of images, in the run's precision. The outputs are worked out anew if the
        prefix has changed since, for which it must be wanted for at least two `epochs`: one pays for the storing.
        """
        if self._limit <= 0 or frozen is None or frozen.cut is None or not self._loader.repeats:
            return None
        assert isinstance(self._loader, TensorLoader)
        replay = frozen.replay(model)
        if replay is None:
            return None
        state = _state(model, frozen)
        same = _same(state, self._state)
        if self._outputs is None or not same:
            if epochs < 2 and not (self._again and same):
                return None
            self._again = False
            self._outputs, self._state = self._collected(replay, forward), state
        return None if self._outputs is None else ReplayedLoader(self._loader, replay, self._outputs)

    def _collected(self, replay: Replay, forward: Callable[[torch.Tensor], Any]) -> torch.Tensor | None:
        assert isinstance(self._loader, TensorLoader)
        count = len(self._loader.images)
        stored: torch.Tensor | None = None
        for index in torch.arange(count).split(self._loader.batch_size):
            images, _ = self._loader.at(index.to(self._loader.images.labels.device))
            outputs = replay.outputs(partial(forward, images))
            if stored is None:
                size = count * outputs[0].numel() * outputs.element_size()
                again = replay.outputs(partial(forward, images))
                if len(outputs) != len(images) or size > self._limit or not torch.equal(outputs, again):
                    return None  # not one output for each image, too large, or drawn by chance
                stored = outputs.new_empty((count, *outputs.shape[1:]))
            stored[index] = outputs
        return stored


class ReplayedLoader:
    """Gives the batches of `loader`, with NaN for images, while what the prefix makes of them is fed into the model."""

    def __init__(self, loader: TensorLoader, replay: Replay, outputs: torch.Tensor) -> None:
        self._loader = loader
        self._replay = replay
        self._outputs = outputs

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        self._loader.set_epoch(epoch)

    def part(self, rank: int, count: int, *, even: bool) -> ReplayedLoader:
        """Of every batch the rows that are process `rank`'s of `count`."""
        return ReplayedLoader(self._loader.part(rank, count, even=even), self._replay, self._outputs)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        shape = self._loader.images.pixels.shape[1:]
        with self._replay:
            for index in self._loader.index_batches():
                self._replay.feed(self._outputs[index])
                nothing = torch.full((1, 1, 1, 1), torch.nan, device=index.device).expand(len(index), *shape)
                yield nothing, self._loader.images.labels[index]


def _state(model: torch.nn.Module, frozen: Frozen) -> list[tuple[torch.Tensor, int]]:
    """The prefix's parameters and buffers, and how often each has been written to."""
    modules = dict(model.named_modules())
    return [
        (tensor, tensor._version)
        for name in frozen.prefix
        for tensor in (*modules[name].parameters(recurse=False), *modules[name].buffers(recurse=False))
    ]


def _same(one: list[tuple[torch.Tensor, int]], other: list[tuple[torch.Tensor, int]]) -> bool:
    return len(one) == len(other) and all(
        a is b and version == earlier for (a, version), (b, earlier) in zip(one, other, strict=True)
    )

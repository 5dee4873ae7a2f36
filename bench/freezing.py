"""What freezing saves of a training step: the first layers, against as many layers drawn regardless of their depth.

    python bench/freezing.py

Multiplications are counted, and CPU seconds of a step measured on one thread, as the least of some, in turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from _common import table
from torch.nn.functional import cross_entropy

from icycle.methods.ice._freeze import Frozen, first_layers
from icycle.methods.ice._layers import Layer, layers_of
from icycle.zoo import build_model

_DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet56", "vgg16-bn"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.6], help="of the layers that are frozen")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=28, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("network", "frozen", "saved, first", "saved, any", "seconds saved, first", "seconds saved, any")
    print(table(columns, [_row(name, share, arguments) for name in arguments.models for share in arguments.shares]))


def _row(name: str, share: float, arguments: argparse.Namespace) -> tuple[str, ...]:
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, in_channels=1, width=arguments.width)
    example = torch.zeros(1, 1, arguments.size, arguments.size)
    layers = layers_of(model, example)
    first = Frozen(model, example, layers, first_layers(layers, share))
    others = [Frozen(model, example, layers, _drawn(layers, len(first.layers), seed)) for seed in range(_DRAWS)]
    batch = torch.randn(arguments.batch, *example.shape[1:]), torch.randint(10, (arguments.batch,))
    spent = [_seconds(model, batch, [None, first, other]) for other in others]
    saved = [[1 - run[1] / run[0] for run in spent], [1 - run[2] / run[0] for run in spent]]
    counted = (first.saved, statistics.fmean(other.saved for other in others))
    return (name, f"{share:.0%}", *(f"{value:.2f}" for value in (*counted, *map(statistics.fmean, saved))))


def _drawn(layers: Sequence[Layer], count: int, seed: int) -> list[Layer]:
    return random.Random(seed).sample(list(layers[1:-1]), count)


def _seconds(
    model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor], variants: Sequence[Frozen | None]
) -> list[float]:
    """Of a step with each of these frozen: the least of three."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rounds = []
    for _ in range(3):
        rounds.append([])
        for frozen in variants:
            applied: AbstractContextManager[None] = frozen.applied(model) if frozen else nullcontext()
            with applied:
                start = time.process_time()
                optimizer.zero_grad()
                cross_entropy(model.train()(batch[0]), batch[1]).backward()
                optimizer.step()
                rounds[-1].append(time.process_time() - start)
    return [min(times) for times in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main()

"""One file per family of operations; importing this package registers every rule."""

from icycle.tracing.rules import (
    attention,
    convolution,
    elementwise,
    fourier,
    indexing,
    matmul,
    norm,
    pieces,
    places,
    pooling,
    recurrent,
    reduction,
    shape,
)

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "fourier",
    "indexing",
    "matmul",
    "norm",
    "pieces",
    "places",
    "pooling",
    "recurrent",
    "reduction",
    "shape",
]

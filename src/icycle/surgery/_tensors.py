"""The part of a tensor that is kept, and the parameter that takes another's place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from icycle.errors import SurgeryError
from icycle.tracing import is_sharded, sharded_like, whole

__all__ = ["Kept", "is_channels_last", "kept_part", "successor"]

Kept = Sequence[torch.Tensor | None]
"""The kept indices of each dimension; None where all of it is kept."""


def kept_part(tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    """What is kept of `tensor`, without its graph, in the layout and memory format that it had, and sharded alike."""
    part = tensor.detach()
    if is_sharded(part):
        return sharded_like(part, kept_part(whole(part), kept))
    if tensor.layout == torch.strided:
        part = _select(part, kept)
        return part.to(memory_format=torch.channels_last) if is_channels_last(tensor) else part.contiguous()
    if tensor.layout == torch.sparse_coo:
        return _select(part, kept).coalesce()
    return _select(part.to_sparse(), kept).to_sparse(layout=tensor.layout)


def _select(tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    for dim, index in enumerate(kept):
        if index is not None:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a strided tensor (batch, channels, height, width) has its channels last, and says so: where it has one
    channel, or one pixel, the elements lie alike in both formats, and the strides alone tell a kernel which it is."""
    if tensor.dim() != 4 or tensor.layout != torch.strided:
        return False
    _, channels, height, width = tensor.shape
    pixels, size = height * width, channels * height * width
    return tensor.stride() == (size, 1, width * channels, channels) != (size, pixels, width, 1)


def successor(name: str, old: torch.Tensor, data: torch.Tensor, kept: Kept | None = None) -> torch.Tensor:
    """A tensor with the values `data` that takes the place of the parameter or buffer `old`.

    It is of the same class, requires a gradient where that did, and has its markers and hooks, whose handles go on to
    remove them; with `kept` its gradient, too. A new tensor: resizing in place would leave a live graph's gradient
    accumulator with the old shape.
    """
    new = data
    if isinstance(old, nn.Parameter):
        plain = type(data) in (torch.Tensor, nn.Parameter)
        new = torch.Tensor._make_subclass(type(old), data) if plain else nn.Parameter(data, False)
    if type(new) is not type(old):
        raise SurgeryError(
            f"Expected {name} to stay a {type(old).__name__}, but without some of its channels it became a "
            f"{type(new).__name__}. Let detach() and index_select() of that class return it, or keep its channels."
        )
    vars(new).update(vars(old))
    new.requires_grad_(old.requires_grad)
    # torch gives no public way to list a tensor's hooks; the handles that it returned refer to these very dicts
    new._backward_hooks = old._backward_hooks
    if old._post_accumulate_grad_hooks is not None:
        new._post_accumulate_grad_hooks = old._post_accumulate_grad_hooks
    if kept is not None and old.is_leaf and old.grad is not None:
        if hasattr(old, "grad_dtype") and old.grad_dtype != new.dtype:
            new.grad_dtype = old.grad_dtype
        new.grad = kept_part(old.grad, kept)
    return new

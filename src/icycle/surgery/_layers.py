"""The descriptive attributes of torch's own layers, which must tell the shape that their parameters have now."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from icycle.tracing import GATES

__all__ = ["is_layer", "synchronise"]


def _convolution(layer: _ConvNd) -> dict[str, Any]:
    first, second = layer.weight.shape[:2]
    if isinstance(layer, _ConvTransposeNd):
        return {"in_channels": first, "out_channels": second * layer.groups}
    return {"in_channels": second * layer.groups, "out_channels": first}


def _linear(layer: nn.Linear) -> dict[str, Any]:
    return {"in_features": layer.weight.shape[1], "out_features": layer.weight.shape[0]}


def _bilinear(layer: nn.Bilinear) -> dict[str, Any]:
    out, first, second = layer.weight.shape
    return {"in1_features": first, "in2_features": second, "out_features": out}


def _running_norm(layer: _NormBase) -> dict[str, Any]:
    known = layer.weight if layer.weight is not None else layer.running_mean
    return {} if known is None else {"num_features": known.shape[0]}


def _group_norm(layer: nn.GroupNorm) -> dict[str, Any]:
    return {} if layer.weight is None else {"num_channels": layer.weight.shape[0]}


def _embedding(layer: nn.Embedding) -> dict[str, Any]:
    return {"num_embeddings": layer.weight.shape[0], "embedding_dim": layer.weight.shape[1]}


def _prelu(layer: nn.PReLU) -> dict[str, Any]:
    return {"num_parameters": layer.weight.shape[0]}


def _attention(layer: nn.MultiheadAttention) -> dict[str, Any]:
    key, value = (
        (layer.in_proj_weight, layer.in_proj_weight)
        if layer.in_proj_weight is not None
        else (layer.k_proj_weight, layer.v_proj_weight)
    )
    return {"embed_dim": layer.out_proj.weight.shape[0], "kdim": key.shape[1], "vdim": value.shape[1]}


def _recurrent(layer: nn.RNNBase) -> dict[str, Any]:
    weights = dict(layer.named_parameters(recurse=False))
    weight = weights["weight_hh_l0"]
    own: dict[str, Any] = {
        "input_size": weights["weight_ih_l0"].shape[1],
        "hidden_size": weight.shape[0] // GATES[layer.mode.lower()],
        "_flat_weights": [getattr(layer, name) for name in layer._flat_weights_names],
    }
    return {**own, "proj_size": weight.shape[1]} if layer.proj_size else own


def _recurrent_cell(layer: nn.RNNCellBase) -> dict[str, Any]:
    return {"input_size": layer.weight_ih.shape[1], "hidden_size": layer.weight_hh.shape[1]}


_DESCRIPTIONS: tuple[tuple[type[nn.Module], Callable[[Any], dict[str, Any]]], ...] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _running_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
    (nn.MultiheadAttention, _attention),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's whose attributes tell shapes."""
    return bool(_descriptions(type(module)))  # type: ignore[arg-type]


def synchronise(module: nn.Module) -> None:
    """Set the descriptive attributes of a module that is a layer of torch's."""
    for describe in _descriptions(type(module)):  # type: ignore[arg-type]
        for name, value in describe(module).items():
            _set(module, name, value)


@functools.lru_cache(maxsize=256)
def _descriptions(kind: Any) -> tuple[Callable[[Any], dict[str, Any]], ...]:
    return tuple(describe for known, describe in _DESCRIPTIONS if issubclass(kind, known))


def _set(module: nn.Module, name: str, value: Any) -> None:
    before = getattr(module, name, value)
    same = all(a is b for a, b in zip(before, value, strict=True)) if isinstance(value, list) else before == value
    if not same:
        setattr(module, name, value)

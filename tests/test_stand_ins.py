"""The stand-in for nn.MultiheadAttention equals the original, whatever the arguments."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.tracing import STAND_INS

WIDTH, HEADS, BATCH, N, M = 12, 3, 2, 5, 7


def stand_in_for(layer: nn.MultiheadAttention) -> nn.MultiheadAttention:
    twin = copy.deepcopy(layer)
    twin.__class__ = STAND_INS[nn.MultiheadAttention]
    return twin


def inputs(
    batch_first: bool, batched: bool = True, kdim: int = WIDTH, vdim: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = [torch.randn(BATCH, n, width) for n, width in ((N, WIDTH), (M, kdim), (M, vdim))]
    if not batched:
        return tuple(tensor[0] for tensor in tensors)  # type: ignore[return-value]
    return tuple(tensor if batch_first else tensor.transpose(0, 1) for tensor in tensors)  # type: ignore[return-value]


def check_equal(layer: nn.MultiheadAttention, *args: Any, **options: Any) -> None:
    for training in (False, True):
        layer.train(training)
        twin = stand_in_for(layer)
        expected, actual = (module(*args, **options) for module in (layer, twin))
        assert (expected[1] is None) == (actual[1] is None)
        for one, other in zip(expected, actual, strict=True):
            if one is not None:
                assert one.shape == other.shape
                torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6, equal_nan=True)


CONSTRUCTIONS = [
    {"bias": bias, "add_bias_kv": bias_kv, "add_zero_attn": zero, "batch_first": first, **widths}
    for bias, bias_kv, zero, first, widths in itertools.product(
        (True, False), (True, False), (True, False), (True, False), ({}, {"kdim": 8, "vdim": 10})
    )
]


@pytest.mark.parametrize(
    "options", CONSTRUCTIONS, ids=lambda options: "-".join(k for k, v in options.items() if v) or "plain"
)
def test_every_construction(options: dict[str, Any]) -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, **options)
    q, k, v = inputs(options["batch_first"], kdim=options.get("kdim", WIDTH), vdim=options.get("vdim", WIDTH))
    for need_weights, average in itertools.product((True, False), (True, False)):
        check_equal(layer, q, k, v, need_weights=need_weights, average_attn_weights=average)


def masks(kind: str, shape: tuple[int, ...]) -> Tensor | None:
    if kind == "none":
        return None
    blocked = torch.rand(shape) < 0.3
    blocked[..., 0] = False  # a row without any position gives nan
    return blocked if kind == "bool" else torch.randn(shape).masked_fill(blocked, -torch.inf)


@pytest.mark.parametrize("bias_kv", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("padding", ["none", "bool", "float"])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("attention", ["none", "bool", "float"])
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_every_mask(attention: str, per_head: bool, padding: str, batched: bool, bias_kv: bool) -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=bias_kv, add_zero_attn=bias_kv)
    batch = BATCH if batched else 1
    attn_mask = masks(attention, (batch * HEADS, N, M) if per_head else (N, M))
    key_padding_mask = masks(padding, (batch, M) if batched else (M,))
    for need_weights in (True, False):
        check_equal(
            layer,
            *inputs(True, batched),
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
        )


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal(need_weights: bool) -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    x = torch.randn(BATCH, N, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(N)
    check_equal(layer, x, x, x, attn_mask=mask, is_causal=True, need_weights=need_weights)
    with pytest.raises(RuntimeError, match="attn_mask"):
        stand_in_for(layer)(x, x, x, is_causal=True)


def test_gradients_are_equal() -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    twin = stand_in_for(layer)
    args = tuple(tensor.double() for tensor in inputs(True))
    for module in (layer, twin):
        module(*args)[0].square().sum().backward()
    for (name, one), (_, other) in zip(layer.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_inside_torchs_encoder_layer(training: bool, norm_first: bool) -> None:
    """In eval mode torch would bypass the attention with a kernel for the whole layer."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 20, dropout=0.0, batch_first=True, norm_first=norm_first)
    layer.train(training)
    twin = copy.deepcopy(layer)
    twin.self_attn = stand_in_for(layer.self_attn)
    x = torch.randn(BATCH, N, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_state_dict_keeps_its_keys_and_unpruned_models_their_class() -> None:
    model = nn.TransformerEncoderLayer(WIDTH, HEADS, 20, batch_first=True).eval()
    keys = list(model.state_dict())
    structure = icycle.trace(model, torch.randn(BATCH, N, WIDTH))
    assert type(model.self_attn) is nn.MultiheadAttention
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert isinstance(model.self_attn, nn.MultiheadAttention)
    assert list(model.state_dict()) == keys
    assert model(torch.randn(BATCH, N, WIDTH)).shape == (BATCH, N, WIDTH)

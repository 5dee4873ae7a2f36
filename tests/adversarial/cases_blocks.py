"""Blocks that papers describe, each with the detail by which it differs from what rules are made for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from adversary import Case, image, linears, parameter, sequence, traps

# ---- sums over named indices ----

EINSUM = traps(
    "einsum",
    sequence,
    with_bias=(
        lambda m, x: torch.einsum("bnc,oc->bno", x, m.w) + m.b,
        lambda: {"w": parameter(6, 8), "b": parameter(6)},
    ),
    heads=(lambda m, x: torch.einsum("bnc,hcd->bhnd", x, m.w).sum(1), lambda: {"w": parameter(4, 8, 3)}),
    heads_exp=(lambda m, x: torch.einsum("bnc,hcd->bhnd", x, m.w).exp().sum(1), lambda: {"w": parameter(4, 8, 3)}),
    heads_mixed=(
        lambda m, x: torch.einsum("bhnd,hg->bgnd", torch.einsum("bnc,hcd->bhnd", x, m.w), m.u).flatten(2).sum(2),
        lambda: {"w": parameter(4, 8, 3), "u": parameter(4, 4)},
    ),
    ellipsis=(lambda m, x: torch.einsum("...c,co->...o", x.sigmoid(), m.w), lambda: {"w": parameter(8, 6)}),
    diagonal=lambda x: torch.einsum("bii->bi", x.transpose(1, 2) @ x),
    trace=lambda x: torch.einsum("bii->b", x.transpose(1, 2) @ x.sigmoid()),
    three=(lambda m, x: torch.einsum("bnc,cd,bnd->bn", x, m.w, x.cos()), lambda: {"w": parameter(8, 8)}),
    outer=(lambda m, x: torch.einsum("bnc,d->bncd", x, m.v).flatten(2).sum(2), lambda: {"v": parameter(5)}),
    outer_shifted=(lambda m, x: torch.einsum("bnc,d->bncd", x, 1 + m.v).sum((2, 3)), lambda: {"v": parameter(5)}),
    products=lambda x: torch.einsum("bnc,bnd->bcd", x.sigmoid(), x),
    tensordot=(lambda m, x: torch.tensordot(x.exp(), m.w, dims=([2], [1])), lambda: {"w": parameter(6, 8)}),
    tensordot_two=(lambda m, x: torch.tensordot(x, m.w, dims=2), lambda: {"w": parameter(6, 8, 3)}),
    multi_dot=(
        lambda m, x: torch.linalg.multi_dot([x[0], m.a, m.b]),
        lambda: {"a": parameter(8, 5), "b": parameter(5, 6)},
    ),
    kron=(lambda m, x: torch.kron(x, m.v).sum(2), lambda: {"v": parameter(1, 1, 2)}),
    inner=(lambda m, x: torch.inner(x.sigmoid(), m.w), lambda: {"w": parameter(6, 8)}),
    chain=(lambda m, x: (x @ m.a.exp() @ m.b).sum(2), lambda: {"a": parameter(8, 5), "b": parameter(5, 6)}),
)

# ---- channels that change places, or are divided ----


def _shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _space_to_depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def _shift(x: Tensor) -> Tensor:
    """A quarter of the channels looks to each side (TSM)."""
    fold = x.shape[1] // 4
    out = torch.zeros_like(x)
    out[:, :fold, 1:] = x[:, :fold, :-1]
    out[:, fold : 2 * fold, :-1] = x[:, fold : 2 * fold, 1:]
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


def _window(m: Any, x: Tensor) -> Tensor:
    """Attention within shifted windows of 3 x 3, with a bias by relative position (Swin)."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).roll((-1, -1), (1, 2))
    t = x.view(b, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
    q, k, v = m.qkv(t).view(-1, 9, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) + m.bias[m.index].permute(2, 0, 1)).softmax(-1)
    t = (weights @ v).transpose(1, 2).reshape(-1, 9, c)
    t = t.view(b, h // 3, w // 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
    return t.roll((1, 1), (1, 2)).permute(0, 3, 1, 2)


def _relative() -> Tensor:
    place = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
    return ((place[:, :, None] - place[:, None]) + 2).mul(torch.tensor([5, 1])[:, None, None]).sum(0)


IMAGES = traps(
    "block",
    image,
    shuffle=lambda x: _shuffle(x, 2),
    shuffle_grouped=(
        lambda m, x: m.b(_shuffle(m.a(x), 2)),
        lambda: {"a": nn.Conv2d(8, 8, 1, groups=2), "b": nn.Conv2d(8, 8, 3, padding=1, groups=4)},
    ),
    shuffle_by_layer=(lambda m, x: m.s(x), lambda: {"s": nn.ChannelShuffle(4)}),
    pixels_up=(lambda m, x: F.pixel_shuffle(m.c(x), 2).sigmoid(), lambda: {"c": nn.Conv2d(8, 16, 3, padding=1)}),
    pixels_down=lambda x: F.pixel_unshuffle(x, 3).exp(),
    space_to_depth=_space_to_depth,
    space_to_depth_slices=lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2]], 1),
    icnr=(
        lambda m, x: F.pixel_shuffle(F.conv2d(x, m.w.repeat_interleave(4, 0)), 2),
        lambda: {"w": parameter(4, 8, 1, 1)},
    ),
    temporal_shift=_shift,
    standardised=(
        lambda m, x: F.conv2d(
            x, (m.w - m.w.mean((1, 2, 3), keepdim=True)) * (m.w.var((1, 2, 3), keepdim=True) + 1e-5).rsqrt(), m.b
        ).relu(),
        lambda: {"w": parameter(6, 8, 3, 3), "b": parameter(6)},
    ),
    standardised_batch_norm=(
        lambda m, x: F.conv2d(
            x, F.batch_norm(m.w.view(1, 6, -1), None, None, m.g, training=True, momentum=0.0).view_as(m.w)
        ),
        lambda: {"w": parameter(6, 8, 3, 3), "g": parameter(6)},
    ),
    spectral=(
        lambda m, x: m.c(x).relu(),
        lambda: {"c": nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 6, 3, padding=1))},
    ),
    weight_normed=(
        lambda m, x: m.c(x).relu(),
        lambda: {"c": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 6, 3, padding=1))},
    ),
    orthogonal=(
        lambda m, x: m.l(x.mean((2, 3))),
        lambda: {"l": nn.utils.parametrizations.orthogonal(nn.Linear(8, 8, bias=False))},
    ),
    demodulated=(
        lambda m, x: torch.cat(
            [
                F.conv2d(
                    x[i : i + 1],
                    (lambda w: w * (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt())(
                        m.w * s[None, :, None, None]
                    ),
                )
                for i, s in enumerate(m.s(x.mean((2, 3))))
            ]
        ),
        lambda: {"w": parameter(6, 8, 3, 3), "s": nn.Linear(8, 8)},
    ),
    modulated_groups=(
        lambda m, x: F.conv2d(
            x.reshape(1, -1, 6, 6),
            (m.w[None] * m.s(x.mean((2, 3)))[:, None, :, None, None]).flatten(0, 1),
            groups=x.shape[0],
        ).view(x.shape[0], -1, 4, 4),
        lambda: {"w": parameter(6, 8, 3, 3), "s": nn.Linear(8, 8)},
    ),
    film=(
        lambda m, x: x * (1 + m.g(x.mean((2, 3)))[:, :, None, None]) + m.b(x.mean((2, 3)))[:, :, None, None],
        linears(g=(8, 8), b=(8, 8)),
    ),
    film_chunked=(
        lambda m, x: (lambda g, b: F.group_norm(x, 2) * (1 + g) + b)(
            *m.f(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        ),
        linears(f=(8, 16)),
    ),
    adaptive_instance=(
        lambda m, x: F.instance_norm(x) * m.f(x.mean((2, 3)))[:, :, None, None].exp(),
        linears(f=(8, 8)),
    ),
    hyper=(
        lambda m, x: F.conv2d(x, m.h(m.z).view(6, 8, 1, 1)),
        lambda: {"h": nn.Linear(4, 48), "z": parameter(4)},
    ),
    hyper_by_size=(
        lambda m, x: F.conv2d(x, m.h(m.z).view(-1, x.shape[1], 1, 1)),
        lambda: {"h": nn.Linear(4, 48), "z": parameter(4)},
    ),
    dynamic=(
        lambda m, x: F.conv2d(x, torch.einsum("k,koihw->oihw", m.a(x.mean((0, 2, 3))).softmax(0), m.w)),
        lambda: {"a": nn.Linear(8, 3), "w": parameter(3, 6, 8, 1, 1)},
    ),
    involution=(
        lambda m, x: (
            (F.unfold(x, 3, padding=1).view(2, 2, 4, 9, 6, 6) * m.k(x).view(2, 2, 1, 9, 6, 6)).sum(3).view(2, 8, 6, 6)
        ),
        lambda: {"k": nn.Conv2d(8, 18, 1)},
    ),
    deformable=(
        lambda m, x: torchvision.ops.deform_conv2d(x, m.o(x), m.w, m.b, padding=1),
        lambda: {"o": nn.Conv2d(8, 18, 3, padding=1), "w": parameter(6, 8, 3, 3), "b": parameter(6)},
    ),
    deformable_masked=(
        lambda m, x: torchvision.ops.deform_conv2d(x.sigmoid(), m.o(x), m.w.exp(), None, 1, 1, 1, m.k(x).sigmoid()),
        lambda: {"o": nn.Conv2d(8, 36, 3, padding=1), "k": nn.Conv2d(8, 18, 3, padding=1), "w": parameter(6, 4, 3, 3)},
    ),
    roi=lambda x: torchvision.ops.roi_align(x.exp(), _BOXES, 2, aligned=True),
    roi_pool=lambda x: torchvision.ops.roi_pool(x + 1, _BOXES, 2),
    roi_positions=lambda x: torchvision.ops.ps_roi_align(x, _BOXES, 2),
    transposed_groups=(
        lambda m, x: m.c(x).sigmoid(),
        lambda: {"c": nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)},
    ),
    transposed_depthwise=(
        lambda m, x: m.c(x).sum(1),
        lambda: {"c": nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)},
    ),
    transposed_depthwise_shifted=(
        lambda m, x: F.conv_transpose2d(x.sigmoid(), m.w + 1, groups=8).sum(1),
        lambda: {"w": parameter(8, 1, 2, 2)},
    ),
    blurred=lambda x: F.conv2d(x, _BLUR.expand(x.shape[1], 1, 3, 3), groups=x.shape[1], padding=1).exp(),
    unpooled=lambda x: (lambda y, i: F.max_unpool2d(y, i, 2).exp())(*F.max_pool2d(x, 2, return_indices=True)),
    unpooled_other=(
        lambda m, x: (lambda y, i: F.max_unpool2d(m.c(y), i, 2).exp())(*F.max_pool2d(x, 2, return_indices=True)),
        lambda: {"c": nn.Conv2d(8, 8, 3, padding=1)},
    ),
    squeeze_excite=(
        lambda m, x: x * m.b(m.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
        lambda: {"a": nn.Conv2d(8, 2, 1), "b": nn.Conv2d(2, 8, 1)},
    ),
    channel_convolution=(
        lambda m, x: x * m.c(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid(),
        lambda: {"c": nn.Conv1d(1, 1, 3, padding=1)},
    ),
    kernel_by_width=(
        lambda m, x: x * F.conv1d(x.mean((2, 3))[:, None], m.k, padding=x.shape[1] // 4)[:, 0, :8, None, None],
        lambda: {"k": parameter(1, 1, 5)},
    ),
    selective=(
        lambda m, x: (
            lambda u, v: (torch.stack([u, v], 1) * m.f((u + v).mean((2, 3))).view(2, 2, -1, 1, 1).softmax(1)).sum(1)
        )(m.a(x), m.b(x)),
        lambda: {"a": nn.Conv2d(8, 6, 1), "b": nn.Conv2d(8, 6, 3, padding=1), "f": nn.Linear(6, 12)},
    ),
    response_norm=(
        lambda m, x: (lambda g: m.s * x * (g / (g.mean(1, keepdim=True) + 1e-6)) + x)(x.norm(dim=(2, 3), keepdim=True)),
        lambda: {"s": parameter(1, 8, 1, 1)},
    ),
    local_response=lambda x: F.local_response_norm(x, 3),
    group_norm_of_all=lambda x: F.group_norm(x, 1),
    group_norm_by_hand=lambda x: (
        lambda y: ((y - y.mean((2, 3, 4), keepdim=True)) / (y.var((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
    )(x.view(2, 4, -1, 6, 6)),
    batch_renorm=(
        lambda m, x: ((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)) * m.g,
        lambda: {"g": parameter(1, 8, 1, 1)},
    ),
    filter_response=(
        lambda m, x: torch.maximum(m.g * x * (x.square().mean((2, 3), keepdim=True) + 1e-6).rsqrt(), m.t),
        lambda: {"g": parameter(1, 8, 1, 1), "t": parameter(1, 8, 1, 1)},
    ),
    non_local=(
        lambda m, x: (
            x
            + m.o(
                (lambda q, k, v: ((q.mT @ k).softmax(-1) @ v.mT).mT.reshape(2, -1, 6, 6))(
                    *m.q(x).flatten(2).chunk(3, 1)
                )
            )
        ),
        lambda: {"q": nn.Conv2d(8, 12, 1), "o": nn.Conv2d(4, 8, 1)},
    ),
    channel_attention=lambda x: (lambda t: ((t @ t.mT).softmax(-1) @ t).view_as(x))(x.flatten(2)),
    cross_covariance=(
        lambda m, x: (
            lambda q, k, v: (
                ((F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1) @ v).flatten(1, 2).view(2, 8, 6, 6)
            )
        )(*m.q(x).view(2, 3, 2, 4, 36).unbind(1)),
        lambda: {"q": nn.Conv2d(8, 24, 1)},
    ),
    window_attention=(
        _window,
        lambda: {"qkv": nn.Linear(8, 24), "bias": parameter(25, 4), "index": _relative()},
    ),
    pyramid=lambda x: torch.cat([x, *(F.interpolate(F.adaptive_avg_pool2d(x, n), (6, 6)) for n in (1, 2))], 1),
    covariance=lambda x: (lambda y: (y @ y.mT / 36).flatten(1))(x.flatten(2) - x.flatten(2).mean(2, keepdim=True)),
    vlad=(
        lambda m, x: (
            (m.a(x).flatten(2).softmax(1)[:, :, None] * (x.flatten(2)[:, None] - m.k[None, :, :, None]))
            .sum(-1)
            .flatten(1)
        ),
        lambda: {"a": nn.Conv2d(8, 3, 1), "k": parameter(3, 8)},
    ),
    maxout=lambda x: x.view(2, -1, 2, 6, 6).amax(2),
    concatenated_relu=lambda x: torch.cat([x, -x], 1).relu(),
    highway=(
        lambda m, x: m.t(x).sigmoid() * m.h(x) + (1 - m.t(x).sigmoid()) * x,
        lambda: {"t": nn.Conv2d(8, 8, 1), "h": nn.Conv2d(8, 8, 1)},
    ),
    reversible=(
        lambda m, x: (lambda a, b: (lambda y: torch.cat([y, b + m.g(y)], 1))(a + m.f(b)))(*x.chunk(2, 1)),
        lambda: {"f": nn.Conv2d(4, 4, 1), "g": nn.Conv2d(4, 4, 1)},
    ),
    coupling=(
        lambda m, x: (lambda a, b: torch.cat([a, b * m.s(a).exp() + m.t(a)], 1))(*x.chunk(2, 1)),
        lambda: {"s": nn.Conv2d(4, 4, 1), "t": nn.Conv2d(4, 4, 1)},
    ),
    split_three_one=(
        lambda m, x: (lambda a, b: torch.cat([m.c(a), b], 1))(*x.split((6, 2), 1)),
        lambda: {"c": nn.Conv2d(6, 6, 3, padding=1)},
    ),
    partial_convolution=(
        lambda m, x: torch.cat([m.c(x[:, : m.n]), x[:, m.n :]], 1),
        lambda: {"c": nn.Conv2d(2, 2, 3, padding=1), "n": 2},
    ),
    masked_kernel=(
        lambda m, x: F.conv2d(x, m.w * m.mask, padding=1),
        lambda: {"w": parameter(6, 8, 3, 3), "mask": torch.ones(3, 3).double().tril()},
    ),
    binarised=(
        lambda m, x: F.conv2d(x.sign(), m.w.sign() * m.w.abs().mean((1, 2, 3), keepdim=True)),
        lambda: {"w": parameter(6, 8, 3, 3)},
    ),
    shared_experts=(
        lambda m, x: sum(
            g[:, None, None, None] * e(x) for g, e in zip(m.g(x.mean((2, 3))).softmax(1).T, m.e, strict=True)
        ),
        lambda: {"g": nn.Linear(8, 3), "e": nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(3))},
    ),
    fourier_units=(
        lambda m, x: torch.fft.irfft2(
            torch.view_as_complex(
                m.c(torch.view_as_real(torch.fft.rfft2(x)).permute(0, 1, 4, 2, 3).reshape(2, 16, 6, 4))
                .view(2, 8, 2, 6, 4)
                .permute(0, 1, 3, 4, 2)
                .contiguous()
            ),
            s=(6, 6),
        ),
        lambda: {"c": nn.Conv2d(16, 16, 1)},
    ),
    global_filter=(
        lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(m.w), s=(6, 6)),
        lambda: {"w": parameter(8, 6, 4, 2)},
    ),
    spectral_convolution=(
        lambda m, x: torch.fft.irfft2(
            torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(x), torch.view_as_complex(m.w)), s=(6, 6)
        ),
        lambda: {"w": parameter(8, 6, 6, 4, 2)},
    ),
)

_BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).double()[None, None] / 16
_BOXES = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]]).double()

CASES: list[Case] = [*EINSUM, *IMAGES]

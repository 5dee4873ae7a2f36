"""Attention and experts over sequences, each with the detail by which it differs from what rules are made for."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, in_heads, joined, linears, parameter, sequence, traps


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def _rotary(x: Tensor) -> Tensor:
    """x (batch, heads, n, width): positions turn pairs of the width."""
    n, width = x.shape[-2:]
    angles = torch.outer(torch.arange(n).double(), 10_000 ** (-torch.arange(0, width, 2).double() / width))
    angles = torch.cat([angles, angles], -1)
    return x * angles.cos() + _rotate(x) * angles.sin()


def _rotary_complex(x: Tensor) -> Tensor:
    """As Llama's first code: pairs as complex numbers."""
    n, width = x.shape[-2:]
    angles = torch.outer(torch.arange(n).double(), 10_000 ** (-torch.arange(0, width, 2).double() / width))
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Any = 0.0) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v


def _grouped(m: Any, x: Tensor) -> Tensor:
    q, k, v = in_heads(m.q(x), m.heads), in_heads(m.k(x), m.few), in_heads(m.v(x), m.few)
    return m.o(joined(_attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))))


def _grouped_expanded(m: Any, x: Tensor) -> Tensor:
    def repeated(t: Tensor) -> Tensor:
        b, h, n, d = t.shape
        return t[:, :, None].expand(b, h, 2, n, d).reshape(b, h * 2, n, d)

    q, k, v = in_heads(m.q(x), m.heads), in_heads(m.k(x), m.few), in_heads(m.v(x), m.few)
    return m.o(joined(F.scaled_dot_product_attention(q, repeated(k), repeated(v))))


def _multi_query(m: Any, x: Tensor) -> Tensor:
    q, k, v = in_heads(m.q(x), m.heads), m.k(x)[:, None], m.v(x)[:, None]
    return m.o(joined(_attend(q, k, v)))


def _grouped_parts() -> dict[str, Any]:
    return {**linears(q=(8, 16), k=(8, 8), v=(8, 8), o=(16, 8))(), "heads": 4, "few": 2}


def _parts() -> dict[str, Any]:
    return {**linears(q=(8, 8), k=(8, 8), v=(8, 8), o=(8, 8))(), "heads": 4, "few": 2}


def _alibi(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    slopes = 2.0 ** -torch.arange(1, q.shape[1] + 1).double()
    distance = -(torch.arange(6)[:, None] - torch.arange(6)).abs().double()
    return m.o(joined(_attend(q, k, v, slopes[:, None, None] * distance)))


def _relative_key(m: Any, x: Tensor) -> Tensor:
    """Shaw et al.: an embedding per distance, of the width of a head."""
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    near = m.e(torch.arange(6)[:, None] - torch.arange(6) + 5)
    return m.o(joined(_attend(q, k, v, torch.einsum("bhnd,nmd->bhnm", q, near))))


def _skewed(m: Any, x: Tensor) -> Tensor:
    """Transformer-XL's relative shift: pad, view with the dimensions exchanged, cut."""
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    scores = torch.einsum("bhnd,md->bhnm", q, m.r)
    b, h, n, length = scores.shape
    scores = F.pad(scores, (1, 0)).view(b, h, length + 1, n)[:, :, 1:].view(b, h, n, length)
    return m.o(joined(_attend(q, k, v, scores)))


def _bias_per_head(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.o(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=m.b)))


def _bias_read(m: Any, x: Tensor) -> Tensor:
    """A value is read, so that no tensor without data will do, and the fused kernel of the CPU runs."""
    return _bias_per_head(m, x) if float(x.detach().sum()) > -1e9 else x


def _linear_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return m.o(joined(q @ (k.mT @ v) / (q @ k.sum(-2)[..., None])))


def _causal_linear(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    q, k = q.relu(), k.relu()
    return m.o(joined(torch.einsum("bhnd,bhnde->bhne", q, torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(2))))


def _talking(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    scores = torch.einsum("bhnm,hg->bgnm", q @ k.mT, m.before).softmax(-1)
    return m.o(joined(torch.einsum("bhnm,hg->bgnm", scores, m.after) @ v))


def _sinks(m: Any, x: Tensor) -> Tensor:
    """A learned score per head that takes a share of the softmax (gpt-oss)."""
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    scores = torch.cat([q @ k.mT, m.s[None, :, None, None].expand(2, -1, 6, 1)], -1)
    return m.o(joined(scores.softmax(-1)[..., :-1] @ v))


def _query_key_norm(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.o(joined(_attend(F.rms_norm(q, (q.shape[-1],), m.g), F.rms_norm(k, (k.shape[-1],), m.g), v)))


def _unit_keys(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.o(joined(_attend(F.normalize(q, dim=-1) * m.t.exp(), F.normalize(k, dim=-1), v)))


def _gated_heads(m: Any, x: Tensor) -> Tensor:
    q, k, v = (in_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.o(joined(_attend(q, k, v) * m.g(x).sigmoid().mT[..., None]))


def _differential(m: Any, x: Tensor) -> Tensor:
    """The difference of two softmaxes over halves of the heads' widths."""
    q, k, v = (in_heads(layer(x), m.few) for layer in (m.q, m.k, m.v))
    (a, b), (c, d) = q.chunk(2, -1), k.chunk(2, -1)
    return m.o(joined(((a @ c.mT).softmax(-1) - m.s * (b @ d.mT).softmax(-1)) @ v))


def _latent(m: Any, x: Tensor) -> Tensor:
    """Multi-head latent attention: keys and values from a narrow common one, positions in a part of their own."""
    latent, place = m.down(x).split((6, 2), -1)
    k, v = m.up(latent).view(2, 6, m.heads, -1).transpose(1, 2).split((2, 3), -1)
    q, turned = in_heads(m.q(x), m.heads).split((2, 2), -1)
    k = torch.cat([k, _rotary(place[:, None]).expand(-1, m.heads, -1, -1)], -1)
    return m.o(joined(_attend(torch.cat([q, _rotary(turned)], -1), k, v)))


def _direct_function(m: Any, x: Tensor) -> Tensor:
    y = x.transpose(0, 1)
    return F.multi_head_attention_forward(
        y, y, y, 8, 4, m.w, m.b, None, None, False, 0.0, m.o.weight, m.o.bias, False, None, False
    )[0].transpose(0, 1)


def _direct_by_size(m: Any, x: Tensor) -> Tensor:
    y = x.transpose(0, 1)
    return F.multi_head_attention_forward(
        y, y, y, y.shape[-1], m.heads, m.w, m.b, None, None, False, 0.0, m.o.weight, m.o.bias, False, None, True
    )[0].transpose(0, 1)


def _clip_pool(m: Any, x: Tensor) -> Tensor:
    """CLIP's attention pooling: the function on the weights of plain layers."""
    y = torch.cat([x.mean(1, keepdim=True), x], 1).transpose(0, 1)
    return F.multi_head_attention_forward(
        query=y[:1],
        key=y,
        value=y,
        embed_dim_to_check=y.shape[-1],
        num_heads=m.heads,
        q_proj_weight=m.q.weight,
        k_proj_weight=m.k.weight,
        v_proj_weight=m.v.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([m.q.bias, m.k.bias, m.v.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=m.o.weight,
        out_proj_bias=m.o.bias,
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
    )[0].squeeze(0)


_FUNCTION = lambda: {"w": parameter(24, 8), "b": parameter(24), "o": nn.Linear(8, 8), "heads": 4}  # noqa: E731

ATTENTION = traps(
    "attend",
    sequence,
    grouped=(_grouped, _grouped_parts),
    grouped_expanded=(_grouped_expanded, _grouped_parts),
    grouped_fused=(
        lambda m, x: m.o(
            joined(
                F.scaled_dot_product_attention(
                    in_heads(m.q(x), m.heads),
                    in_heads(m.k(x), m.few),
                    in_heads(m.v(x), m.few),
                    enable_gqa=True,
                )
            )
        ),
        _grouped_parts,
    ),
    multi_query=(_multi_query, lambda: {**_grouped_parts(), "k": nn.Linear(8, 4), "v": nn.Linear(8, 4)}),
    rotary=(
        lambda m, x: m.o(
            joined(_attend(_rotary(in_heads(m.q(x), m.few)), _rotary(in_heads(m.k(x), m.few)), in_heads(m.v(x), m.few)))
        ),
        _parts,
    ),
    rotary_complex=(
        lambda m, x: m.o(
            joined(
                _attend(
                    _rotary_complex(in_heads(m.q(x), m.few)),
                    _rotary_complex(in_heads(m.k(x), m.few)),
                    in_heads(m.v(x), m.few),
                )
            )
        ),
        _parts,
    ),
    alibi=(_alibi, _parts),
    relative_key=(_relative_key, lambda: {**_parts(), "e": nn.Embedding(11, 2)}),
    skewed=(_skewed, lambda: {**_parts(), "r": parameter(6, 2)}),
    bias_per_head=(_bias_per_head, lambda: {**_parts(), "b": parameter(1, 4, 6, 6)}),
    bias_read=(_bias_read, lambda: {**_parts(), "b": parameter(1, 4, 6, 6)}),
    linear=(_linear_attention, _parts),
    causal_linear=(_causal_linear, _parts),
    talking=(_talking, lambda: {**_parts(), "before": parameter(4, 4), "after": parameter(4, 4)}),
    sinks=(_sinks, lambda: {**_parts(), "s": parameter(4)}),
    query_key_norm=(_query_key_norm, lambda: {**_parts(), "g": parameter(2)}),
    unit_keys=(_unit_keys, lambda: {**_parts(), "t": parameter(4, 1, 1)}),
    gated_heads=(_gated_heads, lambda: {**_parts(), "g": nn.Linear(8, 4)}),
    differential=(_differential, lambda: {**_parts(), "s": parameter(1)}),
    latent=(
        _latent,
        lambda: {**_grouped_parts(), "down": nn.Linear(8, 8), "up": nn.Linear(6, 20), "o": nn.Linear(12, 8)},
    ),
    function=(_direct_function, _FUNCTION),
    function_by_size=(_direct_by_size, _FUNCTION),
    function_pool=(_clip_pool, lambda: {**_parts(), "heads": 4}),
    module_masked=(
        lambda m, x: m.a(x, x, x, attn_mask=torch.ones(6, 6).triu(1).bool(), need_weights=False)[0],
        lambda: {"a": nn.MultiheadAttention(8, 4, batch_first=True)},
    ),
    module_weights=(
        lambda m, x: m.a(x, x, x, average_attn_weights=True)[1].softmax(-1) @ x,
        lambda: {"a": nn.MultiheadAttention(8, 4, batch_first=True)},
    ),
    module_other_width=(
        lambda m, x: m.a(x, m.k(x), m.k(x).sigmoid())[0],
        lambda: {"a": nn.MultiheadAttention(8, 2, batch_first=True, kdim=5, vdim=5), "k": nn.Linear(8, 5)},
    ),
    module_biases=(
        lambda m, x: m.a(x, x, x)[0],
        lambda: {"a": nn.MultiheadAttention(8, 4, batch_first=True, add_bias_kv=True, add_zero_attn=True)},
    ),
    learned_queries=(
        lambda m, x: m.a(m.z.expand(x.shape[0], -1, -1), x, x)[0],
        lambda: {"a": nn.MultiheadAttention(8, 4, batch_first=True), "z": parameter(1, 3, 8)},
    ),
    soft_experts=(
        lambda m, x: (
            (
                lambda d: (
                    torch.stack([e(t) for e, t in zip(m.e, (d.softmax(1).mT @ x).unbind(1), strict=True)], 1).mT
                    @ d.softmax(2).mT
                )
            )(m.g(x)).mT
        ),
        lambda: {"g": nn.Linear(8, 3), "e": nn.ModuleList(nn.Linear(8, 6) for _ in range(3))},
    ),
    top_experts=(
        lambda m, x: _routed(m, x),
        lambda: {"g": nn.Linear(8, 3), "e": nn.ModuleList(nn.Linear(8, 6) for _ in range(3))},
    ),
    batched_experts=(
        lambda m, x: torch.einsum(
            "bnk,kbno->bno", m.g(x).softmax(-1), torch.einsum("bnc,kcf->kbnf", x, m.a).relu() @ m.b[:, None]
        ),
        lambda: {"g": nn.Linear(8, 3), "a": parameter(3, 8, 5), "b": parameter(3, 5, 6)},
    ),
    sorted_experts=(lambda m, x: _sorted(m, x), lambda: {"g": nn.Linear(8, 3), "a": parameter(3, 8, 6)}),
    mixer=(
        lambda m, x: x + m.b(m.a(x.mT).relu()).mT,
        linears(a=(6, 5), b=(5, 6)),
    ),
    gated_mixer=(
        lambda m, x: (lambda u, v: m.o(u * m.s(v.mT).mT))(*m.i(x).chunk(2, -1)),
        linears(i=(8, 12), s=(6, 6), o=(6, 8)),
    ),
    swish_gate=(lambda m, x: m.o(F.silu(m.g(x)) * m.u(x)), linears(g=(8, 10), u=(8, 10), o=(10, 8))),
    swish_gate_joined=(
        lambda m, x: m.o((lambda a, b: F.silu(a) * b)(*m.g(x).split(m.n, -1))),
        lambda: {"g": nn.Linear(8, 20), "o": nn.Linear(10, 8), "n": 10},
    ),
    swish_gate_interleaved=(
        lambda m, x: m.o(F.silu(m.g(x)[..., ::2]) * (m.g(x)[..., 1::2] + 1)),
        linears(g=(8, 20), o=(10, 8)),
    ),
    sigmoid_gate=(lambda m, x: m.o(F.glu(m.g(x), -1)), linears(g=(8, 20), o=(10, 8))),
    fourier=lambda x: torch.fft.fft2(x).real,
)


def _routed(m: Any, x: Tensor) -> Tensor:
    """Each token goes to its best two experts, one expert after the other (Mixtral)."""
    flat = x.flatten(0, 1)
    weights, chosen = m.g(flat).softmax(-1).topk(2)
    out = flat.new_zeros(flat.shape[0], 6)
    for number, expert in enumerate(m.e):
        token, place = torch.where(chosen == number)
        out.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
    return out.view(2, 6, -1)


def _sorted(m: Any, x: Tensor) -> Tensor:
    """Tokens sorted by expert, then one product per expert."""
    flat = x.flatten(0, 1)
    chosen = m.g(flat).argmax(-1)
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=3).tolist()
    parts = [part @ w for part, w in zip(flat[order].split(counts), m.a, strict=True)]
    return torch.cat(parts)[order.argsort()].view(2, 6, -1)


CASES: list[Case] = ATTENTION

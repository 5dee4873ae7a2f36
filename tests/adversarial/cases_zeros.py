"""What is zero: a result that is taken for zero at removed channels, and then summed without a weight in between."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, case, controls, direct, image, parameter, row, sequence, traps

# every function of one tensor, summed over its channels

POINTWISE = traps(
    "sum",
    row,
    plus_true=lambda x: (x + True).sum(1),
    true_plus=lambda x: (True + x).sum(1),
    minus_number=lambda x: (x - 0.5).sum(1),
    plus_one=lambda x: (x + 1).sum(1),
    plus_tensor=lambda x: (x + torch.ones(1).double()).sum(1),
    plus_complex=lambda x: (x.to(torch.complex128) + 1j).sum(1).imag,
    alpha=lambda x: torch.add(x, 1, alpha=2).sum(1),
    from_one=lambda x: (1 - x).sum(1),
    rsub=lambda x: torch.rsub(x, 2).sum(1),
    sigmoid=lambda x: x.sigmoid().sum(1),
    cosine=lambda x: x.cos().sum(1),
    exponential=lambda x: x.exp().sum(1),
    exp2=lambda x: torch.exp2(x).sum(1),
    hyperbolic=lambda x: x.cosh().sum(1),
    softplus=lambda x: F.softplus(x).sum(1),
    log_sigmoid=lambda x: F.logsigmoid(x).sum(1),
    hardsigmoid=lambda x: F.hardsigmoid(x).sum(1),
    arccosine=lambda x: x.clamp(-0.5, 0.5).acos().sum(1),
    sinc=lambda x: torch.sinc(x).sum(1),
    complement_error=lambda x: torch.erfc(x).sum(1),
    distribution=lambda x: torch.special.ndtr(x).sum(1),
    bessel=lambda x: torch.i0(x).sum(1),
    power_zero=lambda x: (x**0).sum(1),
    base=lambda x: (2**x).sum(1),
    threshold=lambda x: F.threshold(x, 0.1, 5.0).sum(1),
    clamp_low=lambda x: x.clamp(0.5).sum(1),
    clamp_high=lambda x: x.clamp(max=-0.5).sum(1),
    clamp_both=lambda x: x.clamp(0.25, 2).sum(1),
    clamp_keyword=lambda x: torch.clamp(x, max=-1.0).sum(1),
    clamp_min=lambda x: torch.clamp_min(x, 1).sum(1),
    clamp_max=lambda x: torch.clamp_max(x, -1).sum(1),
    clamp_tensor=lambda x: x.clamp(torch.ones(8).double()).sum(1),
    hardtanh=lambda x: F.hardtanh(x, 1, 2).sum(1),
    masked_fill=lambda x: x.masked_fill(x <= 0, 3.0).sum(1),
    where_number=lambda x: torch.where(x > 0, x, 2.0).sum(1),
    where_two_numbers=lambda x: torch.where(x > 0, 1.0, 2.0).sum(1),
    is_equal=lambda x: (x == 0).double().sum(1),
    is_not_larger=lambda x: (~(x > 0)).double().sum(1),
    logical_not=lambda x: torch.logical_not(x).double().sum(1),
    bitwise_not=lambda x: torch.bitwise_not(x.long()).double().sum(1),
    at_least=lambda x: x.ge(0).double().sum(1),
    is_finite=lambda x: torch.isfinite(x).double().sum(1),
    is_close=lambda x: torch.isclose(x, torch.zeros_like(x)).double().sum(1),
    heaviside=lambda x: torch.heaviside(x, torch.ones_like(x)).sum(1),
    maximum=lambda x: torch.maximum(x, torch.ones_like(x)).sum(1),
    fmax=lambda x: torch.fmax(x, torch.full_like(x, 0.5)).sum(1),
    lerp=lambda x: torch.lerp(x, torch.ones_like(x), 0.5).sum(1),
    logaddexp=lambda x: torch.logaddexp(x, x).sum(1),
    addcmul=lambda x: torch.addcmul(torch.ones_like(x), x, x).sum(1),
    fill=lambda x: x.clone().fill_(2).sum(1),
    ones_like=lambda x: torch.ones_like(x).sum(1),
    full_like=lambda x: torch.full_like(x, 2).sum(1),
    new_ones=lambda x: x.new_ones(x.shape).sum(1),
    exponent_is_zero=lambda x: (torch.ones_like(x) ** x).sum(1),
    copysign=lambda x: torch.copysign(torch.ones_like(x), x).sum(1),
    arctangent=lambda x: torch.atan2(torch.ones_like(x), x.abs()).sum(1),
    polygamma=lambda x: torch.polygamma(1, x + 5).sum(1),
    nan_to_num=lambda x: torch.nan_to_num(1 + x).sum(1),
    conjugate=lambda x: torch.complex(x, 1 + x).conj().imag.sum(1),
    through_bool=lambda x: (~x.bool()).double().sum(1),
    xlogy=lambda x: torch.xlogy(1 + x * x, 2 + x.abs()).sum(1),
    ldexp=lambda x: torch.ldexp(torch.ones_like(x), x.long()).sum(1),
    squared_plus_true=lambda x: (x.square() + True).sum(1),
)

ORDERS = traps(
    "norm",
    row,
    minus_infinity=lambda x: x.norm(float("-inf"), dim=1),
    linalg_minus_infinity=lambda x: torch.linalg.vector_norm(x, float("-inf"), dim=1),
    minus_one=lambda x: torch.linalg.vector_norm(x, -1, dim=1),
    minus_half=lambda x: torch.linalg.vector_norm(x, -0.5, dim=1),
    linalg_norm=lambda x: torch.linalg.norm(x, -float("inf"), dim=1),
    keepdim=lambda x: x / (1 + x.norm(-1, dim=1, keepdim=True)),
    normalised=lambda x: F.normalize(x, p=-2, dim=1),
    all_dims=lambda x: torch.linalg.vector_norm(x, float("-inf")) + x,
    matrix=lambda x: torch.linalg.matrix_norm(x, -1),
    matrix_rows=lambda x: torch.linalg.matrix_norm(x, float("-inf")),
    matrix_two=lambda x: torch.linalg.matrix_norm(x, -2),
    nuclear=lambda x: torch.linalg.matrix_norm(x, "nuc"),
    pairwise=lambda x: F.pairwise_distance(x, x.roll(1, 0), p=1, eps=0.1),
    distance=lambda x: torch.dist(x, 2 * x, -1) + x,
    cosine=lambda x: F.cosine_similarity(x, 1 + x, dim=1),
    logsumexp=lambda x: torch.logsumexp(x, 1),
    product=lambda x: x.prod(1),
    smallest=lambda x: x.amin(1),
    deviation=lambda x: x.std(1),
    mean=lambda x: x.mean(1),
    any=lambda x: x.any(1),
    every=lambda x: x.all(1),
    count_zero=lambda x: (x.relu() == 0).sum(1),
    median=lambda x: x.median(1).values,
    mean_error=lambda x: F.mse_loss(x, x * x) + x,
    huber=lambda x: F.huber_loss(x, x * x) + x,
    entropy=lambda x: (x.sigmoid().log() * x.sigmoid()).sum(1),
    quantile=lambda x: x.quantile(0.5, dim=1),
    mean_of_all=lambda x: x.mean() + x,
    variance_of_all=lambda x: x.var() + x,
)

NOT_FINITE = traps(
    "not-finite",
    row,
    inverse=lambda x: x**-1,
    inverse_root=lambda x: x.abs() ** -0.5,
    float_power=lambda x: torch.float_power(x, -2),
    reciprocal=lambda x: 1 / x,
    logarithm=lambda x: x.abs().log(),
    addcdiv=lambda x: torch.addcdiv(x, x, x),
    addcdiv_same=lambda x: torch.addcdiv(torch.ones_like(x), torch.ones_like(x), x),
    remainder=lambda x: torch.remainder(torch.ones_like(x), x),
    fmod=lambda x: torch.fmod(torch.ones_like(x), x),
    number_remainder=lambda x: torch.remainder(5, x),
    floor_divide=lambda x: torch.floor_divide(torch.ones_like(x), x),
    zero_by_zero=lambda x: x / x,
    by_square=lambda x: 1 / (x * x),
    log_of_square=lambda x: torch.log(x * x),
    polygamma=lambda x: torch.polygamma(1, x.abs()),
    normal_quantile=lambda x: torch.special.ndtri(x * x / 99),
    bessel=lambda x: torch.special.bessel_y0(x.abs()),
    modified_bessel=lambda x: torch.special.modified_bessel_k0(x.abs()),
    zeta=lambda x: torch.special.zeta(2 + x.abs() * 0, x.abs()),
    xlogy=lambda x: torch.xlogy(torch.ones_like(x), x.abs()),
    power_tensor=lambda x: torch.pow(x.abs(), -torch.ones_like(x)),
    power_of_itself=lambda x: torch.pow(x.abs(), x - x.abs() - 1),
    gamma=lambda x: torch.igammac(x.abs(), x.abs()),
    log_gamma=lambda x: torch.lgamma(x.abs()),
    logit=lambda x: torch.logit((x * x / 99).clamp(0, 1)),
    spatial_sum=lambda x: x / x.abs().sum(0),
    by_norm=lambda x: x / x.norm(dim=0, keepdim=True),
    by_largest=lambda x: x / x.abs().amax(0, keepdim=True),
    by_deviation=lambda x: (x - x.mean(0)) / x.std(0),
)
_VALUES = "the value at the removed channels is a constant that only a run knows, and it happens to be a pole"
NOT_FINITE += traps(
    "pole",
    row,
    unseen=_VALUES,
    cosine=lambda x: torch.log((x.cos() - 1).abs()),
    sigmoid=lambda x: 1 / (x.sigmoid() - 0.5),
    softmax=lambda x: 1 / (F.softplus(x) - math.log(2)),
)

# products between activations, or with weights that were computed

WEIGHTS = [
    *traps(
        "computed-linear",
        row,
        plus_one=(lambda m, x: F.linear(x.sigmoid(), m.w + 1).sum(1), lambda: {"w": parameter(6, 8)}),
        output=(lambda m, x: F.linear(x, F.softplus(m.w)).sum(1), lambda: {"w": parameter(6, 8)}),
        bias=(lambda m, x: F.linear(x, m.w, m.b + 1).sum(1), lambda: {"w": parameter(6, 8), "b": parameter(6)}),
        exponent=(lambda m, x: x.sigmoid() @ m.w.exp(), lambda: {"w": parameter(8, 6)}),
        softmax=(lambda m, x: x.sigmoid() @ m.w.softmax(1), lambda: {"w": parameter(8, 6)}),
        softmax_other=(lambda m, x: x @ m.w.softmax(0), lambda: {"w": parameter(8, 6)}),
        centred=(lambda m, x: F.linear(x, m.w - m.w.mean(1, keepdim=True)), lambda: {"w": parameter(6, 8)}),
        standardised=(lambda m, x: F.linear(x, m.w / m.w.std(1, keepdim=True)), lambda: {"w": parameter(6, 8)}),
        quantised=(lambda m, x: F.linear(x, (m.w / m.w.abs().max()).round()), lambda: {"w": parameter(6, 8)}),
        quantised_mean=(lambda m, x: F.linear(x, m.w.sign() * m.w.abs().mean()), lambda: {"w": parameter(6, 8)}),
        lower=(lambda m, x: x @ m.w.tril(), lambda: {"w": parameter(8, 8)}),
        upper=(lambda m, x: x @ m.w.triu(1), lambda: {"w": parameter(8, 8)}),
        lower_wide=(lambda m, x: F.linear(x, torch.tril(m.w)), lambda: {"w": parameter(6, 8)}),
        symmetric=(lambda m, x: x @ (m.w + m.w.T), lambda: {"w": parameter(8, 8)}),
        inverse=(lambda m, x: x @ torch.linalg.inv(m.w), lambda: {"w": parameter(8, 8)}),
        exponential=(lambda m, x: x @ torch.matrix_exp(m.w), lambda: {"w": parameter(8, 8)}),
        plus_identity=(lambda m, x: x @ (m.w + torch.eye(8).double()), lambda: {"w": parameter(8, 8)}),
        low_rank=(lambda m, x: x @ (m.a @ m.b).exp(), lambda: {"a": parameter(8, 2), "b": parameter(2, 6)}),
        ones=lambda x: x.sigmoid() @ torch.ones(x.shape[1], 6).double(),
        ones_like=(lambda m, x: x.sigmoid() @ torch.ones_like(m.w), lambda: {"w": parameter(8, 6)}),
        embedding=(
            lambda m, x: F.embedding(torch.tensor([0, 2, 1, 1]), m.w + 1).sum(1) + x.sum(1),
            lambda: {"w": parameter(4, 8)},
        ),
        bilinear=(lambda m, x: F.bilinear(x.sigmoid(), x, m.w.exp()), lambda: {"w": parameter(3, 8, 8)}),
        generated=(
            lambda m, x: F.linear(x.sigmoid(), m.g(m.z).view(6, 8).exp()),
            lambda: {"g": nn.Linear(4, 48), "z": parameter(4)},
        ),
        gram=lambda x: x.sigmoid().T @ x.sigmoid(),
        similarity=lambda x: x.exp() @ x.exp().T,
        inner=lambda x: torch.einsum("bi,bi->b", 1 + x, 1 + x),
        matrix_vector=(lambda m, x: x.cos() @ (m.v + 1), lambda: {"v": parameter(8)}),
        outer=(lambda m, x: torch.einsum("bi,j->bij", x, 1 + m.v).sum((1, 2)), lambda: {"v": parameter(6)}),
        vector=(lambda m, x: (1 + x) * (1 + m.v) @ torch.ones(8).double(), lambda: {"v": parameter(8)}),
        dot=(lambda m, x: x * torch.dot(m.v + 1, m.v + 1), lambda: {"v": parameter(8)}),
    ),
    *traps(
        "computed-conv",
        image,
        plus_one=(lambda m, x: F.conv2d(x.sigmoid(), m.w + 1), lambda: {"w": parameter(6, 8, 1, 1)}),
        positive=(lambda m, x: F.conv2d(x.exp(), F.softplus(m.w)), lambda: {"w": parameter(6, 8, 3, 3)}),
        output=(lambda m, x: F.conv2d(x, m.w.exp()).sum(1), lambda: {"w": parameter(6, 8, 1, 1)}),
        bias=(lambda m, x: F.conv2d(x, m.w, m.b + 1).sum(1), lambda: {"w": parameter(6, 8, 1, 1), "b": parameter(6)}),
        bias_exp=(
            lambda m, x: F.conv2d(x, m.w, m.b.exp()).square().mean((2, 3)).sum(1),
            lambda: {"w": parameter(6, 8, 1, 1), "b": parameter(6)},
        ),
        constant=lambda x: F.conv2d(x.sigmoid(), torch.ones(6, x.shape[1], 1, 1).double()),
        depthwise_constant=lambda x: F.conv2d(
            x.sigmoid(), torch.ones(x.shape[1], 1, 3, 3).double(), groups=x.shape[1]
        ).sum(1),
        depthwise_computed=(
            lambda m, x: F.conv2d(x.sigmoid(), m.w + 1, groups=x.shape[1]).sum(1),
            lambda: {"w": parameter(8, 1, 3, 3)},
        ),
        depthwise_expanded=(
            lambda m, x: F.conv2d(1 + x, m.k.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]).sum(1),
            lambda: {"k": parameter(1, 1, 3, 3)},
        ),
        depthwise_repeated=(
            lambda m, x: F.conv2d(x.exp(), m.k.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1]).sum(1),
            lambda: {"k": parameter(1, 1, 3, 3)},
        ),
        transposed=(lambda m, x: F.conv_transpose2d(x.sigmoid(), m.w.exp()), lambda: {"w": parameter(8, 6, 1, 1)}),
        transposed_out=(
            lambda m, x: F.conv_transpose2d(x, m.w.exp()).sum(1),
            lambda: {"w": parameter(8, 6, 1, 1)},
        ),
        grouped=(lambda m, x: F.conv2d(x.sigmoid(), m.w.exp(), groups=2), lambda: {"w": parameter(6, 4, 1, 1)}),
        standardised=(
            lambda m, x: F.conv2d(x, (m.w - m.w.mean((1, 2, 3), keepdim=True)) / m.w.std((1, 2, 3), keepdim=True)),
            lambda: {"w": parameter(6, 8, 3, 3)},
        ),
        demodulated=(
            lambda m, x: F.conv2d(x, m.w / (m.w.square().sum((1, 2, 3), keepdim=True))),
            lambda: {"w": parameter(6, 8, 3, 3)},
        ),
        one_dimensional=(lambda m, x: F.conv1d(x.flatten(2).exp(), m.w.exp()), lambda: {"w": parameter(6, 8, 1)}),
        batch_norm=(
            lambda m, x: F.batch_norm(x.sigmoid(), None, None, 1 + m.g, m.b, training=True).sum(1),
            lambda: {"g": parameter(8), "b": parameter(8)},
        ),
        batch_norm_bias=(
            lambda m, x: F.batch_norm(x, None, None, m.g, 1 + m.b, training=True).square().sum(1),
            lambda: {"g": parameter(8), "b": parameter(8)},
        ),
        batch_norm_constant=lambda x: F.batch_norm(
            x.sigmoid(), torch.zeros_like(x[0, :, 0, 0]), torch.ones_like(x[0, :, 0, 0]), torch.ones_like(x[0, :, 0, 0])
        ).sum(1),
        batch_norm_mean=(
            lambda m, x: F.batch_norm(x, m.mean + 1, m.var.exp()).sum(1),
            lambda: {"mean": parameter(8), "var": parameter(8)},
        ),
        batch_norm_weight_mean=(
            lambda m, x: F.batch_norm(x, m.mean + 1, m.var.exp(), 1 + m.g, m.b).sum(1),
            lambda: {"mean": parameter(8), "var": parameter(8), "g": parameter(8), "b": parameter(8)},
        ),
        batch_norm_variance=(
            lambda m, x: F.batch_norm(x, torch.zeros_like(m.var), m.var).square().sum(1),
            lambda: {"var": nn.Parameter(1 + torch.rand(8))},
        ),
        group_norm=(
            lambda m, x: F.group_norm(x.sigmoid(), 4, 1 + m.g, 1 + m.b).sum(1),
            lambda: {"g": parameter(8), "b": parameter(8)},
        ),
        instance_norm=(
            lambda m, x: F.instance_norm(x, weight=m.g.exp(), bias=m.b.exp()).square().sum(1),
            lambda: {"g": parameter(8), "b": parameter(8)},
        ),
        layer_norm_bias=(
            lambda m, x: F.layer_norm(x, (6, 6), m.g, m.b + 1).sum(1),
            lambda: {"g": parameter(6, 6), "b": parameter(6, 6)},
        ),
        pooled_positions=lambda x: F.max_pool2d(x, 2, return_indices=True)[1].double().sum(1),
        pooled_places=lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1].double().mean((2, 3)).sum(1),
        padded=lambda x: F.pad(x, (1, 1, 1, 1), value=1.0).sum(1),
        unfolded=lambda x: F.unfold(1 + x, 3).sum(1),
        grid=(
            lambda m, x: F.grid_sample(x + 1, torch.zeros(2, 3, 3, 2).double(), align_corners=False).sum(1),
            dict,
        ),
        spatial_softmax=lambda x: x.flatten(2).softmax(2).square().sum(1),
        spatial_largest=lambda x: x.flatten(2).max(2)[1].double().sum(1),
        spatial_smallest_place=lambda x: x.flatten(2).argmin(2).double().add(1).sum(1),
    ),
]


class _Recurrent(nn.Module):
    """A recurrent layer from an initial state, its result summed over the hidden units."""

    def __init__(self, kind: type[nn.Module], state: Any, read: Any = None, **options: Any) -> None:
        super().__init__()
        self.first, self.rnn = nn.Linear(5, 8), kind(8, 6, batch_first=True, **options)
        self.h = nn.Parameter(torch.randn(1, 2, 6))
        self.state, self.read = state, read or (lambda out, last: out.sum(2))

    def forward(self, x: Tensor) -> Any:
        return self.read(*self.rnn(self.first(x), self.state(self)))


def _ones(module: _Recurrent) -> Tensor:
    return torch.ones(1, 2, module.rnn.hidden_size).double()  # type: ignore[call-overload]


def _recurrent(kind: Any, state: Any, read: Any = None, **options: Any) -> Any:
    return direct(lambda: _Recurrent(kind, state, read, **options), 2, 4, 5)


class _OverChannels(nn.Module):
    """Channels as the steps of a recurrent layer: each changes all that follow."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first, self.rnn, self.last = nn.Linear(5, 8), kind(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rnn(self.first(x).transpose(1, 2))[0].sum(1))


class _Cell(nn.Module):
    def __init__(self, kind: Any, state: Any) -> None:
        super().__init__()
        self.first, self.cell, self.h, self.state = nn.Linear(5, 8), kind(8, 6), parameter(4, 6), state

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(self.first(x), self.state(self))
        return (state[0] if isinstance(state, tuple) else state).sum(1)


RECURRENT = [
    case("recurrent-gru-ones", _recurrent(nn.GRU, _ones)),
    case("recurrent-lstm-ones", _recurrent(nn.LSTM, lambda m: (_ones(m), _ones(m)))),
    case("recurrent-rnn-ones", _recurrent(nn.RNN, _ones)),
    case("recurrent-gru-computed", _recurrent(nn.GRU, lambda m: m.h.exp())),
    case("recurrent-lstm-computed", _recurrent(nn.LSTM, lambda m: (m.h, m.h + 1))),
    case("recurrent-gru-last", _recurrent(nn.GRU, lambda m: m.h.exp(), lambda out, last: last.sum(2))),
    case("recurrent-lstm-cell", _recurrent(nn.LSTM, lambda m: (m.h, m.h.exp()), lambda out, last: last[1].sum(2))),
    case("recurrent-rnn-relu", _recurrent(nn.RNN, lambda m: m.h.exp(), nonlinearity="relu")),
    case("recurrent-gru-from-parameter", _recurrent(nn.GRU, lambda m: m.h), "rnn"),
    case("recurrent-lstm-from-parameter", _recurrent(nn.LSTM, lambda m: (m.h, m.h)), "rnn"),
    case("recurrent-gru-from-nothing", _recurrent(nn.GRU, lambda m: None), "rnn"),
    case("recurrent-lstm-from-nothing", _recurrent(nn.LSTM, lambda m: None), "rnn", "first"),
    case("recurrent-rnn-from-nothing", _recurrent(nn.RNN, lambda m: None), "rnn"),
    *(
        case(f"recurrent-steps-{kind.__name__}", direct(lambda kind=kind: _OverChannels(kind), 2, 4, 5))
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
    ),
    *(
        case(f"recurrent-cell-{kind.__name__}", direct(lambda kind=kind: _Cell(kind, lambda m: m.h.exp()), 4, 5))
        for kind in (nn.GRUCell, nn.RNNCell)
    ),
    case("recurrent-cell-LSTMCell", direct(lambda: _Cell(nn.LSTMCell, lambda m: (m.h.exp(), m.h.exp())), 4, 5)),
    case("recurrent-cell-LSTMCell-plain", direct(lambda: _Cell(nn.LSTMCell, lambda m: (m.h, m.h)), 4, 5)),
]

ATTENTION = traps(
    "attention",
    sequence,
    values_plus_one=lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], 1 + x[:, None]).sum((1, 3)),
    batch_of_queries=(
        lambda m, x: F.scaled_dot_product_attention(m.q, m.q, m.v.exp()).sum(0).sum() + x,
        lambda: {"q": parameter(6, 1, 3, 2), "v": parameter(6, 1, 3, 2)},
    ),
    heads_of_ones=(
        lambda m, x: F.scaled_dot_product_attention(
            m.q(x).unflatten(2, (4, 2)).transpose(1, 2),
            m.q(x).unflatten(2, (4, 2)).transpose(1, 2),
            m.q(x).unflatten(2, (4, 2)).transpose(1, 2).exp(),
        ).sum(1),
        lambda: {"q": nn.Linear(8, 8)},
    ),
    mask_of_heads=(
        lambda m, x: (
            F.scaled_dot_product_attention(*[m.q(x).unflatten(2, (4, 2)).transpose(1, 2)] * 3, attn_mask=m.mask)
            .transpose(1, 2)
            .flatten(2)
        ),
        lambda: {"q": nn.Linear(8, 8), "mask": parameter(4, 6, 6)},
    ),
    average_of_heads=(
        lambda m, x: m.a(x, x, x)[1],
        lambda: {"a": nn.MultiheadAttention(8, 4, batch_first=True)},
    ),
    unscaled=lambda x: (x @ x.transpose(1, 2) / x.shape[-1] ** 0.5).softmax(-1) @ x,
    kernel=lambda x: (x.exp() @ x.exp().transpose(1, 2)) @ x,
    positions=lambda x: (x.transpose(1, 2) @ x).flatten(1),
)

KEPT_ZERO = controls(
    "zero",
    row,
    plain=lambda x: x.sum(1),
    relu=lambda x: x.relu().sum(1),
    gelu=lambda x: F.gelu(x).sum(1),
    silu=lambda x: F.silu(x).sum(1),
    tanh=lambda x: x.tanh().sum(1),
    sine=lambda x: x.sin().sum(1),
    square=lambda x: x.square().sum(1),
    cube=lambda x: (x**3).sum(1),
    absolute=lambda x: x.abs().sum(1),
    root=lambda x: x.abs().sqrt().sum(1),
    clamp=lambda x: x.clamp(-0.5, 0.5).sum(1),
    clamp_low=lambda x: x.clamp(min=0).sum(1),
    doubled=lambda x: (x + x).sum(1),
    times=lambda x: (3 * x).sum(1),
    halved=lambda x: (x / 2).sum(1),
    gated=lambda x: (x * x.sigmoid()).sum(1),
    difference=lambda x: (x - x.relu()).sum(1),
    norm_two=lambda x: x.norm(dim=1),
    norm_one=lambda x: x.norm(1, dim=1),
    norm_infinity=lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    by_finite=lambda x: (x / (1 + x.abs())).sum(1),
    masked=lambda x: x.masked_fill(x < 0, 0.0).sum(1),
    plus_zero=lambda x: (x + 0).sum(1),
    exponential_minus_one=lambda x: x.expm1().sum(1),
    hardswish=lambda x: F.hardswish(x).sum(1),
    rounded=lambda x: (10 * x).round().sum(1),
    sign=lambda x: x.sign().sum(1),
    detached=lambda x: (x + x.detach()).sum(1),
    gram=lambda x: x @ x.T,
    affine=(lambda m, x: (x.sigmoid() * m.g + m.b).sum(1), lambda: {"g": parameter(8), "b": parameter(8)}),
    one_plus=(lambda m, x: (x * (1 + m.g)).sum(1), lambda: {"g": parameter(8)}),
    weighted=(lambda m, x: x.sigmoid() @ m.w, lambda: {"w": parameter(8, 6)}),
    summed_weight=(lambda m, x: x @ m.w.exp(), lambda: {"w": parameter(8, 6)}),
    low_rank=(lambda m, x: x.sigmoid() @ (m.a @ m.b), lambda: {"a": parameter(8, 2), "b": parameter(2, 6)}),
    log1p=lambda x: x.abs().log1p().sum(1),
    spread=lambda x: (x / (0.1 + x.std(0))).sum(1),
    addcmul=lambda x: torch.addcmul(x, x, x.sigmoid()).sum(1),
    inverse_of_more=lambda x: (1 + x.abs()) ** -1,
    remainder=lambda x: torch.remainder(x, 2),
) + controls(
    "zero-image",
    image,
    depthwise=(
        lambda m, x: F.conv2d(x.sigmoid(), m.w, groups=x.shape[1]).sum(1),
        lambda: {"w": parameter(8, 1, 3, 3)},
    ),
    depthwise_constant=lambda x: F.conv2d(x, torch.ones(x.shape[1], 1, 3, 3).double(), groups=x.shape[1]).sum(1),
    blur=(
        lambda m, x: F.conv2d(x, m.k.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]).sum(1),
        lambda: {"k": parameter(1, 1, 3, 3)},
    ),
    batch_norm=(lambda m, x: m.bn(x.sigmoid()).sum(1), lambda: {"bn": nn.BatchNorm2d(8)}),
    batch_norm_plain=(lambda m, x: m.bn(x).sum(1), lambda: {"bn": nn.BatchNorm2d(8, affine=False)}),
    instance_norm=(lambda m, x: m.n(x).square().sum(1), lambda: {"n": nn.InstanceNorm2d(8, affine=True)}),
    pooled=lambda x: F.max_pool2d(x, 2).sum(1),
    averaged=lambda x: F.adaptive_avg_pool2d(x, 2).sum(1),
    upsampled=lambda x: F.interpolate(x, scale_factor=2, mode="bilinear").sum(1),
    padded=lambda x: F.pad(x, (1, 1, 1, 1)).sum(1),
    functional=(lambda m, x: F.conv2d(x.sigmoid(), m.w), lambda: {"w": parameter(6, 8, 1, 1)}),
    positive_weight=(lambda m, x: F.conv2d(x, F.softplus(m.w)), lambda: {"w": parameter(6, 8, 1, 1)}),
    grid=lambda x: F.grid_sample(x, torch.zeros(2, 3, 3, 2).double(), align_corners=False).sum(1),
)

CASES: list[Case] = [*POINTWISE, *ORDERS, *NOT_FINITE, *WEIGHTS, *RECURRENT, *ATTENTION, *KEPT_ZERO]

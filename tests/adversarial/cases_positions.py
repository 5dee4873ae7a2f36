"""Operations that see positions, tensors that share memory, and sizes of one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, case, controls, direct, image, parameter, row, sequence, traps

POSITIONS = traps(
    "position",
    row,
    tril=lambda x: x.tril(),
    triu=lambda x: torch.triu(x, 1),
    tril_of_square=lambda x: (x.T @ x).tril(),
    roll=lambda x: x.roll(1, 1),
    roll_flat=lambda x: x.roll(3),
    roll_flat_list=lambda x: torch.roll(x, (1,)),
    roll_both=lambda x: x.roll((1, 2), (0, 1)),
    roll_negative=lambda x: torch.roll(x, -1, -1),
    rot90=lambda x: torch.rot90(x, 2),
    rot90_once=lambda x: torch.rot90(x[:, None].expand(-1, 8, -1), 1, (1, 2)),
    rot90_named=lambda x: torch.rot90(x, k=2, dims=[0, 1]),
    rot90_backwards=lambda x: torch.rot90(x[:, None].expand(-1, 8, -1), -1, [2, 1]),
    flip=lambda x: x.flip(1),
    flip_right=lambda x: x.fliplr(),
    flip_all=lambda x: x.flip(0, 1),
    tensor_split=lambda x: x.tensor_split(3, 1)[2],
    tensor_split_middle=lambda x: x.tensor_split(3, dim=1)[1],
    tensor_split_all=lambda x: torch.cat(x.tensor_split(3, 1)[::-1], 1),
    tensor_split_at=lambda x: x.tensor_split((2, 5), 1)[1],
    tensor_split_even=lambda x: x.tensor_split(2, 1)[1],
    tensor_split_sum=lambda x: sum(part.sum(1) for part in x.tensor_split(3, 1)[1:]),
    hsplit=lambda x: torch.hsplit(x, 2)[0],
    hsplit_at=lambda x: torch.hsplit(x, [3])[1],
    chunk_uneven=lambda x: x.chunk(3, 1)[2],
    chunk_first=lambda x: x.chunk(3, 1)[0],
    chunk_all=lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    split_uneven=lambda x: x.split(3, 1)[2],
    split_sizes=lambda x: x.split([1, 3, 4], 1)[1],
    every_second=lambda x: x[:, ::2],
    behind_third=lambda x: x[:, 3:],
    last_three=lambda x: x[:, -3:],
    without_last=lambda x: x[:, :-1],
    half=lambda x: x[:, x.shape[1] // 2 :],
    third=lambda x: x[:, : x.shape[1] // 3],
    least=lambda x: x[:, : min(x.shape[1], 6)],
    narrow=lambda x: x.narrow(1, 2, 3),
    narrow_from_end=lambda x: x.narrow(1, -3, 3),
    one=lambda x: x[:, 3:4],
    chosen=lambda x: x[:, [0, 2, 5]],
    chosen_mask=lambda x: x[:, torch.tensor([True, False] * 4)],
    index_select=lambda x: x.index_select(1, torch.tensor([1, 3])),
    gather=lambda x: x.gather(1, torch.tensor([[1, 2], [0, 3], [2, 2], [5, 1]])),
    take=lambda x: x.take(torch.tensor([[1, 2], [9, 30]])),
    take_along=lambda x: x.take_along_dim(x.argsort(1), 1),
    scatter=lambda x: torch.zeros(4, 9).double().scatter(1, torch.arange(8).repeat(4, 1), x),
    scatter_add=lambda x: torch.zeros(4, 3).double().scatter_add(1, torch.arange(8).repeat(4, 1) % 3, x),
    index_add=lambda x: torch.zeros(4, 3).double().index_add(1, torch.arange(8) % 3, x),
    index_copy=lambda x: x.index_copy(1, torch.tensor([0]), torch.ones(4, 1).double()),
    index_fill=lambda x: x.index_fill(1, torch.tensor([0, 3]), 1.0),
    index_put=lambda x: x.index_put((torch.tensor([0]), torch.tensor([2])), torch.ones(1).double()),
    masked_scatter=lambda x: x.masked_scatter(x > 0, torch.ones(32).double()),
    masked_select=lambda x: x.masked_select(torch.ones(8, dtype=torch.bool)).sum(),
    diagonal=lambda x: x.diagonal()[None],
    diagonal_embedded=lambda x: torch.diag_embed(x).flatten(1),
    fill_diagonal=lambda x: x.clone().fill_diagonal_(1.0),
    sort=lambda x: x.sort(1).values,
    topk=lambda x: x.topk(3, 1).values,
    kth=lambda x: x.kthvalue(2, 1).values,
    unique_order=lambda x: x.argsort(1).double(),
    cumulative=lambda x: x.cumsum(1),
    cumulative_flat=lambda x: x.flatten().cumsum(0).view(4, 8),
    cumulative_largest=lambda x: x.cummax(1).values,
    difference=lambda x: x.diff(dim=1),
    gradient=lambda x: torch.gradient(x, dim=1)[0],
    trapezoid=lambda x: torch.trapezoid(x, dim=1),
    windows=lambda x: x.unfold(1, 3, 1).sum(2),
    windows_wide=lambda x: x.unfold(1, 4, 4).flatten(1),
    strided=lambda x: x.as_strided((4, 4), (8, 2)),
    convolution=(lambda m, x: m.c(x[:, None]).flatten(1), lambda: {"c": nn.Conv1d(1, 2, 3)}),
    pooled=lambda x: F.max_pool1d(x[:, None], 2)[:, 0],
    averaged=lambda x: F.avg_pool1d(x[:, None], 2)[:, 0],
    adaptive=lambda x: F.adaptive_avg_pool1d(x[:, None], 4)[:, 0],
    interpolated=lambda x: F.interpolate(x[:, None], size=5)[:, 0],
    reflected=lambda x: F.pad(x[:, None], (1, 1), mode="reflect")[:, 0],
    circular=lambda x: F.pad(x[:, None], (1, 1), mode="circular")[:, 0],
    cut=lambda x: F.pad(x, (-1, -2)),
    fourier=lambda x: torch.fft.fft(x, dim=1).abs(),
    fourier_real=lambda x: torch.fft.rfft(x, dim=1).abs().sum(1),
    softmax=lambda x: x.softmax(1),
    outer=lambda x: (x[:, :, None] * x[:, None, :]).tril().flatten(1),
    kronecker=lambda x: torch.kron(x, torch.ones(1, 2).double()),
    repeated=lambda x: x.repeat_interleave(2, 1),
    repeated_uneven=lambda x: x.repeat_interleave(torch.tensor([1, 2] * 4), 1),
    tiled=lambda x: x.tile(2),
    cross=lambda x: torch.linalg.cross(x[:, :3], x[:, 3:6]),
    ramp=lambda x: x * torch.arange(x.shape[1]).double(),
    line=lambda x: x + torch.linspace(0, 1, x.shape[1]).double(),
    running_ones=lambda x: x * torch.ones(x.shape[1]).double().cumsum(0),
    identity=lambda x: x @ torch.eye(x.shape[1], 6).double(),
    hot=lambda x: x + F.one_hot(torch.tensor([0, 1, 2, 3]), x.shape[1]),
    vandermonde=lambda x: x * torch.vander(torch.tensor([1.5]), x.shape[1]),
    triangle=lambda x: x @ torch.ones(x.shape[1], x.shape[1]).double().tril(),
    buffer_like=lambda x: x + torch.arange(x.numel()).view_as(x),
    constant=lambda x: x * _RAMP,
    constant_list=lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).double(),
    determinant=lambda x: x * torch.linalg.det(x[:, :4]),
    histogram=lambda x: torch.histc(x, 4, -1, 1)[None] + x.sum(),
    bucket=lambda x: torch.bucketize(x, torch.tensor([-0.1, 0.1]).double()).double().sum(1),
    covariance=lambda x: torch.cov(x.T),
    distances=lambda x: torch.cdist(x, 2 * x + 1, p=1),
    pairs=lambda x: torch.pdist(x + torch.arange(4)[:, None] * 1.0),
    renorm=lambda x: torch.renorm(x, 2, 0, 0.5),
    vector_of_all=lambda x: x.flatten()[:10][None],
    literal_rows=lambda x: x.reshape(-1, 4),
    literal_columns=lambda x: x.reshape(8, -1).sum(1),
    merged_batch=lambda x: x.view(2, -1).sum(1),
    unflatten=lambda x: x.unflatten(1, (2, -1)).flip(2).flatten(1),
    transposed=lambda x: x.view(4, 2, 4).transpose(1, 2).reshape(4, 8),
    view_of_numbers=lambda x: torch.view_as_complex(x.view(4, 4, 2)).abs(),
    rotary=lambda x: torch.cat([-x[:, 4:], x[:, :4]], 1) + x,
    first_of_largest=lambda x: x.max(1)[0],
    place_of_largest=lambda x: x.argmax(1).double(),
    sampled_values=lambda x: torch.searchsorted(x.sort(1).values, x).double(),
    swapped=lambda x: x[:, [1, 0, *range(2, 8)]],
)
_RAMP = torch.arange(8).double()

IMAGES = traps(
    "position-image",
    image,
    shuffled=lambda x: F.pixel_shuffle(x, 2),
    unshuffled=lambda x: F.pixel_unshuffle(x, 2),
    channels_shuffled=lambda x: F.channel_shuffle(x, 2),
    response_norm=lambda x: F.local_response_norm(x, 3),
    channel_pool=lambda x: F.max_pool3d(x, (2, 1, 1)),
    flat_rows=lambda x: x.flatten(1).roll(1, 1),
    tril_pixels=lambda x: x.tril(),
    rotated=lambda x: torch.rot90(x, 1, (2, 3)),
    rotated_channels=lambda x: torch.rot90(x, 2, (1, 2)),
    channels_last=lambda x: x.permute(0, 2, 3, 1).tril().permute(0, 3, 1, 2),
    spectral=lambda x: torch.fft.fft2(x).abs(),
    spectral_all=lambda x: torch.fft.fftn(x).abs(),
    spatial_roll=lambda x: x.roll((1, 1), (2, 3)),
    stacked_flat=lambda x: x.flatten(2).mT.flatten(1),
    folded=lambda x: F.fold(F.unfold(x, 2, stride=2), 6, 2, stride=2),
    window_rows=lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).mean(4),
)

# ---- tensors that share memory ----


def _write(view: Any, write: Any = None, use: Any = None) -> Any:
    """A view is taken, written to, and what it is a view of is summed over its channels."""

    def function(x: Tensor) -> Tensor:
        y = x.clone()
        part = view(y)
        (write or (lambda t: t.add_(1)))(part)
        return (use or (lambda t, v: t.sum(1)))(y, part)

    return function


_DATA = "torch has no way to tell that two tensors share memory once .data or storage was taken"

ALIASES = [
    *traps(
        "alias",
        row,
        itself=_write(lambda y: y),
        view=_write(lambda y: y.view(4, 8)),
        slice=_write(lambda y: y[:, :]),
        part=_write(lambda y: y[1:]),
        detach=_write(lambda y: y.detach()),
        detached_view=_write(lambda y: y.view(4, 8).detach()),
        detach_detach=_write(lambda y: y.detach().detach()),
        data=_write(lambda y: y.data),
        transposed=_write(lambda y: y.T),
        unsqueezed=_write(lambda y: y[:, None]),
        expanded=_write(lambda y: y.expand(4, 8)),
        unfolded=_write(lambda y: y.unfold(0, 2, 2)),
        flattened=_write(lambda y: y.flatten()),
        reshaped=_write(lambda y: y.reshape(4, 2, 4)),
        row_of=_write(lambda y: y[0]),
        rows_of=lambda x: _write(lambda y: y.unbind(0)[1])(x.detach()),
        chunks=lambda x: _write(lambda y: y.chunk(2, 0)[0])(x.detach()),
        split=lambda x: _write(lambda y: y.split(1, 0)[2])(x.detach()),
        narrowed=_write(lambda y: y.narrow(0, 1, 2)),
        selected=_write(lambda y: y.select(0, 1)),
        view_as=_write(lambda y: y.view_as(y)),
        squeezed=_write(lambda y: y[:, None].squeeze(1)),
        swapped=_write(lambda y: y.swapaxes(0, 1)),
        moved=_write(lambda y: y.movedim(0, 1)),
        strided=_write(lambda y: y.as_strided((4, 8), (8, 1))),
        diagonal=_write(lambda y: y.diagonal()),
        real=_write(lambda y: y.real),
        view_dtype=_write(lambda y: y.view(torch.int64), lambda t: t.fill_(4607182418800017408)),
        base_then_view=lambda x: (lambda y, v: (y.add_(1), v)[1].sum(1))(*(lambda y: (y, y[:, :]))(x.clone())),
        base_then_transposed=lambda x: (lambda y, v: (y.add_(1), v)[1].sum(0))(*(lambda y: (y, y.T))(x.clone())),
        base_then_detached=lambda x: (lambda y, v: (y.add_(1), v)[1].sum(1))(*(lambda y: (y, y.detach()))(x.clone())),
        base_then_expanded=lambda x: (lambda y, v: (y.add_(1), v)[1].sum((0, 2)))(
            *(lambda y: (y, y.expand(2, 4, 8)))(x.clone())
        ),
        sibling=lambda x: (lambda y: (lambda a, b: (a.add_(1), b)[1].sum(1))(y[:, :], y.view(4, 8)))(x.clone()),
        twice=_write(lambda y: y[:, :], lambda t: (t.mul_(2), t.add_(1))),
        twice_detached=_write(lambda y: y.detach(), lambda t: (t.mul_(2), t.add_(1))),
        fill=_write(lambda y: y[0], lambda t: t.fill_(3)),
        copy=_write(lambda y: y[1:], lambda t: t.copy_(torch.ones(3, 8))),
        set_items=_write(lambda y: y, lambda t: t.__setitem__(slice(0, 2), 1.0)),
        set_row=_write(lambda y: y, lambda t: t.__setitem__(0, 1.0)),
        set_column=_write(lambda y: y, lambda t: t.__setitem__((slice(None), 0), 1.0)),
        set_columns=_write(lambda y: y, lambda t: t.__setitem__((slice(None), slice(0, 4)), 1.0)),
        set_mask=_write(lambda y: y, lambda t: t.__setitem__(t < 0, 1.0)),
        set_list=_write(lambda y: y, lambda t: t.__setitem__([0, 2], 1.0)),
        sigmoid=_write(lambda y: y[:, :], lambda t: t.sigmoid_()),
        exponential=_write(lambda y: y.view(4, 2, 4), lambda t: t.exp_()),
        clamp=_write(lambda y: y[:, :], lambda t: t.clamp_(min=1)),
        add_out=lambda x: (lambda y: (torch.add(y, 1, out=y[:, :]), y)[1].sum(1))(x.detach().clone()),
        masked_fill=_write(lambda y: y[:, :], lambda t: t.masked_fill_(t == 0, 1.0)),
        index_fill=_write(lambda y: y, lambda t: t.index_fill_(0, torch.tensor([1]), 1.0)),
        index_add=_write(lambda y: y, lambda t: t.index_add_(0, torch.tensor([1]), torch.ones(1, 8).double())),
        index_put=_write(lambda y: y, lambda t: t.index_put_((torch.tensor([1]),), torch.ones(8).double())),
        scatter=_write(lambda y: y, lambda t: t.scatter_(0, torch.zeros(1, 8, dtype=torch.long), 1.0)),
        foreach=_write(lambda y: y, lambda t: torch._foreach_add_([t], 1)),
        foreach_view=_write(lambda y: y[:, :], lambda t: torch._foreach_add_([t], 1)),
        addcmul=_write(lambda y: y[:, :], lambda t: t.addcmul_(torch.ones_like(t), torch.ones_like(t))),
        lerp=_write(lambda y: y[:, :], lambda t: t.lerp_(torch.ones_like(t), 0.5)),
        product=_write(
            lambda y: y.view(4, 2, 4), lambda t: t.baddbmm_(torch.ones(4, 2, 1).double(), torch.ones(4, 1, 4).double())
        ),
        zero_then_add=_write(lambda y: y[:, :], lambda t: (t.zero_(), t.add_(1))),
        resized=_write(lambda y: y.T, lambda t: t.t_().add_(1)),
        squeezed_in_place=_write(lambda y: y[:, None], lambda t: t.squeeze_(1).add_(1)),
        dtype_twin=_write(lambda y: y.to(torch.float64)),
        contiguous_twin=_write(lambda y: y.contiguous()),
        parts_joined=_write(lambda y: y.tensor_split(2, 0)[0]),
        weight=(
            lambda m, x: (m.w.detach().clone().detach().add_(1) * x).sum(1),
            lambda: {"w": parameter(8)},
        ),
        weight_data=(lambda m, x: ((m.w * 1).data.add_(1) * x.sigmoid()).sum(1), lambda: {"w": parameter(8)}),
        buffer=(lambda m, x: (m.b.clone()[:].add_(1) * x.exp()).sum(1), lambda: {"b": parameter(8)}),
    ),
    *traps(
        "alias-hidden",
        row,
        unseen=_DATA,
        set_data=lambda x: _set_data(x),
        numpy=lambda x: _through_numpy(x),
        dlpack=lambda x: _write(lambda y: torch.from_dlpack(y))(x.detach()),
        untyped=lambda x: _write(lambda y: torch.tensor([], dtype=y.dtype).set_(y.untyped_storage(), 0, (4, 8)))(
            x.detach()
        ),
    ),
    *controls(
        "alias",
        row,
        relu=_write(lambda y: y, lambda t: t.relu_()),
        doubled=_write(lambda y: y[:, :], lambda t: t.mul_(2)),
        added=_write(lambda y: y, lambda t: t.add_(t.clone())),
        zeroed=_write(lambda y: y, lambda t: t.zero_(), lambda t, v: t.sum(1) + 1),
        zeroed_row=_write(lambda y: y[0], lambda t: t.zero_()),
        copied=_write(lambda y: y.detach().clone()),
        copied_view=_write(lambda y: y[:, :].clone()),
        other=lambda x: (lambda y, z: (z.add_(1), y)[1].sum(1))(x * 1, x.sigmoid()),
    ),
]


def _set_data(x: Tensor) -> Tensor:
    y = x.clone()
    y.data = (y + 1).data
    return y.sum(1)


def _through_numpy(x: Tensor) -> Tensor:
    y = x.detach().clone()
    y.numpy()[:] += 1
    return y.sum(1)


# ---- one channel left ----

SINGLE = [
    *traps(
        "single",
        row,
        squeeze=lambda x: x[:, :, None].squeeze().square(),
        squeeze_one=lambda x: x[:, None, :].squeeze(1).squeeze(-1),
        squeeze_channels=lambda x: x.squeeze(1),
        squeezed_some=lambda x: x[:, :, None].squeeze((1, 2)),
        broadcast=(lambda m, x: x.T @ x + m.b, lambda: {"b": parameter(8, 8)}),
        matrix=lambda x: x.T @ x,
        expanded=lambda x: x[:, :, None].expand(-1, -1, 3).flatten(1),
        expanded_by_size=lambda x: x[:, :1].expand(-1, x.shape[1]),
        contiguous=lambda x: x.T.reshape(x.shape[1], 2, 2).flatten(1).T,
        numpy_like=lambda x: x.T[0] if x.T.is_contiguous() else x.sum(1),
    ),
    *controls(
        "single",
        row,
        unsqueezed=lambda x: x[:, :, None].squeeze(2),
        tall=lambda x: x[:, None].squeeze(1),
        same=lambda x: x.view(4, 1, -1).squeeze(1),
    ),
]

# ---- the batch as large as the width, equal sizes by chance ----


class _Square(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.other, self.last, self.function = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self.other(x)))


CHANCE = [
    case(f"chance-{name}", direct(lambda function=function: _Square(function), 8, 8))
    for name, function in {
        "transposed_sum": lambda a, b: a + b.T,
        "product": lambda a, b: a @ b,
        "product_of_transposed": lambda a, b: a @ b.T,
        "gram": lambda a, b: a.T @ b,
        "view_by_batch": lambda a, b: a.view(a.shape[1], a.shape[0]) + b,
        "size_of_batch": lambda a, b: a.view(b.shape[0], -1),
        "zeros_of_batch": lambda a, b: a + torch.zeros(a.shape[0]).double(),
        "cut_by_other": lambda a, b: a[:, : b.shape[1]],
        "cut_by_batch": lambda a, b: a[:, : b.shape[0]],
        "where": lambda a, b: torch.where(a > b.T, a, b),
        "diagonal": lambda a, b: a * b.diagonal(),
        "symmetric": lambda a, b: a + a.T + b,
        "flat": lambda a, b: (a.flatten() + b.T.flatten()).view(8, 8),
        "outer": lambda a, b: (a[:, :, None] * b[:, None, :]).sum(1),
        "swapped": lambda a, b: torch.stack([a, b], 0).transpose(0, 2).sum(2).T,
        "einsum": lambda a, b: torch.einsum("ij,ik->ik", a, b),
        "einsum_trace": lambda a, b: a * torch.einsum("ii->", b),
        "cat_and_split": lambda a, b: torch.cat([a, b], 1).split(8, 1)[1],
        "stack_and_flatten": lambda a, b: torch.stack([a, b], 2).flatten(1)[:, 8:],
        "cat_and_chunk": lambda a, b: torch.cat([a, b], 1).chunk(2, 1)[0] * b,
        "cat_uneven": lambda a, b: torch.cat([a, b[:, :4]], 1)[:, 2:10],
        "cat_of_view": lambda a, b: torch.cat([a, b], 1).view(8, 4, 4).sum(1).repeat(1, 2),
    }.items()
]

SHARED = [
    *traps(
        "shared",
        row,
        square=(lambda m, x: m.l(m.l(x)), lambda: {"l": nn.Linear(8, 8)}),
        turned=(lambda m, x: F.linear(F.linear(x, m.w), m.w.T), lambda: {"w": parameter(6, 8)}),
        norm_of_weight=(lambda m, x: m.l(x) * m.l.weight.norm(), lambda: {"l": nn.Linear(8, 6)}),
        mean_of_weight=(lambda m, x: m.l(x) * m.l.weight.mean(), lambda: {"l": nn.Linear(8, 6)}),
        sum_of_exponents=(lambda m, x: m.l(x) * m.l.weight.exp().sum(), lambda: {"l": nn.Linear(8, 6)}),
        all_parameters=(
            lambda m, x: m.l(x) * torch.cat([p.flatten() for p in m.l.parameters()]).std(),
            lambda: {"l": nn.Linear(8, 6)},
        ),
        first_weights=(
            lambda m, x: m.l(x) * torch.cat([p.flatten() for p in m.l.parameters()])[:5].sum(),
            lambda: {"l": nn.Linear(8, 6)},
        ),
        vector=(
            lambda m, x: m.l(x) * nn.utils.parameters_to_vector(m.l.parameters())[3],
            lambda: {"l": nn.Linear(8, 6)},
        ),
        functional=(
            lambda m, x: torch.func.functional_call(m.l, {k: v + 1 for k, v in m.l.named_parameters()}, x.sigmoid()),
            lambda: {"l": nn.Linear(8, 6)},
        ),
        spectral=(
            lambda m, x: m.l(x).square(),
            lambda: {"l": nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6))},
        ),
        weight_normed=(
            lambda m, x: m.l(x).square(),
            lambda: {"l": nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))},
        ),
        orthogonal=(
            lambda m, x: m.l(x).square(),
            lambda: {"l": nn.utils.parametrizations.orthogonal(nn.Linear(8, 6))},
        ),
        positive=(lambda m, x: m.l(x.sigmoid()), lambda: {"l": _positive(nn.Linear(8, 6))}),
        positive_conv=(
            lambda m, x: m.l(x.sigmoid()[:, :, None]).flatten(1),
            lambda: {"l": _positive(nn.Conv1d(8, 6, 1))},
        ),
    ),
    *traps(
        "sequence",
        sequence,
        tokens=(
            lambda m, x: torch.cat([m.t.expand(2, -1, -1), x], 1).exp().sum(1),
            lambda: {"t": parameter(1, 6, 8)},
        ),
        queries=(
            lambda m, x: ((m.q @ x.transpose(1, 2)).softmax(-1) @ x).exp().sum(1),
            lambda: {"q": parameter(6, 8)},
        ),
        experts=(
            lambda m, x: torch.einsum("bnc,eco->bneo", x, m.w).exp().sum(2),
            lambda: {"w": parameter(4, 8, 6)},
        ),
        mixed_experts=(
            lambda m, x: (torch.einsum("bnc,eco->bneo", x, m.w) * m.g(x).softmax(-1)[..., None]).sum(2),
            lambda: {"w": parameter(4, 8, 6), "g": nn.Linear(8, 4)},
        ),
        positions=(lambda m, x: (x + m.p[:, : x.shape[1]]).sum(1), lambda: {"p": parameter(1, 6, 8)}),
        turned=(lambda m, x: m.l(x.transpose(1, 2)).exp().sum(2), lambda: {"l": nn.Linear(6, 4)}),
        triangle=lambda x: x.tril(),
        triangle_scores=lambda x: (x @ x.transpose(1, 2)).tril() @ x,
        rolled=lambda x: x.roll(1),
        rotated=lambda x: torch.rot90(x, 2, (1, 2)),
        batch_rotated=lambda x: torch.rot90(x, 2),
    ),
]


class _Softplus(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return F.softplus(w)


def _positive(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", _Softplus())
    return layer


KEPT = [
    *controls(
        "kept",
        row,
        rolled_batch=lambda x: x.roll(1, 0),
        rolled_negative=lambda x: x.roll(1, -2),
        flipped_batch=lambda x: x.flip(0),
        chosen_batch=lambda x: x[[0, 2, 1, 3]],
        split_batch=lambda x: x.tensor_split(3, 0)[2],
        cut_far=lambda x: x[:, :100],
        sorted_batch=lambda x: x.sort(0).values,
        cumulative_batch=lambda x: x.cumsum(0),
        softmax_batch=lambda x: x.softmax(0),
        rows=lambda x: x.reshape(2, 2, -1).flatten(0, 1),
        windows_of_batch=lambda x: x.unfold(0, 2, 1).mean(2),
        front=lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        padded=lambda x: F.pad(x, (1, 2)),
        stacked=lambda x: torch.stack([x, -x], 1).flatten(1),
        interleaved=lambda x: torch.stack([x, -x], 2).flatten(1),
        repeated=lambda x: x.repeat(1, 2),
        halves=lambda x: x.chunk(2, 1)[0],
        outer=lambda x: (x[:, :, None] * x[:, None, :]).flatten(1),
    ),
    *controls(
        "kept-image",
        image,
        rolled=lambda x: x.roll((1, 2), (2, 3)),
        rotated=lambda x: torch.rot90(x, 1, (2, 3)),
        lower=lambda x: x.tril(),
        split=lambda x: torch.cat(x.tensor_split(4, 3)[::-1], 3),
        flat=lambda x: x.flatten(1),
        columns=lambda x: x[..., ::2],
        spectrum=lambda x: x.flip(3),
    ),
]

CASES: list[Case] = [*POSITIONS, *IMAGES, *ALIASES, *SINGLE, *CHANCE, *SHARED, *KEPT]

"""The shortcuts give what torch's own meta kernels give, and leave to those what is wrong or odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icycle.tracing._meta import FUNCTION_SHORTCUTS, SHORTCUTS

aten = torch.ops.aten
FLOATS = (torch.float32, torch.float64, torch.bfloat16)


def empty(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return tensor.to(memory_format=torch.channels_last) if last else tensor


def described(result: Any) -> list[tuple[Any, ...]]:
    results: Sequence[Tensor] = result if isinstance(result, (tuple, list)) else [result]
    return [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in results]


def check(operation: Any, *args: Any, taken: bool = True, **kwargs: Any) -> None:
    result = SHORTCUTS[operation](*args, **kwargs)
    assert (result is not None) == taken
    if result is not None:
        assert described(result) == described(operation(*args, **kwargs))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(dtype: torch.dtype, last: bool, training: bool) -> None:
    own = [empty(6, dtype=dtype) for _ in range(4)]
    whole = dtype != torch.bfloat16  # of which what is saved is of a wider type
    x = empty(2, 6, 4, 5, dtype=dtype, last=last)
    check(aten.native_batch_norm.default, x, *own, training, 0.1, 1e-5, taken=whole)
    check(aten.native_batch_norm.default, empty(2, 5, 3, dtype=dtype), *own, training, 0.1, 1e-5, taken=False)


def test_batch_norm_without_its_parts() -> None:
    check(aten.native_batch_norm.default, empty(2, 6, 3), None, None, empty(6), empty(6), False, 0.1, 1e-5)
    check(aten.native_batch_norm.default, empty(2, 6), None, None, None, None, True, 0.1, 1e-5)
    check(aten.native_batch_norm.default, empty(2, 6), None, None, None, None, False, 0.1, 1e-5, taken=False)


@pytest.mark.parametrize("dtype", FLOATS)
def test_layer_norm(dtype: torch.dtype) -> None:
    whole = dtype != torch.bfloat16
    norm = aten.native_layer_norm.default
    x = empty(2, 3, 4, 5, dtype=dtype)
    check(norm, x, [4, 5], empty(4, 5, dtype=dtype), empty(4, 5, dtype=dtype), 1e-5, taken=whole)
    check(norm, x.permute(0, 2, 3, 1), [3], empty(3, dtype=dtype), None, 1e-5, taken=whole)
    check(norm, x, [5], None, None, 1e-5, taken=whole)
    check(norm, x, [4], empty(4, dtype=dtype), None, 1e-5, taken=False)
    check(norm, x, [5], empty(4, dtype=dtype), None, 1e-5, taken=False)


@pytest.mark.parametrize("dtype", FLOATS)
def test_addmm(dtype: torch.dtype) -> None:
    a, b = empty(7, 3, dtype=dtype), empty(5, 3, dtype=dtype).t()
    check(aten.addmm.default, empty(5, dtype=dtype), a, b)
    check(aten.addmm.default, empty(7, 5, dtype=dtype), a, b, taken=False)
    check(aten.addmm.default, empty(5, dtype=dtype), a, empty(4, 5, dtype=dtype), taken=False)
    check(aten.addmm.default, empty(5, dtype=torch.float16), a, b, taken=False)


ACTIVATIONS = [operation for operation, shortcut in SHORTCUTS.items() if shortcut.__name__.startswith("_unary")]


@pytest.mark.parametrize("operation", ACTIVATIONS, ids=str)
def test_activations(operation: Any) -> None:
    x = empty(2, 8, 4, 6)
    repeated = x[:1].expand(3, -1, -1, -1)
    for view in (x, empty(2, 8, 4, 6, last=True), x.transpose(1, 2), x[:, ::2], x[..., 1:], repeated):
        if view is not repeated or not operation.name().endswith("_"):  # torch does not write to what is expanded
            check(operation, view)
    assert SHORTCUTS[operation](empty(3, dtype=torch.int64)) is None


def test_gelu_by_tanh() -> None:
    check(aten.gelu.default, empty(2, 3, 4, 5, last=True), approximate="tanh")


@pytest.mark.parametrize("operation", [aten.add.Tensor, aten.mul.Tensor], ids=str)
def test_equal_operands(operation: Any) -> None:
    x = empty(2, 8, 4, 6)
    for view in (x, empty(2, 8, 4, 6, last=True), x.transpose(1, 2), x[:, ::2], x[..., 1:]):
        check(operation, view, view)
    others = (empty(8, 1, 1), empty(2, 8, 4, 6, last=True), empty(2, 8, 4, 6, dtype=torch.float64), 2.0)
    for other in others:
        check(operation, x, other, taken=False)
    check(operation, empty(3, dtype=torch.int64), empty(3, dtype=torch.int64), taken=False)
    if operation is aten.add.Tensor:
        check(operation, x, x, alpha=2)


@pytest.mark.parametrize("operation", [aten.add_.Tensor, aten.mul_.Tensor], ids=str)
def test_equal_operands_in_place(operation: Any) -> None:
    x, last = empty(2, 8, 4, 6), empty(2, 8, 4, 6, last=True)
    for own, other in ((x, x), (x, last), (last, x), (x.transpose(1, 2), empty(2, 4, 8, 6))):
        check(operation, own, other)
        assert SHORTCUTS[operation](own, other) is own
    for other in (empty(8, 1, 1), empty(3, 2, 8, 4, 6), empty(2, 8, 4, 6, dtype=torch.float64), 2.0):
        assert SHORTCUTS[operation](x, other) is None


def check_recurrent(layer: nn.RNNBase, x: Tensor) -> None:
    """Both on what the layer's forward hands to the function of torch."""
    calls: list[tuple[Any, ...]] = []
    name = layer.mode.lower()
    own = getattr(torch, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._VF, name, lambda *args: (calls.append(args), own(*args))[1], raising=False)  # type: ignore[attr-defined]
        layer(x)
    assert described(FUNCTION_SHORTCUTS[name](*calls[0])) == described(own(*calls[0]))


LAYERS = [
    (kind, {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias})
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for layers, both, first, bias in ((1, False, False, True), (2, True, True, True), (2, False, True, False))
] + [(nn.LSTM, {"proj_size": 3}), (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bidirectional": True})]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_recurrent_layers(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    layer = kind(5, 4, **options).to("meta").eval()  # type: ignore[arg-type]
    check_recurrent(layer, empty(6, 7, 5))
    check_recurrent(layer, empty(6, 5))


def test_packed_steps() -> None:
    layer = nn.LSTM(5, 4).to("meta").eval()
    sizes = torch.tensor([3, 2, 1])
    packed = nn.utils.rnn.PackedSequence(empty(6, 5), sizes)
    state = (empty(1, 3, 4), empty(1, 3, 4))
    result = FUNCTION_SHORTCUTS["lstm"](packed.data, sizes, state, layer._flat_weights, True, 1, 0.0, False, False)
    assert [tuple(tensor.shape) for tensor in result] == [(6, 4), (1, 3, 4), (1, 3, 4)]


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_ih_l1"])
def test_weights_that_do_not_fit_are_left_to_torch(name: str) -> None:
    layer = nn.GRU(5, 4, 2).to("meta").eval()
    shape = list(getattr(layer, name).shape)
    wrong = empty(*shape[:-1], shape[-1] + 1)
    weights = [wrong if own == name else getattr(layer, own) for own in layer._flat_weights_names]
    given = (empty(6, 7, 5), empty(2, 7, 4), weights, True, 2, 0.0, False, False, False)
    assert FUNCTION_SHORTCUTS["gru"](*given) is None
    assert FUNCTION_SHORTCUTS["gru"](empty(6, 7, 5), empty(2, 3, 4), layer._flat_weights, *given[3:]) is None

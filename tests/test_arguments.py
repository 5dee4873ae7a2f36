"""Arguments by the names of an operation's schema."""

from __future__ import annotations

import pytest
import torch

from icycle.tracing import bind

aten = torch.ops.aten


def test_arguments_come_by_position_by_name_and_by_default() -> None:
    x, y = torch.ones(2), torch.zeros(2)
    given = bind(aten.add_.Tensor, (x, y), {"alpha": 2})
    assert given.name == "add"
    assert given.self is x
    assert given.other is y
    assert given.alpha == 2
    assert bind(aten.add.Tensor, (x,), {"other": y}).alpha == 1
    assert list(given.operands()) == ["self", "other"]


def test_tensors_in_lists_are_operands_too() -> None:
    x, index = torch.ones(2, 3), torch.tensor([0])
    assert list(bind(aten.index.Tensor, (x, [None, index]), {}).operands()) == ["self", "indices.1"]
    assert list(bind(aten.cat.default, ([x, x],), {}).operands()) == ["tensors.0", "tensors.1"]


def test_a_name_that_the_operation_does_not_have_is_an_error() -> None:
    given = bind(aten.squeeze.default, (torch.ones(1),), {})
    with pytest.raises(AttributeError, match=r"squeeze.* has no argument 'dim', but \['self'\]"):
        given.dim  # noqa: B018
    assert given.get("dim", 7) == 7

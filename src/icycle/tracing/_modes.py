"""The modes that a shadow runs in: they see calls of torch functions, and every operation that these come down to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from icycle.axes import Dim, product
from icycle.tracing._meta import FUNCTION_SHORTCUTS, SHORTCUTS
from icycle.tracing._recorder import Recorder
from icycle.tracing._registry import FUNCTION_RULES
from icycle.tracing._sizes import FromDim, TracedInt
from icycle.tracing._tracer import flat, flat_tensors
from icycle.tracing._trees import map_tensors

__all__ = ["Functions", "Observer", "Operations", "TorchFunction"]

_ARITHMETIC = {way + name: name for way in ("", "r", "i") for name in ("add", "sub", "mul", "div", "truediv", "pow")}
# functions that take numbers, and no sizes
_NUMERIC = frozenset(
    "tensor as_tensor asarray scalar_tensor new_tensor full_like divide true_divide multiply subtract floor_divide "
    "remainder fmod clamp clip clamp_ clip_ clamp_min clamp_max fill fill_ addcmul addcdiv lerp masked_fill".split()
)
_FILLED = {"full": 1, "new_full": 2}  # the place of the number
_NUMBERS = frozenset(("alpha", "beta", "fill_value", "value", "min", "max"))  # arguments that are numbers wherever
_COUNTS = frozenset(("numel", "nelement"))
_READERS = frozenset(("numpy", "tolist", "__array__", "data_ptr"))  # what becomes of the values is not seen
_SHAPE_GETTERS = {torch.Tensor.shape.__get__, torch.Tensor.size}  # type: ignore[attr-defined]


def _numbers(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """The arguments of a torch function that are numbers: a size among them is used for its value."""
    if name in _NUMERIC:
        return args, kwargs
    return args[_FILLED.get(name, len(args)) :][:1], [kwargs[key] for key in kwargs.keys() & _NUMBERS]


class Functions(TorchFunctionMode):
    """Sees calls of torch functions from Python, and shows those that have a rule of their own to the observer.

    Given a recorder, it also gives out sizes that remember their dimension, and tells the recorder of every call.
    """

    def __init__(self, operations: Operations, recorder: Recorder | None = None) -> None:
        super().__init__()
        self._operations = operations
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", None) or resolve_name(func) or ""
        if f"torch::{name}" in FUNCTION_RULES:
            return self._operations.as_one(TorchFunction(name), func, args, kwargs)
        if self._recorder is None:
            return func(*args, **kwargs)
        if func in _SHAPE_GETTERS:
            return self._sizes(func(*args, **kwargs), args, kwargs)
        if name in _COUNTS:
            return self._count(func(*args, **kwargs), args[0])
        if name in _READERS and isinstance(args[0], torch.Tensor):
            self._recorder.read(args[0], name)
        calculation = _ARITHMETIC.get(name.strip("_"))
        if calculation is not None:
            for place, value in enumerate(args):
                if isinstance(value, TracedInt):
                    value.report(calculation, 1 - place if name.startswith("__r") else place)
        for value in flat(_numbers(name, args, kwargs)):
            if isinstance(value, TracedInt):
                value.report(name, 0)
        if name == "__len__" and args[0].dim() and _dims(args[0]) is not None:
            self._sizes(args[0].shape, args, kwargs)[0].report(name, 0)
        if name == "scaled_dot_product_attention" and kwargs.get("scale") is None and len(args) < 7:
            self._recorder.use_as_scale(args[0] if args else kwargs["query"])
        outer = self._recorder.enter(name, tuple(args), kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self._recorder.leave(outer)

    def _count(self, result: int, tensor: torch.Tensor) -> int:
        dims = _dims(tensor)
        if dims is None or self._recorder is None:
            return result
        return TracedInt(result, FromDim(product(dims), self._recorder.use))

    def _sizes(self, result: Any, args: Any, kwargs: Any) -> Any:
        dims = _dims(args[0])
        if dims is None or self._recorder is None:
            return result
        use = self._recorder.use
        if isinstance(result, torch.Size):
            return torch.Size([TracedInt(size, FromDim(dim, use)) for size, dim in zip(result, dims, strict=True)])
        position = args[1] if len(args) > 1 else kwargs["dim"]
        return TracedInt(result, FromDim(dims[position], use))


def _dims(tensor: torch.Tensor) -> Sequence[Dim] | None:
    """The dimensions of a tensor that is followed; of one that `torch.func` has wrapped, those that it shows."""
    known = getattr(tensor, "_icycle", None)
    if known is not None:
        dims: Sequence[Dim] = known.dims
        return dims
    if not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return None
    inner = _dims(torch._C._functorch.get_unwrapped(tensor))
    mapped = torch._C._functorch.maybe_get_bdim(tensor)  # the dimension that torch.vmap hides; -1 for none
    return inner if inner is None or mapped < 0 else [*inner[:mapped], *inner[mapped + 1 :]]


@dataclass(frozen=True)
class TorchFunction:
    """A torch function that has a rule of its own, in the place of the many operations it is made of."""

    function: str
    tags: tuple[Any, ...] = ()

    def name(self) -> str:
        return f"torch::{self.function}"


Observer = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]


class Operations(TorchDispatchMode):
    """Runs every ATen operation, on the meta device as soon as one operand is there, and shows it to an observer.

    An operator that takes functions (`torch.cond`) is shown as one operation, and what it runs is not seen."""

    supports_higher_order_operators = True

    def __init__(self, observe: Observer, meta: bool) -> None:
        super().__init__()
        self._observe = observe
        self._meta = meta
        self._inside_composite = False  # an operation that is observed as one

    def as_one(self, operation: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run `func` and observe it as one operation, unless it is part of another such."""
        outer, self._inside_composite = self._inside_composite, True
        shortcut = FUNCTION_SHORTCUTS.get(getattr(operation, "function", "")) if self._meta and not kwargs else None
        try:
            result = None if shortcut is None else shortcut(*args)
            result = func(*args, **kwargs) if result is None else result
        finally:
            self._inside_composite = outer
        if not outer:
            self._observe(operation, tuple(args), kwargs, result)
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self._meta:
            result = _run_with_meta(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if not self._inside_composite:
            operation = TorchFunction(func.name()) if isinstance(func, HigherOrderOperator) else func
            self._observe(operation, args, kwargs, result)
        return result


def _run_with_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run on the meta device where an operand is a meta tensor; else keep integer results real, for code to read."""
    tensors = flat_tensors((args, kwargs))
    if any(tensor.is_meta for tensor in tensors):
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        if any(not tensor.is_meta for tensor in tensors):
            args, kwargs = map_tensors(args, _to_meta), map_tensors(kwargs, _to_meta)
        shortcut = SHORTCUTS.get(func)
        result = None if shortcut is None else shortcut(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
        dtype = kwargs.get("dtype")
        if dtype is None or not (dtype.is_floating_point or dtype.is_complex) or tensors:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    return func(*args, **kwargs)


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

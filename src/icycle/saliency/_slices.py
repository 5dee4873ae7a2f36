"""What the criteria share: from one number per position of a parameter's dimension to one score per channel.

A dimension may be shared by many groups (the input of a convolution after a concatenation). So a parameter is first
reduced to one number per position of each dimension, once, and each group then gathers the positions of its channels.
No weight is copied, and no layer type is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from icycle.errors import CriterionError, StructureError
from icycle.saliency._registry import Scores
from icycle.structure import Group, Slice, Structure
from icycle.tracing import whole

__all__ = [
    "Pick",
    "Place",
    "Term",
    "average",
    "channel_sums",
    "consumers",
    "filters",
    "parameters_of",
    "place",
    "producers",
    "reduce_slices",
    "scales",
    "weights",
]

Place = tuple[str, int]  # a parameter and one of its dimensions
Pick = Callable[[Group], list[Slice]]  # the members of a group that a criterion reads
Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (elements, a buffer of their shape) -> what is summed up

_BLOCK = 2**18  # elements


def weights(group: Group) -> list[Slice]:
    """All weights that make, take or scale the channels; what is added or measured (shift, state) does not count."""
    return [piece for piece in group.slices if piece.role in ("out", "in", "scale")]


def producers(group: Group) -> list[Slice]:
    """The weights that make the channels: a layer's filters."""
    return [piece for piece in group.slices if piece.role == "out"]


def consumers(group: Group) -> list[Slice]:
    """The weights that read the channels."""
    return [piece for piece in group.slices if piece.role == "in"]


def filters(group: Group) -> list[Slice]:
    """The weights that make the channels; where there is none (scales alone, say) all of `weights`."""
    return producers(group) or weights(group)


def scales(group: Group) -> list[Slice]:
    """The scales of normalisation layers."""
    return [piece for piece in group.slices if piece.role == "scale"]


def place(piece: Slice) -> Place:
    return piece.parameter, piece.dim


def parameters_of(model: torch.nn.Module, pieces: Iterable[Slice]) -> dict[Place, torch.Tensor]:
    """The parameter of every place that `pieces` lie in; StructureError where the model's do not fit.

    Frozen normalisation layers keep their scales in buffers, which count like parameters.
    """
    named = {**dict(model.named_buffers()), **dict(model.named_parameters(remove_duplicate=False))}
    found: dict[Place, torch.Tensor] = {}
    for piece in pieces:
        if place(piece) in found:
            continue
        parameter = named.get(piece.parameter)
        if parameter is None:
            raise StructureError(
                f"The structure names {piece.parameter!r}, which the model does not have. Was it traced from another "
                "model, or before this one was wrapped? Trace this model again."
            )
        if parameter.dim() <= piece.dim or parameter.shape[piece.dim] <= piece.index.max():
            raise StructureError(
                f"The structure expects more than the shape {tuple(parameter.shape)} that {piece.parameter!r} has. Was "
                "the model pruned after the trace? Trace it again."
            )
        found[place(piece)] = whole(parameter)
    return found


def channel_sums(parameters: Mapping[Place, torch.Tensor], term: Term) -> Callable[[Slice], np.ndarray]:
    """A function slice -> (size,): the sum of `term`, elementwise, over each channel's slice.

    Each parameter is read once, whatever the number of its dimensions, and everything comes to the CPU in one transfer.
    """
    dims: dict[str, list[int]] = {}
    for name, dim in parameters:
        dims.setdefault(name, []).append(dim)
    with torch.no_grad():
        sums = {
            (name, dim): values
            for name, own in dims.items()
            for dim, values in zip(own, _sums_along(parameters[name, own[0]], own, term), strict=True)
        }
        device = next(iter(sums.values())).device if sums else None  # a model may be spread over several
        flat = torch.cat([values.to(device) for values in sums.values()]).cpu().numpy() if sums else np.empty(0)
    ends = np.cumsum([len(values) for values in sums.values()])
    by_place = {key: flat[end - len(values) : end] for (key, values), end in zip(sums.items(), ends, strict=True)}
    return lambda piece: by_place[place(piece)][piece.index].sum(axis=1, dtype=np.float64)


def _sums_along(parameter: torch.Tensor, dims: Sequence[int], term: Term) -> list[torch.Tensor]:
    """For each of `dims`, (positions,): the sum of `term` over all other dimensions; half precision in float32.

    On the CPU block by block, each of which is still in its cache when the next dimension comes to be summed up.
    """
    half = parameter.dtype in (torch.float16, torch.bfloat16)
    rows = len(parameter) if parameter.device.type != "cpu" else max(1, _BLOCK * len(parameter) // parameter.numel())
    found: dict[int, list[torch.Tensor]] = {dim: [] for dim in dims}
    buffer: torch.Tensor | None = None
    for block in parameter.detach().split(rows):
        block = block.float() if half else block
        if buffer is None or buffer.shape != block.shape:
            buffer = torch.empty_like(block)
        terms = term(block, buffer)
        for dim, sums in found.items():
            others = [other for other in range(block.dim()) if other != dim]
            part = terms.sum(dim=others) if others else terms.clone()
            if dim == 0 or not sums:
                sums.append(part)
            else:
                sums[0] += part
    return [torch.cat(sums) for sums in found.values()]


def reduce_slices(
    model: torch.nn.Module,
    structure: Structure,
    pick: Pick,
    term: Term,
    finish: Callable[[np.ndarray, int], np.ndarray],
) -> Scores:
    """Mean over the picked members of `finish(sum of term over each channel's slice (size,), n)`, n elements in each
    slice."""
    parameters = parameters_of(model, (piece for group in structure.prunable for piece in pick(group)))
    sums = channel_sums(parameters, term)

    def value(piece: Slice) -> np.ndarray:
        shape = parameters[place(piece)].shape
        return finish(sums(piece), piece.index.shape[1] * shape.numel() // shape[piece.dim])

    return average(model, structure, pick, value)


def average(
    model: torch.nn.Module, structure: Structure, pick: Pick, value: Callable[[Slice], np.ndarray | None]
) -> Scores:
    """For each prunable group the mean of `value(slice)` (size,) over its picked members, float64 if the model is.

    A member of value None does not count; a group in which none counts scores +inf.

    Raises:
        CriterionError: no group at all could be judged, or a score is not a number.
    """
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    scores = {}
    for group in structure.prunable:
        values = [found for piece in pick(group) if (found := value(piece)) is not None]
        mean = np.mean(values, axis=0) if values else np.full(group.size, np.inf)
        if np.isnan(mean).any():
            raise CriterionError(
                f"Expected scores for group {group.name!r}, but got NaN; its weights are not finite any more."
            )
        scores[group.name] = torch.from_numpy(mean).to(torch.float64 if double else torch.float32)
    if scores and all(bool(torch.isinf(values).all()) for values in scores.values()):
        raise CriterionError(
            f"Expected at least one of {len(scores)} prunable groups to have a member that this criterion can see, but "
            "none has; choose another one, such as 'group_norm'."
        )
    return scores

"""Why channels stay, or why removing them is not zeroing them: typed reasons, and what helps against each.

A new kind is one line of `Kind`: what it says and what the user could change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

__all__ = ["NOWHERE", "Kind", "Place", "Reason"]

_BY_DESIGN = "by design: what goes into the model and what comes out keeps its shape"
_NEEDS_ALL = "the operation needs every channel; a layer in front of it would free the channels before that layer"
_NUMBERED = "elements are taken by their numbers; only those of other dimensions can go"
_POSITIONS = "by design: only channels can go, never positions, windows or parts that the code counts on"
_LAYOUT = "no smaller unit fits both sides; where a size is free to choose, choose one that divides the other"
_READ = "read the size from the tensor (x.shape), or keep it in an attribute of the module"
_FROM_TENSOR = "read the size from the tensor that has it (x.shape)"
_HEADS = "icycle.trace(..., head_width=True) allows it"
_MOMENTS = "zeroed channels still count; fine-tune after the removal, or use a norm with statistics per channel"
_NOT_ZERO = "end the layer before it with something that keeps zero (no bias, relu instead of sigmoid)"
_TUNE = "by what the operation does: the channels may go, and fine-tuning makes up for it"
_REPORT = "the prediction was wrong, so nothing is removed here; please report the model"


class Kind(Enum):
    """The kinds of reasons: (what it says, with the detail; what the user could change, with the operation)."""

    # ---- by design ----
    INPUT = ("an input of the model", _BY_DESIGN)
    OUTPUT = ("an output of the model", _BY_DESIGN)
    SINGLE = ("a single element", "by design: the last element stays")
    EMPTY = ("empty", "there is nothing to remove")
    UNUSED = (
        "{detail} was not used on the example inputs",
        "trace with example inputs that use it, or remove it from the model",
    )
    NO_PARAMETER = ("no parameter has these channels", "by design: there is nothing to remove them from")
    RULE = ("{detail}", "a rule that was registered for {operation} says so")

    # ---- what is not known ----
    NO_RULE = ("no rule for {detail}", "register a rule for {operation}: icycle.register_rule, docs/rules.md")
    VALUES_READ = (
        "its values are read",
        "the code turns the tensor into numbers, and what it does with them is not seen",
    )
    CONSTANT = (
        "a constant tensor",
        "make that tensor a buffer of its module (register_buffer), and it loses the same channels",
    )
    DRY_RUN = ("the dry run gave {detail}", _REPORT)
    BREAKS = ("without it the model does not run, by a trial: {detail}", _REPORT)
    NOT_ZEROING = ("removing is not zeroing, by a trial: {detail}", _TUNE)

    # ---- sizes that the code says ----
    LITERAL = ("the code says {detail}", f"write -1 for this size, {_READ}")
    LITERAL_CUT = ("the code cuts at {detail}", _READ)
    UNKNOWN_SPLIT = ("split at an unknown constant", _READ)
    UNKNOWN_SIZES = ("split at unknown sizes", _READ)
    COMPUTED_SIZE = (
        "its size is computed from others in a way that does not follow a removal",
        _FROM_TENSOR,
    )
    BRANCH = (
        "a branch depends on its size",
        "decide by a flag that is set where the model is built, or compare sizes that always change together",
    )
    OTHER_SIZE = ("the size {detail}", _FROM_TENSOR)

    # ---- what the algebra cannot express ----
    SIZES_DIFFER = ("sizes {detail} differ", _LAYOUT)
    NO_CUT = ("no common cut", _LAYOUT)
    NO_FACTORS = ("no common factors", _LAYOUT)
    NO_EQUAL_PARTS = ("parts of equal size, but no equal parts", _LAYOUT)
    CUT_ROW = ("cut inside a row", _LAYOUT)
    ROW_APART = ("a row that is cut", _LAYOUT)
    CONTAINS_ITSELF = ("a dimension would contain itself", _LAYOUT)
    NO_REGROUPING = ("cannot be regrouped from {detail}", _LAYOUT)
    REGROUPED = ("regrouped from a pinned dimension", _LAYOUT)
    EMPTY_TENSOR = ("an empty tensor", "trace with example inputs for which it is not empty")
    NO_GROUPS = ("channels cannot be split into {detail} groups", _LAYOUT)
    NO_ROWS = ("not made of {detail}", _LAYOUT)

    # ---- operations that need every element ----
    ALL_TAKE_PART = ("every element takes part", _NEEDS_ALL)
    COMPARED = ("elements are compared or their number matters", _NEEDS_ALL)
    ORDERED = ("elements are ordered by value", _NEEDS_ALL)
    CHANGE_PLACES = ("elements change places", _NEEDS_ALL)
    MIXED = ("positions are mixed", _NEEDS_ALL)
    MEMORY = ("elements are taken by their place in memory", _NEEDS_ALL)
    EVERY_NTH = ("every n-th element is taken", _NEEDS_ALL)
    NEGATIVE_PADDING = ("cut by a negative padding", _NEEDS_ALL)
    WINDOWS = ("cut into windows", _NEEDS_ALL)

    # ---- elements by their number ----
    INDEXED = ("chosen by index", _NUMBERED)
    INDEX = ("an index", _NUMBERED)
    NUMBERED = ("an element is taken by its number", _NUMBERED)
    INTEGERS = ("{detail} holds integers", _NUMBERED)
    TAKEN_APART = (
        "taken apart element by element",
        "the code counts on the number of elements; take equal parts (chunk) if it need not",
    )

    PROJECTION = (
        "a projection to as many outputs as hidden units would be taken for none",
        "a linear layer behind a recurrent one without projection leaves the hidden units free",
    )

    TIED_WIDTH = (
        "the function holds the heads and their width to the embedding",
        "use nn.MultiheadAttention, whose heads can go, or scaled_dot_product_attention on projections of your own",
    )

    # ---- what is no channel ----
    HEAD_WIDTH = ("the width inside an attention head", _HEADS)
    POSITIONS = ("a dimension of positions", _POSITIONS)
    SPATIAL = ("a spatial dimension", _POSITIONS)
    KERNEL = ("the kernel", _POSITIONS)
    NEW = ("a new tensor", _READ)
    COMPUTED = ("computed", _POSITIONS)
    PADDING = ("padding", _POSITIONS)
    PIXELS = ("pixels", _POSITIONS)
    REPEATED = ("repeated", _POSITIONS)
    STACKED = ("stacked", _POSITIONS)
    STATISTIC = ("a statistic", _POSITIONS)
    PARTS = ("the number of {detail}", _POSITIONS)

    # ---- why removing is not zeroing ----
    NORMALISED = ("normalised over its {detail}", _MOMENTS)
    MOMENT = ("{detail} over its channels", _MOMENTS)
    STEPS = ("steps of a recurrent layer", _MOMENTS)
    SUM_NOT_ZERO = ("a sum over terms that are not zero", _NOT_ZERO)
    NOT_FINITE = ("not finite at zero", _NOT_ZERO)
    ZERO_DIRECTION = (
        "the direction of a zero weight is undefined",
        "remove the parametrisation before pruning (torch.nn.utils.parametrize.remove_parametrizations)",
    )
    SIZE_AS_NUMBER = (
        "its size is used as a number",
        "write that number down, or keep it in an attribute that is not the size itself",
    )

    def __init__(self, words: str, advice: str) -> None:
        self.words = words
        self.advice = advice


_DESIGN = frozenset(
    (
        Kind.INPUT,
        Kind.OUTPUT,
        Kind.SINGLE,
        Kind.EMPTY,
        Kind.NO_PARAMETER,
        Kind.POSITIONS,
        Kind.SPATIAL,
        Kind.KERNEL,
        Kind.COMPUTED,
        Kind.PADDING,
        Kind.PIXELS,
        Kind.REPEATED,
        Kind.STACKED,
        Kind.STATISTIC,
        Kind.PARTS,
    )
)


class Place(NamedTuple):
    """Where in a run something was: the operation, the path of the module that ran ("" for the model itself), and the
    line of the model's code as "file:line" ("" where all of it is torch's)."""

    operation: str = ""
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        if not self.operation:
            return ""
        source = f" ({self.source})" if self.source else ""
        return f"{self.operation} at {self.module or 'the model itself'}{source}"


NOWHERE = Place()


@dataclass(frozen=True)
class Reason:
    """Why no element of an axis may be removed, or why removing is not the same function as zeroing.

    `detail` completes the words of the kind; `operation`, `module` and `source` are those of `Place`, "" where the
    reason lies in no operation.
    """

    kind: Kind
    detail: str = ""
    operation: str = ""
    module: str = ""
    source: str = ""

    @property
    def cause(self) -> str:
        """What is the case, in words."""
        return self.kind.words.format(detail=self.detail)

    @property
    def advice(self) -> str:
        """What the user could change."""
        return self.kind.advice.format(operation=self.operation)

    @property
    def by_design(self) -> bool:
        """Whether nothing could be changed about it: an input, an output, positions."""
        return self.kind in _DESIGN

    @property
    def place(self) -> Place:
        """Where it was found out."""
        return Place(self.operation, self.module, self.source)

    def __str__(self) -> str:
        return f"{self.cause}: {self.place}" if self.operation else self.cause

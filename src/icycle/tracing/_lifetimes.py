"""Which results of operations are in memory at the same time, as the code that runs lets go of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["NOTHING", "Lifetimes", "Made", "Memory"]


@dataclass(frozen=True)
class Made:
    """A piece of memory that an operation was the first to give a result in: its number, which of the results it is
    just large enough for (None: it is larger), bytes per element of it, and of the whole."""

    number: int
    result: int | None
    bytes: int
    whole: int


@dataclass(frozen=True)
class Memory:
    """What an operation made, and the numbers of all pieces that are held once it has run."""

    made: tuple[Made, ...] = ()
    held: tuple[int, ...] = ()


NOTHING = Memory()


class Lifetimes:
    """Numbers the pieces of memory that results lie in. Parameters and inputs are none, nor are views of them."""

    def __init__(self) -> None:
        import torch._dynamo  # noqa: F401  (else torch does, at the first operation; the import's frames keep its tensors)

        self._held: dict[int, tuple[StorageWeakRef, int]] = {}  # address -> what it is, its number
        self._numbers: tuple[int, ...] = ()  # of those
        self._made = 0

    def note(self, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> Memory:
        """An operation has just run; its operands are still there."""
        gone = [place for place, (memory, _) in self._held.items() if memory.expired()]
        for place in gone:
            del self._held[place]
        own = {_address(tensor) for tensor in operands}
        made = []
        for number, tensor in enumerate(results):
            address = _address(tensor)
            if address is not None and address not in own and address not in self._held:
                made.append(self._number(address, number, tensor))
        if gone or made:
            self._numbers = tuple(number for _, number in self._held.values())
        return Memory(tuple(made), self._numbers)

    def _number(self, address: int, place: int, tensor: torch.Tensor) -> Made:
        storage, number = tensor.untyped_storage(), self._made
        self._held[address] = StorageWeakRef(storage), number
        self._made += 1
        fits = tensor.numel() * tensor.element_size() == storage.nbytes()
        return Made(number, place if fits else None, tensor.element_size(), storage.nbytes())


def _address(tensor: torch.Tensor) -> int | None:
    """Of the memory, the same for all tensors that lie in it; None where a tensor has none of its own (sparse)."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None

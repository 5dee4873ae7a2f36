"""Which members of a set that fails are to blame, by trying halves of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["at_fault"]

Fails = Callable[[Sequence[str]], bool]


def at_fault(suspects: Sequence[str], fails: Fails) -> list[str]:
    """Those of `suspects` (which fail together) that fail alone; where none does, a smallest set that fails together.

    Takes about twice the logarithm of their number of trials for each that is found. A member whose failure another
    one makes up for is not seen: try again without those that were found.
    """
    if len(suspects) == 1:
        return list(suspects)
    first, second = _halved(suspects)
    found = [name for half in (first, second) if fails(half) for name in at_fault(half, fails)]
    return found or _needed(suspects, fails)


def _needed(suspects: Sequence[str], fails: Fails) -> list[str]:
    """A smallest set that fails among `suspects`, which fail (QuickXplain: Junker, AAAI 2004)."""
    if len(suspects) == 1:
        return list(suspects)
    first, second = _halved(suspects)
    for half in (first, second):
        if fails(half):
            return _needed(half, fails)
    of_second = _needed(second, lambda names: fails([*first, *names]))
    of_first = _needed(first, lambda names: fails([*names, *of_second]))
    return [*of_first, *of_second]


def _halved(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    return names[: len(names) // 2], names[len(names) // 2 :]

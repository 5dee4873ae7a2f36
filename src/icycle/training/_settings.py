"""The base of every settings object, and the words for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

__all__ = ["Settings", "did_you_mean"]

_SHOWN = 20  # names; a library of a thousand models is not listed in an error


class Settings(BaseModel):
    """Frozen, and strict about its keys: an unknown key, NaN or infinity is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest of `choices`, or all of them."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return f"known are: {shown}"

"""Where in a model's own code a run is: the expression that an edit may be made at."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

__all__ = ["TORCH", "Running", "Site", "is_users", "site_here", "user_frame"]

TORCH = os.path.dirname(torch.__file__) + os.sep
_LIBRARIES = (
    TORCH,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)
_TRACED_BY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_run.py")  # what calls the model
# what calls a module's forward
_CALLED_BY = os.path.join(os.path.dirname(torch.__file__), "nn", "modules", "module.py")


@dataclass(frozen=True, eq=False)
class Running:
    """A frame as it was: its code, its globals, its instruction and that one's line."""

    code: CodeType
    scope: dict[str, Any]
    instruction: int
    line: int


@dataclass(frozen=True, eq=False)
class Site:
    """An expression in the course of a run.

    `path` is the module that was running; `frames` are its code, from the expression outwards to `forward`. `part`
    picks the expression: an argument of a reshape (`sizes` of them), or an operand of a `calculation`. With a `keyword`
    it is the call itself.
    """

    path: str
    frames: tuple[Running, ...]
    part: int = 0
    sizes: int | None = None
    keyword: str = ""
    calculation: str = ""

    @property
    def key(self) -> tuple[str, CodeType, int]:
        """The same for the same instruction of the same module."""
        return self.path, self.frames[0].code, self.frames[0].instruction

    @property
    def way(self) -> tuple[str, int, tuple[tuple[CodeType, int], ...]]:
        """The same for the same part of an instruction reached through the same calls."""
        return self.path, self.part, tuple((frame.code, frame.instruction) for frame in self.frames)


@functools.cache
def is_users(filename: str) -> bool:
    """Whether a file is code of a model: not torch's, not ours, and not made up."""
    return not filename.startswith((*_LIBRARIES, "<"))


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame, from `frame` outwards, that runs the model's own code: None where all of it is torch's."""
    while frame is not None and frame.f_code.co_filename != _TRACED_BY:  # from there on it is the code that traces
        if is_users(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def site_here(
    path: str, part: int = 0, sizes: int | None = None, keyword: str = "", calculation: str = ""
) -> Site | None:
    """Where the model's own code is now, in the module at `path`."""
    frame = user_frame(sys._getframe(1))
    frames = []
    while frame is not None:
        frames.append(Running(frame.f_code, frame.f_globals, frame.f_lasti, frame.f_lineno))
        frame = frame.f_back
        if frame is None or frame.f_code.co_filename == _CALLED_BY:
            return Site(path, tuple(frames), part, sizes, keyword, calculation)
    return None

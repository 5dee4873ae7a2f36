"""The tasks by name. A new task is one decorated class, or an undecorated one named by its import path."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from icycle.registry import Kind
from icycle.training import Classification, Named, Task

__all__ = ["TASK", "register", "tasks"]

_TASKS: dict[str, type[Task]] = {}
T = TypeVar("T", bound=Task)


def register(task: type[T]) -> type[T]:
    """Make a task known under the default of its `name`."""
    _TASKS[task.model_fields["name"].default] = task
    return task


def tasks() -> Mapping[str, type[Task]]:
    """Every registered task by name."""
    return MappingProxyType(_TASKS)


register(Classification)

_KIND: Kind[type[Task]] = Kind("a task", "icycle.tasks", _TASKS)
TASK = Named(Task, _KIND.find)

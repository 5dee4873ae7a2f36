"""What a name in a recipe stands for: a known thing, one of an installed package, or an import path.

Names are looked up when they are used, so whatever was registered by then counts. A package offers things of its own by
entry points, in the groups `icycle.methods`, `icycle.criteria`, `icycle.schedules`, `icycle.optimizers`:

    [project.entry-points."icycle.methods"]
    my-method = "acme.pruning:MyMethod"
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from icycle.errors import IcycleError, RecipeError

__all__ = ["Kind", "did_you_mean", "import_module", "import_object", "is_import_path"]

_SHOWN = 20  # names; a library of a thousand models is not listed in an error

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One kind of things that have names.

    Args:
        noun: with its article: "a method".
        group: the entry points' group.
        known: name -> what is registered; a live view, as more may come.
        error: the class of the error about an unknown name.
    """

    noun: str
    group: str
    known: Mapping[str, T]
    error: type[IcycleError] = RecipeError

    def find(self, name: str) -> T:
        """What `name` stands for: what is registered under it, `package.module:attribute`, or an entry point.

        Raises:
            IcycleError: of class `error`: nothing is called so; names the nearest.
            RecipeError: the import path leads nowhere.
        """
        if name in self.known:
            return self.known[name]
        if is_import_path(name):
            return import_object(name)
        entries = self._entries()
        if name in entries:
            return _load(entries[name])
        near = did_you_mean(name, self.names())
        module, dot, attribute = name.rpartition(".")
        if dot and is_import_path(f"{module}:{attribute}"):
            near = f"one of your own is written {module}:{attribute}"
        raise self.error(f"Expected {self.noun}'s name, but got '{name}'; {near}")

    def names(self) -> tuple[str, ...]:
        """The names that are registered, and those of entry points."""
        return tuple(dict.fromkeys((*self.known, *self._entries())))

    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def is_import_path(name: str) -> bool:
    """Is it `package.module:attribute`?"""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def import_object(path: str) -> Any:
    """What `package.module:attribute` names; the current folder is searched first.

    Raises:
        RecipeError: no such module, an error while it was imported, or no such attribute.
    """
    name, _, attribute = path.partition(":")
    found = import_module(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if not each.startswith("_")]
            raise RecipeError(f"Expected '{attribute}' in {name}, but it has none; {did_you_mean(attribute, names)}")
        found = getattr(found, part)
    return found


def import_module(name: str) -> Any:
    """A module by its dotted name; the current folder is searched first.

    Raises:
        RecipeError: there is none, or it raised an error while it was imported.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except IcycleError:
        raise
    except Exception as error:  # whatever the module's own code raises
        raise RecipeError(
            f"Expected to import {name} (a module of an installed package, or a file below {os.getcwd()}), but it gave "
            f"{type(error).__name__}: {error}"
        ) from error


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest of `choices`, or all of them."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return f"known are: {shown}"


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever the package's own code raises
        raise RecipeError(
            f"Expected to load '{entry.name}' of the entry points {entry.group} from {entry.value}, but it gave "
            f"{type(error).__name__}: {error}; repair or uninstall the package that offers it"
        ) from error

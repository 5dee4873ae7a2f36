"""Which runs a comparison consists of, and which of them need another one first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from icycle.errors import RecipeError
from icycle.methods import Dense, Method, Scratch, get_method
from icycle.recipes import Recipe, RunFolder, parse_yaml
from icycle.training import TrainSettings

__all__ = ["Entry", "Run", "make_plan"]

DENSE = "dense"

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Entry:
    """A column of the matrix: a method's name and settings of its own, and changes of the recipe's `train`. `label` is
    how the user wrote it."""

    label: str
    name: str
    settings: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Entry:
        """`NAME` or `NAME:KEY=VALUE:KEY=VALUE`, such as `fixed:at=0.1`, `one-cycle:phases.shrink=0` or
        `at-init:train.epochs=40`; values as in YAML."""
        name, *pairs = text.strip().split(":")
        settings: dict[str, Any] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            *sections, last = key.strip().split(".")
            if not equals or not all((*sections, last)):
                raise RecipeError(f"Expected a method as NAME or NAME:KEY=VALUE, but got '{text}'")
            section = settings
            for part in sections:
                section = section.setdefault(part, {})
            section[last] = parse_yaml(value, f"the value '{value}' in '{text}'")
        train = settings.pop("train", {})
        return Entry(text.strip(), name, settings, train)


@dataclass(frozen=True)
class Run:
    """One run of the matrix; `needs` are the labels of the runs of the same seed that must be finished before."""

    label: str
    seed: int
    recipe: Recipe
    folder: RunFolder
    needs: tuple[str, ...] = ()


def make_plan(recipe: Recipe, entries: Sequence[Entry], seeds: Sequence[int], output: Path) -> list[Run]:
    """All runs, each after those that it needs.

    Every method gets what the recipe's own method says and it knows, too (the budget, rounding, limits), and its own
    settings; the recipe's distillation only where there is a teacher. The dense network of each seed is trained once,
    and is where methods begin that start from a trained one; so it is always part of the plan.

    Raises:
        RecipeError: an unknown method, settings that it does not take, the same column or seed twice, or two columns
            that would share their folders.
    """
    if not any(entry.label == DENSE for entry in entries):
        entries = [Entry(DENSE, DENSE, {}), *entries]
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise RecipeError(f"Expected each method once, but got {', '.join(labels)}")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"Expected each seed once, but got {', '.join(map(str, seeds))}")
    _require_own_folders(labels, output)
    # Stable: within a seed, runs keep the user's order where nothing has to come first.
    depth = {entry.label: _depth(entry) for entry in entries}
    return [
        _run(recipe, entry, entries, seed, output)
        for level in range(3)
        for seed in seeds
        for entry in entries
        if depth[entry.label] == level
    ]


def _require_own_folders(labels: Sequence[str], output: Path) -> None:
    owners: dict[Path, str] = {}
    for label in labels:
        folder = _folder(output, label, 0)
        if owners.setdefault(folder, label) != label:
            raise RecipeError(
                f"Expected methods that have folders of their own, but the runs of '{owners[folder]}' and '{label}' "
                f"would both be in folders like {folder}; leave one of them out"
            )


def _depth(entry: Entry) -> int:
    kind = get_method(entry.name)
    if issubclass(kind, Dense):
        return 0
    return 2 if issubclass(kind, Scratch) else 1


def _run(recipe: Recipe, entry: Entry, entries: Sequence[Entry], seed: int, output: Path) -> Run:
    kind = get_method(entry.name)
    settings, needs, model = dict(entry.settings), [], recipe.model
    if kind.starts_fresh:
        model = model.model_copy(update={"weights": None})
    if issubclass(kind, Scratch):
        origin = _origin(settings.get("of"), entries)
        settings["of"] = _folder(output, origin, seed)
        needs.append(origin)
    if kind.starts_trained and model.weights is None:
        needs.append(DENSE)
        model = model.model_copy(update={"weights": _folder(output, DENSE, seed) / "model"})
    method = _method(recipe.method, kind, entry, settings)
    train = _trained_as(recipe.train, kind, entry)
    changes = {"method": method, "seed": seed, "model": model, "train": train}
    chosen = _built(Recipe, _given(recipe), changes, entry)
    return Run(entry.label, seed, chosen, RunFolder(_folder(output, entry.label, seed)), tuple(needs))


def _method(own: Method, kind: type[Method], entry: Entry, settings: Mapping[str, Any]) -> Method:
    """The recipe's own method where it is the same, else one with what both know."""
    names = own.model_fields_set - {"name"} if isinstance(own, kind) else own.model_fields_set & set(kind.model_fields)
    shared = {name: getattr(own, name) for name in names if name != "name"}
    return _built(kind, shared, settings, entry)


def _trained_as(own: TrainSettings, kind: type[Method], entry: Entry) -> TrainSettings:
    """The recipe's training, with what the entry changes of it; a method that has no teacher is taught nothing, unless
    the entry says so."""
    shared = _given(own)
    if own.distill is not None and own.distill.teacher is None and not kind.has_teacher:
        del shared["distill"]
    return _built(TrainSettings, shared, entry.train, entry)


def _given(settings: BaseModel) -> dict[str, Any]:
    """What is not left to its default."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _built(kind: type[T], shared: Mapping[str, Any], changes: Mapping[str, Any], entry: Entry) -> T:
    try:
        return kind(**{**shared, **{name: _within(shared.get(name), value) for name, value in changes.items()}})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise RecipeError(f"Expected settings of '{entry.name}' in '{entry.label}', but {faults}") from None


def _within(own: Any, changes: Any) -> Any:
    """Settings of a section with single ones changed; whatever is no section is replaced."""
    if not isinstance(changes, dict):
        return changes
    if isinstance(own, BaseModel):
        return {**own.model_dump(exclude_unset=True), **changes}
    return {**vars(own), **changes} if is_dataclass(own) else changes


def _origin(wanted: str | None, entries: Sequence[Entry]) -> str:
    """The label of the method whose shape `scratch` takes: of those that prune the first, or the first of the name or
    label `wanted`."""
    pruning = [entry for entry in entries if _depth(entry) == 1]
    found = [entry.label for entry in pruning if wanted in (None, entry.label, entry.name)]
    if not found:
        raise RecipeError(
            f"Expected a method that prunes, whose shape 'scratch' takes, but got {wanted or 'none'} out of "
            f"{[entry.label for entry in pruning] or 'none'}; add it to --methods"
        )
    return found[0]


def _folder(output: Path, label: str, seed: int) -> Path:
    return output / f"{re.sub(r'[^A-Za-z0-9._=-]+', '-', label)}-seed{seed}"

"""YAML that a recipe may be: small, shallow, every key once, and nothing that grows when it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from icycle.errors import RecipeError

__all__ = ["dump_yaml", "parse_yaml", "read_text"]

_LARGEST_FILE = 256 * 1024  # bytes; the parser takes about a second for a megabyte
_MOST_VALUES = 20_000  # with every alias written out
_DEEPEST = 32  # levels
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 wants a point and a sign in it


class _Loader(yaml.SafeLoader):
    """Safe YAML, with the booleans of YAML 1.2, true and false: `precision: no` is a word; and 1e-3 is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - by the first letter of a value
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads back: a word that looks like a number in quotes."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def dump_yaml(values: Any) -> str:
    """Plain values as YAML, which `parse_yaml` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def read_text(path: Path) -> str:
    """The text of a recipe's file.

    Raises:
        RecipeError: it is too large to be a recipe, or not UTF-8.
    """
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise RecipeError(f"Expected a recipe in {path}, of at most {_LARGEST_FILE:,} bytes, but it has {size:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"Expected UTF-8 in {path}, but got {error}; save it anew as UTF-8") from error


def parse_yaml(text: str, origin: str) -> Any:
    """The values in `text`.

    Raises:
        RecipeError: it is no YAML, too deeply nested, or its aliases stand for too much.
    """
    try:
        node = yaml.compose(text, _Loader)
        if node is not None:
            _measure(node, origin, {}, ())
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, a number of too many digits
        raise RecipeError(f"Expected YAML in {origin}, but it cannot be read: {error}") from error
    except RecursionError:
        raise _refused(origin, f"nested at most {_DEEPEST} levels deep", "is nested deeper") from None


def _measure(node: yaml.Node, origin: str, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node stands for, aliases written out; `above` are the nodes that it lies in."""
    if id(node) in above:
        raise _refused(origin, "without a section that holds itself", "has an alias to what it stands in")
    if len(above) > _DEEPEST:
        raise _refused(origin, f"nested at most {_DEEPEST} levels deep", "is nested deeper")
    if id(node) not in known:
        parts = _parts(node, origin)
        known[id(node)] = 1 + sum(_measure(part, origin, known, (*above, id(node))) for part in parts)
    if known[id(node)] > _MOST_VALUES:
        raise _refused(origin, f"of at most {_MOST_VALUES:,} values", "stands for more, once its aliases are expanded")
    return known[id(node)]


def _parts(node: yaml.Node, origin: str) -> list[yaml.Node]:
    """The nodes within a node: a list's entries, or a mapping's keys, each of which may stand once, and values."""
    if not isinstance(node, yaml.MappingNode):
        return node.value if isinstance(node, yaml.SequenceNode) else []
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            line = key.start_mark.line + 1
            raise _refused(origin, "with every key once", f"has '{key.value}' for the second time in line {line}")
        seen.add(str(key.value))
    return [part for pair in node.value for part in pair]


def _refused(origin: str, expected: str, found: str) -> RecipeError:
    return RecipeError(f"Expected a recipe {expected}, but {origin} {found}")

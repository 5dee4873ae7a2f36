"""Several things with a state, as one."""

from __future__ import annotations

from collections.abc import Mapping

from icycle.training._checkpoint import State, Stateful

__all__ = ["Parts"]


class Parts:
    """The states of things that have one, each under its name; what has none is left out."""

    def __init__(self, parts: Mapping[str, object]) -> None:
        self._parts = {name: part for name, part in parts.items() if isinstance(part, Stateful)}

    def state_dict(self) -> State:
        return {
            f"{name}.{key}": value for name, part in self._parts.items() for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: State) -> None:
        for name, part in self._parts.items():
            prefix = f"{name}."
            part.load_state_dict({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})

"""icycle prunes PyTorch networks inside one training cycle.

    structure = icycle.trace(model, example_inputs)
    scores = icycle.saliency.group_norm(model, structure)
    subnet = icycle.select(structure, scores, icycle.Budget(macs=0.5))
    icycle.prune(model, structure, subnet)

Nothing is loaded, torch included, before it is used.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icycle import errors, export, latency, saliency, testing
    from icycle.artifacts import load, save
    from icycle.compensation import compensate
    from icycle.engine import trace
    from icycle.latency import select
    from icycle.methods import Curve, FineTune, IceResult, OneCycle
    from icycle.methods.ice import ice
    from icycle.report import read_run
    from icycle.selection import Budget
    from icycle.structure import Group, Slice, Structure, SubNetwork
    from icycle.surgery import prune
    from icycle.tracing import register_rule

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Curve",
    "FineTune",
    "Group",
    "IceResult",
    "OneCycle",
    "Slice",
    "Structure",
    "SubNetwork",
    "compensate",
    "errors",
    "export",
    "ice",
    "latency",
    "load",
    "prune",
    "read_run",
    "register_rule",
    "saliency",
    "save",
    "select",
    "testing",
    "trace",
]

_HOMES = {
    "Budget": "selection",
    "Curve": "methods",
    "FineTune": "methods",
    "Group": "structure",
    "IceResult": "methods",
    "OneCycle": "methods",
    "Slice": "structure",
    "Structure": "structure",
    "SubNetwork": "structure",
    "compensate": "compensation",
    "ice": "methods.ice",
    "load": "artifacts",
    "prune": "surgery",
    "read_run": "report",
    "register_rule": "tracing",
    "save": "artifacts",
    "select": "latency",
    "trace": "engine",
}


def __getattr__(name: str) -> Any:
    """Load a public name, or a room, when it is first used."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

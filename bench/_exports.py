"""One model, whole or after half is removed, in every format: what bench/exports.py runs in a process of its own.

    python bench/_exports.py torchvision/resnet18 pruned

The first line of output says that the model is built; the last one is the result as JSON: for each runtime the largest
difference of any output from torch's, as a share of the largest output, or why there is none; and how far torch's are
from those of the same model in double precision.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _engines import zoo_model
from torch import nn

import icycle
from icycle.errors import IcycleError
from icycle.export import Runner, export, openvino_runner

__all__ = ["RUNTIMES", "differences"]

RUNTIMES = ("onnxruntime", "openvino", "pt2")
_RATIO = 0.5  # of the channels of every group


def main() -> None:
    name, form = sys.argv[1:]
    torch.set_num_threads(2)
    model, example = zoo_model(name)
    print("built", flush=True)
    if form == "pruned":
        structure = icycle.trace(model, example)
        icycle.prune(model, structure, icycle.SubNetwork.random(structure, _RATIO, seed=0))
    print(json.dumps(differences(model, example)))


def differences(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    """Runtime -> {"difference": float, "batches": how many sizes}, or {"error": words}; and "torch": how far torch
    itself is from double precision, as every runtime rounds in its own way.

    The ONNX file is written once, and read by both runtimes.
    """
    with torch.no_grad():
        output = model(example)
    largest = float(output.abs().max())
    found: dict[str, Any] = {"largest_output": largest, "torch": _rounding(model, example, output) / largest}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        for runtime in RUNTIMES:
            found[runtime] = _outcome(lambda own=runtime: _measured(model, example, file, own, largest))
    return found


def _measured(model: nn.Module, example: torch.Tensor, file: Path, runtime: str, largest: float) -> dict[str, Any]:
    if runtime == "openvino":
        return {"difference": _difference(openvino_runner(file.with_suffix(".onnx")), model, example) / largest}
    done = export(model, example, file, "onnx" if runtime == "onnxruntime" else runtime)
    return {"difference": done.difference / largest, "batches": done.batches}


def _rounding(model: nn.Module, example: torch.Tensor, output: torch.Tensor) -> float:
    with torch.no_grad():
        return float((copy.deepcopy(model).double()(example.double()) - output).abs().max())


def _difference(run: Runner, model: nn.Module, example: torch.Tensor) -> float:
    with torch.no_grad():
        return max(
            float((run(batch)[0] - model(batch)).abs().max()) for batch in (example, torch.cat((example, example)))
        )


def _outcome(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except IcycleError as error:
        return {"error": str(error)[:300]}
    except Exception as error:  # a runtime's own, about a graph that it does not take
        return {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main()

"""An ONNX file in the place of the network that it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from icycle.export._formats import onnx_runner
from icycle.tracing import call_with

__all__ = ["OnnxModule"]


class OnnxModule(nn.Module):
    """Called as `network` is, it runs `file` in ONNX Runtime and puts the outputs together as the network does on
    `inputs`, so that whatever measures the one measures the other."""

    def __init__(self, file: str | Path, network: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0))  # on the processor, where batches are brought for it
        self._run = onnx_runner(Path(file))
        with torch.no_grad():
            self._outputs = call_with(network, inputs)

    def forward(self, *positional: Any, **keywords: Any) -> Any:
        found = iter(self._run(keywords or positional))
        return tree_map_only(torch.Tensor, lambda _: next(found), self._outputs)

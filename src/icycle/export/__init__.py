"""A pruned model in the formats that other runtimes read, and the card that goes with it."""

from icycle.export._card import Card, license_on_card, write_card
from icycle.export._formats import (
    Exported,
    Runner,
    arrays,
    export,
    files_of,
    format_names,
    inputs_read,
    onnx_runner,
    openvino_runner,
    register_format,
)
from icycle.export._int8 import quantize
from icycle.export._module import OnnxModule
from icycle.export._onnx import onnx_model, require

__all__ = [
    "Card",
    "Exported",
    "OnnxModule",
    "Runner",
    "arrays",
    "export",
    "files_of",
    "format_names",
    "inputs_read",
    "license_on_card",
    "onnx_model",
    "onnx_runner",
    "openvino_runner",
    "quantize",
    "register_format",
    "require",
    "write_card",
]

"""A pruned model in the formats that other runtimes read, and the card that goes with it."""

from icycle.export._card import Card, write_card
from icycle.export._formats import Exported, export, format_names, register_format
from icycle.export._int8 import accuracy, quantize
from icycle.export._onnx import onnx_model, require

__all__ = [
    "Card",
    "Exported",
    "accuracy",
    "export",
    "format_names",
    "onnx_model",
    "quantize",
    "register_format",
    "require",
    "write_card",
]

"""A pruned model in the formats that other runtimes read, and the card that goes with it."""

from icycle.export._onnx import at_least_two, onnx_model, require

__all__ = ["at_least_two", "onnx_model", "require"]

"""Eight-bit integers by ONNX Runtime's static quantisation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from icycle.errors import ExportError
from icycle.export._formats import arrays, into_place
from icycle.export._onnx import quiet, require

__all__ = ["quantize"]


def quantize(file: str | Path, batches: Iterable[Any], path: str | Path) -> Path:
    """Write an ONNX model anew with weights and activations in eight bits.

    The ranges of the activations are those on `batches` of inputs, as the model was exported with: a few hundred
    examples, prepared as for the model. Weights have a range per channel. Source: ONNX Runtime, quantize_static (QDQ).

    Raises ExportError where another file is there, a package is missing, or there is no batch.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, result = Path(file), Path(path)
    names = [own.name for own in onnx.load(str(source), load_external_data=False).graph.input]
    feeds = [dict(zip(names, arrays(batch), strict=True)) for batch in batches]
    if not feeds:
        raise ExportError("Expected at least one batch to find the ranges of the activations on, but got none.")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder, quiet(), into_place(result) as (fresh, _):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(fresh),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return result

"""`icycle export`: a pruned network for other runtimes, compared with torch, with its model card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icycle.cli._model import InputShape
from icycle.errors import ExportError, IcycleError

if TYPE_CHECKING:
    from rich.console import Console

    from icycle.export import Card, OnnxModule
    from icycle.recipes import FinishedRun

__all__ = ["export"]

_COMPARED = 8  # examples on which the numerics are compared
_CALIBRATION = 512  # examples on which int8 finds its ranges


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A run's folder, a model's name, or MODEL=FOLDER with what icycle.save left."
        ),
    ],
    to: Annotated[str, typer.Option(help="onnx, pt2, openvino, safetensors or executorch.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="The file, or a folder; export/model.* in the run when omitted.")
    ] = None,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Of the example's size; else any.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX file in eight bits, with its metric.")] = False,
    license_id: Annotated[
        str | None, typer.Option("--license", help="For the model card, e.g. apache-2.0; as it was when omitted.")
    ] = None,
    shape: InputShape = None,
) -> None:
    """Write SOURCE in a format, run what was written, and print the largest difference from torch."""
    from rich.console import Console

    from icycle.cli._networks import examples, open_source, require_inputs
    from icycle.export import export as write

    opened = open_source(source, shape)
    if int8 and (opened.run is None or to != "onnx" or fixed_batch):
        raise ExportError(
            "Expected --int8 with --to onnx, any batch and a run's folder, whose data it is calibrated and measured on."
        )
    if output is None:
        output = (opened.run.folder.path if opened.run else Path()) / "export" / "model"
    console = Console()
    inputs = opened.inputs if opened.run is None else examples(opened.run, _COMPARED)
    require_inputs(opened.name, opened.model, inputs)
    done = write(opened.model, inputs, output, to, dynamic_batch=not fixed_batch)
    _say(console, f"{done.path}: {done.bytes:,} bytes, differs from torch by at most {done.difference:.1e}")
    if opened.run is None:
        return
    try:
        if int8:
            _eight_bits(console, opened.run, done.path, inputs)
    finally:  # what was written by then has its card
        _tell(console, opened.run, done.path, license_id)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _tell(console: Console, run: FinishedRun, path: Path, license_id: str | None) -> None:
    """Write the model card of all files that exports to `path` have left."""
    from icycle.export import files_of, license_on_card, write_card

    license_id = license_id or license_on_card(path.parent, _name(run)) or "other"
    card = write_card(_card(run, license_id, [file.name for file in files_of(path)]), path.parent)
    _say(console, f"{card}: the model card")


def _eight_bits(console: Console, run: FinishedRun, plain: Path, inputs: Any) -> None:
    from icycle.export import OnnxModule, quantize

    small = quantize(plain, _calibration(run), plain.with_name(f"{plain.stem}-int8.onnx"))
    before, after = (_measured(run, OnnxModule(file, run.pruned, inputs)) for file in (plain, small))
    name = run.recipe.task.metric
    _say(
        console,
        f"{small}: {small.stat().st_size:,} bytes; {name} on the validation split {after:.4g}, {before:.4g} before",
    )


def _calibration(run: FinishedRun) -> Iterator[Any]:
    from icycle.training import inputs_of

    batches = run.data.calibration
    return map(inputs_of, islice(batches, math.ceil(_CALIBRATION / batches.batch_size)))


def _measured(run: FinishedRun, network: OnnxModule) -> float:
    """The metric that decides, on the validation split."""
    from icycle.training import measure

    task = run.recipe.task
    try:
        return measure(network, run.data.validation, task)[task.metric]
    except IcycleError:
        raise
    except Exception as error:  # of a task of the user's own, which wants more of a network than its outputs
        raise ExportError(
            f"Expected task '{task.name}' to measure an ONNX file, which can only be called, but it gave "
            f"{type(error).__name__}: {error}; leave --int8 out"
        ) from error


def _card(run: FinishedRun, license_id: str, files: list[str]) -> Card:
    from icycle.export import Card

    report, recipe = run.report, run.recipe
    dense, pruned = report["dense"], report["pruned"]
    words = {"macs": "MACs per input", "params": "parameters", "file_bytes": "file size, bytes"}
    return Card(
        name=_name(run),
        network=recipe.model.name,
        data=run.data.name,
        method=recipe.method.name,
        costs=[(word, f"{dense[key]:,}", f"{pruned[key]:,}") for key, word in words.items()],
        measured={
            "validation": {report["metric"]: report["validation_accuracy"]},
            "test": report["test_metrics"],
        },
        groups=[(group["name"], str(group["size"]), str(group["kept"])) for group in report["groups"]],
        recipe=run.folder.recipe.read_text(encoding="utf-8"),
        seed=recipe.seed,
        latency=list(_latency_rows(report)),
        versions=report["environment"],
        files=files,
        license=license_id,
        task=_task_type(run),
    )


def _name(run: FinishedRun) -> str:
    return run.folder.path.resolve().name


def _task_type(run: FinishedRun) -> str | None:
    """Hugging Face's name of the task, where the data leaves no doubt."""
    name, data = run.recipe.task.name, run.data
    if name == "classification" and len(data.shape) == 3 and data.shape[0] in (1, 3):
        return "image-classification"
    if name == "classification" and isinstance(data.inputs, Mapping) and "input_ids" in data.inputs:
        return "text-classification"
    return {"segmentation": "image-segmentation", "token-classification": "token-classification"}.get(name)


def _latency_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of the dense network and the pruned one: where a latency was asked for, and in torch."""
    from icycle.report import AskedLatency

    asked, dense, pruned = report.get("asked_latency"), report["dense"]["latency"], report["pruned"]["latency"]
    if asked is not None:
        yield AskedLatency(**asked).where, _milliseconds(asked["dense"]), _milliseconds(asked["pruned"])
    for size in dense:
        yield f"latency, torch, batch {size}", _milliseconds(dense[size]), _milliseconds(pruned[size])


def _milliseconds(latency: Mapping[str, float]) -> str:
    return f"{latency['median']:.2f} ms"

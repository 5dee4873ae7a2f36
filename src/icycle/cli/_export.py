"""`icycle export`: a pruned network for other runtimes, compared with torch, with its model card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icycle.cli._model import InputShape
from icycle.errors import ExportError

if TYPE_CHECKING:
    from rich.console import Console

    from icycle.cli._networks import Source
    from icycle.export import Card
    from icycle.recipes import FinishedRun

__all__ = ["export"]

_CALIBRATION = 512  # examples on which int8 finds its ranges


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A run's folder, a model's name, or MODEL=FOLDER with what icycle.save left."
        ),
    ],
    to: Annotated[str, typer.Option(help="onnx, pt2, openvino, safetensors or executorch.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="The file; export/model.* in the run when omitted.")] = None,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Of the example's size; else any.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX file in eight bits, with its accuracy.")] = False,
    license_id: Annotated[str, typer.Option("--license", help="For the model card, e.g. apache-2.0.")] = "other",
    shape: InputShape = None,
) -> None:
    """Write SOURCE in a format, run what was written, and print the largest difference from torch."""
    from rich.console import Console

    from icycle.cli._networks import open_source
    from icycle.export import export as write
    from icycle.export import write_card

    opened = open_source(source, shape)
    if int8 and (opened.run is None or to != "onnx"):
        raise ExportError("Expected --int8 with --to onnx and a run's folder, whose data it is calibrated on.")
    if output is None:
        output = (opened.run.folder.path if opened.run else Path()) / "export" / "model"
    console = Console()
    done = write(opened.model, _examples(opened), output, to, dynamic_batch=not fixed_batch)
    _say(console, f"{done.path}: {done.bytes:,} bytes, differs from torch by at most {done.difference:.1e}")
    files = [done.path.name]
    if int8 and opened.run is not None:
        files.append(_eight_bits(console, opened.run, done.path))
    if opened.run is not None:
        card = write_card(_card(opened.run, license_id, files), done.path.parent)
        _say(console, f"{card}: the model card")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _examples(source: Source) -> Any:
    """Real inputs, where a run's data has them."""
    if source.run is None:
        return source.inputs
    return next(iter(source.run.data.validation))[0][:8]


def _eight_bits(console: Console, run: FinishedRun, plain: Path) -> str:
    from icycle.export import accuracy, quantize

    small = quantize(plain, _calibration(run), plain.with_name(f"{plain.stem}-int8.onnx"))
    before, after = (accuracy(file, run.data.validation) for file in (plain, small))
    _say(
        console,
        f"{small}: {small.stat().st_size:,} bytes; accuracy on the validation split {after:.2f}, {before:.2f} before",
    )
    return small.name


def _calibration(run: FinishedRun) -> Iterable[Any]:
    seen = 0
    for batch in run.data.calibration:
        yield batch[0]
        seen += len(batch[0])
        if seen >= _CALIBRATION:
            return


def _card(run: FinishedRun, license_id: str, files: list[str]) -> Card:
    from icycle.engine import trace
    from icycle.export import Card

    report, recipe = run.report, run.recipe
    dense, pruned = report["dense"], report["pruned"]
    example = next(iter(run.data.validation))[0][:1]
    before, after = trace(run.dense, example), trace(run.pruned, example)
    kept = {group.name: group.size for group in after.groups}
    latency = [
        (f"latency, torch, batch {size}", _milliseconds(dense, size), _milliseconds(pruned, size))
        for size in dense["latency"]
    ]
    words = {"macs": "MACs per input", "params": "parameters", "file_bytes": "file size, bytes"}
    return Card(
        name=run.folder.path.resolve().name,
        network=recipe.model.name,
        data=run.data.name,
        method=recipe.method.name,
        costs=[(word, f"{dense[key]:,}", f"{pruned[key]:,}") for key, word in words.items()],
        accuracy={"validation": report["validation_accuracy"], "test": report["test_accuracy"]},
        groups=[(group.name, str(group.size), str(kept.get(group.name, group.size))) for group in before.prunable],
        recipe=run.folder.recipe.read_text(encoding="utf-8"),
        seed=recipe.seed,
        latency=latency,
        versions=report["environment"],
        files=files,
        license=license_id,
    )


def _milliseconds(network: dict[str, Any], size: str) -> str:
    return f"{network['latency'][size]['median']:.2f} ms"

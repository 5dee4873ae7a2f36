"""`icycle bench`: dense against pruned, on every target and batch size asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from icycle.cli._model import InputShape

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from icycle.cli._networks import Source
    from icycle.latency import Measurement

__all__ = ["bench"]


def bench(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="A run's folder, a model's name, or MODEL=FOLDER with what icycle.save left."
        ),
    ],
    target: Annotated[list[str] | None, typer.Option(help="torch, onnxruntime, openvino, ...; once or more.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Examples in a batch; once or more.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the processor; torch's present number when omitted.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16", "float64"] | None,
        typer.Option(help="Of the arithmetic; the first network's when omitted."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each target and batch size.")] = 5.0,
    shape: InputShape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure latency, throughput, memory and energy of networks in turn; the first one is what others are held
    against."""
    from rich.console import Console

    from icycle import latency
    from icycle.tracing import with_batch

    networks, inputs = _networks(sources, shape)
    batches = {size: with_batch(inputs, size) for size in batch or (1, 64)}
    found: list[Measurement] = []
    for name in target or ("torch",):
        found += latency.bench(networks, batches, name, threads=threads, precision=precision, seconds=seconds)
    facts = {name: _facts(network, inputs) for name, network in networks.items()}
    if as_json:
        print(json.dumps(_record(found, facts), indent=2))
        return
    console = Console()
    console.print(_times(found))
    console.print(_sizes(facts))


def _networks(sources: Sequence[str], shape: str | None) -> tuple[dict[str, nn.Module], Any]:
    """Name -> network, the dense ones first met before the pruned; and one example, of the first source."""
    from icycle.cli._networks import open_source, require_inputs

    opened = [open_source(source, shape) for source in sources]
    networks: dict[str, nn.Module] = {}
    for source in opened:
        _require_the_same_inputs(opened[0], source)
        require_inputs(source.name, source.model, opened[0].inputs)
        if source.dense is not None and "dense" not in networks:
            networks["dense"] = source.dense
        networks[_free(source.name, networks)] = source.model
    return networks, opened[0].inputs


def _require_the_same_inputs(first: Source, other: Source) -> None:
    """A run is measured on inputs like its own; a model's name alone says nothing of inputs."""
    from icycle.errors import LatencyError
    from icycle.tracing import shapes_in_words

    if other.run is not None and _form(first.inputs) != _form(other.inputs):
        raise LatencyError(
            f"Expected sources of the same inputs, but {first.name} takes {shapes_in_words(first.inputs)}, and "
            f"{other.name} {shapes_in_words(other.inputs)}; measure them apart, or name the run first"
        )


def _form(inputs: Any) -> Any:
    """What the examples of a batch have in common."""
    from icycle.tracing import map_tensors

    return map_tensors(inputs, lambda tensor: (tensor.dtype, tensor.shape[1:]))


def _free(name: str, taken: Container[str]) -> str:
    """The name, with a number where it is taken."""
    names = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _facts(network: nn.Module, inputs: Any) -> dict[str, int]:
    from icycle.latency import peak_activation_bytes
    from icycle.report import file_bytes

    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "file_bytes": file_bytes(network),
        "peak_activation_bytes": peak_activation_bytes(network, inputs),
    }


def _pairs(found: Sequence[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """Every measurement with the first network's on the same target and batch."""
    first: dict[tuple[str, int], Measurement] = {}
    return [(first.setdefault((one.target, one.batch), one), one) for one in found]


def _times(found: Sequence[Measurement]) -> Table:
    from rich.table import Table

    from icycle.latency import verdict

    energy = any(one.joules is not None for one in found)
    memory = any(one.peak_bytes is not None for one in found)
    columns = [
        "target",
        "batch",
        "network",
        "ms, median (quartiles)",
        "examples/s",
        *(["memory, MB"] * memory),
        *(["joules"] * energy),
        "of the first",
    ]
    table = Table(*columns)
    for base, one in _pairs(found):
        lower, upper = (1e3 * value for value in one.timing.quartiles)
        cells = [one.target, str(one.batch), one.network, f"{1e3 * one.timing.median:.2f} ({lower:.2f}-{upper:.2f})"]
        cells += [f"{one.throughput:,.0f}", *([_megabytes(one)] * memory), *([_joules(one)] * energy)]
        cells += ["" if one is base else verdict(base, one)]
        table.add_row(*cells)
    return table


def _megabytes(one: Measurement) -> str:
    return "" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.2f}"


def _joules(one: Measurement) -> str:
    return "" if one.joules is None else f"{one.joules:.3g}"


def _sizes(facts: dict[str, dict[str, int]]) -> Table:
    from rich.table import Table

    table = Table("network", "parameters", "file, bytes", "activations at once, bytes (one example)")
    for name, own in facts.items():
        table.add_row(name, *(f"{value:,}" for value in own.values()))
    return table


def _record(found: Sequence[Measurement], facts: dict[str, dict[str, int]]) -> dict[str, Any]:
    from icycle.latency import verdict

    rows = []
    for base, one in _pairs(found):
        lower, upper = (1e3 * value for value in one.timing.quartiles)
        rows.append(
            {
                "network": one.network,
                "target": one.target,
                "batch": one.batch,
                "median_ms": 1e3 * one.timing.median,
                "lower_quartile_ms": lower,
                "upper_quartile_ms": upper,
                "readings": len(one.timing.readings),
                "examples_per_second": one.throughput,
                "joules": one.joules,
                "peak_bytes": one.peak_bytes,
                "verdict": None if one is base else verdict(base, one),
            }
        )
    return {"version": 1, "measurements": rows, "networks": facts}

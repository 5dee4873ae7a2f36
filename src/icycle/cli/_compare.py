"""`icycle compare`: many methods and seeds by one recipe, in one table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icycle.cli._stop import interruptible
from icycle.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from icycle.compare import Kept, Outcome

__all__ = ["compare"]


def compare(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name (see `icycle recipes`), or a YAML file.")],
    methods: Annotated[
        str, typer.Option(metavar="A,B,...", help="Methods, each NAME or NAME:KEY=VALUE, such as fixed:at=0.1.")
    ] = "dense,one-cycle,scratch,one-shot,ice",
    seeds: Annotated[str, typer.Option(metavar="0,1,...", help="Seeds.")] = "0,1,2",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. train.epochs=3.")
    ] = None,
    against: Annotated[str, typer.Option(help="The method that differences are taken against.")] = "dense",
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time; seconds then tell little.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="The folder of all runs, goes on where it was; comparisons/RECIPE if omitted.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Draw the metric over seconds, epochs and latency.")] = True,
) -> None:
    """Run RECIPE with every method and seed; print accuracies, paired differences and costs.

    All methods that start from a trained network start from the one of their seed, which is trained once. A run that
    fails is a line of the table, and the exit code 1. After an interruption the same command goes on.
    """
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.compare import Entry, Failure, Kept, environments, make_plan, require_matplotlib, run_plan
    from icycle.recipes import load_recipe
    from icycle.training import require_one_process

    if pictures:
        require_matplotlib()  # before any run
    require_one_process("icycle compare, which starts its own (--workers)")
    console = Console()
    loaded = load_recipe(recipe, overrides or (), imports=context.obj)
    entries = [Entry.parse(each) for each in methods.split(",")]
    folder = output or Path("comparisons") / loaded.name
    plan = make_plan(loaded, entries, _numbers(seeds), folder)
    if against not in {run.label for run in plan}:
        raise RecipeError(f"Expected --against as one of the methods, but got '{against}'")

    done = 0

    def show(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        console.print(f"{done}/{len(plan)}  {_line(outcome)}", highlight=False, markup=False, soft_wrap=True)

    with interruptible(console, lambda: "The same command goes on where it was."):
        outcomes = run_plan(plan, workers=workers, imports=loaded.imports, on_outcome=show)
    command = _command(recipe, methods, seeds, against, overrides or ())
    _tell(console, Kept(command, against, environments(plan, outcomes), tuple(outcomes)), folder, pictures=pictures)
    if any(isinstance(outcome, Failure) for outcome in outcomes):
        raise typer.Exit(1)


def _tell(console: Console, kept: Kept, folder: Path, *, pictures: bool) -> None:
    """Leave results, table and pictures in the folder, and print the table."""
    from icycle.compare import draw, keep_results, rows, text

    keep_results(folder / "results.json", kept)
    table = text(kept)
    (folder / "table.md").write_text(table, encoding="utf-8")
    console.print(table, soft_wrap=True, highlight=False, markup=False)
    found = rows(kept.outcomes, kept.against)
    if pictures and found:
        draw(found, folder)
    console.print(f"Everything is in {folder}", soft_wrap=True, markup=False)


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise RecipeError(f"Expected --seeds as numbers like 0,1,2, but got '{seeds}'") from error


def _line(outcome: Outcome) -> str:
    from icycle.compare import Failure, written

    head = f"{outcome.label}, seed {outcome.seed}: "
    if isinstance(outcome, Failure):
        return f"{head}failed: {outcome.why}"
    value = written(outcome.metric, outcome.test_accuracy)
    return f"{head}test {value}, {outcome.seconds:.1f} s, {outcome.macs:.1%} of the MACs"


def _command(recipe: str, methods: str, seeds: str, against: str, overrides: Sequence[str]) -> str:
    """The command that makes the same table, wherever its folder is."""
    changes = [part for change in overrides for part in ("--set", change)]
    reference = [] if against == "dense" else ["--against", against]
    return shlex.join(["icycle", "compare", recipe, "--methods", methods, "--seeds", seeds, *changes, *reference])

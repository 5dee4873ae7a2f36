"""`icycle compare`: many methods and seeds by one recipe, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    pictures: Annotated[bool, typer.Option(help="Draw accuracy over seconds, epochs and latency.")] = True,
) -> None:
    """Run RECIPE with every method and seed; print accuracies, paired differences and costs."""
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.compare import Entry, Result, draw, make_plan, markdown, provenance, rows, run_plan
    from icycle.errors import RecipeError
    from icycle.recipes import load_recipe

    console = Console()
    loaded = load_recipe(recipe, overrides or (), imports=context.obj)
    try:
        chosen = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise RecipeError(f"Expected --seeds as numbers like 0,1,2, but got '{seeds}'") from error
    folder = output or Path("comparisons") / loaded.name
    entries = [Entry.parse(text) for text in methods.split(",")]
    plan = make_plan(loaded, entries, chosen, folder)

    def show(result: Result) -> None:
        console.print(
            f"{result.label}, seed {result.seed}: test {result.test_accuracy:.2f} %, {result.seconds:.1f} s, "
            f"{result.macs:.1%} of the MACs",
            highlight=False,
            soft_wrap=True,
        )

    results = run_plan(plan, workers=workers, imports=loaded.imports, on_result=show)
    table = rows(results, against)
    title = f"{loaded.name}, differences of the test accuracy against {against}, paired by seed"
    text = f"{title}\n\n{markdown(table)}\n{provenance(plan)}\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    if pictures:
        draw(table, folder)
    console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print(f"Everything is in {folder}", soft_wrap=True)

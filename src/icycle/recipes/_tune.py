"""From a recipe to a folder with a tuned one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from icycle.errors import RecipeError
from icycle.methods import TuneSettings
from icycle.recipes._folder import RunFolder
from icycle.recipes._run import _context, _with_teacher, opened
from icycle.recipes._schema import Recipe
from icycle.recipes._tuned import write_tuned
from icycle.training import Listener, deterministic, require_one_process
from icycle.tuning import Outcome, open_study, tune

__all__ = ["saved_study", "tune_recipe"]


def tune_recipe(
    recipe: Recipe,
    settings: TuneSettings,
    folder: RunFolder,
    output: Path,
    *,
    listeners: Sequence[Listener] = (),
    resume: bool = False,
) -> Outcome:
    """Find settings for the recipe's method, and write them as a recipe to the file `output`.

    The network is trained first, unless `model.weights` are given: with several workers on one study, give them.

    Args:
        folder: takes the recipe, the metrics, the checkpoint of the training, the trials and the tuned recipe, too; a
            new one, or with `resume` that of the same study, which was cut off. Finished trials are not done again, and
            the study ends as it would have.
        output: a new file.

    Raises:
        RecipeError: the file exists, or whatever can be wrong with the folder.
        TuningError: the method cannot be tuned, or the storage cannot be reached; before any training.
        RunInterruptedError: SIGTERM or SIGUSR1 came; the study is saved, and can be resumed.
    """
    require_one_process("tuning, which may have several workers by --storage")
    written = resume and folder.tuned.exists()  # it came to its end but for the last lines
    if output.exists() and not written:
        raise RecipeError(f"Expected a new file for the tuned recipe, but {output} exists; choose another --output")
    method = recipe.method
    with opened(recipe, folder, listeners, resume, _described(settings, output)) as recorder:
        context = _context(recipe, recorder, folder.checkpoint)
        study = open_study(method, context, settings)
        context = _with_teacher(recipe, context)
        recorder.write(
            "start", recipe=recipe.name, method="tuning", epochs=recipe.train.epochs, metric=recipe.task.metric
        )
        with deterministic(recipe.train.deterministic):
            method.prepare(context)
            outcome = tune(method, context, settings, study, kept=folder.trials)
        with folder.written():
            write_tuned(recipe, outcome, folder.tuned)
            if not output.exists():
                output.parent.mkdir(parents=True, exist_ok=True)
                write_tuned(recipe, outcome, output)
        recorder.write("end", tuned=str(output), cost=outcome.cost, drop=outcome.drop)
        return outcome


def saved_study(folder: RunFolder) -> tuple[TuneSettings, Path]:
    """The settings of the study in this folder, and where its tuned recipe goes.

    Raises:
        RecipeError: there is no study, or its file was changed so that it cannot be read.
    """
    if not folder.study.is_file():
        raise RecipeError(f"Expected a study to resume in {folder.path}, but it has no {folder.study.name}")
    try:
        kept = json.loads(folder.study.read_text(encoding="utf-8"))
        return TuneSettings.model_validate(kept["settings"]), Path(kept["output"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise RecipeError(
            f"Expected {folder.study} as the study wrote it, but it cannot be read: {error}; put it back, or start a "
            "new study"
        ) from error


def _described(settings: TuneSettings, output: Path) -> str:
    return json.dumps({"settings": settings.model_dump(mode="json"), "output": str(output.absolute())})

"""From a recipe to a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icycle import artifacts
from icycle.engine import trace
from icycle.errors import RecipeError, RunInterruptedError
from icycle.files import write_whole
from icycle.methods import BudgetSettings, Context, MethodResult
from icycle.recipes._fit import require_a_batch, require_fit
from icycle.recipes._folder import RunFolder
from icycle.recipes._load import load_recipe
from icycle.recipes._result import read_result, write_result
from icycle.recipes._schema import Recipe
from icycle.recipes._track import require_trackers, tracked
from icycle.recipes._tuned import write_tuned
from icycle.report import (
    AskedLatency,
    NetworkFacts,
    Report,
    compare_latency,
    environment,
    file_bytes,
    group_facts,
    latency_where_asked,
    write_page,
)
from icycle.structure import Structure
from icycle.training import (
    Listener,
    Recorder,
    deterministic,
    is_first,
    join_processes,
    measure,
    on_first,
    require_no_stop,
    require_one_process,
    run_device,
    stoppable,
    to_device,
)
from icycle.tuning import open_study, tune
from icycle.zoo import Data, build_model, load_data, load_weights

__all__ = ["opened", "run_recipe"]

_LATENCY_BATCHES = (1, 64)
_BEFORE_ANY_WORK = {"start", "weights", "search"}  # kinds of records; a search comes before the first step


def run_recipe(
    recipe: Recipe, folder: RunFolder, *, listeners: Sequence[Listener] = (), resume: bool = False
) -> Report:
    """Run a recipe and leave everything in `folder`: recipe, metrics, checkpoint, pruned model, report, and the
    report as a page.

    Args:
        recipe: what to do.
        folder: a new one; with `resume` the folder of the same recipe's unfinished run.
        listeners: are called with every record as it is written to the metrics.

    A run that was cut off at any moment goes on with `resume`; what it had finished by then is not done again.

    Where several processes were launched, all of them call it and train together; the first one alone writes, and the
    others' listeners are not called. A run may go on in another number of processes.

    Raises:
        RunInterruptedError: SIGTERM or SIGUSR1 came; the run is saved, and can be resumed.
        IcycleError: whatever can be wrong with data, settings, folder or training; what was written stays, unless
            the run was refused before it did anything.
    """
    with opened(recipe, folder, listeners, resume) as recorder:
        return _carry_out(recipe, folder, recorder)


@contextmanager
def opened(
    recipe: Recipe, folder: RunFolder, listeners: Sequence[Listener], resume: bool, study: str | None = None
) -> Iterator[Recorder]:
    """Within the block nobody else works in `folder`, a new one or (`resume`) that of the same recipe, and of the same
    settings of a `study`; what the block refuses before it does anything leaves no folder. The first process alone
    writes there."""
    require_trackers(recipe.track)
    recipe.task.prepare()
    join_processes()
    with ExitStack() as stack:
        made = on_first(lambda: _locked(stack, recipe, folder, resume, study))
        stack.enter_context(stoppable())
        recorder = Recorder(folder.metrics) if is_first() else Recorder()
        try:
            with tracked(recipe, folder.path) if is_first() else nullcontext(()) as trackers:
                if is_first():
                    recorder = Recorder(folder.metrics, (*listeners, *trackers))
                yield recorder
        except RunInterruptedError:
            raise
        except Exception:
            if is_first() and made and {record["kind"] for record in recorder.records} <= _BEFORE_ANY_WORK:
                folder.discard(made)
            raise


def _locked(stack: ExitStack, recipe: Recipe, folder: RunFolder, resume: bool, study: str | None) -> tuple[Path, ...]:
    """Make the folder, or check that the run in it can go on, and lock it for as long as `stack` is open; the folders
    that were made."""
    made = () if resume else folder.create(recipe, study)
    stack.enter_context(folder.locked())
    if resume:
        folder.reopen(recipe, study)
    return made


def _carry_out(recipe: Recipe, folder: RunFolder, recorder: Recorder) -> Report:
    """Whatever of the run is not done yet. The order of what is written decides what a later part does again: the
    model, the method's result, the report, its page, the record of the end."""
    context = _context(recipe, recorder, folder.checkpoint)
    pruned = on_first(folder.result.exists)
    study = None if pruned else _study(recipe, context)
    recorder.write(
        "start",
        recipe=recipe.name,
        method=recipe.method.name,
        epochs=recipe.train.epochs,
        metric=recipe.task.metric,
    )
    if pruned:
        result = read_result(folder.result, recorder)
        artifacts.load(folder.model, context.model)
    else:
        with deterministic(recipe.train.deterministic):
            result = _prune(recipe, context, folder, study)
        if is_first():
            with folder.written():
                shutil.rmtree(folder.model, ignore_errors=True)  # of a part that ended before it wrote its result
                artifacts.save(context.model, folder.model)
                write_result(result, folder.result, recorder)
    require_no_stop()
    with recorder.clock.stage("evaluation"):
        metrics = measure(context.model, context.data.test.open(), recipe.task, divided=True)
    return on_first(lambda: _finish(recipe, context, folder, result, metrics))


def _finish(
    recipe: Recipe, context: Context, folder: RunFolder, result: MethodResult, metrics: Mapping[str, float]
) -> Report:
    """What remains once the test set is measured: the report, its page, the record of the end."""
    recorder = context.recorder
    if recipe.method.tuning is not None:  # what was found is what was run
        recipe = recipe.model_copy(update={"method": load_recipe(str(folder.tuned)).method})
    report = _report(recipe, context.data, context.model, result, metrics, recorder)
    with folder.written():
        write_whole(folder.report, report.to_json())
        write_page([folder.path], folder.page)
    recorder.write("end", test_accuracy=report.test_accuracy, metric=recipe.task.metric, metrics=metrics)
    return report


def _prune(recipe: Recipe, context: Context, folder: RunFolder, study: Any) -> MethodResult:
    """Tune where that is asked for, train and prune the context's model."""
    method, context = recipe.method, _with_teacher(recipe, context)
    if context.parts_done:  # a part of what comes after both
        return (method if method.tuning is None else load_recipe(str(folder.tuned)).method).run(context)
    method.prepare(context)
    if method.tuning is not None:
        outcome = tune(method, context, method.tuning, study, kept=folder.trials)
        write_tuned(recipe, outcome, folder.tuned)
        method = outcome.method
    return method.run(context)


def _study(recipe: Recipe, context: Context) -> Any:
    """The study of a method that tunes itself, opened before any training; None where there is none."""
    wanted = recipe.method.tuning
    if wanted is None:
        return None
    require_one_process("method.tune")
    return open_study(recipe.method, context, wanted)


def _context(recipe: Recipe, recorder: Recorder, checkpoint: Path | None) -> Context:
    """Data and model of a recipe; seeds the random state."""
    torch.manual_seed(recipe.seed)
    data = load_data(
        **{name: getattr(recipe.data, name) for name in type(recipe.data).model_fields},
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        device=run_device(),
    )
    require_a_batch(data)
    weights = recipe.model.weights
    model, fresh = _built(recipe, data, weights)
    require_fit(recipe.model.name, model, data, recipe.task)
    if weights is not None:
        recorder.write("weights", source=str(weights), fresh=fresh)
    # a network from a library was trained for something else, and so was one whose head is new
    trained = isinstance(weights, Path) and not fresh
    return Context(
        model, data, recipe.train, recorder, seed=recipe.seed, checkpoint=checkpoint, trained=trained, task=recipe.task
    )


def _with_teacher(recipe: Recipe, context: Context) -> Context:
    """The context with the teacher whose weights the recipe names, where it does; draws nothing by chance."""
    distill = recipe.train.distill
    if distill is None or distill.teacher is None:
        return context
    with torch.random.fork_rng(devices=[]):
        teacher, fresh = _built(recipe, context.data, distill.teacher)
    if fresh:
        raise RecipeError(
            f"Expected a teacher of {context.data.classes} classes at {distill.teacher}, but its head does not fit "
            f"({', '.join(fresh)}); change train.distill.teacher"
        )
    return replace(context, teacher=teacher)


def _build(recipe: Recipe, data: Data) -> nn.Module:
    """The recipe's network, with its weights, on the run's device."""
    return _built(recipe, data, recipe.model.weights)[0]


def _built(recipe: Recipe, data: Data, weights: Path | str | None) -> tuple[nn.Module, list[str]]:
    """The recipe's network with these weights, and the names of the tensors that they left as they were: those of a new
    head."""
    model = recipe.model
    built = build_model(
        model.name,
        num_classes=data.classes,
        in_channels=data.shape[0] if data.shape else 1,
        width=model.width,
        options=model.options,
        pretrained=weights == "pretrained",
    )
    fresh = load_weights(weights, built) if isinstance(weights, Path) else []
    return built.to(run_device()), fresh


def _report(
    recipe: Recipe,
    data: Data,
    model: nn.Module,
    result: MethodResult,
    metrics: Mapping[str, float],
    recorder: Recorder,
) -> Report:
    seconds = recorder.clock.seconds()  # the run's own; what follows only measures
    networks = [_build(recipe, data), model]
    structures = [trace(network, data.example()) for network in networks]
    dense, pruned = _facts(networks, structures, data, recipe.train.channels_last)
    return Report(
        recipe=recipe.name,
        method=recipe.method.name,
        dense=dense,
        pruned=pruned,
        removals=result.removals,
        validation_accuracy=result.validation_accuracy,
        test_accuracy=metrics[recipe.task.metric],
        metric=recipe.task.metric,
        higher_is_better=recipe.task.higher_is_better,
        test_metrics=metrics,
        seconds=seconds,
        environment=environment(run_device()),
        details=result.details,
        groups=group_facts(*structures),
        seed=recipe.seed,
        criterion=recipe.method.scored_by,
        settings=recipe.model_dump(mode="json", warnings="none"),
        asked_latency=_asked_latency(recipe, data, networks),
    )


def _asked_latency(recipe: Recipe, data: Data, networks: Sequence[nn.Module]) -> AskedLatency | None:
    """None where the budget, if the method has one, asks for no latency."""
    settings = getattr(recipe.method, "budget", None)
    if not isinstance(settings, BudgetSettings) or settings.latency is None:
        return None
    budget = settings.build()
    return latency_where_asked(networks, data.example(budget.batch or 1), budget)


def _facts(
    networks: Sequence[nn.Module], structures: Sequence[Structure], data: Data, channels_last: bool
) -> list[NetworkFacts]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for network in networks:
        network.to(memory_format=layout)
    latencies = {}
    for size in _LATENCY_BATCHES:
        inputs = to_device(data.example(size), networks[0], channels_last=channels_last)
        latencies[size] = compare_latency(networks, inputs)
    return [
        NetworkFacts(
            macs=structure.macs(),
            params=structure.params(),
            file_bytes=file_bytes(network),
            latency={size: measured[position] for size, measured in latencies.items()},
            memory=structure.memory(),
        )
        for position, (network, structure) in enumerate(zip(networks, structures, strict=True))
    ]

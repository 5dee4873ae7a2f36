"""ICE on one's own training code: `icycle.ice`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from icycle.errors import TrainingError
from icycle.methods._first_batch import require_first_batch, require_many_readings
from icycle.methods._run_clock import wrappers_of
from icycle.methods._settings import validated
from icycle.methods._training import Calibration, FineTune, Loss, OwnTraining
from icycle.methods.ice._curve import Curve
from icycle.methods.ice._ice import IceRun
from icycle.methods.ice._result import IceResult, IceStep
from icycle.methods.ice._settings import IceSettings
from icycle.probing import unwrapped
from icycle.selection import Budget
from icycle.surgery import require_followers
from icycle.training import Loader

__all__ = ["ice"]

_CURVE = Curve(base=0.01)  # no recipe tells what the network was trained with


def ice(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    fine_tune: Callable[[torch.nn.Module, FineTune], object],
    evaluate: Callable[[torch.nn.Module], float],
    ratio: float | None = None,
    budget: Budget | None = None,
    validation: Loader | None = None,
    calibration: Calibration | None = None,
    loader: Iterable[Any] | None = None,
    loss: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    compensate: bool | None = None,
    on_step: Callable[[IceStep], object] = lambda step: None,
    seed: int = 0,
    **settings: Any,
) -> IceResult:
    """Prune the trained `model` in place, at once or in steps, and fine-tune it by your own code, between them only
    when it must be.

        def fine_tune(model, request):
            optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=request.learning_rate, momentum=0.9)
            ...  # request.epochs over your data, at request.rate(progress)

        result = icycle.ice(model, example_inputs, fine_tune=fine_tune, evaluate=evaluate, ratio=0.5, calibration=data)

    Args:
        fine_tune: trains the model it is given as a `FineTune` asks: `model` itself, its `DistributedDataParallel`
            wrapper included, which is built anew when channels are gone or layers frozen. Several processes all do what
            the first one decides.
        evaluate: the model's accuracy in percent on a validation split (never the test set).
        ratio: the share of the channels to remove at every step, 0..1; or
        budget: what the result may cost, spread over the steps.
        validation: batches (inputs, labels) of the validation split, the same in the same order each time, which has
            nothing to do with the labels. With it decisions are sequential tests at `confidence` and read no more than
            they need; without it they call `evaluate`.
        calibration: batches to estimate batch-norm statistics on after each removal, or a function that does it.
            Without it the trigger sees a network whose statistics are wrong, and fires far more often than it need.
        loader, loss: for the criteria that read data or gradients; see `icycle.saliency`. Without a loader the batches
            of `calibration` serve.
        optimizer: one that your code keeps throughout; loses the removed channels' state along with the weights.
        compensate: whether what reads the removed channels is refitted at each removal (see `icycle.compensate`), on
            `calibration_batches` of `loader` or `calibration`. Default: where there are any.
        on_step: called after each step, or after steps that were taken together.
        groups: patterns of names; only groups that match one lose channels. Default: all.
        steps: a number (default 2): everything goes at once, but where that would trigger a fine-tune (of `epochs`) the
            first of so many parts of the way goes before, for all groups, and the fine-tune follows it; without
            compensation each part by itself. Or the paper's, one by one: a "group", a "block", "all", or lists of group
            names.
        scope: "group" (default), "step" or "global": among which channels those to remove are sought.
        round_to, limit: as in `icycle.select`.
        criterion, criterion_batches: the name of a criterion, and the batches it reads. Default: reconstruction, what
            compensation cannot make up for, or group_norm where there is none; 8.
        threshold: the drop against the dense network, in points of accuracy, that triggers a fine-tune; None: after
            every step. Default: 10, as a final fine-tune follows, and mends more for less.
        confidence: of the sequential test (default 0.95); None: exact evaluation.
        calibrate, calibration_batches: whether, and on how many batches (default 4).
        freeze: the share of the layers that train in no fine-tune (default 0: none).
        freezing: which: "prefix", the first ones, which saves most; or "published", those convolutions that move least
            when a copy of the network is trained as long as for a step.
        curve: the learning rate as a function of what remains; see `Curve`. Default: 0.01 throughout.
        epochs, decay: of a fine-tune between removals (default 0: there is none, and all goes at once), and whether its
            rate runs to zero (default).
        data_share: of the training data that a step's fine-tune uses, 0..1 (default 1); `epochs` pass over that.
        final_epochs, final_decay, final_factor: of the final fine-tune: at most 16 epochs, from twice the curve's rate
            to zero; 0: none.
        drop: how many points below the dense network's accuracy are close enough (default 1): the final fine-tune
            ends there, looked at before it, after a quarter and after half of its epochs, each time with the rate at
            zero; None: it takes all epochs, in one course.
        patience: end the final fine-tune after this many epochs without a better accuracy, and keep the best.
        seed: of a random criterion.

    Raises:
        TrainingError: settings out of range or at odds, unknown ones, or an `evaluate` that does not return percent.
        CriterionError: an unknown criterion, or one that lacks what it reads.
        DataError: a validation split too small for the confidence (names the size needed), or batches that the model
            does not run on, or that can be read only once.
        SurgeryError: the optimizer is of another model.
        BudgetError, StructureError: a target out of reach, or nothing to prune.

        All of them before any training.
    """
    batches = calibration if loader is None and not callable(calibration) else loader
    wrappers = wrappers_of(model)

    def train(network: torch.nn.Module, request: FineTune) -> None:
        for wrapper in wrappers:
            wrapper.renew()
        fine_tune(model if network is unwrapped(model) else network, request)

    training = OwnTraining(train, evaluate, validation, calibration, batches, loss, optimizer)
    compensate = batches is not None if compensate is None else compensate
    own = {"ratio": ratio, "budget": budget, "compensate": compensate, "curve": _CURVE}
    chosen = validated(IceSettings, {**own, **settings})
    if optimizer is not None and chosen.freeze > 0 and chosen.freezing == "published":
        raise TrainingError(
            'Expected no optimizer with freezing="published", whose probe trains a copy of the model, but got one; '
            'make a new one in fine_tune, of the model that it is given, or leave freezing at "prefix".'
        )
    run = IceRun(chosen, unwrapped(model), example_inputs, training, seed=seed, on_step=on_step)
    require_followers(run.model, run.structure, optimizer, ())
    for name, given in (("calibration", calibration), ("loader", loader)):
        if given is not None and not callable(given):
            require_many_readings(name, given)
            require_first_batch(name, run.model, given)
    run.begin()
    if run.result.dense_accuracy <= 1:
        raise TrainingError(
            "Expected evaluate(model) to return percent for a trained network, but got "
            f"{run.result.dense_accuracy}; if it is a share, multiply it by 100."
        )
    return run()

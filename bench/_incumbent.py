"""The incumbent recipe, as a method: train the dense network, prune it once to the budget, fine-tune what is left.

Total epochs are those of the other methods. They are split, and the learning rates chosen, as in the published scripts
of Torch-Pruning for CIFAR (benchmarks/: 200 epochs of training at 0.1, then 100 of fine-tuning at 0.01): the first two
thirds (rounded) train, the rest fine-tunes at a tenth of the learning rate; either part runs the whole schedule of the
recipe. Everything else is icycle's own and the same as for one-cycle: group norm, search, removal, recalibration.
"""

from __future__ import annotations

from typing import Literal

from icycle.engine import trace
from icycle.methods import Context, Method, MethodResult, Removal
from icycle.saliency import group_norm
from icycle.selection import Budget, select
from icycle.surgery import prune
from icycle.training import Trainer, TrainSettings
from icycle.zoo import TensorLoader

__all__ = ["TrainPruneFineTune"]


class TrainPruneFineTune(Method):
    """Train, prune to `macs` (kept fraction) by group norm, fine-tune."""

    name: Literal["train-prune-fine-tune"] = "train-prune-fine-tune"
    macs: float = 0.5
    round_to: int = 1
    limit: float = 0.75
    train_share: float = 2 / 3  # of the epochs
    fine_tune_rate: float = 0.1  # times the learning rate
    calibration_batches: int = 10

    def split(self, epochs: int) -> tuple[int, int]:
        """Epochs of training and of fine-tuning, at least one each."""
        if epochs < 2:
            raise ValueError(f"Expected at least 2 epochs for {self.name}, but got {epochs}")
        trained = min(max(round(self.train_share * epochs), 1), epochs - 1)
        return trained, epochs - trained

    def run(self, context: Context) -> MethodResult:
        trained, fine_tuned = self.split(context.train.epochs)
        data = context.data
        dense = context.trainer(_with(context.train, trained, 1.0))
        before = dense.fit(data.train, data.validation)
        removal = self._prune(context, dense, trained, before)
        context.record_removal(removal)
        pruned = context.trainer(_with(context.train, fine_tuned, self.fine_tune_rate))
        after = pruned.fit(data.train, data.validation, hooks=_Continued(data.train, trained))
        return MethodResult(validation_accuracy=after, removals=(removal,))

    def _prune(self, context: Context, trainer: Trainer, epoch: int, accuracy: float) -> Removal:
        """All at once, to the budget; `accuracy` is the trained network's on the validation split."""
        with context.recorder.clock.stage("search"):
            structure = trace(context.model, context.example_inputs)
            scores = group_norm(context.model, structure)
            subnet = select(structure, scores, Budget(macs=self.macs), round_to=self.round_to, limit=self.limit)
            prune(context.model, structure, subnet)
        trainer.recalibrate(context.data.calibration, batches=self.calibration_batches)
        trainer.lay_out()
        return Removal(
            epoch=epoch,
            macs_before=structure.macs(),
            macs_after=structure.macs(subnet),
            accuracy_before=accuracy,
            accuracy_after=trainer.evaluate(context.data.validation),
        )


def _with(settings: TrainSettings, epochs: int, rate: float) -> TrainSettings:
    optimizer = settings.optimizer.model_copy(update={"learning_rate": rate * settings.optimizer.learning_rate})
    return settings.model_copy(update={"epochs": epochs, "optimizer": optimizer})


class _Continued:
    """Fine-tuning reads the batches of the epochs after the trained ones, not those of the first epochs again."""

    def __init__(self, train: TensorLoader, first_epoch: int) -> None:
        self._train = train
        self._first_epoch = first_epoch

    def start_epoch(self, epoch: int) -> None:
        self._train.set_epoch(self._first_epoch + epoch)

    def after_step(self) -> None:
        return

"""The shape that another run arrived at, trained from fresh weights: what pruning a network has to beat."""

from __future__ import annotations

import copy
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from icycle import artifacts
from icycle.engine import trace
from icycle.errors import TrainingError
from icycle.methods._registry import Context, Method, MethodResult, register
from icycle.methods._scheduled import RemoveAtStart
from icycle.runs import seconds_spent
from icycle.structure import Structure, SubNetwork

__all__ = ["Scratch"]


@register
class Scratch(Method):
    """Take the shape of the finished run in the folder `of`, with fresh weights; train it by the recipe, for as many
    epochs, or for as many as fit into the seconds that the other run took in all, with those of the run that trained
    the weights it started from."""

    name: Literal["scratch"] = "scratch"
    starts_fresh: ClassVar[bool] = True
    of: Path
    equal: Literal["epochs", "seconds"] = "epochs"

    def run(self, context: Context) -> MethodResult:
        if not (self.of / "model").is_dir():
            raise TrainingError(f"Expected method.of as the folder of a finished run, but {self.of} has no model in it")
        structure = trace(context.model, context.example_inputs)
        subnet = _shape_of(self.of / "model", context.model, context.example_inputs, structure)
        settings = context.train
        if self.equal == "seconds":
            settings = settings.model_copy(update={"epochs": _epochs_in_the_same_time(self.of)})
        trainer = context.trainer(settings)
        accuracy = context.fit(trainer, RemoveAtStart(context, trainer, structure, subnet))
        return MethodResult(accuracy, details={"epochs": settings.epochs})


def _shape_of(artifact: Path, model: nn.Module, example_inputs: Any, structure: Structure) -> SubNetwork:
    """As many channels of each group as the saved model has: the first ones, as all weights are fresh."""
    saved = artifacts.load(artifact, copy.deepcopy(model))
    sizes = {group.name: group.size for group in trace(saved, example_inputs).groups}
    return SubNetwork.first(structure, sizes)


def _epochs_in_the_same_time(folder: Path) -> int:
    """How many epochs of the pruned network, as that run timed them after its last removal, its seconds would hold.

    Raises:
        TrainingError: the run is not finished, or has no epoch after its last removal such as fresh weights would have.
    """
    run = _Finished.read(folder)
    if run.taught:
        raise TrainingError(
            f"Expected epochs as fresh weights have them, but in those of the run in {folder} a teacher takes its "
            "part; say by train.epochs how many its seconds would hold, and leave out equal: seconds"
        )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    last = max((number for number, record in enumerate(records) if record["kind"] in ("removal", "step")), default=-1)
    after = records[last + 1 :]
    # the epoch that the removal lies in is the first record after it; it was trained with both networks
    epochs = [seconds_spent(record["seconds"]) for record in after if record["kind"] == "epoch"][last >= 0 :]
    tuned = [record["seconds"] / record["epochs"] for record in after if record["kind"] == "fine-tune"]
    if not epochs and not tuned:
        raise TrainingError(
            f"Expected an epoch after the last removal of the run in {folder}, to tell how many fit into its seconds, "
            "but it has none; say them: equal: epochs, and train.epochs"
        )
    return max(1, int(run.all_seconds / statistics.median(epochs or tuned)))


@dataclass(frozen=True)
class _Finished:
    """What a finished run says about itself."""

    seconds: float
    weights: str | None  # that it started from
    taught: bool  # by a teacher

    @property
    def all_seconds(self) -> float:
        """With those of the run that trained the weights that it started from."""
        origin = Path(self.weights or "").parent
        known = bool(self.weights) and (origin / "report.json").is_file()
        return self.seconds + (_Finished.read(origin).all_seconds if known else 0.0)

    @classmethod
    def read(cls, folder: Path) -> _Finished:
        try:
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            model, train = report["settings"]["model"], report["settings"]["train"]
            return cls(seconds_spent(report["seconds"]), model["weights"], train["distill"] is not None)
        except (OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"Expected a finished run in {folder}, but its report cannot be read: {error}"
            ) from error
